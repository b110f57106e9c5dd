"""Tables of warehouses as inputs: one version of each, in a Parquet file of ours."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from prefmill.errors import BadInput
from prefmill.readers.columnar import stage_tables
from prefmill.readers.find import Input
from prefmill.readers.json_lines import JsonFile
from prefmill.readers.staging import Context, Part
from prefmill.warehouse.address import Address
from prefmill.warehouse.tables import opened


def stage_table(item: Input, context: Context) -> Part | JsonFile:
    """The rows of a table as Parquet in plain types; of JSON columns the first pass.

    Raises `BadInput` where there is no such table, or another version of it at the second pass.
    """
    address = Address.of(item.path)
    assert address is not None
    with opened(address) as table:
        schema = table.reader().schema
        version = table.version()

    def tables() -> Iterator[pa.Table]:
        with opened(address) as table:
            if table.version() != version:
                raise BadInput(
                    f"{item.label}: the table was changed while it was read.",
                    hint="run the same command again.",
                )
            for batch in table.reader():
                yield pa.Table.from_batches([batch])

    return stage_tables(item, context, schema, tables)
