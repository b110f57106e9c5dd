"""A run from files to one file in chunks: killed anywhere, the same call goes on.

    input ──chunks──▶ a scorer or sampler ──▶ ledger ... all there ──▶ the output, at once

`score` and `sample` say what a chunk is, and what the output holds. Here is what they share: the
target, the ledger, the date and the shape with which a run began, the output, the counts.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill._version import __version__
from prefmill.disk.hidden import temporary
from prefmill.disk.ledger import BATCHES, Ledger, key_of_finished
from prefmill.disk.ledger import key_of as key_of_ledger
from prefmill.disk.targets import is_object, shown
from prefmill.errors import BadArgument, BatchesUnderWay, ExpectationFailed
from prefmill.forks import refuse_fork
from prefmill.models.contract import OnBadRow, Part, on_its_date
from prefmill.plans.expect import Expect
from prefmill.progress import Progress, peak_rss_mb
from prefmill.readers import Source
from prefmill.runs.account.expecting import held
from prefmill.runs.job.opening import Reading
from prefmill.runs.records.commands import is_temporary, sweep_for
from prefmill.runs.records.inputs import is_stdin, joined, known_of, part_known, read_by
from prefmill.runs.records.recorded import key_of
from prefmill.runs.records.recording import Recording, recording
from prefmill.writers.write import Written, check_target, outputs_of, write

PartT = TypeVar("PartT", bound=Part)
Report = TypeVar("Report")
#: Times that requests are gathered before the work; what is new then is asked chunk by chunk.
_ROUNDS = 4
#: The first row of something: of two counts with such a name the smaller is kept.
FIRST = "first:"
#: The name of a count: rows or prompts that were taken over from an earlier output.
BEFORE = "before"


@dataclass(kw_only=True)
class Resumable(ABC, Generic[PartT, Report]):
    """One run; a subclass says what a chunk is. `part` is the scorer or sampler."""

    command: ClassVar[str]
    reports: ClassVar[type]
    part_name: ClassVar[Literal["scorer", "sampler"]]

    part: PartT
    target: Path
    on_bad_row: OnBadRow
    overwrite: bool
    expect: Expect | None
    tell: Progress
    crew: Any = None  #: the workers that do the work (`cluster/actors.py`), where there are some
    home: Path = field(init=False)
    limits: dict[str, Any] = field(init=False, default_factory=dict)
    record: Recording = field(init=False)
    ledger: Ledger = field(init=False)
    counts: dict[str, int] = field(init=False, default_factory=dict)
    seconds_model: float = field(init=False, default=0.0)
    #: counts of what was taken over
    taken: dict[str, int] = field(init=False, default_factory=dict)
    remarks: list[str] = field(init=False, default_factory=list)
    _started: float = field(init=False, default=0.0)

    @abstractmethod
    def open(self, **reading: Any) -> None:
        """Read the input as far as chunks need it."""

    @property
    @abstractmethod
    def asked_for(self) -> dict[str, Any]:
        """What decides the result besides the part and the inputs, as it was given."""

    @property
    @abstractmethod
    def source(self) -> Source:
        """The files of the input, once it is open."""

    @property
    @abstractmethod
    def schema(self) -> pl.Schema:
        """The columns of the output."""

    @abstractmethod
    def key(self) -> dict[str, Any]:
        """What decides the result, besides the part."""

    @abstractmethod
    def shape(self) -> dict[str, Any]:
        """How the input is to be divided; a run that goes on is divided as it was begun."""

    @abstractmethod
    def divide(self, shape: Mapping[str, Any]) -> None:
        """Divide the input so."""

    @property
    def together(self) -> str | None:
        """The column of prompts, where rows of a prompt stand together in the output."""
        return None

    @property
    @abstractmethod
    def sizes(self) -> npt.NDArray[np.int64]:
        """Rows of each chunk, shape (chunks,)."""

    def take_over(self) -> None:
        """The input grew: settle with `self.ledger` what is taken of the output as it stands."""
        self.ledger.refuse()

    def leave_out(self, earlier: pa.RecordBatchFileReader) -> None:
        """Divide only what is not in `earlier`, which was taken over; put it to the output."""

    @abstractmethod
    def work(self, missing: list[int]) -> None:
        """Commit the chunks `missing`, of which there are some."""

    @abstractmethod
    def rehearse(self, part: PartT, missing: list[int]) -> None:
        """Do as `work` does with `part`, and commit nothing."""

    @abstractmethod
    def frames(self) -> Iterator[pl.DataFrame]:
        """The output, from `self.chunks()`."""

    @abstractmethod
    def report(self, **common: Any) -> Report:
        """What became of every row; `common` are the fields that all reports have."""

    def run(self, reading: Reading) -> Report:
        """Do what is missing, publish, and report."""
        self._started = time.perf_counter()
        refuse_fork(self.command)
        sweep_for(self.target, reading)  # also where nothing is to do
        check_target(self.target, overwrite=True)
        key = {} if is_temporary(self.target) else self._record_key(reading)
        outputs = [Path(path) for path in outputs_of(self.target)] if key else []
        recorded = recording(
            self.command,
            outputs,
            key,
            overwrite=self.overwrite,
            free=None,  # another key may still be the same run: then the ledger knows
            finished=lambda: bool(key_of_finished(self.target)),
        )
        with recorded as self.record:
            if self.record.done:
                report: Any = self.record.restored(self.reports)
                return self._held(replace(report, chunks_resumed=report.chunks))
            with temporary(reading.get("temp_dir"), reading.get("temp_bytes")) as self.home:
                missing = self._run(reading)
                return self.record.made or self._report(missing)

    def _record_key(self, reading: Reading) -> dict[str, Any]:
        """What tells the run apart before anything is opened or loaded; empty where nothing may."""
        inputs = getattr(self, "inputs", None)
        if is_stdin(inputs):
            return {}
        return key_of(
            # Reading says where an input may not be written to.
            inputs=known_of(inputs, without=self._options(reading)["without"], in_place=True),
            joined=joined(self.asked_for.get("rows") or {}, self.command),
            command=self.command,
            on_bad_row=self.on_bad_row,
            **{self.part_name: part_known(self.part)},
            **self.asked_for,
            **read_by(reading),
        )

    def _held(self, report: Any) -> Report:
        """The report with what was expected, all of which holds."""
        return cast(Report, held(report, self.expect, where=self.command, resumes=True))

    def _report(self, missing: int) -> Report:
        report = self.report(
            chunks=len(self.sizes),
            chunks_resumed=len(self.sizes) - missing,
            seconds=round(time.perf_counter() - self._started, 3),
            seconds_model=round(self.seconds_model, 3),
            peak_rss_mb=peak_rss_mb(),
            output=shown(self.target),
            template_date=self.part.printed_date,
            **(self.crew.counts() if self.crew else {}),
        )
        return self._held(report)

    def _run(self, reading: Reading) -> int:
        """How many chunks were missing."""
        self.tell("reading", None)
        limits = {"memory_bytes": reading.get("memory_bytes"), "threads": reading.get("threads")}
        self.limits = {name: limit for name, limit in limits.items() if limit is not None}
        self.open(**self._options(reading))
        self._check_writable()
        self.tell(f"loading the {self.part_name}", None)
        before = {} if self.overwrite else key_of_ledger(self.target).get(self.part_name, {})
        self.part = on_its_date(self.part, before)
        with self._opened() as self.ledger:
            begun = self.ledger.shape[self.part_name]
            if begun:  # as it was begun, so that no bit differs
                self.part = self.part.with_shape(begun)
            if self.ledger.grown:
                self.tell("comparing with the output of the last run", None)
                self.take_over()
            if self.ledger.earlier and not self.ledger.done:
                self.leave_out(self.ledger.taken_over())
            self.divide(self.ledger.shape)
            missing = [] if self.ledger.done else self.ledger.missing(self.sizes)
            if missing:
                self._ask_ahead(missing)
                self.work(missing)
                self.remarks += [each for _, post in self.part.posts if (each := post.remark())]
                self.remarks += self.crew.notes() if self.crew else []
            if not self.ledger.done:
                self.tell("writing", None)
                self._publish(len(missing))
        return len(missing)

    def _ask_ahead(self, missing: list[int]) -> None:
        """Where answers come in batches: ask everything that `missing` needs, and wait for it."""
        posts = self.part.posts
        if not posts:
            return
        if is_object(self.target):
            raise BadArgument(
                f"{self.command}: what is asked in batches is kept next to a local output; got"
                f" {shown(self.target)!r}.",
                hint="write to a local file and upload it.",
            )
        for number, (_, post) in enumerate(posts):
            post.keep_in(self.ledger.folder / BATCHES.replace("*", f"{number}.sqlite"))
            if self.overwrite:
                post.withdraw()
        # A judge may ask once more what was refused, so what is asked is gathered again.
        for _ in range(_ROUNDS):
            self.tell("gathering requests", None)
            with ExitStack() as gathering:
                for _, post in posts:
                    gathering.enter_context(post.gathering())
                for part, _ in posts:
                    self.rehearse(part, missing)
            if all(post.is_settled for _, post in posts):
                return
            self._settle([post for _, post in posts])

    def _settle(self, posts: Sequence[Any]) -> None:
        """Wait for everything that was gathered."""
        try:
            # All of them are sent before the first one is waited for.
            for post in posts:
                post.begin()
            for post in posts:
                post.settle(self.tell)
        except BatchesUnderWay as waiting:
            if not self.overwrite:
                raise
            hint = f"without --overwrite, which begins anew, {waiting.hint}"
            raise BatchesUnderWay(waiting.message, hint=hint, batches=waiting.batches) from None

    def _options(self, reading: Reading) -> dict[str, Any]:
        """How the input is read: our own outputs are no inputs."""
        options: dict[str, Any] = dict(reading)
        options.pop("temp_dir", None)
        options["without"] = [shown(self.target)]
        if options.get("rejects"):
            options["rejects"] = Path(options["rejects"])
            options["without"].append(str(options["rejects"]))
        return options

    def _check_writable(self) -> None:
        """Raise now what writing such columns to such a file would raise after hours."""
        trial = self.home / "trial" / self.target.name
        write([], self.schema, trial, format="pool", overwrite=True)

    @property
    def _part_shape(self) -> dict[str, Any]:
        return dict(self.part.shape)

    def _opened(self) -> Ledger:
        key = {
            **self.key(),
            self.part_name: dict(self.part.fingerprint),
            "on_bad_row": self.on_bad_row,
            "prefmill": __version__.split(".")[0],
        }
        shape = {**self.shape(), self.part_name: self._part_shape}
        return Ledger(
            self.target,
            key,
            shape,
            overwrite=self.overwrite,
            where=self.command,
            held=self.record.lock,
            grows=True,
        )

    def chunks(self) -> Iterator[pa.RecordBatch]:
        """Every chunk, in order; what was counted in it goes to `counts`."""
        for batch, counts in self.ledger.chunks(self.sizes):
            for name, value in counts.items():
                known = self.counts.get(name)
                if known is None:
                    self.counts[name] = value
                else:
                    self.counts[name] = (
                        min(known, value) if name.startswith(FIRST) else known + value
                    )
            yield batch

    def _publish(self, missing: int) -> None:
        self.counts = dict(self.taken)
        frames = self.frames()
        self.ledger.publishing()
        source = self.source
        self.record.read(source.inputs)
        self.record.facts["fingerprints"] = {self.part_name: dict(self.part.fingerprint)}

        def report(_: Written) -> Report:
            self.ledger.counts = dict(self.counts)  # all chunks were read by now
            return self._report(missing)

        try:
            write(
                frames,
                self.schema,
                self.target,
                format="pool",
                overwrite=self.ledger.replaces,
                together=self.together,
                publish=self.record.publisher(report),
            )
        except ExpectationFailed:
            self.ledger.hold_back()
            raise
        self.ledger.finish(self.counts)


class Pace:
    """Progress in words: how many rows are done, how many a second, and tokens a second."""

    def __init__(
        self, run: Resumable[Any, Any], missing: list[int], noun: str, *, digits: int
    ) -> None:
        self._tell, self._noun, self._digits = run.tell, noun, digits
        self._total = int(run.sizes.sum())
        self._before = self._done = self._total - int(run.sizes[missing].sum())
        self._tokens, self._crew = 0, run.crew

    def add(self, rows: int, tokens: int, seconds: float) -> None:
        """A chunk is done, `seconds` after the beginning."""
        self._done += rows
        self._tokens += tokens
        seconds = max(seconds, 1e-9)
        rate = f"{(self._done - self._before) / seconds:,.{self._digits}f} {self._noun}/s"
        if self._tokens:
            rate += f", {self._tokens / seconds:,.0f} tokens/s"
        if self._crew:
            rate += f", {self._crew.ready} workers"
        share = self._done / max(1, self._total)
        self._tell(f"{self._done:,} of {self._total:,} {self._noun}, {rate}", share)


def check_chunk_rows(command: str, rows: object, *, optional: bool = False) -> None:
    """Raise `BadArgument` for a size that chunks cannot have."""
    if (optional and rows is None) or (type(rows) is int and rows >= 1):
        return
    wanted = "a whole number >= 1" + (" or None" if optional else "")
    raise BadArgument(f"{command}: chunk_rows must be {wanted}; got {rows!r}.")


def by_reason(prefix: str, counts: Mapping[str, int]) -> dict[str, int]:
    """The counts whose names begin with `prefix`, by what follows.

    >>> by_reason("null:", {"null:too_long": 2, "tokens": 9})
    {'too_long': 2}
    """
    return {
        name.removeprefix(prefix): value
        for name, value in counts.items()
        if name.startswith(prefix)
    }
