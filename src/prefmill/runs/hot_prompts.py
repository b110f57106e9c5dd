"""Prompts with very many answers, on DuckDB: of their pairs only those that are drawn are made."""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl

from prefmill.engines import sql
from prefmill.engines.steps import Step
from prefmill.rules import explosion
from prefmill.rules.draws import Stands, pairs_frame

_COLD = "cold_groups"
_HOT = "hot_pairs"
_COLUMNS = "_first, _grp, _c, _r, _chosen, _rejected, _chosen_score, _rejected_score"


def without_hot(con: duckdb.DuckDBPyConnection, step: Step) -> tuple[str, str]:
    """The query of `step`, and the relation of the groups that its macro makes the pairs of.

    The pairs of the other groups are drawn here, a prompt at a time, where `step` has a cap. Its
    thresholds are numbers by now.
    """
    args: dict[str, Any] = dict(step.args)
    query = sql.call(step)
    cap: Any = args.get("max_pairs_per_prompt")
    if step.rule != "pairs.pairs" or not explosion.is_capped(args["strategy"], cap):
        return query, "groups"
    top_k, bottom_k = args["top_k"], args["bottom_k"]
    sides = " * ".join(
        f"least(_n, {k})::HUGEINT" if k else "_n::HUGEINT" for k in (top_k, bottom_k)
    )
    hot = f"least(_n::HUGEINT * (_n - 1) // 2, {sides}) > {explosion.MOST_OF_A_PROMPT}"
    firsts = con.execute(f"SELECT _first FROM groups WHERE {hot} ORDER BY 1").fetchall()
    if not firsts:
        return query, "groups"
    bounds = (args["chosen_min"], args["rejected_below"])
    stands = Stands(*bounds, args["min_margin"], top_k, bottom_k)
    parts = [_drawn(con, first, args["seed"], stands, cap) for (first,) in firsts]
    con.register(_HOT, pl.concat(parts).to_arrow())
    con.execute(f"CREATE TABLE {_HOT}_made AS FROM {_HOT}")
    con.unregister(_HOT)
    con.execute(f"CREATE VIEW {_COLD} AS SELECT * FROM groups WHERE NOT ({hot})")
    drawn = f"{_HOT}_made JOIN (SELECT _first, _grp FROM groups WHERE {hot}) USING (_first)"
    cold = sql.call(step, {"groups": _COLD})
    return f"SELECT {_COLUMNS} FROM ({cold}) UNION ALL SELECT {_COLUMNS} FROM {drawn}", _COLD


def _drawn(
    con: duckdb.DuckDBPyConnection, first: int, seed: int, stands: Stands, cap: int
) -> pl.DataFrame:
    ((word,),) = con.execute(
        f"SELECT pref_hash(_grp, {seed}) FROM groups WHERE _first = {first}"
    ).fetchall()
    answers = con.sql(
        "SELECT pref_key_score(key) AS score, pref_key_position(key) AS position FROM ("
        "SELECT unnest(_ranks) AS key, generate_subscripts(_ranks, 1) AS rank"
        f" FROM groups WHERE _first = {first}) ORDER BY rank"
    ).to_arrow_table()
    frame = pl.DataFrame(answers)
    return pairs_frame(first, word, frame["score"], frame["position"], stands, cap)
