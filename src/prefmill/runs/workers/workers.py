"""How many workers a run has, on which machines, and what each of them takes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefmill.errors import BadArgument


@dataclass(frozen=True)
class Workers:
    """Workers of a Ray cluster, each with a scorer or sampler of its own.

    Args:
        least: so many are asked for at once, and again after losses; the run begins with the first
            that is there.
        most: up to so many, while the cluster has room and work waits. None: `least`.
        cpus, gpus: what each takes of its machine, shares too (`gpus=0.5`: two on one GPU). gpus
            None: one for a model that may use it where the cluster has any, else none.
        address: of the cluster (`auto`: the one of which this machine is a node); None: the
            environment's RAY_ADDRESS, else a Ray of our own on this machine.

    Raises `BadArgument` for numbers that cannot be.

    >>> Workers(2, 8, gpus=1).most
    8
    """

    least: int
    most: int | None = None
    cpus: float = 1
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        most = self.least if self.most is None else self.most
        if not all(type(number) is int for number in (self.least, most)) or most < self.least:
            raise _no_workers((self.least, most))
        if self.least < 1:
            raise _no_workers(self.least)
        for name in ("cpus", "gpus"):
            share = getattr(self, name)
            is_number = isinstance(share, int | float) and not isinstance(share, bool)
            if share is not None and not (is_number and 0 <= share < float("inf")):
                raise BadArgument(f"workers: {name} must be a number >= 0; got {share!r}.")
            if is_number and share > 1 and share != int(share):
                raise BadArgument(f"workers: {name} above 1 must be a whole number; got {share!r}.")
        object.__setattr__(self, "most", most)

    @property
    def limit(self) -> int:
        """The most workers at a time."""
        return self.most or self.least


def workers_of(given: int | Sequence[int] | Workers | None) -> Workers | None:
    """What `workers=` says: a number, a least and a most, or `Workers`.

    >>> workers_of((2, 8))
    Workers(least=2, most=8, cpus=1, gpus=None, address=None)
    """
    if given is None or isinstance(given, Workers):
        return given
    if type(given) is int:
        return Workers(given)
    if isinstance(given, tuple | list) and len(given) == 2:
        return Workers(*given)
    raise _no_workers(given)


def workers_in(text: str) -> tuple[int, int]:
    """The least and the most in the text of an option.

    >>> workers_in("2..8"), workers_in("4")
    ((2, 8), (4, 4))
    """
    match = re.fullmatch(r"(\d+)(?:\.\.(\d+))?", text.strip())
    if match is None:
        raise _no_workers(text, "--workers")
    least, most = match[1], match[2] or match[1]
    return int(least), int(most)


def _no_workers(given: Any, where: str = "workers") -> BadArgument:
    return BadArgument(
        f"{where}: got {given!r}, expected a whole number >= 1, or a least and a most.",
        hint="--workers 4, or --workers 2..8 (workers=4, workers=(2, 8)).",
    )
