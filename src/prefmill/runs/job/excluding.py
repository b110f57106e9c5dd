"""Pairs that a run leaves out because a file names them (`--exclude`).

An id is that of `sql/pair_id.sql`, of texts alone: of a pair, or of one answer to a prompt. A pair
is left out if its id, or that of one of its two answers, is in the file. It was selected before,
and no other pair takes its place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import polars as pl

from prefmill.connection import connect, quote
from prefmill.disk.hidden import temporary
from prefmill.engines.macros import install_used

if TYPE_CHECKING:
    import duckdb

#: The reason of rows whose pairs were all left out.
EXCLUDED = "excluded"
#: The columns of ids in such a file: that of the run, and that of the texts alone.
COLUMNS = ("pair_id", "text_id")
#: Of the rows of prompts whose pairs all went, and of which at least one was excluded.
_ROWS = (
    "SELECT coalesce(sum(_votes), 0)::BIGINT FROM {groups} WHERE _first IN"
    " (SELECT _first FROM {told} WHERE _excluded) AND _first NOT IN"
    " (SELECT _first FROM {told} WHERE NOT _same_text)"
)


@dataclass(frozen=True)
class Excluded:
    """The ids of a file: of each entry one, or two that name the same."""

    name: str
    entries: Sequence[Collection[str]]
    ids: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", frozenset().union(*self.entries))

    @property
    def digest(self) -> str:
        """A hash of what is excluded: the same ids in another file are the same run."""
        return hashlib.sha256("\n".join(sorted(self.ids)).encode()).hexdigest()

    def told(self, pairs: int, met: Collection[str] | None = None) -> list[str]:
        """What people are told: how many pairs were left out, and entries that name none.

        `met` are the ids of those pairs; None: nobody knows.
        """
        were = "pair was" if pairs == 1 else "pairs were"
        lines = [f"exclude: {pairs:,} {were} left out that {self.name} names."]
        if met is None:
            return lines
        idle = sum(not any(each in met for each in entry) for entry in self.entries)
        if idle:
            lines.append(
                f"exclude: {idle:,} of the {len(self.entries):,} ids in {self.name} are of no"
                " pair that was selected here. (Of pairs with the same texts only the first's id is"
                " known, and leaves out all.)"
            )
        return lines


def hits(frame: pl.DataFrame, texts: Sequence[str], ids: Collection[str]) -> pl.Series:
    """The ids of each pair that are among `ids`, with spaces between them; null where none is.

    `texts` are the columns of the prompt, the chosen and the rejected text.
    """
    prompt, chosen, rejected = map(quote, texts)
    calls = [
        f"pair_id({prompt}, {chosen}, {rejected})",
        f"pair_id({prompt}, {chosen})",
        f"pair_id({prompt}, {rejected})",
    ]
    query = f"SELECT {', '.join(f'{call} AS i{n}' for n, call in enumerate(calls))} FROM _rows"
    with (
        temporary() as home,
        closing(connect(temp_dir=home, reads=(), threads=1, ordered=True)) as con,
    ):
        install_used(con, [query])
        con.register("_rows", frame.select(pl.col(list(texts))).to_arrow())
        made = pl.DataFrame(con.sql(query).to_arrow_table())
    known = pl.Series(sorted(ids), dtype=pl.String)
    each = [pl.when(pl.col(n).is_in(known.implode())).then(pl.col(n)) for n in made.columns]
    joined = pl.concat_str(each, separator=" ", ignore_nulls=True)
    return made.select(hit=pl.when(joined != "").then(joined))["hit"]


def rows_excluded(con: duckdb.DuckDBPyConnection, told: str, groups: str = "groups") -> int:
    """The rows of prompts that have no pair because some were excluded.

    `told` are the pairs with `_first`, `_same_text` (true of those that went, for any reason) and
    `_excluded`.
    """
    (row,) = con.execute(_ROWS.format(told=told, groups=groups)).fetchall()
    return int(row[0])


def moved(dropped: Mapping[str, int], rows: int) -> dict[str, int]:
    """The reasons of a report, where those rows count as excluded and not as identical texts.

    >>> moved({"identical_text": 3, "tie": 2}, 3)
    {'excluded': 3, 'tie': 2}
    """
    counts = {**dropped, "identical_text": dropped.get("identical_text", 0) - rows}
    counts[EXCLUDED] = rows
    return {name: count for name, count in sorted(counts.items()) if count}
