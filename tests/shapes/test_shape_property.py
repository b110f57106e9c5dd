"""Random words over random records: both engines give the rows of the oracle, in order, and the
same account of the records.
"""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl
import shapes
from hypothesis import given
from laws import common
from shape_hosts import plain
from shape_paths import word
from shape_strategies import FULL, ShapeProblem, shape_problems

from prefmill.shapes import frames, sql
from prefmill.shapes.making import shape_of
from prefmill.shapes.shape import Shape
from prefmill.shapes.words import Rows


@common
@given(problem=shape_problems())
def test_engines_equal_the_oracle(problem: ShapeProblem) -> None:
    table = problem.table()
    frame = pl.DataFrame(table)
    shape = shape_of(Rows(**problem.words), frame.schema)
    expected = shapes.long_rows(problem.records, problem.words, like=[FULL])
    assert shape.own_group == (expected.roles.get("group") == ["_record"])
    names = [name for name in ("source", "id", "system") if name in problem.words]
    names += ["annotator"] if "annotator" in expected.roles else []
    for rows, dropped in (on_polars(shape, frame), on_sql(shape, table)):
        assert told(rows, names, shape) == told(expected.rows, names, None)
        assert dropped == dict(expected.dropped)


def told(rows: list[dict], names: list[str], shape: Shape | None) -> list[tuple]:
    """Rows as they compare: scores as numbers, with their sign."""
    negated = shape is not None and str(shape.roles.get("score", "")).startswith("-")
    found = []
    for row in rows:
        score = None if row["score"] is None else word(row["score"])
        if negated and score is not None:
            score = -score
        more = [row.get(name) for name in names]
        found.append((plain(row["prompt"]), plain(row["completion"]), score, *more))
    return found


def on_polars(shape: Shape, frame: pl.DataFrame) -> tuple[list[dict], dict[str, int]]:
    records = frames.records(shape, frame.lazy())
    rows = frames.rows(shape, records).collect().to_dicts()
    counts = frames.reasons(shape, records).collect().to_dicts()
    return rows, {each["reason"]: each["records"] for each in counts if each["reason"]}


def on_sql(shape: Shape, table: Any) -> tuple[list[dict], dict[str, int]]:
    with duckdb.connect() as con:
        con.register("given", table)
        records = sql.records(shape, "given")
        rows = con.sql(sql.rows(shape, records)).pl().to_dicts()
        counts = con.execute(sql.account(shape, records)).fetchall()
    return rows, {reason: count for reason, count, *_ in counts if reason}
