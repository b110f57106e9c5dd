"""The relations of a plan in Polars: lazy frames, whose last one becomes the slots in DuckDB."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import polars as pl

from prefmill.connection import quote
from prefmill.engines import frames
from prefmill.engines.steps import Step
from prefmill.plans.feedback import FeedbackPlan
from prefmill.rules.limits import scale_of, scores_in
from prefmill.rules.rows import numbered
from prefmill.runs.job.bound import BoundPlan
from prefmill.runs.job.tables import Tables, in_order
from prefmill.table.report import PairReport
from prefmill.table.thresholds import Scale, Scores

#: The position of each row, in a frame of the source.
POSITION = "__prefmill_position"


class LazyFrames:
    """The relations of a plan; what is asked of `Tables`, by frames."""

    def __init__(self, tables: Tables) -> None:
        self.con, self.bound = tables.con, tables.bound
        self._tables = tables
        bound = self.bound
        self._rows = numbered(bound.program.read, scan(bound, self.con), position=POSITION)
        self._relations = frames.relations(bound.program, self._rows, bound.never_null)

    def rank(self) -> None:
        """Make the table `slots`.

        Scores may refuse the thresholds. Then the relations are there all the same, for hints.
        """
        bound, tables = self.bound, self._tables
        if bound.plan.waits:
            scores = self.scores(bound.plan)
            bound.scale = scores.scale
            bound.settle(bound.plan.settled(scores))
            self._relations = frames.relations(bound.program, self._rows, bound.never_null)
        columns = tables.assembly.slot_columns()
        ranked = frames.last(bound.output, self._relations).select(columns).collect()
        self.con.register("ranked", ranked.with_row_index("slot").to_arrow())
        with in_order(self.con):
            tables.make("slots", "SELECT * FROM ranked", table=True)
        self.con.unregister("ranked")

    def scale(self) -> Scale:
        """Smallest and largest score of a candidate."""
        return scale_of(frames.scores(self._relations["candidates"]))

    def scores(self, plan: FeedbackPlan) -> Scores:
        """What the thresholds of `plan` ask of the scores of all candidates."""
        return scores_in(frames.scores(self._relations["candidates"]))

    def count(self, step: Step) -> int:
        """How many rows `step` gives, over what was ranked."""
        rows = frames.run(step, self._relations).select(pl.len()).collect()
        return int(rows.item())

    def contrast(self) -> int:
        """How many groups have answers with different scores."""
        ends = pl.col("_scores").list
        differ = self._relations["groups"].filter(ends.first() != ends.last())
        return int(differ.select(pl.len()).collect().item())

    def account(self, views: Mapping[str, str]) -> PairReport:
        """The account of every row; `views` stand for relations that it reads."""
        tables = {name: self.con.sql(f"FROM {view}") for name, view in views.items()}
        read = {n: pl.DataFrame(t.to_arrow_table()).lazy() for n, t in tables.items()}
        return frames.account(self.bound.output, self._relations | read)

    def groups(self) -> str:
        """The relation of groups, with the columns `_first` and `_votes`."""
        narrow = self._relations["groups"].select("_first", "_votes").collect()
        self.con.register("_groups", narrow.to_arrow())
        return "_groups"


def scan(bound: BoundPlan, con: duckdb.DuckDBPyConnection) -> pl.LazyFrame:
    """The source as one lazy frame, columns united by name, with the position of each row as
    `POSITION`.
    """
    if bound.rowed.shape is not None:
        return _scan_rows(bound, con)
    source = bound.source
    starts = list(accumulate(source.file_rows[:-1], initial=0))
    folders = (part for file in source.files for part in Path(file).parts if "=" in part)
    names = {unquote(part.split("=")[0]) for part in folders}
    hive: dict[str, Any] = {"hive_partitioning": source.hive}
    if source.hive:
        hive["hive_schema"] = {name: pl.String for name in bound.dtypes if name in names}
    scans = [
        pl.scan_parquet(file, glob=False, row_index_name=POSITION, row_index_offset=start, **hive)
        for file, start in zip(source.files, starts, strict=True)
    ]
    united = scans[0]
    if len(scans) > 1:
        united = pl.concat(scans, how="diagonal_relaxed")
    return united.cast({POSITION: pl.Int64})


def _scan_rows(bound: BoundPlan, con: duckdb.DuckDBPyConnection) -> pl.LazyFrame:
    """The columns that are ranked, of records that were made rows."""
    names = dict.fromkeys(bound.program.read.columns().values())
    columns = ", ".join([f"{bound.source.position} AS {POSITION}", *map(quote, names)])
    rows = con.sql(f"SELECT {columns} FROM {bound.source.relation}")
    return pl.DataFrame(rows.to_arrow_table()).lazy()
