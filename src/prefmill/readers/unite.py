"""Several files as one table: the columns of all by name, the type that holds the values of each,
and which may hold nulls.

Costs nothing but for a column that is text in one file and numbers in another: the local files with
numbers are staged again as text.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.errors import BadInput
from prefmill.readers.staging import Context, Part, Writer, as_bad_input, folded
from prefmill.table.conform import conformed
from prefmill.table.json_values import is_json

_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


def unite(parts: Sequence[Part]) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files by name, and which of them may hold nulls."""
    _refuse_pairs_among_rows(parts)
    types: dict[str, pa.DataType] = {}
    first: dict[str, Part] = {}
    spelled: dict[str, str] = {}
    nulls: set[str] = set()
    for part in parts:
        nulls |= part.nulls
        for field in part.schema:
            other = spelled.setdefault(folded(field.name), field.name)
            if other != field.name:
                raise BadInput(
                    f"{part.label}: the column {field.name!r} is spelled {other!r} in {first[other].label}.",
                    hint="rename one.",
                )
            if field.name not in types:
                types[field.name], first[field.name] = field.type, part
                continue
            both = _common(types[field.name], field.type) or _text_of(types[field.name], field.type)
            if both is None:
                raise BadInput(
                    f"{part.label}: the column {field.name!r} is {field.type}, but {types[field.name]} in {first[field.name].label}.",
                    hint="give the files the same types, or read them one by one.",
                )
            types[field.name] = both
    nulls.update(name for name in types if any(name not in part.schema.names for part in parts))
    partitions = [dict(part.partition) for part in parts]
    for key in partitions[0] if partitions else ():
        same = spelled.get(folded(key), key)
        types.pop(same, None)
        nulls.discard(same)
        types[key] = (
            pa.string()
        )  # the folder's value wins over a column of the same name, as in every engine
        if any(values[key] == _DEFAULT_PARTITION for values in partitions):
            nulls.add(key)
    known = [
        (name, pa.string() if pa.types.is_null(kind) else kind) for name, kind in types.items()
    ]
    return pa.schema(known), frozenset(nulls)


def _refuse_pairs_among_rows(parts: Sequence[Part]) -> None:
    """An earlier output that lies among the input's files is not read as more input."""
    made = [part for part in parts if {"chosen", "rejected"} <= set(part.schema.names)]
    if made and len(made) < len(parts):
        other = next(part for part in parts if part not in made)
        raise BadInput(
            f"{made[0].label}: has the columns 'chosen' and 'rejected', which {other.label} has not; got pairs among other rows.",
            hint="is it an earlier output? Move it out of the folder, or name the files to read.",
        )


def spelled_out(part: Part, schema: pa.Schema, context: Context) -> Part:
    """`part`, staged once more where it has numbers in a column that is text in `schema`. Engines
    cast those of files behind URLs.
    """
    wanted = {field.name: field.type for field in schema if field.name not in dict(part.partition)}
    numbers = {
        field.name
        for field in part.schema
        if _is_text(wanted.get(field.name, field.type)) and _is_number(field.type)
    }
    empty = {
        field.name
        for field in part.schema
        if field.name in wanted and _is_filled(field.type, wanted[field.name])
    }
    if part.remote or not numbers | empty:
        return part
    target = pa.schema(
        [
            (field.name, wanted[field.name] if field.name in numbers | empty else field.type)
            for field in part.schema
        ]
    )
    with (
        as_bad_input(part.label, "Parquet"),
        pq.ParquetFile(part.file) as file,
        Writer(context.new_path(part.partition), target) as writer,
    ):
        for batch in file.iter_batches(4096):
            table = pa.Table.from_batches([batch]).select(target.names)
            for name in numbers:
                if pa.types.is_floating(table.schema.field(name).type):  # 5.0 is "5" to Arrow
                    column = pl.Series(name, table[name]).cast(pl.String).to_arrow()
                    table = table.set_column(target.get_field_index(name), name, column)
            writer.add(conformed(table, target))
        return writer.close(part)


def _is_filled(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether `wanted` has a type where `kind`, inside of it, has nulls only: engines take those
    for another type.
    """
    if pa.types.is_struct(kind) and pa.types.is_struct(wanted):
        inner = {field.name: field.type for field in wanted}
        here = [field for field in kind if field.name in inner]
        if any(
            pa.types.is_null(field.type) and not pa.types.is_null(inner[field.name])
            for field in here
        ):
            return True
        return any(_is_filled(field.type, inner[field.name]) for field in here)
    if (
        pa.types.is_nested(kind)
        and pa.types.is_nested(wanted)
        and not (pa.types.is_struct(kind) or pa.types.is_map(kind))
    ):
        null = pa.types.is_null(kind.value_type) and not pa.types.is_null(wanted.value_type)
        return null or _is_filled(kind.value_type, wanted.value_type)
    return False


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _text_of(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """The text type where one is text and the other a number: scores may be numeric text."""
    if _is_number(one):
        one, two = two, one
    return one if _is_text(one) and _is_number(two) else None


def _common(one: pa.DataType, two: pa.DataType) -> pa.DataType | None:
    """The type that holds the values of both, None where there is none."""
    if one.equals(two) or pa.types.is_null(two):
        return one
    if pa.types.is_null(one):
        return two
    if _is_text(one) != _is_text(two) or pa.types.is_boolean(one) != pa.types.is_boolean(two):
        return None
    if pa.types.is_floating(one) or pa.types.is_floating(two):
        return pa.float64() if _is_number(one) and _is_number(two) else None
    if is_json(one) != is_json(two):
        return None
    if pa.types.is_struct(one) and pa.types.is_struct(two):
        fields = {field.name: field.type for field in one}
        for field in two:
            both = _common(fields[field.name], field.type) if field.name in fields else field.type
            if both is None:
                return None
            fields[field.name] = both
        return pa.struct(list(fields.items()))
    lists = pa.types.is_list, pa.types.is_large_list
    if any(t(one) for t in lists) and any(t(two) for t in lists):
        both = _common(one.value_type, two.value_type)
        return (
            None
            if both is None
            else (
                pa.list_(both)
                if pa.types.is_list(one) and pa.types.is_list(two)
                else pa.large_list(both)
            )
        )
    try:
        united = pa.unify_schemas(
            [pa.schema([("x", one)]), pa.schema([("x", two)])], promote_options="permissive"
        )
    except pa.ArrowException:
        return None
    return united.field(0).type
