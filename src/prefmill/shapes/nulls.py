"""Which columns of rows can hold nulls: what Parquet's footers say, so that nobody reads texts to
find out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.readers import Source
from prefmill.shapes.cells import Cell, Constant, Element, Inside, Text
from prefmill.shapes.paths import Field, Path
from prefmill.shapes.shape import Shape
from prefmill.shapes.verdicts import Scored


def nullable(shape: Shape, source: Source) -> frozenset[str]:
    """The columns of the rows of `source` that may hold nulls."""
    full = _full_leaves(source)

    def never(cell: Cell) -> bool:
        if isinstance(cell, Text):
            return never(cell.value)
        if isinstance(cell, Constant):
            return cell.value is not None
        if isinstance(cell, Scored):
            return True
        if isinstance(cell, Inside | Element):
            return _is_full(cell, source, full)
        return False

    names = shape.variants[0].cells
    made = [name for name in names if all(never(each.cells[name]) for each in shape.variants)]
    kept = [name for name in shape.carried if name not in source.nulls and not shape.joins]
    return frozenset([*names, *shape.carried]) - {*made, *kept}


def _is_full(cell: Inside | Element, source: Source, full: set[tuple[str, ...]]) -> bool:
    path = cell.path
    if isinstance(cell, Inside) and not path.parts:
        return path.column in source.columns.names and path.column not in source.nulls
    parts = [*path.parts, *(cell.rest if isinstance(cell, Element) else ())]
    if path.json_from is not None or not all(isinstance(part, Field) for part in parts):
        return False
    return _names(path, parts) in full


def _names(path: Path, parts: Sequence[object]) -> tuple[str, ...]:
    return (path.column, *(part.name for part in parts if isinstance(part, Field)))


def _full_leaves(source: Source) -> set[tuple[str, ...]]:
    """Values inside records and lists that are nowhere null, by the names on the way.

    A null or empty list counts as a null of its elements in a footer, so neither is there.
    """
    if source.remote:
        return set()
    full: set[tuple[str, ...]] | None = None
    for file in source.files:
        footer = pq.read_metadata(file)
        names = list(_leaves(footer.schema.to_arrow_schema()))
        if len(names) != footer.num_columns:
            return set()
        here = {name for place, name in enumerate(names) if _nulls(footer, place) == 0}
        full = here if full is None else full & here
    return full or set()


def _nulls(footer: pq.FileMetaData, place: int) -> int | None:
    """The nulls of a column of a footer; None if some row group does not say."""
    total = 0
    for group in range(footer.num_row_groups):
        statistics = footer.row_group(group).column(place).statistics
        if statistics is None or not statistics.has_null_count:
            return None
        total += statistics.null_count
    return total


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, ...]]:
    """The names on the way to each column of a footer, in its order; lists have none."""
    for field in schema:
        for rest in _inner(field.type):
            yield (field.name, *rest)


def _inner(kind: pa.DataType) -> Iterator[tuple[str, ...]]:
    if pa.types.is_struct(kind):
        for field in kind:
            for rest in _inner(field.type):
                yield (field.name, *rest)
    elif pa.types.is_map(kind):
        for each in (kind.key_type, kind.item_type):
            yield from _inner(each)
    elif pa.types.is_nested(kind):
        yield from _inner(kind.value_type)
    else:
        yield ()
