"""One plan over one source, on our own DuckDB connection: rank narrow, then gather once.

BoundPlan ──▶ Tables (DuckDB) or LazyFrames (Polars) ──slots──▶ Gathering ──▶ rows of output
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, get_args

import duckdb
import polars as pl

from prefmill.connection import connect, ranking_share_of, share_of, threads_in
from prefmill.engines.steps import Output, Program, Step
from prefmill.errors import BadArgument, either
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress
from prefmill.readers import Source
from prefmill.runs.job.accounting import account_of
from prefmill.runs.job.assembly import assembly_of
from prefmill.runs.job.bound import BoundPlan
from prefmill.runs.job.gathering import Gathering
from prefmill.runs.job.lazy import POSITION, LazyFrames, scan
from prefmill.runs.job.tables import Tables
from prefmill.shapes import sql as shapes_sql
from prefmill.shapes.source import Rowed
from prefmill.table.report import PairReport
from prefmill.table.roles import OfRecords, named
from prefmill.table.thresholds import Scale

Engine = Literal["auto", "polars", "duckdb"]


class Job:
    """One plan over one source: ranks on first use, then gathers.

    The report is ready when all frames have been taken.
    """

    def __init__(
        self,
        plan: FeedbackPlan,
        rowed: Rowed,
        keep: Sequence[str],
        home: Path,
        engine: Engine,
        tell: Progress,
        *,
        whole_rows: bool = False,
        trainer: bool = True,
        of_records: OfRecords,
        memory_bytes: int | None,
        threads: int | None,
        ordered: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        self.bound = bound = BoundPlan(plan, rowed)
        self.rowed, self.source, self.roles = rowed, rowed.source, bound.roles
        self.dtypes, self.scalars = bound.dtypes, bound.scalars
        self.home, self.tell, self.memory_bytes = home, tell, memory_bytes
        self.engine = _engine_of(engine, self.source)
        # Where the prompt is the group key, ranking has read it already: it comes with the slots,
        # and the scan decodes a column less. Where every row is wanted the scan reads prompts
        # anyway, in its own order.
        key_is_prompt = not self.roles.group and bound.output.keyed and not plan.every_row
        self.assembly = assembly_of(
            bound.output,
            rowed,
            self.roles,
            self.dtypes,
            keep=keep,
            whole_rows=whole_rows,
            trainer=trainer,
            of_records=of_records,
            aggregated=plan.aggregate != "none",
            key_is_prompt=self.engine == "duckdb" and key_is_prompt,
            excluded=excluded,
        )
        self.con = _connection(self.source, home, memory_bytes, threads)
        self._tables = Tables(self.con, bound, self.assembly, ordered=ordered)
        #: Who is asked about what was ranked.
        self._ranks: Tables | LazyFrames = self._tables
        self._gathering = Gathering(
            self.con, bound, self.assembly, home=home, tell=tell, memory_bytes=memory_bytes
        )
        self._ranked = False
        self._account: PairReport | None = None

    # What is read, and what is asked of it

    @property
    def plan(self) -> FeedbackPlan:
        """The plan, its thresholds settled as far as the scores are known."""
        return self.bound.plan

    @property
    def program(self) -> Program:
        """What the plan, as it is now, asks of an engine."""
        return self.bound.program

    @property
    def output(self) -> Output:
        """What the rows of the last step become."""
        return self.bound.output

    @property
    def keep(self) -> Sequence[str]:
        """The columns of the input that come along, as `_keep0`, `_keep1` ... of `texts`."""
        return self.assembly.keep

    @property
    def records(self) -> Source:
        """The files as they are, also where their records become rows."""
        return self.rowed.records or self.source

    @property
    def never_null(self) -> frozenset[str]:
        """Columns that need no look for nulls."""
        return self.bound.never_null

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of how the input was read."""
        shape = self.rowed.shape
        read = [f"read as: {shape.words.options()}", *self.rowed.lines] if shape else []
        return (*self.source.notes, *read)

    def scan(self) -> pl.LazyFrame:
        """The source as one lazy frame (`lazy.scan`)."""
        return scan(self.bound, self.con)

    def explain(self) -> str:
        """The query that ranks and gathers: SQL of the macros, or the optimised Polars plan."""
        columns = named(self.roles)
        if (shape := self.rowed.shape) is not None:
            rows = shapes_sql.rows(shape, shapes_sql.records(shape, "feedback"))
            return f"CREATE TEMP VIEW rows AS\n{rows};\n\n{self.plan.sql('rows', **columns)}"
        if self.engine == "polars":
            return self.plan.lazy(self.scan(), **columns).explain().replace(str(self.home), "TEMP")
        return self.plan.sql("feedback", **columns)

    def row_bytes(self) -> int:
        """The mean size of a row's texts that are gathered, from the first 20,000 rows."""
        return self._gathering.row_bytes()

    def narrow_bytes(self) -> int:
        """The mean size of what is kept of a row to rank it, from the first 20,000 rows."""
        return self._gathering.narrow_bytes()

    # Rank

    def narrow(self) -> list[str]:
        """Make the relations up to `candidates`, of records whose lists are in order."""
        self._gathering.check_lists()
        return self._narrow()

    def _narrow(self) -> list[str]:
        return self._tables.narrow(tables=self.engine == "duckdb")

    def rank(self) -> None:
        """Make the table `slots`: what becomes row 0, 1, 2 ... of the output."""
        if self._ranked:
            return
        self._ranked = True
        self.tell("ranking", None)
        done = self._narrow()
        if self.engine == "polars":
            self._ranks = lazy = LazyFrames(self._tables)
            lazy.rank()
        else:
            self._tables.rank(done)
        self._gathering.hand_back()

    def settled(self, plan: FeedbackPlan) -> FeedbackPlan:
        """`plan` with numbers for its thresholds."""
        return plan.settled(self._ranks.scores(plan))

    def count(self, step: Step) -> int:
        """How many rows `step` gives, over what was ranked."""
        return self._ranks.count(step)

    def contrast(self) -> int:
        """How many groups have answers with different scores."""
        return self._ranks.contrast()

    def bad_scores(self) -> tuple[str, ...]:
        """The first three different texts that are no score, as Python writes them, cut to size."""
        return self._tables.bad_scores()

    def scale_told(self) -> Scale:
        """The scale, where a number of the plan is in its units."""
        if not self.plan.in_units:
            return self.bound.scale
        return Scale(*(self.score_range() or (None, None)))

    def score_range(self) -> tuple[float, float] | None:
        """Smallest and largest score of a candidate, for hints."""
        scale = self._ranks.scale()
        return None if scale.low is None or scale.high is None else (scale.low, scale.high)

    # Gather

    def frames(self) -> Iterator[pl.DataFrame]:
        """The output, in order, as frames of the assembly's schema."""
        for frame, _ in self.frames_and_slots():
            yield frame

    def frames_and_slots(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """`frames`, each with the slots of its rows."""
        self.rank()
        self.tell("reading texts", None)
        yield from self._gathering.frames_and_slots()

    @property
    def pairs_excluded(self) -> int:
        """How many pairs a file of ids left out, once all frames were taken."""
        return len(self._gathering.excluded)

    @property
    def ids_met(self) -> set[str]:
        """The ids by which pairs were left out."""
        return self._gathering.ids_met

    # Report

    def report(self) -> PairReport:
        """Account for every row.

        Pairs of equal texts are known once `frames()` was exhausted; if it was not begun, that is
        done here.
        """
        if self._account is None:
            self.rank()
            self._gathering.check_lists()
            if self.output.paired and not self._gathering.done:
                for _ in self.frames():
                    pass
            self._account = account_of(self._ranks, self._gathering)
        return self._account

    def accounted(self, account: PairReport) -> None:
        """Every row is accounted for: `together.py` ranked and fetched them."""
        self._account, self.engine = account, "polars"


def _connection(
    source: Source, home: Path, memory_bytes: int | None, threads: int | None
) -> duckdb.DuckDBPyConnection:
    # About 300 MB are Python and its libraries; the rest is shared between DuckDB's buffers, the
    # parts of text and the encoder.
    share = None
    if memory_bytes:
        share = ranking_share_of(memory_bytes)
        # Of two threads each would have too little.
        threads = threads or threads_in(share_of(memory_bytes))
    return connect(
        temp_dir=home,
        reads=source.reads,
        memory_bytes=share,
        threads=threads,
        remote=source.remote,
    )


def _engine_of(engine: Engine, source: Source) -> Literal["polars", "duckdb"]:
    if engine not in get_args(Engine):
        raise BadArgument(f"run: no engine {engine!r}; expected {either(get_args(Engine))}.")
    reserved = ("file_row_number", "file_index", POSITION)
    taken = [name for name in source.columns.names if name.lower() in reserved]
    if taken:
        raise BadArgument(
            f"run: the column name {taken[0]!r} has a meaning of its own to the engines.",
            hint="rename that column.",
        )
    if engine == "polars" and source.remote:
        raise BadArgument(
            "run: the polars engine reads local files; got a URL.", hint="use --engine duckdb."
        )
    return "duckdb" if engine == "auto" else engine
