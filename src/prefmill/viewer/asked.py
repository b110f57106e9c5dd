"""What a page asks of a table, as SQL: filters are a fixed list, and values are parameters."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefmill.connection import quote
from prefmill.errors import BadArgument

#: How cells are compared, by the word that a page sends. {} is the cell, ? the value.
OPERATORS: Mapping[str, str] = {
    "contains": "regexp_matches({}, ?)",
    "lacks": "NOT regexp_matches({}, ?)",
    "=": "{} = ?",
    "!=": "{} <> ?",
    "<": "{} < ?",
    "<=": "{} <= ?",
    ">": "{} > ?",
    ">=": "{} >= ?",
    "empty": "coalesce({}, '') = ''",
    "filled": "coalesce({}, '') <> ''",
}
_ALONE = ("empty", "filled")
_WORDED = ("contains", "lacks")
_TEXTS = (*_WORDED, *_ALONE)
#: Types whose cells are compared as they are; all others as the text that is shown of them.
_PLAIN = ("INT", "FLOAT", "DOUBLE", "DECIMAL", "BOOLEAN", "DATE", "TIME")
_WHOLE = re.compile(r"\s*[+-]?\d{1,37}\s*")


@dataclass(frozen=True)
class Cells:
    """A column: its name, the type that DuckDB gives it, and whether it has messages."""

    name: str
    kind: str

    @property
    def is_plain(self) -> bool:
        """Whether cells are compared by their own order."""
        if self.is_nested or self.kind == "INTERVAL":
            return False
        return any(word in self.kind for word in _PLAIN)

    @property
    def is_nested(self) -> bool:
        """Whether cells are lists or records: messages, say."""
        return any(mark in self.kind for mark in ("[", "STRUCT", "MAP"))

    @property
    def is_number(self) -> bool:
        """Whether cells are numbers."""
        return self.is_plain and not any(word in self.kind for word in ("BOOL", "DATE", "TIME"))

    def compared(self, value: str) -> str:
        """The type in which a plain cell is compared with `value`, so that nothing is rounded."""
        if not self.is_number or self.kind in ("FLOAT", "DOUBLE"):
            return self.kind
        return "HUGEINT" if _WHOLE.fullmatch(value) else "DOUBLE"

    @property
    def cell(self) -> str:
        """The cell as it is compared and sorted."""
        return quote(self.name) if self.is_plain else self.text

    @property
    def text(self) -> str:
        """The cell as text."""
        name = quote(self.name)
        if self.kind == "VARCHAR":
            return name
        if "BLOB" in self.kind or self.is_plain or "JSON" in self.kind:
            return f"{name}::VARCHAR"
        return f"to_json({name})::VARCHAR"

    @property
    def brief(self) -> str:
        """The cell as text for a list of rows: of messages what they say."""
        if self.kind.endswith("[]") and self.kind.startswith("STRUCT"):
            words = self.kind.replace('"', "")
            if "role VARCHAR" in words and "content VARCHAR" in words:
                said = f"list_transform({quote(self.name)}, lambda each: each.content)"
                return f"array_to_string({said}, ' / ')"
        return self.text


@dataclass(frozen=True)
class Filter:
    """One condition on a column."""

    column: str
    operator: str
    value: str = ""


@dataclass(frozen=True)
class Asked:
    """Which rows are wanted, and in which order: that of the file, or of a column."""

    filters: tuple[Filter, ...] = ()
    search: str = ""
    sort: str = ""
    down: bool = False

    @property
    def is_all(self) -> bool:
        """Whether the rows are those of the file, in its order."""
        return not (self.filters or self.search or self.sort)

    def where(self, columns: Mapping[str, Cells]) -> tuple[str, list[Any]]:
        """The condition and its parameters. Raises `BadArgument` for what there is not."""
        parts, values = [], []
        for each in self.filters:
            cells = _column(columns, each.column)
            if each.operator not in OPERATORS:
                raise BadArgument(
                    f"view: no such comparison; got {each.operator!r},"
                    f" expected one of {list(OPERATORS)}."
                )
            form = OPERATORS[each.operator]
            if each.operator in _TEXTS or not cells.is_plain:
                parts.append(form.format(cells.text))
            else:
                kind = cells.compared(each.value)
                parts.append(f"{cells.cell} {each.operator} CAST(? AS {kind})")
            if each.operator in _WORDED:
                values.append(_pattern(each.value))
            elif each.operator not in _ALONE:
                values.append(each.value)
        if self.search:
            found = [OPERATORS["contains"].format(cells.text) for cells in columns.values()]
            parts.append(f"({' OR '.join(found)})")
            values += [_pattern(self.search)] * len(found)
        return " AND ".join(f"coalesce({part}, false)" for part in parts) or "true", values

    def order(self, columns: Mapping[str, Cells], position: str) -> str:
        """What rows are ordered by. Nulls come last, and equal cells keep the file's order."""
        if not self.sort:
            return position
        cell = _column(columns, self.sort).cell
        return f"{cell} {'DESC' if self.down else 'ASC'} NULLS LAST, {position}"


def asked_of(words: Mapping[str, Any]) -> Asked:
    """What a page sends, with the types that it has to have. Raises `BadArgument`."""
    filters = words.get("filters") or []
    search, sort = words.get("search") or "", words.get("sort") or ""
    three = isinstance(filters, Sequence) and all(
        isinstance(each, list) and len(each) == 3 and all(isinstance(part, str) for part in each)
        for each in filters
    )
    if not three or not isinstance(search, str) or not isinstance(sort, str):
        raise BadArgument("view: what the page asks is not understood.", hint="load it again.")
    return Asked(tuple(Filter(*each) for each in filters), search, sort, bool(words.get("down")))


def _pattern(text: str) -> str:
    """What matches `text` in either case: half the time of lower-casing every cell."""
    return f"(?i){re.escape(text)}"


def _column(columns: Mapping[str, Cells], name: str) -> Cells:
    if name not in columns:
        raise BadArgument(f"view: no column {name[:80]!r}; expected one of {list(columns)}.")
    return columns[name]
