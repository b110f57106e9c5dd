"""Splits: an input in pieces that tasks read, each with the positions that its rows have.

A split is a range of rows of one Parquet file, or of the records that rows are made of. So a
position is (file, row) as in a local run, whoever reads it.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import duckdb

from prefmill.connection import literal, quote
from prefmill.readers import Source
from prefmill.readers.in_place import rows_of
from prefmill.readers.staging import Version
from prefmill.shapes import sql as shapes_sql
from prefmill.shapes.shape import Shape
from prefmill.shapes.source import Rowed, record_told, stem

#: The row of the input that a row of a split is.
_ROW = "__prefmill_row"


@dataclass(frozen=True)
class Split:
    """Rows `first` to `last` (exclusive) of a file; `before` are the rows of the files before.

    They are read of the object `stays`, where there is one: then the file is a sample of it.
    """

    file: str
    label: str
    first: int
    last: int
    before: int
    stays: Version | None = None

    @property
    def rows(self) -> int:
        """How many rows it has."""
        return self.last - self.first


def splits_of(source: Source, most_rows: int) -> tuple[Split, ...]:
    """The rows of `source` in splits of about equal size, of at most so many rows each.

    Of an object they end where groups of rows do, if these have no more rows than a split may.
    A file without rows has no split; where no file has any, the first one has an empty split.
    """
    made, before = [], 0
    stays = source.stays or [None] * len(source.files)
    files = zip(source.files, source.labels, source.file_rows, stays, strict=True)
    for file, label, rows, version in files:
        each = version.group_rows if version is not None else 1
        if not 0 < each <= most_rows:
            each = 1
        groups = -(-rows // each)
        count = -(-groups // (most_rows // each))
        ends = [groups * place // max(1, count) * each for place in range(count + 1)]
        bounds = [min(rows, end) for end in ends]
        made += [
            Split(file, label, first, last, before, version)
            for first, last in itertools.pairwise(bounds)
        ]
        before += rows
    if not made:
        made.append(Split(source.files[0], source.labels[0], 0, 0, 0, stays[0]))
    return tuple(made)


@dataclass(frozen=True)
class Records:
    """How a split is read, as every split of one input is.

    source  the files, before records became rows
    types   of the columns of all of them, as DuckDB names them
    width   positions for each record
    shape   how records become rows, None where they are rows; `longest` and `joined` as in `Rowed`
    """

    source: Source
    types: Mapping[str, str]
    width: int
    shape: Shape | None = None
    longest: int = 1
    joined: tuple[str, ...] = ()

    @classmethod
    def of(cls, rowed: Rowed, con: duckdb.DuckDBPyConnection) -> Records:
        """Those of an input; `con` looks at the types of its columns."""
        source = rowed.records or rowed.source
        described = con.sql(f"DESCRIBE SELECT * FROM {source.relation}").fetchall()
        return cls(
            source=replace(source, beside=rowed.source.beside),
            types={name: kind for name, kind, *_ in described},
            width=rowed.source.width,
            shape=rowed.shape,
            longest=rowed.longest,
            joined=rowed.joined,
        )

    @property
    def remote(self) -> bool:
        """Whether some file is a URL."""
        return self.source.remote or any("://" in each for each in self.joined)

    @contextmanager
    def told(self) -> Iterator[None]:
        """An error about one record, in here, says which record of which file it is."""
        with record_told(self.source, self.shape, Path(), "run"):
            yield

    def starts(self, splits: Sequence[Split]) -> list[int]:
        """The first position of each split, and the one after the last."""
        ends = [split.before + split.last for split in splits]
        return [place * self.width for place in [0, *ends]]

    def relation(
        self,
        split: Split,
        con: duckdb.DuckDBPyConnection,
        columns: Collection[str],
        *,
        spared: Collection[str] = (),
        checked: bool = False,
    ) -> tuple[str, str]:
        """The rows of a split as DuckDB reads them, and the expression of their position.

        `columns` are those that are asked for: rows of an object have no other one. Those `spared`
        among them are null there, and are not fetched. `checked`: of records, with a look whether
        their lists have one length.
        """
        rows = self._rows(split, con, columns, spared)
        if self.shape is None:
            return rows, _ROW
        records = shapes_sql.records(
            self.shape, rows, record=_ROW, joined=self.joined, file_names=[stem(split.label)]
        )
        look: Literal["checked", "narrow"] = "checked" if checked else "narrow"
        select = shapes_sql.rows(self.shape, records, longest=self.longest, position=look)
        return f"({select})", shapes_sql.POSITION

    def _rows(
        self,
        split: Split,
        con: duckdb.DuckDBPyConnection,
        columns: Collection[str],
        spared: Collection[str],
    ) -> str:
        path, first, types, absent = split.file, 0, self.types, frozenset[str]()
        if split.stays is not None:
            path, first = _copied(split, con, {*columns} - {*spared}), split.first
            types = {name: kind for name, kind in types.items() if name in columns}
            # One of them may stand there all the same, to count rows by.
            absent = frozenset(spared)
        hive = "hive_partitioning = false"
        if self.source.hive:
            hive = "hive_partitioning = true, hive_types_autocast = false"
        file = f"read_parquet([{literal(path)}], {hive})"
        described = con.sql(f"DESCRIBE FROM {file}").fetchall()
        here = {name: kind for name, kind, *_ in described if name not in absent}
        # Columns have the types that they have in all files together.
        listed = [_as_typed(name, kind, here) for name, kind in types.items()]
        listed.append(f"{split.before + first} + file_row_number AS {_ROW}")
        within = (
            f"file_row_number >= {split.first - first} AND file_row_number < {split.last - first}"
        )
        return f"(SELECT {', '.join(listed)} FROM {file} WHERE {within})"


def _copied(split: Split, con: duckdb.DuckDBPyConnection, columns: Collection[str]) -> str:
    """The path of a file with the rows of a split of an object, next to what `con` spills."""
    assert split.stays is not None
    ((home,),) = con.execute("SELECT current_setting('temp_directory')").fetchall()
    folder = Path(home) / f"rows-{split.before + split.first}"
    path = rows_of(split.stays, split.label, split.first, split.last, columns, folder)
    return str(path)


def _as_typed(name: str, kind: str, columns: Mapping[str, str]) -> str:
    """A column of a file that has `columns`, with the type `kind`; null where the file lacks it."""
    if columns.get(name) == kind:
        return quote(name)
    return f"{quote(name) if name in columns else 'NULL'}::{kind} AS {quote(name)}"
