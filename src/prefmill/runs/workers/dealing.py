"""Which chunks of a run are to come, under way, to be done again, and failed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass
class Task:
    """A chunk that is to be done; its rows are in the object store until it is committed."""

    number: int
    ref: Any
    deaths: int = 0


class Dealing:
    """The chunks of a run: those to come, those to be done again, and the first that failed."""

    def __init__(self, chunks: Iterator[tuple[int, Any]], total: int) -> None:
        self.left, self.taken = total, 0
        self.error: BaseException | None = None
        self._chunks, self._again = chunks, deque[Task]()
        self.first_failed: int | None = None
        self._under_way: set[int] = set()

    @property
    def is_over(self) -> bool:
        """Whether nothing is left, here and with workers."""
        if self.first_failed is None:
            return not self.left and not self._under_way
        return not self._again and not any(n < self.first_failed for n in self._under_way)

    def next(self, put: Callable[[Any], Any], *, alone: bool) -> Task | None:
        """The next chunk; one that ended workers only for a worker that has nothing else."""
        for task in self._again:
            if alone or not task.deaths:
                self._again.remove(task)
                return self._given(task)
        if self.left == len(self._again):
            return None
        number, chunk = next(self._chunks)
        self.taken += 1
        return self._given(Task(number, put(chunk)))

    def _given(self, task: Task) -> Task:
        self.left -= 1
        self._under_way.add(task.number)
        return task

    def done(self, task: Task) -> None:
        """It is committed."""
        self._under_way.discard(task.number)

    def again(self, tasks: Sequence[Task]) -> None:
        """They are to be done by others."""
        for task in tasks:
            self._under_way.discard(task.number)
            if self.first_failed is None or task.number < self.first_failed:
                self._again.append(task)
                self.left += 1

    def failed(self, number: int, error: BaseException) -> None:
        """A chunk cannot be done: those after it are not begun, those before it are."""
        self._under_way.discard(number)
        if self.first_failed is None or number < self.first_failed:
            self.first_failed, self.error = number, error
        self._again = deque(task for task in self._again if task.number < self.first_failed)
        self.left = len(self._again)

    def close(self) -> None:
        """Nobody reads further."""
        close = getattr(self._chunks, "close", None)
        if close is not None:
            close()
