"""On which machines a run works: the arguments that say so."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, cast, get_args

from prefmill.errors import BadArgument
from prefmill.runs.job.opening import Reading

if TYPE_CHECKING:
    from prefmill.runs.cluster.driver import Cut
    from prefmill.runs.cluster.executor import Executor

#: How rows come together by prompt: through the workers' memory, or through storage.
Shuffle = Literal["auto", "memory", "storage"]


_DEFAULTS = {"shuffle": "auto"}


class Spreading(TypedDict, total=False):
    """Where a plan runs; meaning in `prefmill.run`. `executor` and `cut` are for tests."""

    address: str | None
    work: str | Path | None
    shuffle: Shuffle
    executor: Executor | None
    cut: Cut | None


class Looking(Reading, Spreading, total=False):
    """How inputs are read, and where."""


def parted(what: str, engine: str, given: Looking) -> tuple[Spreading, Reading]:
    """What says where, and what says how inputs are read.

    Raises `BadArgument` for an engine or a shuffle that is none, and for a place that only a
    cluster has.

    >>> parted("curve", "auto", {"address": "auto"})
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: curve: address is for clusters; got it with engine 'auto'.
    Hint: --engine ray (engine='ray').
    """
    words: Mapping[str, Any] = dict(given)
    where = {name: words[name] for name in words if name in Spreading.__annotations__}
    reading = {name: words[name] for name in words if name not in where}
    shuffle = where.get("shuffle", "auto")
    if shuffle not in get_args(Shuffle):
        expected = list(get_args(Shuffle))
        raise BadArgument(f"{what}: no shuffle {shuffle!r}; expected one of {expected}.")
    if "://" in str(where.get("work") or ""):
        raise BadArgument(
            f"{what}: work is a folder that all workers see; got {str(where['work'])!r}.",
            hint="leave it out: with an output in an object store, what tasks leave lies there.",
        )
    for name, value in where.items():
        if engine != "ray" and value != _DEFAULTS.get(name):
            hint = "--engine ray (engine='ray')."
            if name == "work":
                hint = "--engine ray (engine='ray'), or --incremental with a table as output."
            raise BadArgument(
                f"{what}: {name} is for clusters; got it with engine {engine!r}.", hint=hint
            )
    if engine == "ray" and reading.get("temp_bytes") is not None:
        raise BadArgument(
            f"{what}: temp_bytes bounds the folder of one machine; got it with engine 'ray'.",
            hint="leave --temp-limit out: workers keep their folders below --temp-dir.",
        )
    return cast("Spreading", where), cast("Reading", reading)
