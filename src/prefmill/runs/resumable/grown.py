"""What a run over a grown pool takes of the output as it stands: scores of rows it scored before.

    pool ─┐ rows with equal texts (and equal groups, ┌─▶ their scores, kept in the ledger
    output┘ where a scorer compares a prompt's rows) └─▶ the other rows are scored

Rows are joined by equality in DuckDB, out of core. A hash decides nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.connection import quote
from prefmill.pools.pool import Longs, Pool, connected, open_pool
from prefmill.pools.stream import CHUNK_ROWS
from prefmill.table.roles import RoleNames


@dataclass(frozen=True)
class Earlier:
    """Rows of a pool that an output has scores for.

    shared     whether any row of the pool stands in the output, or the output has none
    positions  of these rows in the pool, shape (rows,)
    columns    their scores, by name, each of shape (rows,)
    """

    shared: bool
    positions: Longs
    columns: dict[str, pa.Array]

    @property
    def batch(self) -> pa.RecordBatch:
        """The positions and the scores."""
        return pa.record_batch({"position": pa.array(self.positions), **self.columns})


def earlier_scores(
    output: str,
    pool: Pool,
    roles: RoleNames,
    scores: Sequence[tuple[str, Sequence[str], pa.DataType]],
    home: Path,
    *,
    renamed: dict[str, str],
    **limits: Any,
) -> Earlier:
    """The scores that rows of `pool` have in `output`, which `prefmill.score` wrote.

    scores   name, the output's columns of it (one for each answer of a record) and its type
    renamed  columns of the pool that have another name in the output

    A row whose score is null has none, so that it is tried again. Where `pool.whole`, rows of a
    prompt have scores where all of them stand there, in the same order, and no others.
    """
    place = home / "earlier"
    place.mkdir()
    old = _opened(output, pool, roles, place, renamed, limits)
    if old is None:
        return Earlier(False, np.zeros(0, np.int64), _none(scores))
    if not len(old.starts):
        return Earlier(True, np.zeros(0, np.int64), _none(scores))
    values = _values(old, scores, place)
    if values is None:
        return Earlier(False, np.zeros(0, np.int64), _none(scores))
    positions = _positions(old)
    scored = values[scores[0][0]].take(pa.array(positions)).is_valid()
    # What either pool has sorted lies in `home`, or below it.
    with connected(home, pool.source, old.source, **limits) as con:
        con.sql(f"SELECT row_number() OVER () - 1 AS place, * FROM ({pool.relation})").create_view(
            "fresh"
        )
        names = ", ".join(
            f"{quote(renamed.get(name, name))} AS {quote(name)}" for name in pool.others
        )
        names = f"prompt, completion, {names}" if names else "prompt, completion"
        con.sql(
            f"SELECT row_number() OVER () - 1 AS place, {names} FROM ({old.relation})"
        ).create_view("old")
        if con.table("fresh").types != con.table("old").types:
            return Earlier(False, np.zeros(0, np.int64), _none(scores))
        matches = _matches(con, pool, old, scored)
    shared = bool((matches >= 0).any())
    matches = _settled(matches, pool, np.asarray(scored))
    known = np.flatnonzero(matches >= 0)
    taken = pa.array(positions[matches[known]])
    columns = {name: array.take(taken) for name, array in values.items()}
    return Earlier(shared, _positions(pool)[known], columns)


def _opened(
    output: str,
    pool: Pool,
    roles: RoleNames,
    home: Path,
    renamed: dict[str, str],
    limits: dict[str, Any],
) -> Pool | None:
    """The output as a pool of the same rows; None where it cannot be one."""
    if not pool.sides:
        roles = {"prompt": pool.roles.prompt, "completion": pool.roles.completion}
    old = open_pool(
        [output],
        roles,
        home,
        chunk_rows=CHUNK_ROWS,
        reads=[renamed.get(name, name) for name in pool.others],
        whole=pool.whole,
        in_place=True,
        **limits,
    )
    sides = [each.sides.names if each.sides else () for each in (old, pool)]
    return old if sides[0] == sides[1] and len(old.others) == len(pool.others) else None


def _none(scores: Sequence[tuple[str, Sequence[str], pa.DataType]]) -> dict[str, pa.Array]:
    return {name: pa.array([], kind) for name, _, kind in scores}


def _values(
    old: Pool, scores: Sequence[tuple[str, Sequence[str], pa.DataType]], home: Path
) -> dict[str, pa.Array] | None:
    """The scores of all rows of the output; None where their types are others."""
    columns = [column for _, names, _ in scores for column in names]
    there = old.records.columns
    if any(there.get_field_index(column) < 0 for column in columns):
        return None
    with connected(home, old.records) as con:
        chosen = ", ".join(map(quote, columns))
        table = con.sql(f"SELECT {chosen} FROM {old.records.relation}").to_arrow_table()
    values = {}
    for name, names, kind in scores:
        try:
            sides = [table[column].cast(kind).combine_chunks() for column in names]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return None  # lists in a CSV file, say
        whole = pa.concat_arrays(sides)
        if len(sides) > 1:  # answers of a record come one after the other
            places = np.arange(len(whole)).reshape(len(sides), -1).T.reshape(-1)
            whole = whole.take(pa.array(places))
        values[name] = whole
    return values


def _matches(
    con: duckdb.DuckDBPyConnection, pool: Pool, old: Pool, scored: pa.Array
) -> npt.NDArray[np.int64]:
    """For each row of `pool` that can be scored a row of `old` that equals it; -1: there is none.

    Of equal rows one with a score is taken, of these the first.
    """
    keys = [f"fresh.{quote(name)} = old.{quote(name)}" for name in ("prompt", "completion")]
    keys += [f"fresh.{quote(name)} IS NOT DISTINCT FROM old.{quote(name)}" for name in pool.others]
    by = ["prompt", "completion", *map(quote, pool.others)]
    for name, each in (("fresh", pool), ("old", old)):
        ranks, sizes = _in_groups(each)
        places = {"place": np.arange(len(ranks)), "rank": ranks, "size": sizes}
        if not pool.whole:  # a row's score depends on the row alone
            places = {"place": places["place"], "rank": np.zeros_like(ranks), "size": 0 * sizes}
        table = pa.table(places)
        con.register(
            f"{name}_places", table.append_column("scored", scored) if name == "old" else table
        )
    columns = ", ".join(by)
    con.execute(
        "CREATE VIEW firsts AS"
        " SELECT coalesce(min(place) FILTER (WHERE scored), min(place)) AS earlier,"
        f" {columns}, rank, size FROM old JOIN old_places USING (place)"
        f" GROUP BY {columns}, rank, size"
    )
    keys = [key.replace("old.", "firsts.") for key in keys]
    rows = con.sql(
        "SELECT fresh.place, firsts.earlier FROM fresh JOIN fresh_places USING (place) JOIN firsts"
        f" ON {' AND '.join(keys)} AND fresh_places.rank = firsts.rank"
        " AND fresh_places.size = firsts.size"
    )
    matches = np.full(int(pool.bounds[-1]), -1, np.int64)
    for batch in rows.to_arrow_reader(CHUNK_ROWS * 64):
        matches[batch.column(0).to_numpy()] = batch.column(1).to_numpy()
    return matches


def _in_groups(pool: Pool) -> tuple[Longs, Longs]:
    """The place of each row in its prompt's rows, and how many these are, both of shape (rows,)."""
    rows = int(pool.bounds[-1])
    sizes = np.diff(np.append(pool.starts, rows))
    return np.arange(rows) - np.repeat(pool.starts, sizes), np.repeat(sizes, sizes)


def _settled(
    matches: npt.NDArray[np.int64], pool: Pool, scored: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int64]:
    """`matches` without rows that have no score, and of whole prompts without parts of them."""
    good = matches >= 0
    good[good] = scored[matches[good]]
    if pool.whole and len(good):
        sizes = np.diff(np.append(pool.starts, len(good)))
        good = np.repeat(np.logical_and.reduceat(good, pool.starts), sizes)
    return np.where(good, matches, -1)


def _positions(pool: Pool) -> Longs:
    """Where the rows that can be scored stand in the input."""
    return np.arange(int(pool.bounds[-1])) if pool.order is None else pool.order


def without(pool: Pool, positions: Longs, home: Path) -> Pool:
    """The pool with all but the rows at `positions` to be scored; their texts go to a file."""
    left = np.flatnonzero(~np.isin(_positions(pool), positions))
    if len(left) == int(pool.bounds[-1]):
        return pool
    return pool.only(left, home)
