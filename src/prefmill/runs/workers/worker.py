"""What runs in the process of a worker: one scorer or sampler, loaded once, and chunks for it.

An error of ours is an answer like others: it goes back as it is, and is raised where the run is.
What ends the process is no answer; then `actors.py` asks another worker.
"""

from __future__ import annotations

import os
import pickle
import platform
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

import pyarrow as pa

from prefmill.disk.records import differences
from prefmill.errors import BadArgument, BadInput
from prefmill.isolation import portable
from prefmill.progress import CPUS_OF_WORKER, peak_rss_mb
from prefmill.runs.workers.versions import OF_MODELS, refuse_other, versions

T = TypeVar("T")
#: calls of `on_date` and the like, in order
Changes = tuple[tuple[str, Any], ...]
Made = tuple[dict[str, pa.Array], dict[str, int]]


class Job(Protocol):
    """What a worker does with a chunk, in two halves, so that tokenising runs ahead.

    facts  the names of the part's members that a run asks for
    """

    facts: ClassVar[tuple[str, ...]]

    @property
    def part(self) -> Any:
        """The scorer or sampler."""

    def on(self, part: Any, /) -> Self:
        """The same with another part."""

    def pack(self, chunk: Any, /) -> Any:
        """A chunk as it travels."""

    def prepare(self, packed: Any, /) -> Any:
        """The first half."""

    def start(self, prepared: Any, /) -> Callable[[], Made]:
        """The second half; what is returned gives the columns and the counts."""


@dataclass(frozen=True)
class Setting:
    """Where a run was begun, as far as a worker is to find the same, and the worker's share."""

    cpus: float
    gpus: float
    folder: str
    paths: Sequence[str]


@dataclass(frozen=True)
class Terms:
    """On what a worker joins: the versions that it is to have, and what the part is to be."""

    where: str
    versions: Mapping[str, str]
    changes: Changes = ()
    fingerprint: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Joined:
    """A worker that is ready: where it is, and how it runs rows."""

    way: str
    host: str
    pid: int
    hardware: str


@dataclass(frozen=True)
class Done:
    """A chunk that is done: its columns as an Arrow stream, and what was counted and spent."""

    columns: pa.Buffer
    counts: dict[str, int]
    spent: dict[str, int]
    peak_rss_mb: float


@dataclass(frozen=True)
class Reply:
    """What a worker answers: a value, or the error that came up."""

    value: Any = None
    error: BaseException | None = field(default=None)


def answered(function: Callable[[], Any]) -> Reply:
    """What `function` gives, or what it raises."""
    try:
        return Reply(function())
    except BaseException as error:
        # A traceback does not go to another process.
        error.add_note("".join(traceback.format_exception(error)))
        return Reply(error=portable(error))


class Worker:
    """The actor. Its methods may be called from several threads; the model has one of its own."""

    def __init__(self, setting: Setting, job: bytes) -> None:
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ[CPUS_OF_WORKER] = str(setting.cpus)
        if not setting.gpus:  # Ray would leave all of them visible
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        # Names of files mean the same here as where the run was begun, if they are here at all.
        if Path(setting.folder).is_dir():
            os.chdir(setting.folder)
        new = [path for path in setting.paths if path not in sys.path]
        sys.path += [path for path in new if Path(path).is_dir()]
        self._pickled = job
        self._lock = threading.Lock()
        self._known: dict[Changes, Job] = {}
        self._tokens = ThreadPoolExecutor(1, thread_name_prefix="prefmill-tokenise")
        self._model = ThreadPoolExecutor(1, thread_name_prefix="prefmill-model")
        self._job: Job | None = None

    def begin(self) -> None:
        """Nothing: who asks learns that the process is there."""

    def facts(self, terms: Terms) -> Reply:
        """What the part says of itself, by name, and the versions under `versions`."""
        return answered(lambda: self._on_model(self._facts, terms))

    def join(self, terms: Terms) -> Reply:
        """Load the model, if it is the one that is meant."""
        return answered(lambda: self._on_model(self._join, terms))

    def do(self, packed: Any) -> Reply:
        """One chunk."""
        return answered(lambda: self._do(packed))

    def _on_model(self, function: Callable[[Any], T], given: Any) -> T:
        answer: Future[T] = self._model.submit(function, given)
        return answer.result()

    def _checked(self, terms: Terms) -> Job:
        place = f"{platform.node()} (process {os.getpid()})"
        refuse_other(terms.where, terms.versions, versions(), place)
        if terms.changes not in self._known:
            job = _unpickled(terms.where, self._pickled, place)
            part = job.part
            for name, value in terms.changes:
                part = getattr(part, name)(value)
            self._known[terms.changes] = job.on(part)
        return self._known[terms.changes]

    def _facts(self, terms: Terms) -> dict[str, Any]:
        job = self._checked(terms)
        own = {name: getattr(job.part, name) for name in job.facts}
        for name in ("fingerprint", "shape"):
            own[name] = dict(own[name])
        known = versions()
        return {**own, "versions": {name: known[name] for name in OF_MODELS}}

    def _join(self, terms: Terms) -> Joined:
        job = self._checked(terms)
        if terms.fingerprint is not None:
            _refuse_part(terms, dict(job.part.fingerprint))
        way = job.part.load()
        self._job = job
        return Joined(way, platform.node(), os.getpid(), _hardware())

    def _do(self, packed: Any) -> Done:
        job = self._job
        assert job is not None  # it joined before
        prepared = self._tokens.submit(job.prepare, packed).result()
        fetch, spent = self._model.submit(_started, job, prepared).result()
        columns, counts = fetch()
        return Done(_stream(columns), counts, spent, peak_rss_mb())


def _started(job: Job, prepared: Any) -> tuple[Callable[[], Made], dict[str, int]]:
    """The second half, and what a server was asked in it."""
    before = getattr(job.part, "usage", None)
    fetch = job.start(prepared)
    after = getattr(job.part, "usage", None)
    if before is None or after is None:
        return fetch, {}
    return fetch, after.since(before)


def _unpickled(where: str, pickled: bytes, place: str) -> Job:
    try:
        job: Job = pickle.loads(pickled)
    except Exception as error:  # whatever code does when it is imported
        raise BadInput(
            f"{where}: the worker at {place} cannot load the scorer or sampler;"
            f" {type(error).__name__}: {error}.",
            hint="install its module on all nodes, or define it in the file that calls prefmill.",
        ) from error
    return job


def _refuse_part(terms: Terms, own: Mapping[str, str]) -> None:
    """Raise `BadArgument` for a worker that would score or sample with something else."""
    changes = list(differences(terms.fingerprint or {}, own))
    if not changes:
        return
    name, expected, got = changes[0]
    raise BadArgument(
        f"{terms.where}: the worker at {platform.node()} (process {os.getpid()}) has another"
        f" {name}; got {got}, expected {expected}.",
        hint="the same files and hardware on all nodes; with models --dtype says the type.",
    )


def _hardware() -> str:
    """The GPU that this process sees, else the processor."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def _stream(columns: Mapping[str, pa.Array]) -> pa.Buffer:
    return packed_batch(pa.record_batch(dict(columns)))


def packed_batch(batch: pa.RecordBatch) -> pa.Buffer:
    """A batch as an Arrow stream: a slice travels without the rest."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return sink.getvalue()


def unpacked_batch(buffer: pa.Buffer) -> pa.RecordBatch:
    """The batch that `packed_batch` packed.

    >>> unpacked_batch(packed_batch(pa.record_batch({"a": [1, 2]}).slice(1)))["a"].to_pylist()
    [2]
    """
    with pa.ipc.open_stream(buffer) as stream:
        return stream.read_next_batch()
