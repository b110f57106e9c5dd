"""What reading gives: Parquet files that together are one table.

The columns of all files by name, the type that holds the values of each, and which may hold nulls.
Costs nothing, but for a column that is text in one file and numbers in another: the local files
with numbers are staged again as text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import folded, literal
from prefmill.errors import BadInput
from prefmill.readers.in_place import bring
from prefmill.readers.staging import Context, Part, Version, Writer, as_bad_input
from prefmill.table.conform import conformed
from prefmill.table.json_values import is_json
from prefmill.table.roles import Roles

_DEFAULT_PARTITION = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class Source:
    """Parquet files that together are one table.

    Hive partition columns are text, whatever they look like: read with
    `hive_types_autocast = false` in DuckDB, and without `hive_partitioning` where `hive` is false,
    since a folder may be named `a=b` by chance.
    """

    #: Parquet paths or URLs, in the order of positions
    files: tuple[str, ...]
    #: of the union by name of all files, with hive partition columns; one of nulls only is text
    columns: pa.Schema
    rows: int  #: in all files; rejected rows are not among them
    file_rows: tuple[int, ...]  #: rows of each file
    nulls: frozenset[str]  #: columns that may hold nulls
    rejected: int  #: malformed rows that went to the rejects file
    remote: bool  #: some file is a URL
    hive: bool  #: partition columns are read from the paths
    #: columns of several kinds of values, and where each kind is
    mixed: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  #: what people should know of how the files were read
    labels: tuple[str, ...] = ()  #: how the caller would name the input of each file, or the first
    #: rows that records of the files become (`prefmill.shapes`), with their `_position`
    select: str = ""
    width: int = 1  #: positions for each record
    #: of each file the object that it is a sample of, or None; empty where no file is one
    stays: tuple[Version | None, ...] = ()
    #: the column whose equal values stand together, as every file says of itself; not looked at
    together: str | None = None
    beside: tuple[str, ...] = ()  #: files that were joined to these
    #: every input as its caller names it, with its rows, in order: a file may hold many
    inputs: tuple[tuple[str, int], ...] = ()

    @property
    def reads(self) -> tuple[str, ...]:
        """All files that `relation` reads."""
        return (*self.files, *self.beside)

    @property
    def position(self) -> str:
        """The position of a row of `relation`: by file, and row in it."""
        if self.select:
            return "_position"
        if len(self.files) == 1:
            return "file_row_number"
        starts = list(accumulate(self.file_rows[:-1], initial=0))
        return f"({starts}::BIGINT[])[(file_index + 1)::BIGINT] + file_row_number"

    @property
    def positions(self) -> int:
        """How many positions there are: some of them without a row, where records have lists."""
        return sum(self.file_rows) * self.width

    @property
    def relation(self) -> str:
        """The table as DuckDB reads it; its rows have the order of positions."""
        if self.select:
            return f"({self.select})"
        files = ", ".join(literal(file) for file in self.files)
        hive = "hive_partitioning = false"
        if self.hive:
            hive = "hive_partitioning = true, hive_types_autocast = false"
        return f"read_parquet([{files}], union_by_name = true, {hive})"

    def brought(self) -> Source:
        """This source with every object fetched: for who has to read all rows himself."""
        if not self.stays:
            return self
        for file, label, version in zip(self.files, self.labels, self.stays, strict=True):
            if version is not None:
                bring(version, file, label)
        return replace(self, stays=())

    def place_of(self, position: int, name: object = None, *, home: Path) -> str:
        """A row as its owner finds it: its place in its file, from 0, the file's name, and its id.

        What lies in `home` is a file of ours that the owner has never seen.
        """
        position //= self.width
        for label, rows in self.inputs:
            if position < rows:
                place = f"row {position}"
                if not Path(label).is_relative_to(home):
                    place += f" of {label!r}"
                return place if name is None else f"{place} (id {name!r})"
            position -= rows
        raise IndexError(position)

    def refuse_mixed(self, roles: Roles, *, where: str) -> None:
        """Raise `BadInput` for a text role whose column holds values of several kinds."""
        for role in ("prompt", "completion", "id", "annotator", "aspect", "stage", "conclusion"):
            name = getattr(roles, role)
            if name and name in self.columns.names and is_json(self.columns.field(name).type):
                held = self.mixed.get(name, "objects, or lists, that no column type holds")
                raise BadInput(
                    f"{where}: the column {name!r} cannot be the role {role!r}; got {held},"
                    " expected values of one kind.",
                    hint="make them alike in the file, or name another column:"
                    f" {role}=COLUMN (--{role} COLUMN).",
                )


def unite(parts: Sequence[Part]) -> tuple[pa.Schema, frozenset[str]]:
    """The columns of all files by name, and which of them may hold nulls."""
    _refuse_pairs_among_rows(parts)
    types: dict[str, pa.DataType] = {}
    first: dict[str, Part] = {}
    spelled: dict[str, str] = {}
    for part in parts:
        for column in part.schema:
            other = spelled.setdefault(folded(column.name), column.name)
            if other != column.name:
                raise BadInput(
                    f"{part.label}: the column {column.name!r} is spelled {other!r}"
                    f" in {first[other].label}.",
                    hint="rename one.",
                )
            if column.name not in types:
                types[column.name], first[column.name] = column.type, part
                continue
            known = types[column.name]
            both = _common(known, column.type) or _text_of(known, column.type)
            if both is None:
                raise BadInput(
                    f"{part.label}: the column {column.name!r} is {column.type},"
                    f" but {known} in {first[column.name].label}.",
                    hint="give the files the same types, or read them one by one.",
                )
            types[column.name] = both
    nulls = {name for part in parts for name in part.nulls}
    # What a file lacks is null in its rows.
    for names in (frozenset(part.schema.names) for part in parts):
        nulls |= types.keys() - names
    partitions = [dict(part.partition) for part in parts]
    for key in partitions[0]:
        # The folder's value wins over a column of the same name, as in every engine.
        same = spelled.get(folded(key), key)
        types.pop(same, None)
        nulls.discard(same)
        types[key] = pa.string()
        if any(values[key] == _DEFAULT_PARTITION for values in partitions):
            nulls.add(key)
    # A column of nulls only is text.
    for name, kind in types.items():
        if pa.types.is_null(kind):
            types[name] = pa.string()
    return pa.schema(list(types.items())), frozenset(nulls)


def _refuse_pairs_among_rows(parts: Sequence[Part]) -> None:
    """An earlier output that lies among the input's files is not read as more input."""
    made = [part for part in parts if {"chosen", "rejected"} <= set(part.schema.names)]
    if made and len(made) < len(parts):
        other = next(part for part in parts if part not in made)
        raise BadInput(
            f"{made[0].label}: has the columns 'chosen' and 'rejected', which {other.label} has"
            " not;"
            " got pairs among other rows.",
            hint="is it an earlier output? Move it out of the folder, or name the files to read.",
        )


def spelled_out(part: Part, schema: pa.Schema, context: Context) -> Part:
    """`part`, staged once more where it has numbers in a column that is text in `schema`.

    Engines cast those of files behind URLs.
    """
    wanted = {field.name: field.type for field in schema if field.name not in dict(part.partition)}
    mine = {field.name: field.type for field in part.schema}
    numbers = {
        name for name, kind in mine.items() if _is_text(wanted.get(name, kind)) and _is_number(kind)
    }
    changed = numbers | {
        name for name, kind in mine.items() if name in wanted and _is_filled(kind, wanted[name])
    }
    if part.remote or not changed:
        return part
    if part.stays is not None:
        bring(part.stays, part.file, part.label)
        part = replace(part, stays=None)
    target = pa.schema(
        [(name, wanted[name] if name in changed else kind) for name, kind in mine.items()]
    )
    with (
        as_bad_input(part.label, "Parquet"),
        pq.ParquetFile(part.file) as file,
        Writer(context.new_path(part.partition), target) as writer,
    ):
        for batch in file.iter_batches(4096):
            table = pa.Table.from_batches([batch]).select(target.names)
            for name in numbers:
                # 5.0 is "5" to Arrow.
                if pa.types.is_floating(table.schema.field(name).type):
                    column = pl.Series(name, table[name]).cast(pl.String).to_arrow()
                    table = table.set_column(target.get_field_index(name), name, column)
            writer.add(conformed(table, target))
        return writer.close(part)


def _is_filled(kind: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether `wanted` has a type where `kind`, inside of it, has nulls only.

    Engines take those for another type.
    """
    if pa.types.is_struct(kind) and pa.types.is_struct(wanted):
        inner = {field.name: field.type for field in wanted}
        pairs = [(field.type, inner[field.name]) for field in kind if field.name in inner]
    elif _is_list(kind) and _is_list(wanted):
        pairs = [(kind.value_type, wanted.value_type)]
    else:
        return False
    return any(_is_null_in(one, two) or _is_filled(one, two) for one, two in pairs)


def _is_null_in(kind: pa.DataType, wanted: pa.DataType) -> bool:
    return bool(pa.types.is_null(kind) and not pa.types.is_null(wanted))


def _is_list(kind: pa.DataType) -> bool:
    nested = pa.types.is_nested(kind)
    return bool(nested and not (pa.types.is_struct(kind) or pa.types.is_map(kind)))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_number(kind: pa.DataType) -> bool:
    tests = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
    return any(test(kind) for test in tests)


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
        if not (_is_number(one) and _is_number(two)):
            return None
        return pa.float64()
    if is_json(one) != is_json(two):
        return None
    if pa.types.is_struct(one) and pa.types.is_struct(two):
        fields = {field.name: field.type for field in one}
        for field in two:
            both = field.type
            if field.name in fields:
                both = _common(fields[field.name], field.type)
            if both is None:
                return None
            fields[field.name] = both
        return pa.struct(list(fields.items()))
    lists = pa.types.is_list, pa.types.is_large_list
    if any(t(one) for t in lists) and any(t(two) for t in lists):
        both = _common(one.value_type, two.value_type)
        if both is None:
            return None
        small = pa.types.is_list(one) and pa.types.is_list(two)
        return pa.list_(both) if small else pa.large_list(both)
    schemas = [pa.schema([("x", kind)]) for kind in (one, two)]
    try:
        united = pa.unify_schemas(schemas, promote_options="permissive")
    except pa.ArrowException:
        return None
    return united.field(0).type
