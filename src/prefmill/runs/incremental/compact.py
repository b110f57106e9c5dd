"""The files of a state, fewer: each incremental run adds one of each kind.

The small ones become one. A file that has more rows than all others together stays as it is, so
that a row is written again only each time its file has doubled.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import duckdb
import pyarrow.parquet as pq

from prefmill.connection import literal
from prefmill.runs.incremental import accounts, scores
from prefmill.runs.incremental.affected import index_of
from prefmill.runs.incremental.rows import COLUMNS
from prefmill.runs.incremental.state import InputFile, fresh

#: More files of one kind than this become fewer.
MOST_FILES = 16


def of_inputs(
    con: duckdb.DuckDBPyConnection,
    files: Sequence[InputFile],
    homes: Mapping[str, Path],
    home: Path,
) -> list[InputFile]:
    """The files of the input with few indexes, and few files of scores; new ones are in `home`."""
    sizes: dict[str, int] = {}
    for file in files:
        sizes[file.index] = sizes.get(file.index, 0) + file.rows
    merged = _small(sizes)
    if not merged:
        return list(files)
    some = {number: file for number, file in enumerate(files) if file.index in merged}
    name = fresh("rows")
    columns = COLUMNS.removeprefix("file, ")
    _copy(con, index_of(some, homes, columns), home / name)
    if scored := {file.scores for file in some.values()} - {""}:
        scored_now = fresh("scores")
        shifts = scores.shifts(some.values())
        _copy(con, scores.of_files(some.values(), homes, shifts), home / scored_now)
    made = list(files)
    for number, file in some.items():
        made[number] = replace(file, index=name, number=number)
        if scored:
            first = file.first + shifts[file.scores]
            made[number] = replace(made[number], scores=scored_now, first=first)
    return made


def of_accounts(
    con: duckdb.DuckDBPyConnection, names: Sequence[str], homes: Mapping[str, Path], home: Path
) -> list[str]:
    """Few accounts, the latest last; new ones are in `home`."""
    if len(names) <= MOST_FILES:
        return list(names)
    sizes = [pq.read_metadata(homes[name]).num_rows for name in names]
    # A later account of a class goes before an earlier one, so only the last ones become one.
    first = 1 if sum(sizes[1:]) < sizes[0] else 0
    name = fresh("accounts")
    _copy(con, accounts.latest([homes[each] for each in names[first:]]), home / name)
    return [*names[:first], name]


def _small(sizes: Mapping[str, int]) -> set[str]:
    """The names to be made one; none where there are few."""
    if len(sizes) <= MOST_FILES:
        return set()
    largest = max(sizes, key=lambda name: sizes[name])
    others = set(sizes) - {largest}
    return others if sum(sizes[name] for name in others) < sizes[largest] else set(sizes)


def _copy(con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    con.execute("SET preserve_insertion_order = false")
    con.execute(f"COPY ({query}) TO {literal(str(path))} (FORMAT parquet, COMPRESSION snappy)")
    con.execute("SET preserve_insertion_order = true")
