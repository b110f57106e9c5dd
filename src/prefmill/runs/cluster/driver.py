"""A plan's run in buckets: what the driver of a cluster does.

    input ──splits──▶ narrow ──buckets──▶ rank ──splits──▶ fetch ──parts──▶ the output

The driver knows numbers only: of rows, of scores, of slots. What tasks leave is on storage, and
says which tasks are done, so the same call goes on after any death, its own included.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from prefmill.connection import MB
from prefmill.engines import sql
from prefmill.engines.steps import Output, Step
from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress
from prefmill.readers import Source
from prefmill.rules.tallies import COLUMNS, Look, added, settled_by
from prefmill.runs.cluster import stages, texts
from prefmill.runs.cluster.executor import Call, Executor, Note, Reads, Stage
from prefmill.runs.cluster.pieces import Done, Piece, Pieces, plain
from prefmill.runs.cluster.splits import Records, splits_of
from prefmill.runs.cluster.texts import Part, Parts
from prefmill.runs.cluster.work import Work
from prefmill.runs.job.job import Job
from prefmill.runs.job.order import part_key
from prefmill.runs.job.refusals import refuse_explosion, unusable, word_told
from prefmill.table.report import PairReport
from prefmill.table.roles import Roles
from prefmill.table.thresholds import Scale

#: Bytes of text of a split or of a part, and of narrow rows of a bucket, without a memory limit.
_TEXT_BYTES, _NARROW_BYTES = 192 * MB, 96 * MB
#: Fewer rows are not worth a task.
_LEAST_ROWS = 20_000
#: Splits, and buckets, for each task that runs at a time, so that all of them have work.
_EACH = 2


@dataclass(frozen=True)
class Cut:
    """How a run is divided; one that goes on is divided as it was begun."""

    split_rows: int
    buckets: int
    part_bytes: int
    row_bytes: int


def cut_of(job: Job, slots: int, memory_bytes: int | None) -> Cut:
    """What suits the input, so many tasks at a time, and the memory of each."""
    text, narrow = _TEXT_BYTES, _NARROW_BYTES
    if memory_bytes:
        text = max(8 * MB, min(text, (memory_bytes - 300 * MB) // 5))
        narrow = max(4 * MB, min(narrow, (memory_bytes - 300 * MB) // 8))
    row_bytes, narrow_bytes = job.row_bytes(), job.narrow_bytes()
    rows = max(1, job.source.rows)
    each = -(-rows // (slots * _EACH))
    split_rows = min(text // row_bytes, max(_LEAST_ROWS, each))
    most = max(1, -(-rows // _LEAST_ROWS))
    buckets = max(-(-rows * narrow_bytes // narrow), min(slots * _EACH, most))
    return Cut(max(1, int(split_rows)), int(buckets), text, row_bytes)


@dataclass
class Spread:
    """One plan over one input, whose steps run in buckets by `executor`."""

    job: Job
    executor: Executor
    cut: Cut
    shelf: Pieces
    tell: Progress
    carried: tuple[str, ...] = ()
    texts_read: bool = False
    memory_bytes: int | None = None
    temp_dir: str | None = None
    plan: FeedbackPlan = field(init=False)
    scale: Scale = field(init=False, default=Scale(None, None))
    _tallies: dict[Look, pl.DataFrame] = field(init=False, default_factory=dict)
    _largest: float = field(init=False, default=0.0)
    _gathered: bool = field(init=False, default=False)
    #: Pairs that a file of ids left out, once there was a report.
    excluded: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.plan = self.job.plan
        if setting := _spanning(self.plan, self.job):
            raise BadArgument(
                f"run: {setting} needs the rows of all prompts together; got an engine that runs"
                " each bucket of prompts by itself.",
                hint="--engine duckdb, which runs out of core on one machine.",
            )

    # What people ask of what was ranked, as of a `Job`

    @property
    def roles(self) -> Roles:
        """The column of every role."""
        return self.job.roles

    @property
    def source(self) -> Source:
        """The input."""
        return self.job.source

    @property
    def output(self) -> Output:
        """What the rows of the last step become."""
        return self.work.program.output

    def contrast(self) -> int:
        """How many groups have answers with different scores."""
        if "ranked" in vars(self):  # counted then
            return sum(note["contrast"] for note in self.ranked.values())
        return int(self.ask(stages.CONTRAST, until="groups")["rows"].sum())

    def count(self, step: Step) -> int:
        """How many rows `step` gives, over what was ranked."""
        query = f"SELECT count(*) AS rows FROM ({sql.call(step)})"
        return int(self.ask(query, until=step.over[0])["rows"].sum())

    def ask(self, query: str, *, until: str) -> pl.DataFrame:
        """The rows of a query over the relations of every bucket, made up to `until`.

        They come with the number of their bucket, `_bucket`.
        """
        self.narrowed  # noqa: B018
        name = f"ask{stages.name_of(query)}"
        self._on_buckets(name, partial(stages.ask, query=query, until=until), deals=1)
        frames = [
            pl.DataFrame(pa.Table.from_batches(batches)).with_columns(_bucket=pl.lit(bucket))
            for bucket in range(self.cut.buckets)
            if (batches := [plain(each) for each in self.shelf.read(name, [bucket], [0])])
        ]
        if not frames:
            nothing = pa.Table.from_batches([], self.shelf.schema(name, 0))
            return pl.DataFrame(nothing).with_columns(_bucket=pl.lit(0))
        return pl.concat(frames, how="vertical_relaxed")

    def settled(self, plan: FeedbackPlan) -> FeedbackPlan:
        """`plan` with numbers for its thresholds."""
        settled: FeedbackPlan = settled_by(plan, self._tally)
        return settled

    def _tally(self, look: Look) -> pl.DataFrame:
        """The bins of all scores that `look` asks for."""
        if look not in self._tallies:
            notes = list(self.narrowed.values())
            if look != Look() or not all("tally" in note for note in notes):
                name = f"count{stages.name_of(repr(look))}"
                counted = self._on_buckets(name, partial(stages.count, look=look))
                notes = list(counted.values())
            parts = (pl.DataFrame(n["tally"], schema=COLUMNS, orient="row") for n in notes)
            self._tallies[look] = added(parts)
        return self._tallies[look]

    def scale_told(self) -> Scale:
        """The scale, where a number of the plan is in its units."""
        if not self.plan.in_units:
            return self.scale
        return self._scale_ranked()

    def score_range(self) -> tuple[float, float] | None:
        """Smallest and largest score of a candidate, for hints."""
        scale = self._scale_ranked()
        return None if scale.low is None or scale.high is None else (scale.low, scale.high)

    def _scale_ranked(self) -> Scale:
        ends = pl.DataFrame(
            [note["scale"] for note in self.ranked.values()], schema=_ENDS, orient="row"
        )
        return _scale(ends)

    def bad_scores(self) -> tuple[str, ...]:
        """The first three different texts that are no score, as Python writes them."""
        found: dict[str, int] = {}
        for note in self.narrowed.values():
            for position, word in note.get("bad", []):
                found[word] = min(position, found.get(word, position))
        return tuple(word_told(word) for word in sorted(found, key=lambda word: found[word])[:3])

    # Stages

    def _on_buckets(self, name: str, call: Call, **deals: Any) -> dict[int, Note]:
        """Run a stage that reads narrow rows, a bucket at a time."""
        splits = range(len(self.work.splits))
        stage = Stage(name, call, lambda number: [("narrow", splits, [number])], **deals)
        return self._run(stage, range(self.cut.buckets))

    def _run(self, stage: Stage, numbers: Sequence[int]) -> dict[int, Note]:
        """Run what is missing of a stage; the notes of all its tasks, in the order of numbers."""
        name = stage.name
        notes = {n: note for n, note in self.shelf.done(name).items() if n in set(numbers)}
        missing = [number for number in numbers if number not in notes]
        self.tell(_PHASES.get(name, "counting"), len(notes) / max(1, len(numbers)))
        for number, note in self.executor.run(self.work, stage, missing):
            notes[number] = note
            self._largest = max(self._largest, note["rss_mb"])
            self.tell(_PHASES.get(name, "counting"), len(notes) / len(numbers))
        return dict(sorted(notes.items()))

    @cached_property
    def work(self) -> Work:
        """What tasks are told so far."""
        job = self.job
        numeric = {name for name, kind in job.dtypes.items() if kind.is_numeric()}
        scores = enumerate(job.program.read.scores)
        return Work(
            program=job.program,
            assembly=replace(job.assembly, key_is_prompt=False),
            records=Records.of(job.rowed, job.con),
            splits=splits_of(job.records, self.cut.split_rows),
            buckets=self.cut.buckets,
            never_null=job.never_null,
            scalars=job.scalars,
            texts=tuple(f"_score{place}" for place, name in scores if name not in numeric),
            raises=self.plan.on_invalid == "raise",
            waits=self.plan.waits,
            texts_read=self.texts_read or job.program.read.merged,
            carried=self.carried,
            shelf=self.shelf,
            memory_bytes=self.memory_bytes,
            temp_dir=self.temp_dir,
        )

    @cached_property
    def narrowed(self) -> dict[int, Note]:
        """What each split had to say."""
        stage = Stage("narrow", stages.narrow, deals=self.cut.buckets)
        notes = self._run(stage, range(len(self.work.splits)))
        schema = self.shelf.schema("narrow", 0) if notes else None
        known = [note["stage"] for note in notes.values() if note.get("stage") is not None]
        self.work = replace(
            self.work,
            numbered=schema,
            last_stage=int(max(known)) if known else None,
            large=frozenset(n for n, size in _sizes(notes).items() if size > self._most_bytes),
        )
        return notes

    @property
    def _most_bytes(self) -> int:
        """Narrow rows of a bucket that a worker holds in memory."""
        return 4 * _NARROW_BYTES if self.memory_bytes is None else self.memory_bytes // 4

    def rank(self) -> None:
        """Rank every bucket, once."""
        self.ranked  # noqa: B018  it is made when it is first asked for

    @cached_property
    def ranked(self) -> dict[int, Note]:
        """What each bucket had to say once it was ranked."""
        if not self.narrowed:
            return {}
        self._refuse_unusable(self.narrowed)
        if self.plan.waits:
            self.scale = _scale(self._tally(Look()))
            self.plan = self.settled(self.plan)
            self.work = replace(self.work, program=self.plan.program(self.roles))
        self._refuse_hot()
        if step := self.output.proposals:
            proposed = self._on_buckets("propose", stages.propose).values()
            largest = max((note["largest"] or 0 for note in proposed), default=0)
            total = sum(note["proposals"] for note in proposed)
            refuse_explosion(step, total, largest)
        splits = len(self.work.splits)
        return self._on_buckets("rank", stages.rank, deals=splits, dealt_as="wanted")

    def _refuse_hot(self) -> None:
        """Raise where a prompt has more answers than a worker can put in order at once.

        Only buckets that are far too large are looked into. What needs the ends of a prompt, or the
        best of it, goes through any number of answers.
        """
        if not self.work.large or not any(step.rule in _WHOLE for step in self._whole_steps()):
            return
        most = self._most_bytes // _KEY_BYTES
        query = (
            "SELECT _grp::VARCHAR AS prompt, count(*) AS n FROM candidates"
            " WHERE _reason IS NULL GROUP BY _grp ORDER BY n DESC LIMIT 1"
        )
        found = self.ask(query, until="candidates").sort("n", descending=True)
        if not found.height or found["n"][0] <= most:
            return
        raise BadArgument(
            f"run: the prompt {word_told(found['prompt'][0])} has {found['n'][0]:,} answers, and"
            f" this plan orders all of a prompt's at once; expected at most {most:,} in the memory"
            " of a worker.",
            hint="strategy best_worst needs no such order; or give workers more memory:"
            f" --memory-limit {2 * found['n'][0] * _KEY_BYTES * 4 // MB}MB.",
        )

    def _whole_steps(self) -> list[Step]:
        """Steps that hold the order of whole groups."""
        return [step for step in self.work.program.steps if not step.sql.get("ends_only")]

    def _refuse_unusable(self, notes: Mapping[int, Note]) -> None:
        refused = [note["unusable"] for note in notes.values() if "unusable" in note]
        if not refused:
            return
        position, reason = min(refused)
        raise unusable(position, reason, self.bad_scores() if reason == "bad_score" else ())

    @property
    def worker_rss_mb(self) -> float:
        """The largest size of a worker's process so far, in MiB."""
        return self._largest

    # Parts

    @cached_property
    def parts(self) -> Parts:
        """The output in parts of about equal size."""
        width = 8 * len(part_key(self.output.order))
        slots = sum(note["slots"] for note in self.ranked.values())
        sides = len(self.output.texts)
        count = -(-slots * sides * self.cut.row_bytes // self.cut.part_bytes)
        sample, weights = [], []
        for note in self.ranked.values():
            sample += [bytes.fromhex(key) for key in note["sample"]]
            weights += [note["slots"] / max(1, len(note["sample"]))] * len(note["sample"])
        if count < 2 or not sample:
            return Parts((), width)
        keys = np.array(sample, f"S{width}")
        order = np.argsort(keys, kind="stable")
        reached = np.cumsum(np.array(weights)[order])
        wanted = reached[-1] * np.arange(1, count) / count
        bounds = keys[order][np.searchsorted(reached, wanted, side="right").clip(0, len(keys) - 1)]
        return Parts(tuple(dict.fromkeys(bounds.tolist())), width)

    @property
    def is_empty(self) -> bool:
        """Whether nothing was selected."""
        return not any(note["slots"] for note in self.ranked.values())

    def frames(self) -> Iterator[pl.DataFrame]:
        """The output, in order."""
        if self.is_empty:
            return
        self._fetch()
        self._gathered = True
        for number in range(self.parts.count):
            same: list[Piece] = []
            yield from texts.frames_of(self.work, self.parts, self._part(number), same)
            self.shelf.put("same", number, Done(same))
            self.tell("writing", (number + 1) / self.parts.count)

    def on_parts(self, call: Callable[..., Done]) -> dict[int, Note]:
        """Let workers put parts together by `call`, which leaves the pairs of one text."""
        self._fetch()
        self._gathered = True
        listed = tuple(self._part(number) for number in range(self.parts.count))
        splits = range(len(self.work.splits))

        def reads(number: int) -> Reads:
            slots = [("rank", [bucket], keys) for bucket, keys in listed[number].slots]
            return [*slots, ("fetch", splits, [number])]

        told = partial(call, parts=self.parts, listed=listed)
        stage = Stage("same", told, reads, deals=self.cut.buckets)
        return self._run(stage, range(self.parts.count))

    def _fetch(self) -> None:
        call = partial(texts.fetch, parts=self.parts)
        buckets = range(self.cut.buckets)
        stage = Stage(
            "fetch",
            call,
            lambda number: [("wanted", buckets, [number])],
            deals=self.parts.count,
        )
        self._run(stage, range(len(self.work.splits)))

    def _part(self, number: int) -> Part:
        keys = {
            bucket: tuple(self.parts.keys_in(number, note["starts"]))
            for bucket, note in self.ranked.items()
        }
        return Part(number, tuple((bucket, each) for bucket, each in keys.items() if each))

    # Report

    def report(self) -> PairReport:
        """The account of every row; pairs of one text are known once texts were gathered."""
        rows = {number: note["report"] for number, note in self.ranked.items()}
        if self.output.paired and not self.is_empty:
            if not self._gathered:
                self.on_parts(texts.compared)
            doubled = self.shelf.keys("same", range(self.parts.count))
            call = partial(stages.account, parts=self.parts.count)
            splits, parts = range(len(self.work.splits)), range(self.parts.count)
            stage = Stage(
                "account",
                call,
                lambda number: [("narrow", splits, [number]), ("same", parts, [number])],
            )
            again = self._run(stage, sorted(doubled))
            self.excluded = sum(note.get("excluded", 0) for note in again.values())
            rows |= {number: note["report"] for number, note in again.items()}
        reports = [PairReport.of_row(row) for row in rows.values()]
        return replace(PairReport.total(reports), records=self.job.rowed.report())


#: What is asked of all rows before a bucket is ranked, as fields that ask nothing.
_ASKED_FIRST = {"stages": "all", "chosen_quantile": None, "rejected_quantile": None}
#: Rules that list all answers of a prompt, and the bytes that an answer takes there.
_WHOLE = frozenset({"pairs.groups", "labels.labels", "advantages.advantages"})
_KEY_BYTES = 64
_PHASES = {
    "narrow": "reading",
    "rank": "ranking",
    "fetch": "reading texts",
    "account": "counting",
    "same": "writing",
}


def _spanning(plan: FeedbackPlan, job: Job) -> str:
    """The setting that needs the rows of all prompts together, if there is one."""
    shape = job.rowed.shape
    if shape is not None and shape.words.repeats == "drop":
        return "repeats 'drop'"
    there = {each.name for each in fields(plan)}
    known: dict[str, Any] = {n: value for n, value in _ASKED_FIRST.items() if n in there}
    return replace(plan, **known).wide


def _sizes(notes: Mapping[int, Note]) -> dict[int, int]:
    """The bytes of narrow rows of each bucket."""
    sizes: dict[int, int] = {}
    for note in notes.values():
        for bucket, _, size in note["dealt"]:
            sizes[bucket] = sizes.get(bucket, 0) + size
    return sizes


_ENDS = {"low": pl.Float64, "high": pl.Float64}


def _scale(ends: pl.DataFrame) -> Scale:
    """The scale of all scores, of those of parts."""
    return Scale(ends["low"].min(), ends["high"].max())  # type: ignore[arg-type]
