"""A scorer or sampler that is on workers, as a run sees it."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

from prefmill.errors import BadArgument
from prefmill.progress import Progress
from prefmill.runs.workers.actors import Commit, Crew, PlaceOf
from prefmill.runs.workers.session import connected
from prefmill.runs.workers.worker import Changes, Job
from prefmill.runs.workers.workers import Workers


class Away:
    """The part of a job, which only workers load. What it says of itself, one of them says.

    So the machine of the run needs neither the model nor its packages, and what its hardware
    decides is what the workers' decides.
    """

    def __init__(self, job: Job, crew: Crew, changes: Changes = ()) -> None:
        self._job, self._crew, self._changes = job, crew, changes

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name in self._job.facts:
            return self._crew.facts(self._changes)[name]
        return getattr(self._job.part, name)

    def _changed(self, name: str, value: Any) -> Away:
        return Away(self._job, self._crew, (*self._changes, (name, value)))

    def with_shape(self, shape: Any, /) -> Away:
        """The same with another shape."""
        return self if shape == self.shape else self._changed("with_shape", shape)

    def on_date(self, date: str, /) -> Away:
        """The same on that date."""
        return self._changed("on_date", date)

    @property
    def way(self) -> str:
        """How the workers ran rows."""
        return self._crew.way

    def work(
        self, chunks: Iterator[tuple[int, Any]], total: int, commit: Commit, place_of: PlaceOf
    ) -> Crew:
        """Have the chunks done by the workers (`Crew.run`); these."""
        self._crew.run(self._changes, chunks, total, commit, place_of)
        return self._crew


@contextlib.contextmanager
def hired(workers: Workers, job: Job, *, where: str, tell: Progress) -> Iterator[tuple[Away, Crew]]:
    """The part of a job on workers, which end with the context.

    Raises `BadArgument` for a part that asks in batches: those belong to one run, and wait anyway.
    """
    if job.part.posts:
        raise BadArgument(
            f"{where}: answers that come in batches are asked for by one process;"
            " got workers, expected none.",
            hint="without --workers: the server works in parallel.",
        )
    tell("starting workers", None)
    cpus = math.ceil(workers.limit * workers.cpus)
    with (
        connected(where, workers.address, cpus=cpus) as session,
        Crew(session, job, workers, where=where, tell=tell) as crew,
    ):
        yield Away(job, crew), crew
