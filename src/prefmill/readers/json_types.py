"""Types of JSON values: what one value has, what holds two, and what Parquet can take; and what is wrong with a line that is no row.

Types are spelled as DuckDB's `json_structure` does: a dict is a struct, a list of one element a list, text a scalar. All of this is plain
Python, for the shapes of blocks and for the few lines that are looked at one by one.
"""

from __future__ import annotations

import json
from typing import Any

from prefmill.readers.staging import folded

_TYPES = {"NULL": "VARCHAR", "UBIGINT": "BIGINT", "HUGEINT": "DOUBLE", "UHUGEINT": "DOUBLE", "JSON": "VARCHAR"}
_MOST_KEYS = 1000


class _Number(str):
    """An integer as it is spelled: Python refuses very long ones."""


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    found: dict[str, Any] = {}
    for key, value in pairs:
        found.setdefault(key, value)
    return found


def loads(text: str) -> Any:
    """The value of `text`; integers stay text, and of a key that is twice in an object the first counts."""
    return json.loads(text, parse_int=_Number, parse_constant=_no_constant, object_pairs_hook=_pairs)


def fault_of(text: str) -> str | None:
    """Why `text` is no row; None when it is one."""
    try:
        value = loads(text)
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        return f"not valid JSON: {error.msg.rstrip(':')} (column {error.pos + 1})"
    except UnicodeEncodeError:
        return "not valid JSON: half of a surrogate pair"
    except RecursionError:
        return "nested too deep"
    except ValueError as error:
        return f"not valid JSON: {error}"
    if isinstance(value, dict):
        return None
    kind = {str: "a string", _Number: "a number", float: "a number", bool: "a boolean", list: "an array", type(None): "null"}[type(value)]
    more = "; an array of all rows goes into a .json file" if isinstance(value, list) else ""
    return f"{kind} where an object is expected{more}"


def shape_of(value: Any) -> Any:
    """The type of a value, spelled as `json_structure` does; an integer beyond int64 is a DOUBLE."""
    if value is None:
        return "NULL"
    if isinstance(value, _Number):
        return "BIGINT" if len(value) < 19 or (len(value) < 21 and -(1 << 63) <= int(value) < 1 << 63) else "DOUBLE"
    if isinstance(value, bool):
        return "BOOLEAN"
    if isinstance(value, float):
        return "DOUBLE"
    if isinstance(value, str):
        return "VARCHAR"
    if isinstance(value, list):
        inner: Any = "NULL"
        for element in value:
            inner = merge(inner, shape_of(element))
        return [inner]
    return {key: shape_of(element) for key, element in value.items()}


def merge(one: Any, two: Any) -> Any:
    """The type that holds values of both types: a wider number, a struct with the keys of both, else text."""
    if one == two or two == "NULL":
        return one
    if one == "NULL":
        return two
    if isinstance(one, dict) and isinstance(two, dict):
        return {key: merge(one.get(key, "NULL"), two.get(key, "NULL")) for key in (*one, *(k for k in two if k not in one))}
    if isinstance(one, list) and isinstance(two, list):
        return [merge(one[0], two[0])]
    numbers = {"BIGINT", "UBIGINT", "DOUBLE", "HUGEINT", "UHUGEINT"}
    if isinstance(one, str) and isinstance(two, str) and {one, two} <= numbers:
        return "BIGINT" if {one, two} <= {"BIGINT", "UBIGINT"} else "DOUBLE"
    return "VARCHAR"


def settle(shape: Any) -> Any:
    """A merged type as one that can be read: objects that no struct can hold stay text."""
    if isinstance(shape, list):
        return [settle(shape[0])]
    if isinstance(shape, dict):
        shape = {key: inner for key, inner in shape.items() if key or inner != "NULL"}
        keys = {folded(key) for key in shape}
        if not shape or len(keys) < len(shape) or "" in keys or len(keys) > _MOST_KEYS or any("\0" in key for key in keys):
            return "VARCHAR"
        return {key: settle(inner) for key, inner in shape.items()}
    return _TYPES.get(shape, shape)
