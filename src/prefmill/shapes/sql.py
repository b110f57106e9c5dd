"""A shape as one DuckDB SELECT: built-in functions only, so that any client can run it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from prefmill.connection import literal, quote
from prefmill.shapes.cells import ELEMENT, length_sql
from prefmill.shapes.paths import Path
from prefmill.shapes.shape import REASON, RECORD, Join, Shape, Variant

VARIANT = "_variant"
#: The position of a row of a run: (record, variant, element) as one number.
POSITION = "_position"
#: How the error of lists of unequal length begins; then comes the number of the record.
UNEQUAL = "rows: the lists of a record have different lengths: record "


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
        names = ", ".join(map(literal, file_names))
        columns.append(f"([{names}])[file_index::BIGINT + 1] AS {quote(shape.words.file_as)}")
    text = f"SELECT *, {', '.join(columns)} FROM {relation}"
    for place, (join, other) in enumerate(zip(shape.joins, joined, strict=True)):
        text = _with_join(text, shape, join, place, other)
    for stage in shape.helpers:
        made = ", ".join(f"{cell.sql()} AS {quote(name)}" for name, cell in stage.items())
        text = f"SELECT *, {made} FROM ({text})"
    return text


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
        f"SELECT _record_.*, _other._there IS NOT NULL AS _matched{place}{listed}"
        f" FROM ({text}) AS _record_"
        f" LEFT JOIN (SELECT *, true AS _there FROM {relation}) AS _other ON {keys}"
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
    text = f"SELECT * FROM ({records}) WHERE {REASON} IS NULL"
    numbers = range(len(shape.variants))
    if len(shape.variants) > 1:
        text = f"SELECT *, unnest({list(numbers)}) AS {VARIANT} FROM ({text})"
    if any(each.vote for each in shape.variants):
        votes = _chosen([each.vote.sql() for each in shape.variants if each.vote])
        text = f"SELECT * FROM ({text}) WHERE {votes}"
    if any(each.lists for each in shape.variants):
        count = _narrow_count if position == "narrow" else _checked_count
        counts = _chosen([count(shape, each) for each in shape.variants])
        text = f"SELECT *, unnest(range({counts})) AS {ELEMENT} FROM ({text})"
    columns = [RECORD] if shape.own_group else []
    if position:
        columns.append(f"{_position(shape, longest or 1)} AS {POSITION}")
    for name in shape.variants[0].cells:
        values = [each.cells[name].sql() for each in shape.variants]
        columns.append(f"{_chosen(values)} AS {quote(name)}")
    columns += map(quote, shape.carried)
    return f"SELECT {', '.join(columns)} FROM ({text})"


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
    votes that nobody can tell. Without `checked` it reads one list of each variant alone.
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
    answers = len(shape.words.completion) if isinstance(shape.words.completion, tuple) else 1
    return (
        f"SELECT coalesce({REASON}, CASE WHEN _rows = 0 THEN 'no_answers' END) AS reason,"
        " count(*)::BIGINT, coalesce(sum(_rows), 0)::BIGINT, coalesce(max(_longest), 0)::BIGINT,"
        f" min({RECORD}) FILTER (_unequal), coalesce(sum(_lost), 0)::BIGINT // {max(1, answers)}"
        f" FROM (SELECT {REASON}, {RECORD}, {total} AS _rows, {longest} AS _longest,"
        f" {unequal} AS _unequal, {lost} AS _lost FROM ({records})) GROUP BY ALL"
    )
