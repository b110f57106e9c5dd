"""Columns with JSON inside as typed columns: what records of steps in files are mostly made of.

A reader keeps objects whose keys differ, or lists of such, as JSON text. Their types are those of
all rows together: of objects every key, of values of several kinds their text.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import reduce
from typing import Any

import polars as pl

from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text


def has_json(dtype: Any) -> bool:
    """Whether values of this type have JSON text inside."""
    if is_json_text(dtype):
        return True
    if isinstance(dtype, pl.List):
        return has_json(dtype.inner)
    return isinstance(dtype, pl.Struct) and any(has_json(field.dtype) for field in dtype.fields)


def plain_values(column: pl.Series) -> list[Any]:
    """The values of a column, JSON decoded."""
    return [_plain(value) for value in column.to_list()]


def _plain(value: Any) -> Any:
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict) and value.keys() == {JSON_FIELD}:
        text = value[JSON_FIELD]
        return None if text is None else json.loads(text)
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    return value


def type_of(values: Iterable[Any]) -> pl.DataType:
    """The type that holds `values`.

    >>> type_of([[{"text": "a"}], [{"text": "b", "rating": 1}], None])
    List(Struct({'text': String, 'rating': Int64}))
    """
    nothing: pl.DataType = pl.Null()
    return reduce(merged, map(_type, values), nothing)


def _type(value: Any) -> pl.DataType:
    if value is None:
        return pl.Null()
    if isinstance(value, list):
        return pl.List(type_of(value))
    if isinstance(value, dict) and not value:
        return pl.Null()  # no engine has records without fields
    if isinstance(value, dict):
        return pl.Struct({key: _type(each) for key, each in value.items()})
    if isinstance(value, bool):
        return pl.Boolean()
    if isinstance(value, int) and abs(value) < 2**63:
        return pl.Int64()
    return pl.Float64() if isinstance(value, int | float) else pl.String()


def merged(one: Any, other: Any) -> pl.DataType:
    """The type that holds the values of both."""
    if one == other or other == pl.Null:
        kept: pl.DataType = one
        return kept
    if one == pl.Null:
        return merged(other, one)
    if isinstance(one, pl.List) and isinstance(other, pl.List):
        return pl.List(merged(one.inner, other.inner))
    if isinstance(one, pl.Struct) and isinstance(other, pl.Struct):
        fields: dict[str, Any] = {field.name: field.dtype for field in one.fields}
        for field in other.fields:
            fields[field.name] = merged(fields.get(field.name, pl.Null()), field.dtype)
        return pl.Struct(fields)
    return pl.Float64() if one.is_numeric() and other.is_numeric() else pl.String()


def typed(name: str, values: list[Any], dtype: pl.DataType) -> pl.Series:
    """`values` as a column of `dtype`, which is `type_of` of them and others."""
    return pl.Series(name, [_fitted(value, dtype) for value in values], dtype=dtype)


def _fitted(value: Any, dtype: Any) -> Any:
    if value is None or dtype == pl.Null:
        return None
    if isinstance(dtype, pl.List):
        return [_fitted(each, dtype.inner) for each in value]
    if isinstance(dtype, pl.Struct):
        return {field.name: _fitted(value.get(field.name), field.dtype) for field in dtype.fields}
    if dtype == pl.String:
        return value if isinstance(value, str) else json.dumps(value)
    return float(value) if dtype == pl.Float64 else value
