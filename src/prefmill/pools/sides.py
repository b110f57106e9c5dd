"""Answers that stand side by side in a record, pairs above all, as a pool: a row for each of them.

pairs ──stage──▶ a row for each answer ──scored──▶ columns of the pairs, a score for each side
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.connection import connect, literal, quote
from prefmill.errors import BadArgument
from prefmill.readers import Source, open_source
from prefmill.shapes import sql
from prefmill.shapes.source import Rowed
from prefmill.shapes.words import split
from prefmill.table.roles import RoleNames

_PAIR = ("chosen", "rejected")
#: What an old column is called beside the new one of its name.
_OLD = "{}_in"


@dataclass(frozen=True)
class Sides:
    """The records whose answers a pool holds, one a row.

    records  as they were read
    names    of the answers of each record, in order: row i is answer i % len(names) of its record
    """

    records: Source
    names: tuple[str, ...]


def names_of(columns: Sequence[str], named: RoleNames) -> tuple[str, ...]:
    """The columns of answers that stand side by side in a table of `columns`; () if there are none.

    They are `chosen` and `rejected` where no completion is named.

    >>> names_of(["prompt", "chosen", "rejected"], {})
    ('chosen', 'rejected')
    >>> names_of(["prompt", "a", "b"], {"completion": "a,b"})
    ('a', 'b')
    """
    completion = named.get("completion")
    if completion is None:
        return _PAIR if set(_PAIR) <= set(columns) else ()
    names = tuple(split(completion))
    return names if completion not in columns and len(names) > 1 else ()


def staged(
    source: Source, rowed: Rowed, home: Path, *, reads: Sequence[str] | None, **limits: Any
) -> tuple[Sides, Source] | None:
    """The records of `source` whose answers stand side by side in `rowed`, and these answers as
    rows `prompt`, `completion` in one file; None where they do not stand so.

    Columns of the record that are wanted (`reads`; None: all) come along, but for its answers.
    Raises `BadArgument` where some records have no rows. Cost: one pass over the texts, in bounded
    memory.
    """
    shape, account = rowed.shape, rowed.account
    if shape is None or account is None or len(shape.variants) < 2:
        return None
    if any(variant.lists for variant in shape.variants):
        return None
    names = tuple(map(str, split(shape.words.completion)))
    if account.rows != account.records * len(names):
        raise BadArgument(
            f"score: records whose answers stand side by side stay as they are; got"
            f" {account.line()}.",
            hint='leave these records out first: prefmill sql "SELECT * FROM t WHERE ..." t=FILE.',
        )
    more = [
        each for each in shape.carried if each not in names and (reads is None or each in reads)
    ]
    columns = ", ".join(map(quote, ("prompt", "completion", *more)))
    # A join has no order; all else keeps that of the records.
    order = f" ORDER BY {sql.POSITION}" if shape.joins else ""
    path = home / "sides.parquet"
    made = rowed.source
    with connect(
        temp_dir=home, reads=made.reads, remote=made.remote, ordered=True, **limits
    ) as con:
        con.execute(
            f"COPY (SELECT {columns} FROM {made.relation}{order}) TO {literal(str(path))}"
            " (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1)"
        )
    return Sides(source, names), open_source([str(path)], temp_dir=home)


def columns_out(
    columns: Sequence[str], names: Sequence[str], scores: Sequence[str], *, where: str
) -> tuple[list[str], dict[str, str]]:
    """The columns of scores of each side, and what old columns of their names are called.

    >>> columns_out(["prompt", "chosen_score"], ["chosen", "rejected"], ["score"], where="score")
    (['chosen_score', 'rejected_score'], {'chosen_score': 'chosen_score_in'})
    """
    made = [f"{side}_{score}" for score in scores for side in names]
    folded = {name.casefold() for name in made}
    renamed = {name: _OLD.format(name) for name in columns if name.casefold() in folded}
    kept = [renamed.get(name, name).casefold() for name in columns]
    twice = [name for name in [*kept, *folded] if [*kept, *folded].count(name) > 1]
    if twice:
        raise BadArgument(
            f"{where}: the input already has the columns {sorted(set(twice))};"
            f" got {list(columns)}.",
            hint="--score-column NAME (score_column=NAME) writes others.",
        )
    return made, renamed
