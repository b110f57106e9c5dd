"""Paths into records: `data.answer`, `scores[1]`, `messages[:-1]`, `completions.response`.

A path is read against the types of a table. A text that is a column's name is that column,
whatever characters it holds.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from prefmill.errors import ColumnMissing, nearest
from prefmill.table.messages import is_json_text

_PART = re.compile(
    r"""\s*(?:"(?P<quoted>(?:[^"]|"")*)"|\[(?P<index>-?\d+)\]"""
    r"""|\[(?P<start>-?\d*):(?P<end>-?\d*)\]|(?P<name>[^.\[\]"]+))(?P<dot>\.?)"""
)


@dataclass(frozen=True)
class Field:
    """A field of a record; of a list of records the list of that field (`through`)."""

    name: str
    through: bool = False


@dataclass(frozen=True)
class At:
    """An element of a list, from 0; a negative number counts from the end."""

    index: int


@dataclass(frozen=True)
class Slice:
    """A part of a list: from `start` (from 0) to before `end`; negative numbers from the end."""

    start: int | None
    end: int | None


Part = Field | At | Slice


@dataclass(frozen=True)
class Path:
    """A value of every record: a column, the parts after it, and the type at the end.

    `dtype` is None inside of JSON, whose types nobody knows.
    """

    text: str
    column: str
    parts: tuple[Part, ...]
    dtype: pl.DataType | None
    #: the parts up to here lead to JSON text
    json_from: int | None = None

    @property
    def last(self) -> str:
        """The name at the end, for what it says about the role.

        >>> find("meta.rating", pl.Schema({"meta": pl.Struct({"rating": pl.Int64})})).last
        'rating'
        """
        names = [part.name for part in self.parts if isinstance(part, Field)]
        return names[-1] if names else self.column

    @property
    def is_list(self) -> bool:
        """Whether it ends at a list that is not messages."""
        return isinstance(self.dtype, pl.List) and not is_messages(self.dtype)

    @property
    def list_inside(self) -> Path | None:
        """The list that a part of the path goes through, if there is one."""
        for place, part in enumerate(self.parts):
            if isinstance(part, Field) and part.through:
                inside = self.json_from if (self.json_from or place + 1) <= place else None
                return replace(
                    self, text=self._text(place), parts=self.parts[:place], json_from=inside
                )
        return None

    def after(self, other: Path) -> tuple[Part, ...] | None:
        """The parts after `other`, if this path goes through that list or is it."""
        head = self.parts[: len(other.parts)]
        if self.column != other.column or head != other.parts:
            return None
        return self.parts[len(other.parts) :]

    def _text(self, place: int) -> str:
        return spelled(self.column, self.parts[:place])


def spelled(column: str, parts: Sequence[Part]) -> str:
    """A path as people write it."""
    text = column
    for part in parts:
        if isinstance(part, Field):
            plain = re.fullmatch(r'[^.\[\]"]+', part.name)
            text += "." + (part.name if plain else '"' + part.name.replace('"', '""') + '"')
        elif isinstance(part, At):
            text += f"[{part.index}]"
        else:
            start = "" if part.start is None else part.start
            text += f"[{start}:{'' if part.end is None else part.end}]"
    return text


def fields_of(dtype: Any) -> dict[str, pl.DataType]:
    """The fields of a record, and their types; none where it is no record."""
    fields: Any = dtype.to_schema() if isinstance(dtype, pl.Struct) else {}
    return dict(fields)


def is_messages(dtype: pl.DataType | None) -> bool:
    """Whether values of this type are lists of messages."""
    return isinstance(dtype, pl.List) and is_message(dtype.inner)  # type: ignore[arg-type]


def is_message(dtype: pl.DataType | None) -> bool:
    """Whether values of this type are messages: {role, content} or {from, value}."""
    if not isinstance(dtype, pl.Struct):
        return False
    names = {field.name for field in dtype.fields}
    return {"role", "content"} <= names or {"from", "value"} <= names


#: What a column is for that no role has: a weight, or one that comes along.
EXTRA = "extra"


def find(text: str, schema: pl.Schema, *, where: str = "rows", role: str = "path") -> Path:
    """The path that `text` is in a table of `schema`; raises `ColumnMissing`.

    >>> find("scores[1]", pl.Schema({"scores": pl.List(pl.Int64)})).dtype
    Int64
    """
    if text in schema:
        return _walk(text, text, (), schema, where, role)
    for column, parts in _readings(text, schema):
        return _walk(text, column, parts, schema, where, role)
    first = re.split(r"[.\[]", text)[0]
    near = nearest(text, list(schema)) or nearest(first, list(schema))
    hint = f"name a column: --{role} COLUMN." if role != EXTRA else "name one of these columns."
    if near:
        hint = f"did you mean {near[0]!r}?"
    wanted = f" for {role}" if role != EXTRA else ""
    raise ColumnMissing(f"{where}: no column {text!r}{wanted}; got {list(schema)}.", hint=hint)


def is_path(text: str, schema: pl.Schema) -> bool:
    """Whether `text` begins with a column of `schema`."""
    return text in schema or next(_readings(text, schema), None) is not None


def base_of(text: str, schema: pl.Schema) -> str | None:
    """The column of `schema` with which `text` begins."""
    if text in schema:
        return text
    return next((column for column, _ in _readings(text, schema)), None)


def _readings(text: str, schema: pl.Schema) -> Iterator[tuple[str, tuple[Part, ...]]]:
    """The columns with which `text` can begin, the longest name first, and the parts after it."""
    for column in sorted(schema, key=len, reverse=True):
        quoted = '"' + column.replace('"', '""') + '"'
        for name in (column, quoted):
            rest = text[len(name) :]
            if text.startswith(name) and rest[:1] in (".", "["):
                parts = _parts(rest.removeprefix("."))
                if parts is not None:
                    yield column, parts
            elif text == quoted:
                yield column, ()


def _parts(text: str) -> tuple[Part, ...] | None:
    parts: list[Part] = []
    place = 0
    while place < len(text):
        match = _PART.match(text, place)
        if match is None or match.end() == place:
            return None
        if match["index"] is not None:
            parts.append(At(int(match["index"])))
        elif match["start"] is not None:
            bounds = [int(bound) if bound else None for bound in (match["start"], match["end"])]
            parts.append(Slice(*bounds))
        else:
            name = match["name"]
            parts.append(Field(name if name is not None else match["quoted"].replace('""', '"')))
        place = match.end()
    return tuple(parts)


def _walk(
    text: str, column: str, parts: Sequence[Part], schema: pl.Schema, where: str, role: str
) -> Path:
    """The types along the path; a field of a list of records goes through the list."""
    dtype: pl.DataType | None = schema[column]
    walked: list[Part] = []
    json_from = 0 if is_json_text(schema[column]) else None
    depth = 0
    for place, part in enumerate(parts):
        if json_from is not None:
            walked.append(part)
            continue
        if isinstance(part, Field):
            through = isinstance(dtype, pl.List)
            record = dtype.inner if isinstance(dtype, pl.List) else dtype
            fields = fields_of(record)
            if part.name not in fields:
                raise _no_field(text, part.name, list(fields), dtype, where, role)
            walked.append(Field(part.name, through))
            depth += through
            dtype = fields[part.name]
        elif isinstance(dtype, pl.List | pl.Array):
            walked.append(part)
            dtype = dtype.inner if isinstance(part, At) else pl.List(dtype.inner)  # type: ignore[assignment]
        else:
            raise _no_list(text, part, dtype, where, role)
        if is_json_text(dtype):
            json_from = place + 1
    for _ in range(depth):
        dtype = pl.List(dtype) if dtype is not None else None
    known = dtype if json_from is None else None
    return Path(text, column, tuple(walked), known, json_from)


def _no_field(
    text: str, name: str, fields: Sequence[str], dtype: object, where: str, role: str
) -> ColumnMissing:
    got = f"fields {list(fields)}" if fields else f"the type {dtype}"
    near = [f"did you mean {each!r}?" for each in nearest(name, fields)[:1]]
    return ColumnMissing(
        f"{where}: no field {name!r} on the path {text!r} for {role}; got {got}.",
        hint="".join(near) or f"name another path: --{role} PATH.",
    )


def _no_list(text: str, part: Part, dtype: object, where: str, role: str) -> ColumnMissing:
    return ColumnMissing(
        f"{where}: {spelled('', [part])} on the path {text!r} for {role} needs a list;"
        f" got the type {dtype}.",
        hint="indexes count the elements of a list, from 0.",
    )
