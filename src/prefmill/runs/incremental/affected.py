"""Which groups have other rows than in the run before, and where the rows of a state are now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb

from prefmill.connection import literal
from prefmill.runs.incremental.state import InputFile, State


@dataclass(frozen=True)
class Plan:
    """What becomes of the files of the input.

    kept    number of each unchanged file in the state, and its number now
    same    that of each file that is there still, with other content
    """

    kept: Mapping[int, int]
    same: Mapping[int, int]
    fresh: Sequence[int]

    @property
    def in_order(self) -> bool:
        """Whether the files that are still there have their old order."""
        there = {**self.kept, **self.same}
        numbers = [there[old] for old in sorted(there)]
        return numbers == sorted(numbers)


def compared(state: State, files: Sequence[tuple[str, int, Sequence[object]]]) -> Plan | None:
    """The files of a state against those of now: (name, rows, known). None where one is twice."""
    old = {file.name: number for number, file in enumerate(state.files)}
    names = {name for name, _, _ in files}
    if len(old) < len(state.files) or len(names) < len(files):
        return None
    kept: dict[int, int] = {}
    same: dict[int, int] = {}
    for number, (name, rows, known) in enumerate(files):
        if name in old:
            still = state.files[old[name]].is_still(name, rows, known)
            (kept if still else same)[old[name]] = number
    return Plan(kept, same, [n for n in range(len(files)) if n not in kept.values()])


def index_of(
    files: Mapping[int, InputFile],
    homes: Mapping[str, Path],
    columns: str = "row, class",
    *,
    some: str = "",
) -> str:
    """The rows of these files by their numbers, as a relation of `file` and `columns`.

    `some` is joined before files get their numbers, so that only its rows cost anything.
    """
    by_index: dict[str, dict[int, int]] = {}
    for number, file in files.items():
        by_index.setdefault(file.index, {})[file.number] = number
    selects = []
    for index, now in by_index.items():
        path = literal(str(homes[index]))
        numbers = ", ".join(str(now.get(at, "NULL")) for at in range(max(now) + 1))
        selects.append(
            f"SELECT ([{numbers}]::INTEGER[])[file + 1] AS file, {columns}"
            f" FROM read_parquet({path}) {some} WHERE {_ranges(now)}"
        )
    if not selects:
        nothing = "NULL::INTEGER AS file, NULL::BIGINT AS row, NULL::UBIGINT AS class"
        return f"SELECT {nothing}, NULL::UBIGINT AS text, NULL::BLOB AS cells WHERE false"
    return " UNION ALL ".join(selects)


def _ranges(numbers: Iterable[int]) -> str:
    """A condition on `file`: one of these numbers. A list of a hundred is slow to look through."""
    ranges: list[list[int]] = []
    for number in sorted(numbers):
        if ranges and ranges[-1][1] == number - 1:
            ranges[-1][1] = number
        else:
            ranges.append([number, number])
    return " OR ".join(f"file BETWEEN {first} AND {last}" for first, last in ranges)


def find(con: duckdb.DuckDBPyConnection, before: str, now: str) -> int:
    """Make the table `affected` (class): groups whose rows differ; how many.

    `before` and `now` are indexes of the files that are not the same, with one number for a file
    of both. The rows of a group have to be the same in number, order, file and content. The table
    `stayed` (file, row, old_row) has the rows of `now` that were there before.
    """
    for name, index in (("was", before), ("is_now", now)):
        con.execute(
            f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT file, row, class, cells,"
            " row_number() OVER (PARTITION BY class ORDER BY file, row) AS place"
            f" FROM ({index})"
        )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE affected AS SELECT DISTINCT class"
        " FROM was FULL JOIN is_now USING (class, place)"
        " WHERE was.file IS DISTINCT FROM is_now.file OR was.cells IS DISTINCT FROM is_now.cells"
    )
    con.execute(
        "CREATE OR REPLACE TEMP TABLE stayed AS SELECT file, is_now.row, was.row AS old_row"
        " FROM was JOIN is_now USING (class, place, file, cells)"
    )
    ((count,),) = con.execute("SELECT count(*) FROM affected").fetchall()
    return int(count)
