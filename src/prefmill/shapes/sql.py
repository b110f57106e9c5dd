"""A shape as one DuckDB SELECT: built-in functions only, so that any client can run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prefmill.connection import literal, quote
from prefmill.shapes.cells import ELEMENT, RECORD, UNEQUAL, length_sql
from prefmill.shapes.paths import Path
from prefmill.shapes.shape import REASON, Join, Shape, Variant

VARIANT = "_variant"
#: The position of a row of a run: (record, variant, element) as one number.
POSITION = "_position"
_LINE = 80


def records(
    shape: Shape,
    relation: str,
    *,
    record: str = "row_number() OVER () - 1",
    joined: Sequence[str] = (),
    file_names: Sequence[str] = (),
) -> str:
    """The records of `relation` with the columns that rows are made of, and why one is left out.

    `joined` are the relations of the shape's joins. `file_names`: of each file of `relation`.
    """
    columns = [f"{record} AS {RECORD}"]
    if shape.words.file_as:
        columns.append(f"{_name_of(file_names)} AS {quote(shape.words.file_as)}")
    text = f"SELECT {_listed(['*', *columns])}\nFROM {relation}"
    for place, (join, other) in enumerate(zip(shape.joins, joined, strict=True)):
        text = _with_join(text, shape, join, place, other)
    for stage in shape.helpers:
        made = [f"{cell.sql()} AS {quote(name)}" for name, cell in stage.items()]
        text = f"SELECT {_listed(['*', *made])}\nFROM {_inner(text)}"
    return text


def _listed(columns: Sequence[str]) -> str:
    """Columns, one a line where they are many."""
    one = ", ".join(columns)
    return one if len(one) <= _LINE else ",\n  ".join(columns)


def _inner(text: str) -> str:
    """A query as a relation. Not indented: names and texts may hold line ends."""
    return f"(\n{text}\n)"


def _name_of(files: Sequence[str]) -> str:
    """The name of a row's file."""
    if len(files) == 1:
        return literal(files[0])
    return f"([{', '.join(map(literal, files))}])[file_index::BIGINT + 1]"


def _with_join(text: str, shape: Shape, join: Join, place: int, relation: str) -> str:
    columns = ", ".join(f"_other.{quote(name)}" for name in join.schema)
    if join.record:
        fields = ", ".join(f"{literal(name)}: _other.{quote(name)}" for name in join.fields)
        columns = f"{{{fields}}} AS {quote(join.record)}"
    listed = f", {columns}" if columns else ""
    keys = " AND ".join(
        f"_record_.{quote(ours)}::VARCHAR = _other.{quote(own)}::VARCHAR" for ours, own in join.keys
    )
    return (
        f"SELECT _record_.*, _other._there IS NOT NULL AS _matched{place}{listed}\n"
        f"FROM {_inner(text)} AS _record_\n"
        f"LEFT JOIN (SELECT *, true AS _there FROM {relation}) AS _other ON {keys}"
    )


def rows(
    shape: Shape,
    records: str,
    *,
    longest: int | None = None,
    position: Literal["checked", "narrow"] | None = None,
) -> str:
    """The rows of `records`, in order. Lists of unequal length are an error where they are met.

    With `position` they have the column `_position`, for which `longest` is the most elements that
    a list has. `narrow`: nobody looks whether lists have equal lengths, so that ranking reads
    scores alone; the position of `checked` rows cannot be known without that look.
    """
    text = f"SELECT *\nFROM {_inner(records)}\nWHERE {REASON} IS NULL"
    order = [RECORD]
    if len(shape.variants) > 1:
        numbers = list(range(len(shape.variants)))
        order.append(VARIANT)
        text = f"SELECT *, unnest({numbers}) AS {VARIANT}\nFROM {_inner(text)}"
    if any(each.vote for each in shape.variants):
        votes = _chosen([each.vote.sql() for each in shape.variants if each.vote])
        text = f"SELECT *\nFROM {_inner(text)}\nWHERE {votes}"
    if any(each.lists for each in shape.variants):
        count = _narrow_count if position == "narrow" else _checked_count
        counts = _chosen([count(shape, each) for each in shape.variants])
        order.append(ELEMENT)
        text = f"SELECT *, unnest(range({counts})) AS {ELEMENT}\nFROM {_inner(text)}"
    columns = [RECORD] if shape.own_group else []
    if position:
        columns.append(f"{_position(shape, longest or 1)} AS {POSITION}")
    for name in shape.variants[0].cells:
        values = [each.cells[name].sql() for each in shape.variants]
        columns.append(f"{_chosen(values)} AS {quote(name)}")
    columns += map(quote, shape.carried)
    text = f"SELECT {_listed(columns)}\nFROM {_inner(text)}"
    # Neither a join nor a window keeps an order, and whoever reads positions sorts by them.
    mixed = shape.joins or shape.words.repeats == "drop"
    return text if position or not mixed else f"{text}\nORDER BY {', '.join(order)}"


def _chosen(values: Sequence[str]) -> str:
    """The value of the row's variant."""
    if len(set(values)) == 1:
        return values[0]
    cases = " ".join(f"WHEN {place} THEN {value}" for place, value in enumerate(values))
    return f"CASE {VARIANT} {cases} END"


def _position(shape: Shape, longest: int) -> str:
    text = f"{RECORD} * {longest * len(shape.variants)}"
    if len(shape.variants) > 1:
        text += f" + {VARIANT} * {longest}"
    if any(each.lists for each in shape.variants):
        text += f" + {ELEMENT}"
    return f"({text})::BIGINT"


def _narrow(shape: Shape, variant: Variant) -> Path:
    return next(path for path in variant.lists if path in shape.narrow)


def _narrow_count(shape: Shape, variant: Variant) -> str:
    if not variant.lists:
        return "1"
    return f"coalesce({length_sql(_narrow(shape, variant))}, 0)"


def _checked_count(shape: Shape, variant: Variant) -> str:
    if not variant.lists:
        return "1"
    count = _narrow_count(shape, variant)
    if len(variant.lists) == 1:
        return count
    problem = f"error({literal(UNEQUAL)} || {RECORD})"
    return f"CASE WHEN {equal(variant)} THEN {count} ELSE {problem} END"


def equal(variant: Variant) -> str:
    """Whether the lists of a variant have one length."""
    lengths = [f"coalesce({length_sql(path)}, 0)" for path in variant.lists]
    tests = [f"{lengths[0]} = {length}" for length in lengths[1:]]
    return " AND ".join(tests) or "true"


def account(shape: Shape, records: str, *, checked: bool = True) -> str:
    """A row for each reason (null: used): records, rows, most elements, a record of unequal lists,
    votes that nobody can tell, contradicted pairs. Without `checked` it reads one list of each
    variant alone.
    """
    counts = [_narrow_count(shape, each) for each in shape.variants]
    votes = [each.vote.sql() if each.vote else "true" for each in shape.variants]
    total = " + ".join(
        f"(({vote})::INT * {count})" for vote, count in zip(votes, counts, strict=True)
    )
    tests = [f"NOT ({equal(each)})" for each in shape.variants] if checked else []
    unequal = " OR ".join(tests) or "false"
    lost = " + ".join(f"(NOT ({vote}))::INT" for vote in votes)
    longest = f"greatest({', '.join(counts)})" if len(counts) > 1 else counts[0]
    against = shape.contradicted[1].sql() if shape.contradicted else "false"
    return (
        f"SELECT coalesce({REASON}, CASE WHEN _rows = 0 THEN 'no_answers' END) AS reason,"
        " count(*)::BIGINT, coalesce(sum(_rows), 0)::BIGINT, coalesce(max(_longest), 0)::BIGINT,"
        f" min({RECORD}) FILTER (_unequal), coalesce(sum(_lost), 0)::BIGINT // {shape.answers},"
        " count(*) FILTER (_against)"
        f" FROM (SELECT {REASON}, {RECORD}, {total} AS _rows, {longest} AS _longest,"
        f" {unequal} AS _unequal, {lost} AS _lost, {against} AS _against FROM ({records}))"
        " GROUP BY ALL"
    )
