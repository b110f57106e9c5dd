"""A column in a wider type than its own: what it lacks is null, and nothing that it holds is
lost.
"""

from __future__ import annotations

import pyarrow as pa


class NotHeld(ValueError):
    """A type that does not hold a value; the message says what of it."""


def conformed(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The columns of `schema` in its types; a column or a field that `table` lacks is null.

    Raises `NotHeld` where a type of `schema` has no place for a value: Arrow's own cast leaves out
    a field that the target does not have.

    >>> narrow = pa.table({"m": [[{"role": "user"}]]})
    >>> message = pa.struct([("role", pa.string()), ("name", pa.string())])
    >>> wide = pa.schema([("m", pa.list_(message))])
    >>> conformed(narrow, wide)["m"].to_pylist()
    [[{'role': 'user', 'name': None}]]
    """
    if table.schema.equals(schema):
        return table
    columns = []
    for field in schema:
        if field.name not in table.column_names:
            columns.append(pa.chunked_array([pa.nulls(table.num_rows, field.type)]))
            continue
        column = table[field.name]
        chunks = column.chunks or [pa.nulls(0, column.type)]
        columns.append(
            pa.chunked_array([conformed_array(chunk, field.type, field.name) for chunk in chunks])
        )
    return pa.Table.from_arrays(columns, schema=schema)


def uncoded(table: pa.Table) -> pa.Table:
    """`table` with codes of texts that are views, as Polars has categories, as texts.

    Arrow has no cast for those.
    """
    for at, field in enumerate(table.schema):
        kind = field.type
        if pa.types.is_dictionary(kind) and pa.types.is_string_view(kind.value_type):
            texts = [
                pa.DictionaryArray.from_arrays(
                    each.indices, each.dictionary.cast(pa.large_string())
                ).dictionary_decode()
                for each in table.column(at).chunks
            ]
            column = pa.chunked_array(texts, pa.large_string())
            table = table.set_column(at, field.name, column)
    return table


def conformed_array(array: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    """`array` in the type `kind`; `name` is what messages call it."""
    if array.type.equals(kind):
        return array
    if array.null_count == len(array):
        return pa.nulls(len(array), kind)
    if pa.types.is_struct(array.type) and pa.types.is_struct(kind):
        return _conformed_struct(array, kind, name)
    if _is_list(array.type) and _is_list(kind):
        return rebuilt_list(
            array, conformed_array(array.flatten(), kind.value_type, f"{name}[]"), kind
        )
    try:
        return array.cast(kind)
    except (pa.ArrowException, ValueError) as error:
        raise NotHeld(
            f"{name} is {array.type}, and not all of its values fit into {kind}"
        ) from error


def _conformed_struct(array: pa.Array, kind: pa.DataType, name: str) -> pa.Array:
    fields = {array.type.field(n).name: array.field(n) for n in range(array.type.num_fields)}
    wanted = [kind.field(n) for n in range(kind.num_fields)]
    lost = [
        key
        for key in fields.keys() - {field.name for field in wanted}
        if fields[key].null_count < len(array)
    ]
    if lost:
        raise NotHeld(
            f"{name} has the key {sorted(lost)[0]!r}, which {[field.name for field in wanted]} lack"
        )
    inner = []
    for field in wanted:
        values = fields.get(field.name)
        if values is None:
            inner.append(pa.nulls(len(array), field.type))
        else:
            inner.append(conformed_array(values, field.type, f"{name}.{field.name}"))
    return pa.StructArray.from_arrays(inner, fields=wanted, mask=array.is_null())


def rebuilt_list(array: pa.Array, values: pa.Array, kind: pa.DataType) -> pa.Array:
    """The list type `kind` with the lengths and nulls of `array`, and `values` end to end."""
    # Few columns need it, and it takes its time.
    import pyarrow.compute as pc

    # Arrow imports pandas, where it is installed, for a number of Python.
    zero = pa.Array.from_buffers(pa.int64(), 1, [None, pa.py_buffer(bytes(8))])
    sizes = pc.fill_null(pc.list_value_length(array).cast(pa.int64()), zero[0])
    offsets = pa.concat_arrays([zero, pc.cumulative_sum(sizes)])
    made = pa.LargeListArray.from_arrays(offsets, values, mask=array.is_null())
    return made.cast(kind)


def _is_list(kind: pa.DataType) -> bool:
    fixed = pa.types.is_fixed_size_list(kind)
    return bool(
        pa.types.is_list(kind)
        or pa.types.is_large_list(kind)
        or fixed
        or pa.types.is_list_view(kind)
    )
