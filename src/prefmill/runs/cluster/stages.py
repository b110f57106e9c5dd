"""The stages that rank: pure functions of pieces, run by any worker.

    narrow    a split of the input   ──▶ its narrow rows, by bucket of the prompt
    count     a bucket               ──▶ what thresholds ask of the scores
    rank      a bucket               ──▶ slots in output order, and the positions wanted, by split
    account   a bucket               ──▶ its report again, where pairs were of one text twice

Texts are fetched after that (`texts.py`). The steps are those of a local run, on the same engine.
Rows that share a prompt share a bucket, so a step sees whole groups; positions are global, so it
orders and draws as a local run does. Prompts cross the network as keys, and of texts those that
come out: once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa

from prefmill.engines import sql
from prefmill.engines.macros import install_used
from prefmill.rules.rows import UNUSABLE
from prefmill.rules.tallies import Look, tally
from prefmill.runs.cluster.pieces import Done, Piece, by_key, plain
from prefmill.runs.cluster.work import Work, opened
from prefmill.runs.job.excluding import moved, rows_excluded
from prefmill.runs.job.order import keys_of, numbers, order_columns, part_key

#: Rows of a batch of slots: what is read of a bucket for one part of the output.
SLOT_ROWS = 16_384
#: Keys of a bucket's slots that say how the output can be divided.
_SAMPLE = 256
_SCALE = "SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL"
#: The first so many texts that are no score, in a message.
_BAD = 3
#: How many groups have answers with different scores.
CONTRAST = (
    "SELECT count(*) AS rows FROM groups"
    " WHERE pref_key_score(_ranks[1]) <> pref_key_score(_ranks[-1])"
)


def _install(con: duckdb.DuckDBPyConnection, work: Work) -> None:
    """The macros that the steps call, and those of what is asked of them."""
    output = work.program.output
    more = [sql.call(step) for step in (output.report, output.proposals) if step]
    install_used(con, [*(query for _, _, query in sql.relations(work.program)), *more])


# Narrow

# A prompt, or a column of a group, may be null; such rows count for no prompt.
_NARROW = (
    "SELECT *{there}, coalesce((pref_hash({key}, 'bucket') % {buckets})::BIGINT, 0) AS _bucket"
    " FROM numbered"
)


def _unread(work: Work) -> dict[str, str]:
    """Texts that are no keys, by our name for them."""
    roles = work.program.read.roles
    unread = {} if work.texts_read else {"_completion": roles.completion}
    return unread | ({"_prompt": roles.prompt} if roles.group else {})


def _spared(work: Work) -> set[str]:
    """The columns of which nothing is asked but whether a value is there, and all are."""
    unread, names = _unread(work), work.program.read.columns()
    others = {name for ours, name in names.items() if ours not in unread} | {*work.carried}
    return {name for name in unread.values() if name in work.never_null} - others


def _presence(work: Work) -> str:
    """Texts that are no keys travel as whether they are there."""
    flags = []
    for ours, name in _unread(work).items():
        there = "''" if name in work.never_null else f"CASE WHEN {ours} IS NOT NULL THEN '' END"
        flags.append(f"{there} AS {ours}")
    return f" REPLACE ({', '.join(flags)})" if flags else ""


def narrow(work: Work, number: int) -> Done:
    """Split `number`: the columns that are ranked, by bucket.

    The note has the scores' limits, the largest stage, and rows that cannot be used.
    """
    split = work.splits[number]
    with opened(work) as con, work.records.told():
        read = work.program.read
        columns = {*read.columns().values(), *work.carried}
        relation, position = work.records.relation(split, con, columns, spared=_spared(work))
        con.execute(
            "CREATE VIEW numbered AS "
            + sql.numbered(read, relation, position, work.scalars, work.carried)
        )
        key = "_prompt"
        if groups := read.roles.group:
            key = f"[{', '.join(f'_group{place}::VARCHAR' for place in range(len(groups)))}]"
        wanted = {"there": _presence(work), "key": key, "buckets": work.buckets}
        install_used(con, [_NARROW])
        rows = con.sql(_NARROW.format(**wanted)).to_arrow_table()
        buckets = rows["_bucket"].to_numpy()
        rows = rows.drop_columns("_bucket")
        con.execute("DROP VIEW numbered")
        con.register("numbered", rows)
        note = {"rows": rows.num_rows, "bytes": rows.nbytes, **_seen(work, con)}
        pieces = by_key(rows, buckets)
        note["dealt"] = [[each.key, each.rows.num_rows, each.rows.nbytes] for each in pieces]
        return Done(pieces, note, rows.schema)


def _seen(work: Work, con: duckdb.DuckDBPyConnection) -> dict[str, Any]:
    """What a split says of all rows, so that the driver knows it before a bucket is ranked."""
    read, note = work.program.read, {}
    waits = work.waits and not work.merged and not read.last_stage
    if read.last_stage or work.texts or waits or work.raises:
        _install(con, work)
    if read.last_stage:
        ((note["stage"],),) = con.execute("SELECT max(pref_stage(_stage)) FROM numbered").fetchall()
    if work.texts:
        words = " UNION ALL ".join(
            f"SELECT {name}::VARCHAR AS word, _pos FROM numbered"
            f" WHERE {name} IS NOT NULL AND pref_number({name}) IS NULL"
            for name in work.texts
        )
        query = f"SELECT min(_pos) AS pos, word FROM ({words}) GROUP BY word ORDER BY 1"
        note["bad"] = con.execute(f"{query} LIMIT {_BAD}").fetchall()
    if work.raises and (refused := _unusable(con, work)):
        return note | {"unusable": refused}
    if waits:
        _make(con, work, until="candidates")
        note["tally"] = _tallied(con, Look())
    return note


def _tallied(con: duckdb.DuckDBPyConnection, look: Look) -> list[list[Any]]:
    """The bins of the candidates' scores that `look` asks for, as rows of `tallies.COLUMNS`."""
    scores = con.sql("SELECT _score FROM candidates WHERE _reason IS NULL").to_arrow_table()
    return [list(row) for row in tally(pl.DataFrame(scores)["_score"], look).iter_rows()]


# Rank


def _make(con: duckdb.DuckDBPyConnection, work: Work, *, until: str = "") -> None:
    """Make the relations up to `until`, or all."""
    stage = work.last_stage if work.program.read.last_stage else None
    for step, name, query in sql.relations(work.program, work.never_null, last_stage=stage):
        kind = "TABLE" if step is not None and step.table else "VIEW"
        con.execute(f"CREATE {kind} {name} AS {query}")
        if name == until:
            return


@contextmanager
def _bucket(work: Work, number: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection with the rows of one bucket as `numbered`."""
    batches = map(plain, work.shelf.read("narrow", range(len(work.splits)), [number]))
    with opened(work) as con:
        if number in work.large:  # DuckDB spills what does not fit
            con.register("_narrow", pa.RecordBatchReader.from_batches(work.numbered, batches))
            con.execute("CREATE TABLE numbered AS FROM _narrow")
        else:
            con.register("numbered", pa.Table.from_batches(batches, work.numbered))
        _install(con, work)
        yield con


def count(work: Work, number: int, *, look: Look) -> Done:
    """The tally of a bucket's scores, for thresholds that wait for all of them."""
    with _bucket(work, number) as con:
        _make(con, work, until="candidates")
        return Done(note={"tally": _tallied(con, look)})


def rank(work: Work, number: int) -> Done:
    """Bucket `number` ranked: its slots in output order, and the positions they want, by split.

    Slots have the keys -1, -2, ...: so many rows each.
    """
    output = work.program.output
    with _bucket(work, number) as con:
        _make(con, work)
        rows = output.step
        if output.present:
            rows = f"{rows} WHERE {output.present} IS NOT NULL"
        columns = [*work.assembly.slot_columns(), *order_columns(output.order)]
        order = ", ".join(numbers(output.order))
        query = f"SELECT {', '.join(columns)} FROM {rows} ORDER BY {order}"
        slots = con.sql(query).to_arrow_table()
        report = _report(con, work, slots)
        note = {"slots": slots.num_rows, "report": report}
        (note["scale"],) = con.execute(_SCALE).fetchall()
        if output.paired:
            ((note["contrast"],),) = con.execute(CONTRAST).fetchall()
    slots = slots.combine_chunks()
    starts = range(0, slots.num_rows, SLOT_ROWS)
    keys = keys_of(slots, output.order)
    note["starts"] = [keys[at].hex() for at in starts]
    note["sample"] = [key.hex() for key in keys[:: max(1, len(keys) // _SAMPLE)]]
    ranked = [Piece(-1 - at // SLOT_ROWS, slots.slice(at, SLOT_ROWS)) for at in starts]
    return Done(ranked, note, beside={"wanted": _wanted(work, slots)})


def _unusable(con: duckdb.DuckDBPyConnection, work: Work) -> list[Any]:
    """The reason and position of the first row that cannot be used, or nothing."""
    con.execute(f"CREATE VIEW _judged AS {sql.judged(work.program.read, work.never_null)}")
    ((reason, position),) = con.execute(
        "SELECT arg_min(_reason, _pos), min(_pos)"
        f" FROM pref_rows('_judged') WHERE _reason IN {UNUSABLE}"
    ).fetchall()
    return [position, reason] if reason else []


def name_of(query: str) -> str:
    """A name that no other query has."""
    return hashlib.md5(query.encode(), usedforsecurity=False).hexdigest()[:12]


def ask(work: Work, number: int, *, query: str, until: str) -> Done:
    """The rows of a query over a bucket's relations, made up to `until`."""
    with _bucket(work, number) as con:
        install_used(con, [query])
        _make(con, work, until=until)
        rows = con.sql(query).to_arrow_table()
        return Done([Piece(0, rows)], schema=rows.schema)


def propose(work: Work, number: int) -> Done:
    """How many rows a bucket proposes, and its largest group, before they are made."""
    step = work.program.output.proposals
    assert step is not None
    with _bucket(work, number) as con:
        _make(con, work, until=step.over[0])
        ((proposals, largest),) = con.execute(sql.call(step)).fetchall()
        return Done(note={"proposals": int(proposals), "largest": largest})


def account(work: Work, number: int, *, parts: int) -> Done:
    """The report of a bucket again, where pairs of it are of one text twice: `same` has them."""
    output = work.program.output
    sides = list(output.texts.values())
    batches = work.shelf.read("same", range(parts), [number])
    same = pl.DataFrame(pa.Table.from_batches([plain(batch) for batch in batches]))
    with _bucket(work, number) as con:
        _make(con, work)
        columns = ", ".join([*output.also, *sides])
        pairs = pl.DataFrame(con.sql(f"SELECT {columns} FROM {output.step}").to_arrow_table())
        same = same.select(*sides, "_excluded").unique().with_columns(_same_text=True)
        told = pairs.join(same, on=sides, how="left").with_columns(
            pl.col("_same_text", "_excluded").fill_null(value=False)
        )
        row = _row(con, work, told.to_arrow())
        if told["_excluded"].any():
            row[3] = moved(dict(row[3]), rows_excluded(con, "_told"))
        return Done(note={"report": row, "excluded": int(told["_excluded"].sum())})


def _report(con: duckdb.DuckDBPyConnection, work: Work, slots: pa.Table) -> list[Any]:
    """The row of the report of one bucket; pairs of one text are not known yet."""
    output = work.program.output
    if output.paired:
        told = slots.select([*output.also, *output.texts.values()])
        return _row(con, work, told.append_column("_same_text", _falses(len(told))))
    return _row(con, work, None)


def _falses(rows: int) -> pa.Array:
    return pa.array(np.zeros(rows, bool))


def _row(con: duckdb.DuckDBPyConnection, work: Work, told: Any) -> list[Any]:
    output, views = work.program.output, {}
    if told is not None:
        con.register("_told", told)
        views["told"] = "_told"
    (row,) = con.execute(sql.call(output.report, views)).fetchall()
    return list(row)


def _wanted(work: Work, slots: pa.Table) -> list[Piece]:
    """The positions that slots want, each with its place in output order, by split."""
    numbers = part_key(work.program.output.order)
    sides = list(work.program.output.texts.values())
    frame = pl.DataFrame(slots.select([*sides, *numbers]))
    each = [frame.select(pl.col(side).alias("_wanted"), *numbers) for side in sides]
    wanted = pl.concat(each).unique().sort("_wanted")
    splits = np.searchsorted(work.starts, wanted["_wanted"].to_numpy(), side="right") - 1
    return by_key(wanted.to_arrow(), splits)
