"""Values that no column type holds, each kept as the JSON text of its own row.

In our own tables such a value is a struct with the one field `arrow.json`: engines compare, copy
and hold it like any struct, and it cannot be taken for text. Files get Arrow's type `arrow.json`,
JSON files the value itself, and who reads a row gets its value back (`decoded`).
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

from prefmill.table.conform import rebuilt_list

JSON_FIELD = "arrow.json"
JSON_TYPE = pa.struct([(JSON_FIELD, pa.string())])
#: What the values of Arrow's own extension types are, where they are not what is stored.
_VALUES = {"arrow.json": JSON_TYPE, "arrow.uuid": pa.string(), "arrow.bool8": pa.bool_()}
_Change = Callable[[pa.Array], pa.Array | None]


def is_json(kind: pa.DataType) -> bool:
    """Whether a value of this type is JSON text in our own form."""
    return bool(
        pa.types.is_struct(kind) and kind.num_fields == 1 and kind.field(0).name == JSON_FIELD
    )


def is_marked(kind: pa.DataType) -> bool:
    """Whether a value of this type is JSON text in Arrow's form."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name == JSON_FIELD


def holds(kind: pa.DataType, test: Callable[[pa.DataType], bool]) -> bool:
    """Whether `test` is true of the type or of a type inside it.

    >>> holds(pa.list_(JSON_TYPE), is_json), holds(pa.list_(pa.string()), is_json)
    (True, False)
    """
    if test(kind):
        return True
    inner = [kind.field(number).type for number in range(kind.num_fields)]
    if isinstance(kind, pa.BaseExtensionType):
        inner = [kind.storage_type]
    if pa.types.is_dictionary(kind):
        inner = [kind.value_type]
    return any(holds(one, test) for one in inner)


def decoded(value: Any) -> Any:
    """The Python value of a row, with the value of each JSON text inside it.

    >>> decoded([{"role": "user", "content": {"arrow.json": '{"a":[1]}'}}])
    [{'role': 'user', 'content': {'a': [1]}}]
    """
    if isinstance(value, list):
        return [decoded(one) for one in value]
    if isinstance(value, dict):
        if value.keys() == {JSON_FIELD}:
            return None if value[JSON_FIELD] is None else json.loads(value[JSON_FIELD])
        return {key: decoded(one) for key, one in value.items()}
    return value


def present(value: Any) -> Any:
    """`decoded`, without the fields of structs that are null: a table has every field in every row.

    A null that stands in a JSON text stays: there it is the row's own.

    >>> present({"city": "Oslo", "unit": None, "more": {"arrow.json": '{"zip":null}'}})
    {'city': 'Oslo', 'more': {'zip': None}}
    """
    if isinstance(value, list):
        return [present(one) for one in value]
    if isinstance(value, dict) and value.keys() != {JSON_FIELD}:
        return {key: present(one) for key, one in value.items() if one is not None}
    return decoded(value)


def values_of(array: pa.Array | pa.ChunkedArray) -> list[Any]:
    """The Python value of every row; JSON texts are read.

    >>> values_of(pa.array([{"arrow.json": "[1]"}, None], JSON_TYPE))
    [[1], None]
    """
    rows: list[Any] = array.to_pylist()
    if holds(array.type, is_json):
        return [decoded(row) for row in rows]
    return rows


def with_marks(table: pa.Table) -> pa.Table:
    """The same columns with Arrow's `arrow.json` where they have our form of it."""
    return _changed(table, is_json, _marked)


def is_encoded(kind: pa.DataType) -> bool:
    """Whether values of this type are something else than what Arrow stores for them."""
    return isinstance(kind, pa.BaseExtensionType) and kind.extension_name in _VALUES


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values of a type that `is_encoded`."""
    return _VALUES[kind.extension_name]


def without_marks(table: pa.Table) -> pa.Table:
    """The same columns with values for what Arrow stores: our form of JSON, UUIDs, booleans."""
    return _changed(table, is_encoded, _value)


def in_types(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """`table`, which may have our form of JSON, in the types of `schema`, which has Arrow's."""
    empty = pa.Table.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)
    ours = without_marks(empty).schema
    made = with_marks(table.cast(ours))
    return pa.Table.from_arrays(made.columns, schema=schema)


def texts_inside(array: pa.Array) -> Iterator[pa.Array]:
    """The JSON texts of a column, wherever in its values they are, as arrays of text."""
    kind = array.type
    if is_marked(kind):
        yield array.storage
    elif holds(kind, is_marked) and pa.types.is_struct(kind):
        for inner in array.flatten():
            yield from texts_inside(inner)
    elif holds(kind, is_marked) and pa.types.is_dictionary(kind):
        yield from texts_inside(array.dictionary_decode())
    elif holds(kind, is_marked):
        yield from texts_inside(array.flatten())


def _marked(array: pa.Array) -> pa.Array:
    texts = array.flatten()[0]
    return pa.ExtensionArray.from_storage(pa.json_(texts.type), texts)


def _value(array: pa.Array) -> pa.Array:
    kind = value_type(array.type)
    if pa.types.is_boolean(kind):
        return array.storage.cast(kind)
    if pa.types.is_string(kind):
        keys = array.storage.to_pylist()
        return pa.array([key and str(uuid.UUID(bytes=key)) for key in keys], kind)
    texts = array.storage
    if not pa.types.is_large_string(texts.type):
        texts = texts.cast(pa.string())
    return pa.StructArray.from_arrays([texts], names=[JSON_FIELD], mask=array.is_null())


def _changed(table: pa.Table, test: Callable[[pa.DataType], bool], change: _Change) -> pa.Table:
    for number, field in enumerate(table.schema):
        if not holds(field.type, test):
            continue
        chunks = [_rebuilt(chunk, test, change) for chunk in table.column(number).chunks]
        kind = _rebuilt(pa.nulls(0, field.type), test, change).type
        column = pa.chunked_array(chunks, kind)
        table = table.set_column(number, pa.field(field.name, kind), column)
    return table


def _rebuilt(array: pa.Array, test: Callable[[pa.DataType], bool], change: _Change) -> pa.Array:
    kind = array.type
    if test(kind):
        return change(array)
    if not holds(kind, test):
        return array
    if pa.types.is_dictionary(kind):
        return _rebuilt(array.dictionary_decode(), test, change)
    if isinstance(kind, pa.BaseExtensionType):
        return _rebuilt(array.storage, test, change)
    if pa.types.is_struct(kind):
        inner = [_rebuilt(array.field(n), test, change) for n in range(kind.num_fields)]
        fields = [pa.field(kind.field(n).name, one.type) for n, one in enumerate(inner)]
        return pa.StructArray.from_arrays(inner, fields=fields, mask=array.is_null())
    values = _rebuilt(array.flatten(), test, change)
    make = pa.large_list if pa.types.is_large_list(kind) else pa.list_
    return rebuilt_list(array, values, make(values.type))
