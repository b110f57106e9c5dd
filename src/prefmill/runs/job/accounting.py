"""The account of every row that a job ranked, once its output was gathered."""

from __future__ import annotations

from dataclasses import replace

import duckdb
import polars as pl

from prefmill.runs.job.excluding import moved, rows_excluded
from prefmill.runs.job.gathering import Gathering
from prefmill.runs.job.lazy import LazyFrames
from prefmill.runs.job.tables import Tables
from prefmill.table.report import PairReport


def account_of(ranks: Tables | LazyFrames, gathered: Gathering) -> PairReport:
    """The account of what `ranks` ranked; of pairs all frames were `gathered`."""
    con, output = ranks.con, ranks.bound.output
    views = {}
    if output.paired:
        gone = {"slot": [*gathered.same_text, *gathered.excluded]}
        same = pl.DataFrame(gone, schema={"slot": pl.Int64})
        con.register("_same", same.to_arrow())
        is_same = "false"
        if same.height:
            is_same = "slot IN (SELECT slot FROM _same)"
        view = f"SELECT *, {is_same} AS _same_text FROM slots"
        con.execute(f"CREATE OR REPLACE VIEW paired AS {view}")
        views["told"] = "paired"
    elif not output.present:  # every row of the last step has a slot
        views[output.step] = "slots"
    account = ranks.account(views)
    if gathered.excluded:
        rows = _rows_excluded(con, gathered.excluded, ranks.groups())
        account = replace(account, dropped=moved(account.dropped, rows))
    return replace(account, records=ranks.bound.rowed.report())


def _rows_excluded(con: duckdb.DuckDBPyConnection, slots: list[int], groups: str) -> int:
    """The rows of prompts that have no pair because those of `slots` were excluded."""
    excluded = pl.DataFrame({"slot": slots}, schema={"slot": pl.Int64})
    con.register("_gone", excluded.to_arrow())
    told = "(SELECT *, slot IN (SELECT slot FROM _gone) AS _excluded FROM paired)"
    return rows_excluded(con, told, groups)
