"""Who runs the tasks of a stage: this process, or the workers of a cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from prefmill.progress import peak_rss_mb
from prefmill.runs.cluster.pieces import Done, Pieces
from prefmill.runs.cluster.work import Work

#: A stage's function; it is pickled, and run for one number at a time.
Call = Callable[[Work, int], Done]
Note = Mapping[str, Any]
#: Pieces that a task reads: of a stage, of these tasks, with these keys.
Reads = Sequence[tuple[str, Sequence[int], Sequence[int]]]


@dataclass(frozen=True)
class Stage:
    """One step of a run: a function, what its task of a number reads, and the keys that it deals.

    `deals` pieces have keys from 0 on, under the name `dealt_as`; the others are the driver's.
    """

    name: str
    call: Call
    reads: Callable[[int], Reads] = lambda number: ()
    deals: int = 0
    dealt_as: str = ""


class Executor(Protocol):
    """Runs tasks, in any order, each at least once."""

    name: str

    @property
    def slots(self) -> int:
        """How many tasks run at a time."""
        ...

    def run(self, work: Work, stage: Stage, numbers: Sequence[int]) -> Iterator[tuple[int, Note]]:
        """Run the stage for each number, and leave what it did on the work's shelf.

        Gives (number, note) as tasks end. Raises the first error of a task.
        """
        ...


def task(told: tuple[Work, Call], stage: str, number: int) -> Note:
    """One task: what a worker does, and the largest size of its process."""
    work, call = told
    done = call(work, number)
    cast("Pieces", work.shelf).put(stage, number, done)
    return {**done.note, "rss_mb": peak_rss_mb()}


class Inline:
    """Tasks one after another, in this process."""

    name = "inline"
    slots = 1

    def run(self, work: Work, stage: Stage, numbers: Sequence[int]) -> Iterator[tuple[int, Note]]:
        """Run the tasks in their order."""
        for number in numbers:
            yield number, task((work, stage.call), stage.name, number)
