"""Chunks on workers of a Ray cluster: dealt out, asked again after a loss, committed here.

    pool ──chunks──▶ object store ──▶ workers (a model each) ──columns, counts──▶ ledger of the run

A worker keeps nothing that anybody needs: what it has done is committed here, what it had is asked
of another one. So no disk is shared, and machines may come and go.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from prefmill.errors import BadArgument, BadRow, ScorerDied
from prefmill.progress import Progress
from prefmill.runs.workers.dealing import Dealing, Task
from prefmill.runs.workers.sending import pickled
from prefmill.runs.workers.session import Session
from prefmill.runs.workers.versions import OF_MODELS, versions
from prefmill.runs.workers.worker import (
    Changes,
    Done,
    Job,
    Joined,
    Reply,
    Setting,
    Terms,
    Worker,
    unpacked_batch,
)
from prefmill.runs.workers.workers import Workers

#: Called with a chunk's number, its columns and its counts, in the thread of the run.
Commit = Callable[[int, Mapping[str, pa.Array], dict[str, int]], None]
#: Gives a row of a chunk, by the chunk's number and its place there, as its owner knows it.
PlaceOf = Callable[[int, int], str]
#: Chunks that a worker has at a time: the next one is there, and tokenised, when one is done.
_AHEAD = 2
#: Times that workers may be lost over the same chunk before that is its fault.
_DEATHS = 4
_OUT_OF_MEMORY = (
    "out of memory, often: fewer workers on a machine (--cpus-per-worker), smaller chunks"
    " (--chunk-rows); the same command goes on where it was."
)
#: Seconds without any worker after which a run gives up.
PATIENCE_S = 600.0
#: Seconds between two looks at whether the cluster has room for one more.
_GROW_S = 1.0


@dataclass(eq=False)
class _Member:
    """A worker, as far as it is known here.

    born     comes when its process is there; until then it waits for room
    joining  comes when it has loaded its model
    """

    actor: Any
    born: Any
    joining: Any = None
    is_born: bool = False
    joined: Joined | None = None
    tasks: dict[Any, Task] = field(default_factory=dict)

    @property
    def is_suspect(self) -> bool:
        """Whether it has a chunk that ended other workers."""
        return any(task.deaths for task in self.tasks.values())


class Crew:
    """The workers of one run. Use it as a context: they end with it.

    job      the scorer or sampler, and what is done with a chunk
    lost     workers that ended on their own
    started  workers in all
    """

    def __init__(
        self, session: Session, job: Job, workers: Workers, *, where: str, tell: Progress
    ) -> None:
        self.session, self.workers, self.where, self.tell = session, workers, where, tell
        self.lost = self.started = self.most = 0
        self.peak_rss_mb = 0.0
        self.spent: dict[str, int] = {}
        self._ray, self._job = session.ray, job
        self._gpus = _gpus(session, workers, job.part)
        self._members: list[_Member] = []
        self._ways: dict[str, None] = {}
        self._hardware: dict[str, None] = {}
        self._facts: dict[Changes, dict[str, Any]] = {}
        self._in_a_row = 0  # workers lost since a chunk was done
        self._grown = self._alone_since = time.monotonic()
        self._refuse_too_large()

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for member in self._members:
            with contextlib.suppress(Exception):  # the connection itself may be gone
                self._ray.kill(member.actor, no_restart=True)
        self._members.clear()

    @property
    def way(self) -> str:
        """How rows were run, as the workers say it."""
        return "; ".join(self._ways)

    @property
    def ready(self) -> int:
        """Workers that have loaded their model."""
        return sum(each.joined is not None for each in self._members)

    def notes(self) -> list[str]:
        """What people should know of the workers."""
        if len(self._hardware) < 2:
            return []
        kinds = ", ".join(self._hardware)
        return [f"workers ran on different hardware ({kinds}): last bits of their numbers differ."]

    def counts(self) -> dict[str, Any]:
        """The fields of a report that are about workers."""
        return {
            "workers": self.most,
            "workers_lost": self.lost,
            "worker_peak_rss_mb": self.peak_rss_mb,
        }

    # What the scorer or sampler says of itself

    def facts(self, changes: Changes) -> dict[str, Any]:
        """What a worker says of the part after `changes` (`Job.facts`), asked once.

        The machine of the run may have neither the model nor a GPU, which decides the type.
        """
        if changes not in self._facts:
            terms = Terms(self.where, _of_this_process(), changes)
            self._facts[changes] = self._ask_one(lambda actor: actor.facts.remote(terms))
        return self._facts[changes]

    def _terms(self, changes: Changes) -> Terms:
        """Workers are alike among themselves, in what their model is and what runs it."""
        facts = self.facts(changes)
        own = {**_of_this_process(), **facts["versions"]}
        return Terms(self.where, own, changes, facts["fingerprint"])

    def _ask_one(self, ask: Callable[[Any], Any]) -> dict[str, Any]:
        while True:
            self._fill(1)
            member = self._members[0]
            ref = ask(member.actor)
            while not (done := self._ray.wait([ref], timeout=_GROW_S)[0]):
                self._wait_for_room()
            try:
                value: dict[str, Any] = _value_of(self._ray.get(done[0]))
                return value
            except self._ray.exceptions.RayError as error:
                self._lose(member, error)

    # The work

    def run(
        self,
        changes: Changes,
        chunks: Iterator[tuple[int, Any]],
        total: int,
        commit: Commit,
        place_of: PlaceOf,
    ) -> None:
        """Have the chunks done, each of them once, and commit what comes, in any order.

        changes   of the part, see `facts`
        chunks    number and content, ascending; asked for as workers take them
        total     how many there are
        place_of  names a row of a chunk as its owner knows it

        Raises the error of the first chunk that has one, after the chunks before it are committed.
        """
        terms, work = self._terms(changes), Dealing(chunks, total)
        try:
            while not work.is_over:
                self._grow(work, terms)
                self._deal(work)
                self._take(work, commit)
                self._let_go(work)
        finally:
            work.close()
        if work.error is not None:
            raise _placed(work.error, work.first_failed, place_of) from work.error

    def _deal(self, work: Dealing) -> None:
        """Give chunks to workers that have room, the idlest first."""
        while True:
            # The last chunks go to whoever is free, rather than into somebody's queue.
            ahead = _AHEAD if work.left > len(self._members) else 1
            free = [
                each
                for each in self._members
                if each.joined and len(each.tasks) < ahead and not each.is_suspect
            ]
            if not free or not work.left:
                return
            member = min(free, key=lambda each: len(each.tasks))
            task = work.next(self._put, alone=not member.tasks)
            if task is None:
                return
            member.tasks[member.actor.do.remote(task.ref)] = task

    def _put(self, chunk: Any) -> Any:
        return self._ray.put(self._job.pack(chunk))

    def _take(self, work: Dealing, commit: Commit) -> None:
        """Wait for news from workers, and take all there is."""
        of: dict[Any, _Member] = {}
        for member in self._members:
            of |= dict.fromkeys(member.tasks, member)
            if member.joining is not None:
                of[member.joining] = member
        if not of:
            time.sleep(0.05)
            self._wait_for_room()
            return
        done, _ = self._ray.wait(list(of), timeout=_GROW_S)
        if done:  # and what else came meanwhile
            done, _ = self._ray.wait(list(of), num_returns=len(of), timeout=0)
        else:
            self._wait_for_room()
        for ref in done:
            member = of[ref]
            if member not in self._members:  # lost by an earlier one of these
                continue
            try:
                reply: Reply = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                self._replace(work, member, error)
                continue
            if ref is member.joining:
                self._welcome(member, reply)
            else:
                self._settle(work, member.tasks.pop(ref), reply, commit)

    def _settle(self, work: Dealing, task: Task, reply: Reply, commit: Commit) -> None:
        self._in_a_row = 0
        if reply.error is not None:
            work.failed(task.number, reply.error)
            return
        done: Done = reply.value
        batch = unpacked_batch(done.columns)
        columns = dict(zip(batch.schema.names, batch.columns, strict=True))
        for name, number in done.spent.items():
            self.spent[name] = self.spent.get(name, 0) + number
        self.peak_rss_mb = max(self.peak_rss_mb, done.peak_rss_mb)
        commit(task.number, columns, done.counts)
        work.done(task)

    # Workers

    def _fill(self, wanted: int) -> None:
        """Ask for workers until there are so many; they come when the cluster has room."""
        while len(self._members) < wanted:
            made = self._ray.remote(Worker).options(
                num_cpus=self.workers.cpus,
                num_gpus=self._gpus,
                max_restarts=0,
                max_task_retries=0,
                max_concurrency=_AHEAD + 1,
                scheduling_strategy="SPREAD",
            )
            paths = [path for path in sys.path if path]
            setting = Setting(self.workers.cpus, self._gpus, os.getcwd(), paths)
            actor = made.remote(setting, self._blob)
            self._members.append(_Member(actor, actor.begin.remote()))
            self.started += 1
            self._grown = time.monotonic()

    @property
    def _blob(self) -> Any:
        """The job in the object store, put there once."""
        if not hasattr(self, "_put_job"):
            self._put_job = self._ray.put(pickled(self.where, self._job))
        return self._put_job

    def _grow(self, work: Dealing, terms: Terms) -> None:
        """As many workers as are asked for, and more where work waits and there is room."""
        pending = work.left + sum(len(each.tasks) for each in self._members)
        self._fill(min(self.workers.least, pending))
        there, most = len(self._members), min(self.workers.limit, pending)
        if there < most and time.monotonic() > self._grown + _GROW_S:
            self._grown = time.monotonic()
            self._fill(min(most, there + self._room()))
        for member in self._members:
            if member.joined is None and member.joining is None:
                member.joining = member.actor.join.remote(terms)

    def _room(self) -> int:
        """How many more workers the cluster has room for, about."""
        free = self._ray.available_resources()
        wanted = {"CPU": self.workers.cpus, "GPU": self._gpus}
        rooms = [int(free.get(name, 0.0) / share) for name, share in wanted.items() if share]
        return min(rooms, default=1)

    def _welcome(self, member: _Member, reply: Reply) -> None:
        joined: Joined = _value_of(reply)
        member.joined, member.joining = joined, None
        self._ways[joined.way] = self._hardware[joined.hardware] = None
        self._ways.pop("", None)
        self.most = max(self.most, self.ready)

    def _let_go(self, work: Dealing) -> None:
        """End idle workers for which nothing is left: others may want their place."""
        if work.left:
            return
        for member in [each for each in self._members if not each.tasks]:
            if len(self._members) <= self.workers.least:
                return
            self._members.remove(member)
            self._ray.kill(member.actor, no_restart=True)

    def _lose(self, member: _Member, error: BaseException) -> list[Task]:
        """A worker is gone; what it had. Raises where there is no sense in another one."""
        self._members.remove(member)
        with contextlib.suppress(Exception):
            self._ray.kill(member.actor, no_restart=True)
        _refuse_fault(self.where, error)
        self.lost += 1
        tasks = list(member.tasks.values())
        if "node has died" in str(error):  # nothing that ran on it is to blame
            return tasks
        for task in tasks:
            task.deaths += 1
        self._in_a_row += 1
        if self._in_a_row > max(_DEATHS, 3 * self.workers.limit):
            raise ScorerDied(
                f"{self.where}: {self._in_a_row} workers in a row ended, and no chunk was done;"
                f" the last one: {_cause(error)}",
                hint=_OUT_OF_MEMORY,
            )
        return tasks

    def _replace(self, work: Dealing, member: _Member, error: BaseException) -> None:
        """What a worker that is gone had is to be done by others, unless it is to blame."""
        tasks = self._lose(member, error)
        work.again([task for task in tasks if task.deaths < _DEATHS])
        for task in tasks:
            if task.deaths >= _DEATHS:
                died = f"{self.where}: {task.deaths} workers ended over one chunk: {_cause(error)}"
                work.failed(task.number, ScorerDied(died, hint=_OUT_OF_MEMORY))

    def _wait_for_room(self) -> None:
        """Say that nobody works for want of a place, and give up after a while."""
        now = time.monotonic()
        for member in self._members:
            if not member.is_born:
                member.is_born = bool(self._ray.wait([member.born], timeout=0)[0])
        if any(each.is_born for each in self._members):
            self._alone_since = now
            return
        asked = self._asked()
        self.tell(f"waiting for room for a worker ({asked})", None)
        if now > self._alone_since + PATIENCE_S:
            raise BadArgument(
                f"{self.where}: no worker began within {PATIENCE_S:.0f} s; each takes {asked},"
                f" and the cluster has {self._total()} in all.",
                hint="add nodes, or ask for less; the same command goes on where it was.",
            )

    def _refuse_too_large(self) -> None:
        """What a Ray of our own will never have is not waited for."""
        free = self._ray.cluster_resources()
        short = self._gpus > free.get("GPU", 0.0) or self.workers.cpus > free.get("CPU", 0.0)
        if self.session.is_own and short:
            raise BadArgument(
                f"{self.where}: a worker does not fit on this machine; it takes {self._asked()},"
                f" and there are {self._total()}.",
                hint="address of a cluster with such machines, or less for each worker.",
            )

    def _asked(self) -> str:
        gpus = f" and {self._gpus:g} GPU" if self._gpus else ""
        return f"{self.workers.cpus:g} CPU{gpus}"

    def _total(self) -> str:
        there = self._ray.cluster_resources()
        return f"{there.get('CPU', 0):g} CPU and {there.get('GPU', 0):g} GPU"


def _placed(error: BaseException, number: int | None, place_of: PlaceOf) -> BaseException:
    """An error of a chunk, with the row's name, or that of its first row."""
    if number is not None and isinstance(error, BadRow):
        return error.named(place_of(number, error.row))
    if number is not None and isinstance(error, ScorerDied):
        first = place_of(number, 0)
        return ScorerDied(f"{error.message} Its first row is {first}.", hint=error.hint)
    return error


def _value_of(reply: Reply) -> Any:
    if reply.error is not None:
        raise reply.error
    return reply.value


def _of_this_process() -> dict[str, str]:
    own = versions()
    return {name: number for name, number in own.items() if name not in OF_MODELS}


def _gpus(session: Session, workers: Workers, part: Any) -> float:
    """GPUs of a worker: as asked for, else one for a model that may use it, where there is one."""
    if workers.gpus is not None:
        return workers.gpus
    has_any = session.ray.cluster_resources().get("GPU", 0) > 0
    return 1.0 if has_any and _may_use_gpu(part) else 0.0


def _may_use_gpu(part: Any) -> bool:
    inner = [*dict(getattr(part, "scorers", None) or {}).values(), getattr(part, "sampler", None)]
    if any(each is not None and _may_use_gpu(each) for each in inner):
        return True
    device = getattr(part, "device", "cpu")
    return device != "cpu" or hasattr(part, "engine_args")


def _refuse_fault(where: str, error: BaseException) -> None:
    """Raise where every worker would end like that: its code is not there, or cannot begin."""
    name = type(error).__name__
    is_task = hasattr(error, "as_instanceof_cause")  # an error inside our own code
    if is_task or getattr(error, "actor_init_failed", False) or name == "RuntimeEnvSetupError":
        lines = [line for line in str(error).splitlines() if line.strip()]
        raise BadArgument(
            f"{where}: a worker cannot begin; {lines[-1].strip() if lines else name}",
            hint="install the same prefmill on all nodes of the cluster.",
        ) from error


def _cause(error: BaseException) -> str:
    """What Ray says about the end of a worker, without its advice."""
    text = " ".join(str(error).split())
    _, found, rest = text.partition("The actor is dead because ")
    text = rest if found else text
    return text.partition("Some common causes")[0].strip()[:300].rstrip(".") + "."
