"""The SELECT that makes rows of a table's records, for a shell or another client to run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill.connection import literal
from prefmill.errors import BadArgument, ColumnMissing
from prefmill.shapes import recognise, sql
from prefmill.shapes.making import shape_of
from prefmill.shapes.shape import Shape
from prefmill.shapes.source import is_plain
from prefmill.shapes.words import Rows
from prefmill.table.roles import REQUIRED, Roles

#: The name of the CTE of rows in the query of a plan.
ROWS = "rows_of_records"


def select_of(
    table: str,
    rows: Rows,
    schema: object,
    *,
    where: str = "sql",
    extra: Sequence[str] = (),
    score: bool = True,
    completion: bool = True,
) -> tuple[str, Shape] | None:
    """The SELECT over `table`, and its shape; None where rows are read as they are.

    `schema` are the types of the table's columns; without them only words that name columns of
    roles have a meaning.
    """
    if schema is None:
        named = [text for text in rows.named().values() if isinstance(text, str)]
        if is_plain(rows, named):
            return None
        raise BadArgument(
            f"{where}: {rows.options()} needs the types of the table's columns.",
            hint='give them: schema=con.table("feedback"), or a Polars or pyarrow schema.',
        )
    types = schema_in(schema, where)
    plain = is_plain(rows, types.names())
    if plain:
        required = [r for r in REQUIRED if (r != "score" or score)]
        try:
            Roles.resolve(
                types.names(),
                {k: v for k, v in rows.named().items() if k != "group"},  # type: ignore[arg-type]
                required=required,
                where=where,
            )
        except ColumnMissing as problem:
            readings = recognise.recognised(types, None, rows, score=score, completion=completion)
            if not readings:
                return None
            if len(readings) > 1:
                raise recognise.choose(readings, where) from problem
            rows = readings[0][1]
        else:
            return None
    for word in ("join", "file_as"):
        if getattr(rows, word) is not None:
            raise BadArgument(
                f"{where}: {word} is for files; got a table.",
                hint="join in SQL: WITH feedback AS (SELECT ... JOIN ...).",
            )
    if not plain:
        _, rows = recognise.completed(
            rows, types, lambda: None, where=where, score=score, completion=completion
        )
    shape = shape_of(rows, types, where=where, score=score, completion=completion, extra=extra)
    relation = f"query_table({literal(table)})"
    return sql.rows(shape, sql.records(shape, relation)), shape


def schema_in(schema: Any, where: str) -> pl.Schema:
    """Types of columns as Polars has them."""
    if isinstance(schema, pa.Schema):
        return pl.DataFrame(pa.Table.from_batches([], schema=schema)).schema
    if isinstance(schema, Mapping):
        return pl.Schema(schema)
    if hasattr(schema, "limit"):  # a relation of DuckDB
        return pl.DataFrame(schema.limit(0).to_arrow_table()).schema
    raise BadArgument(
        f"{where}: schema is a {type(schema).__name__}; expected a Polars or pyarrow schema, or a"
        " DuckDB relation.",
        hint='for example con.table("feedback").',
    )
