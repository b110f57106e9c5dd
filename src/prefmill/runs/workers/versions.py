"""Which versions decide a result, and a cluster whose machines differ in them."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version

from prefmill._version import __version__
from prefmill.errors import BadArgument

#: packages that every machine of a run needs alike
_OURS = ("polars", "duckdb", "pyarrow", "numpy")
#: packages that workers need alike among themselves; who deals the work out runs no model
OF_MODELS = ("torch", "transformers", "tokenizers")


def versions() -> dict[str, str]:
    """The versions of this process by package: Python, prefmill and what it computes with.

    >>> sorted(versions())[:3]
    ['duckdb', 'numpy', 'polars']
    """
    own = {"python": platform.python_version(), "prefmill": __version__}
    return own | {name: _version_of(name) for name in (*_OURS, *OF_MODELS)}


def _version_of(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def refuse_other(where: str, here: Mapping[str, str], there: Mapping[str, str], place: str) -> None:
    """Raise `BadArgument` where the worker at `place` has another version of a package in `here`.

    >>> refuse_other("score", {"numpy": "2.4"}, {"numpy": "2.3"}, "node b")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: score: the worker at node b has another numpy; got 2.3, ...
    """
    others = [name for name in here if there.get(name, "absent") != here[name]]
    if not others:
        return
    first, *more = others
    also = f" (and other differences: {', '.join(more)})" if more else ""
    raise BadArgument(
        f"{where}: the worker at {place} has another {first};"
        f" got {there.get(first, 'absent')}, expected {here[first]}{also}.",
        hint="one image, or one environment, for all nodes of the cluster.",
    )
