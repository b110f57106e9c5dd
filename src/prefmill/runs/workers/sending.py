"""Scorers and samplers on their way to workers, and as a run sees them that stay there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from prefmill.errors import BadArgument
from prefmill.scoring.functions import is_packaged

#: where a part, or a function, keeps another one
_INSIDE = ("function", "sampler", "_own", "__wrapped__", "func", "__func__", "__self__")


def pickled(where: str, job: Any) -> bytes:
    """A job as bytes. Code of one's own goes along, that of packages is there already.

    Raises `BadArgument` for what cannot be sent.
    """
    from ray import cloudpickle

    dumps: Any = cloudpickle.dumps

    with _by_value(_modules_of(job.part), cloudpickle):
        try:
            return bytes(dumps(job))
        except Exception:  # what a module of one's own holds may not travel; its name may do
            pass
    try:
        return bytes(dumps(job))
    except Exception as error:
        raise BadArgument(
            f"{where}: the scorer or sampler cannot be sent to workers;"
            f" {type(error).__name__}: {error}.",
            hint="make what it holds (locks, files, connections) on its first call.",
        ) from error


def _modules_of(part: Any) -> Iterator[Any]:
    """The modules of one's own that define a part, its function, or its parts."""
    for each in _pieces(part):
        for name in {getattr(each, "__module__", None), type(each).__module__}:
            module = sys.modules.get(name or "")
            file = getattr(module, "__file__", None)
            if module is not None and name != "__main__" and not is_packaged(file, name):
                yield module


def _pieces(part: Any) -> Iterator[Any]:
    yield part
    inner = [getattr(part, name, None) for name in _INSIDE]
    scorers = getattr(part, "scorers", None)
    inner += list(scorers.values()) if isinstance(scorers, Mapping) else []
    for each in inner:
        if each is not None:
            yield from _pieces(each)


@contextlib.contextmanager
def _by_value(modules: Iterator[Any], cloudpickle: Any) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for module in {each.__name__: each for each in modules}.values():
            cloudpickle.register_pickle_by_value(module)
            stack.callback(cloudpickle.unregister_pickle_by_value, module)
        yield
