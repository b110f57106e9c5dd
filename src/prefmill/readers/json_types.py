"""Types of JSON values: what one has, what holds two, what Parquet takes, and what is not a row.

Types are spelled as DuckDB's `json_structure` does: a dict is a struct, a list of one element a
list, text a scalar. All of this is plain Python, for the shapes of blocks and for the few lines
that are looked at one by one.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from prefmill.connection import folded
from prefmill.table.conversations import MESSAGE_KEYS

#: What each scalar is read as. UBIGINT is what `json_structure` calls any whole number >= 0; UINT64
#: and INT128 are ours, for those beyond int64; EXACT are numbers that no type holds, SCALAR those
#: with booleans among them.
_TYPES = {
    "NULL": "VARCHAR",
    "UBIGINT": "BIGINT",
    "UINT64": "UBIGINT",
    "INT128": "DECIMAL(38,0)",
    "EXACT": "JSON",
    "SCALAR": "JSON",
}
_WIDE = {"UINT64", "INT128", "EXACT"}
_NUMBERS = {"UBIGINT", "BIGINT", "DOUBLE", *_WIDE}
_MOST_KEYS = 1000
# Arrow has types to a depth of 64, and others to less.
_MOST_DEPTH = 16
_MESSAGES = tuple(map(set, MESSAGE_KEYS))


class Object(dict[str, Any]):
    """The keys of objects with their types; `open` where not all objects had the same keys."""

    open = False


class _Number(str):
    """An integer as it is spelled: Python refuses very long ones."""


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no JSON number")


def _pairs(pairs: list[tuple[str, Any]]) -> Any:
    value: dict[str, Any] = {}
    for key, inner in pairs:
        value.setdefault(key, inner)
    return value


def loads(text: str) -> Any:
    """The value of `text`; integers stay text, and of a key that is twice the first counts."""
    return json.loads(
        text, parse_int=_Number, parse_constant=_no_constant, object_pairs_hook=_pairs
    )


def fault_of(text: str) -> str | None:
    """Why `text` is no row; None when it is one."""
    try:
        value = loads(text)
        text.encode()
        json.dumps(value, ensure_ascii=False).encode()
    except json.JSONDecodeError as error:
        place = f"column {error.colno}"
        if error.lineno > 1:
            place = f"line {error.lineno} of the record, {place}"
        return f"not valid JSON: {error.msg.rstrip(':')} ({place})"
    except UnicodeEncodeError:
        return "not valid JSON: half of a surrogate pair"
    except RecursionError:
        return "nested too deep"
    except ValueError as error:
        return f"not valid JSON: {error}"
    if isinstance(value, dict):
        return None
    kind = {
        str: "a string",
        _Number: "a number",
        float: "a number",
        bool: "a boolean",
        list: "an array",
        type(None): "null",
    }[type(value)]
    return f"{kind} where an object is expected"


def shape_of(value: Any) -> Any:
    """The type of a value, spelled as `json_structure` does but for integers beyond int64."""
    if value is None:
        return "NULL"
    if isinstance(value, _Number):
        return _whole(value)
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
    return Object({key: shape_of(element) for key, element in value.items()})


def _whole(text: str) -> str:
    if len(text.lstrip("-")) > 38:
        return "EXACT"
    number = int(text)
    bounds = {"BIGINT": (-(1 << 63), 0), "UBIGINT": (0, 1 << 63), "UINT64": (1 << 63, 1 << 64)}
    fits = (kind for kind, (least, end) in bounds.items() if least <= number < end)
    return next(fits, "INT128")


def merge(one: Any, two: Any) -> Any:
    """The type that holds values of both types unchanged: JSON where no other does."""
    if one == two and not isinstance(one, dict | list):
        return one
    if two == "NULL":
        return one
    if one == "NULL":
        return two
    if isinstance(one, dict) and isinstance(two, dict):
        keys = (*one, *(key for key in two if key not in one))
        both = Object({key: merge(one.get(key, "NULL"), two.get(key, "NULL")) for key in keys})
        both.open = (
            getattr(one, "open", False) or getattr(two, "open", False) or one.keys() != two.keys()
        )
        return both
    if isinstance(one, list) and isinstance(two, list):
        return [merge(one[0], two[0])]
    if isinstance(one, str) and isinstance(two, str) and one in _NUMBERS and two in _NUMBERS:
        if "EXACT" in (one, two) or ("DOUBLE" in (one, two) and {one, two} & _WIDE):
            return "EXACT"
        if "DOUBLE" in (one, two):
            return "DOUBLE"
        if "INT128" in (one, two) or {one, two} == {"BIGINT", "UINT64"}:
            return "INT128"
        return "UINT64" if "UINT64" in (one, two) else "BIGINT"
    return "JSON"


def merge_column(one: Any, two: Any) -> Any:
    """`merge` for a column: texts with numbers or booleans are text, as scores may be."""
    scalars = {"VARCHAR", "BOOLEAN", "SCALAR", *_NUMBERS}
    if isinstance(one, str) and isinstance(two, str) and one != two and {one, two} <= scalars:
        if "VARCHAR" in (one, two):
            return "VARCHAR"
        if {one, two} & {"BOOLEAN", "SCALAR"}:
            return "SCALAR"
    return merge(one, two)


def settle(
    shape: Any, path: tuple[str, ...] = (), elements: Mapping[tuple[str, ...], Any] | None = None
) -> Any:
    """A merged type as one that can be read, without a key or a kind that a row did not have.

    An object is a struct only where every row has its keys; else it is JSON. The same goes for the
    objects in a list, whose types `elements` has by path. A list of messages is a list of structs,
    and
    what they nest is JSON: which keys a tool call has depends on its tool.
    """
    if _depth(shape) > _MOST_DEPTH:
        return "JSON"
    if isinstance(shape, list):
        return _settle_list(shape[0], path, elements or {})
    if isinstance(shape, dict):
        return _settle_object(shape, path, elements or {}) or "JSON"
    return _TYPES.get(shape, shape)


def _depth(shape: Any) -> int:
    if isinstance(shape, dict):
        return 1 + max((_depth(kind) for kind in shape.values()), default=0)
    return 1 + _depth(shape[0]) if isinstance(shape, list) else 0


def _settle_list(inner: Any, path: tuple[str, ...], elements: Mapping[tuple[str, ...], Any]) -> Any:
    if isinstance(inner, dict):
        if any(inner.keys() >= names for names in _MESSAGES) and _is_sound(inner):
            return [{key: _settle_flat(kind) for key, kind in inner.items()}]
        exact = elements.get(path)
        if not isinstance(exact, dict):
            return "JSON"
        return _list_of(_settle_object(exact, (), {}))
    return _list_of(_settle_flat(inner))


def _list_of(inner: Any) -> Any:
    """A list of a type; JSON where its elements have none."""
    return "JSON" if inner in (None, "JSON") else [inner]


def _settle_flat(kind: Any) -> Any:
    """The type of what is inside a message: scalars and lists of them have one, else JSON."""
    if isinstance(kind, list):
        return _list_of(_settle_flat(kind[0]))
    if isinstance(kind, dict):
        return "JSON"
    return _TYPES.get(kind, kind)


def _settle_object(
    shape: Any, path: tuple[str, ...], elements: Mapping[tuple[str, ...], Any]
) -> Any:
    if getattr(shape, "open", False) or not _is_sound(shape):
        return None
    return {key: settle(kind, (*path, key), elements) for key, kind in shape.items()}


def _is_sound(shape: Mapping[str, Any]) -> bool:
    """Whether a struct can have these keys."""
    keys = {folded(key) for key in shape}
    return (
        0 < len(shape) <= _MOST_KEYS
        and len(keys) == len(shape)
        and "" not in keys
        and not any("\0" in key for key in keys)
    )


def kind_of(shape: Any) -> str:
    """What people call the values of a type.

    >>> kind_of("BIGINT"), kind_of([{"role": "VARCHAR", "content": "VARCHAR"}])
    ('a number', 'a list of messages')
    """
    if isinstance(shape, list):
        inner = shape[0]
        messages = isinstance(inner, dict) and any(inner.keys() >= names for names in _MESSAGES)
        return "a list of messages" if messages else "a list"
    if isinstance(shape, dict):
        return "an object"
    if shape in _NUMBERS:
        return "a number"
    return {"VARCHAR": "text", "BOOLEAN": "true or false"}.get(shape, "a list or an object")


def lists_of_objects(shape: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The paths of all lists of objects that are no messages, by way of objects."""
    if isinstance(shape, list) and isinstance(shape[0], dict):
        if not any(shape[0].keys() >= names for names in _MESSAGES):
            yield path
    elif isinstance(shape, dict):
        for key, kind in shape.items():
            yield from lists_of_objects(kind, (*path, key))
