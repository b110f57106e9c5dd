"""The stages of a plan's run over buckets: pure functions of files, run by any worker.

    narrow    a split of the input   ──▶ its narrow rows, by bucket of the prompt
    look      a bucket               ──▶ what thresholds ask of the scores
    rank      a bucket               ──▶ slots in output order, and the positions wanted, by split
    fetch     a split                ──▶ the texts of wanted positions, by part of the output
    account   a bucket               ──▶ its report again, where pairs were of one text twice

The steps are those of a local run, on the same engine. Rows that share a prompt share a bucket, so
a step sees whole groups; positions are global, so it orders and draws as a local run does. Prompts
cross the network as keys, and of texts those that come out: once.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.connection import connect, share_of
from prefmill.engines import sql
from prefmill.engines.macros import install_used
from prefmill.engines.steps import Program
from prefmill.rules.rows import UNUSABLE
from prefmill.runs.assembly import Assembly
from prefmill.runs.cluster.pieces import Done, Piece, Readable, by_key, plain
from prefmill.runs.cluster.splits import Records, Split
from prefmill.runs.gather import finder

#: Rows of a batch of slots: what is read of a bucket for one part of the output.
SLOT_ROWS = 16_384
#: Keys of a bucket's slots that say how the output can be divided.
_SAMPLE = 256
#: Different scores that are told: up to three of them are labels or verdicts, more are not.
_FEW = 4
_FRAME_ROWS = 50_000
#: Rows of texts that are read at a time.
_FETCH_ROWS = 30_000
#: The first so many texts that are no score, in a message.
_BAD = 3
#: Columns that begin with a position of a prompt's own: no other prompt has it.
_OWN = ("_first", "_pos")
#: How many groups have answers with different scores.
CONTRAST = (
    "SELECT count(*) AS rows FROM groups"
    " WHERE pref_key_score(_ranks[1]) <> pref_key_score(_ranks[-1])"
)
#: A key of output order, as bytes whose order is that of the numbers.
Keys = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Work:
    """All that workers are told of a run; the same for every task.

    program    of the plan, with numbers for thresholds once they are known
    last_stage the largest stage of the input, where only its rows count
    raises     a row that cannot be used is an error
    texts_read steps compare completions, so these travel with the narrow rows
    waits      thresholds wait for the scores of all candidates
    texts      columns of scores that are no numbers
    carried    further columns of the input that travel along, as `_keep0`, `_keep1` ...
    numbered   the columns of narrow rows, once one split has been read
    large      buckets whose narrow rows are not held in memory
    """

    program: Program
    assembly: Assembly
    records: Records
    splits: tuple[Split, ...]
    buckets: int
    never_null: frozenset[str]
    scalars: Mapping[str, str]
    texts: tuple[str, ...]
    raises: bool
    waits: bool
    texts_read: bool
    shelf: Readable
    numbered: pa.Schema | None = None
    large: frozenset[int] = frozenset()
    carried: tuple[str, ...] = ()
    last_stage: int | None = None
    memory_bytes: int | None = None
    threads: int = 1
    temp_dir: str | None = None

    @property
    def starts(self) -> npt.NDArray[np.int64]:
        """The first position of each split, and the one after the last, shape (splits + 1,)."""
        return np.array(self.records.starts(self.splits), np.int64)

    @property
    def merged(self) -> bool:
        """Whether several rows can be one candidate."""
        return self.program.read.merged

    @property
    def part_key(self) -> tuple[str, ...]:
        """The columns of output order that say in which part of the output a slot is."""
        order = self.program.output.order
        return order[:1] if order[0] in _OWN else order


@contextmanager
def _opened(work: Work) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection of one task."""
    with tempfile.TemporaryDirectory(prefix="prefmill-", dir=work.temp_dir) as home:
        share = share_of(work.memory_bytes) if work.memory_bytes else None
        con = connect(
            temp_dir=Path(home),
            memory_bytes=share,
            threads=work.threads,
            remote=work.records.remote,
            ordered=True,
        )
        with con:
            con.execute("SET arrow_large_buffer_size = true")
            yield con


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
    with _opened(work) as con, work.records.told():
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
        note["scores"] = _limits(con)
    return note


def _limits(con: duckdb.DuckDBPyConnection) -> list[Any]:
    """Smallest and largest score of a candidate, and all different ones where they are few."""
    ((low, high),) = con.execute(
        "SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL"
    ).fetchall()
    few = con.execute(
        f"SELECT DISTINCT _score FROM candidates WHERE _reason IS NULL LIMIT {_FEW}"
    ).fetchall()
    return [low, high, [score for (score,) in few]]


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
    with _opened(work) as con:
        if number in work.large:  # DuckDB spills what does not fit
            con.register("_narrow", pa.RecordBatchReader.from_batches(work.numbered, batches))
            con.execute("CREATE TABLE numbered AS FROM _narrow")
        else:
            con.register("numbered", pa.Table.from_batches(batches, work.numbered))
        _install(con, work)
        yield con


def look(work: Work, number: int) -> Done:
    """The limits of the scores of a bucket, for thresholds that wait for them."""
    with _bucket(work, number) as con:
        _make(con, work, until="candidates")
        return Done(note={"scores": _limits(con)})


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
        columns = [*work.assembly.slot_columns(), *_order_columns(output.order)]
        order = ", ".join(_numbers(output.order))
        query = f"SELECT {', '.join(columns)} FROM {rows} ORDER BY {order}"
        slots = con.sql(query).to_arrow_table()
        report = _report(con, work, slots)
        note = {"slots": slots.num_rows, "scores": _limits(con), "report": report}
        if output.paired:
            ((note["contrast"],),) = con.execute(CONTRAST).fetchall()
    slots = slots.combine_chunks()
    starts = range(0, slots.num_rows, SLOT_ROWS)
    keys = keys_of(slots, work)
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
        same = same.select(sides).unique().with_columns(_same_text=True)
        told = pairs.join(same, on=sides, how="left").with_columns(
            pl.col("_same_text").fill_null(value=False)
        )
        return Done(note={"report": _row(con, work, told.to_arrow())})


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


def _numbers(order: Sequence[str]) -> list[str]:
    return [f"_o{place}" for place in range(len(order))]


def _order_columns(order: Sequence[str]) -> list[str]:
    """Columns of order as numbers that all ascend."""
    return [
        f"{f'-{name[1:]}' if name[0] == '-' else name}::BIGINT AS _o{place}"
        for place, name in enumerate(order)
    ]


def keys_of(slots: pa.Table, work: Work) -> Keys:
    """The key of each slot by which the output is divided, shape (slots,)."""
    return as_keys([slots[name].to_numpy() for name in _key_numbers(work)])


def _key_numbers(work: Work) -> list[str]:
    order = work.program.output.order
    return [f"_o{order.index(name)}" for name in work.part_key]


def as_keys(columns: Sequence[npt.NDArray[np.int64]]) -> Keys:
    """Rows of numbers as bytes of the same order, shape (rows,).

    >>> keys = as_keys([np.array([1, 1, -2]), np.array([5, 300, 7])])
    >>> np.argsort(keys).tolist()
    [2, 0, 1]
    """
    lifted = [(column.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)) for column in columns]
    table = np.stack(lifted, axis=1).astype(">u8") if lifted else np.zeros((0, 1), ">u8")
    return np.ascontiguousarray(table).view(f"S{8 * table.shape[1]}").reshape(-1)


def _wanted(work: Work, slots: pa.Table) -> list[Piece]:
    """The positions that slots want, each with its place in output order, by split."""
    numbers = _key_numbers(work)
    sides = list(work.program.output.texts.values())
    frame = pl.DataFrame(slots.select([*sides, *numbers]))
    each = [frame.select(pl.col(side).alias("_wanted"), *numbers) for side in sides]
    wanted = pl.concat(each).unique().sort("_wanted")
    splits = np.searchsorted(work.starts, wanted["_wanted"].to_numpy(), side="right") - 1
    return by_key(wanted.to_arrow(), splits)


# Fetch


@dataclass(frozen=True)
class Parts:
    """The output in parts, by its order: the first key of each part but the first."""

    bounds: tuple[bytes, ...]
    width: int  #: bytes of a key

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.bounds) + 1

    def of(self, keys: Keys) -> npt.NDArray[np.int64]:
        """The part of each key, shape (keys,)."""
        if not self.bounds:
            return np.zeros(len(keys), np.int64)
        return np.searchsorted(np.array(self.bounds, f"S{self.width}"), keys, side="right")

    def keys_in(self, part: int, starts: Sequence[str]) -> list[int]:
        """The keys of the batches of a bucket with slots of a part; `starts` are their first."""
        if not starts:
            return []
        parts = self.of(np.array([bytes.fromhex(start) for start in starts], f"S{self.width}"))
        ends = [*parts[1:], self.count - 1]
        return [
            -1 - place
            for place, (first, last) in enumerate(zip(parts, ends, strict=True))
            if first <= part <= last
        ]


def fetch(work: Work, number: int, *, parts: Parts) -> Done:
    """The texts of split `number` that are wanted, by part of the output."""
    batches = list(work.shelf.read("wanted", range(work.buckets), [number]))
    if not batches:
        return Done()
    wanted = pa.Table.from_batches([plain(batch) for batch in batches])
    keys = as_keys([wanted[name].to_numpy() for name in _key_numbers(work)])
    needed = {"_pos": wanted["_wanted"].to_numpy(), "_part": parts.of(keys)}
    split, assembly = work.splits[number], work.assembly
    with _opened(work) as con, work.records.told():
        roles = assembly.roles
        wide = {roles.prompt, roles.completion, *assembly.keep}
        relation, position = work.records.relation(split, con, wide, checked=True)
        con.execute(f"CREATE VIEW texts AS {assembly.texts(relation, position)}")
        con.register("needed", pl.DataFrame(needed).unique().to_arrow())
        columns = ", ".join(["_pos", *assembly.columns_read(), "_part"])
        query = f"SELECT {columns} FROM texts JOIN needed USING (_pos)"
        reader = con.sql(query).to_arrow_reader(_FETCH_ROWS)
        schema = pa.schema([each for each in reader.schema if each.name != "_part"])
        pieces: list[Piece] = []
        note = {"rows": 0, "bytes": 0}
        # Texts are copied once, while they are in the processor's cache.
        for batch in reader:
            rows = pa.Table.from_batches([batch])
            note["rows"] += rows.num_rows
            note["bytes"] += rows.nbytes
            part_of = rows["_part"].to_numpy()
            pieces += by_key(rows.drop_columns("_part"), part_of)
    return Done(pieces, note, schema)


# Assemble


@dataclass(frozen=True)
class Part:
    """One part of the output: `slots` are, of each bucket with any, the keys of their batches."""

    number: int
    slots: tuple[tuple[int, tuple[int, ...]], ...]


def frames_of(work: Work, parts: Parts, part: Part, same: list[Piece]) -> Iterator[pl.DataFrame]:
    """The rows of a part, in order, some at a time; pairs of one text go to `same`, by bucket."""
    slots = _slots_of(work, parts, part)
    if not slots.height:
        return
    batches = work.shelf.read("fetch", range(len(work.splits)), [part.number])
    rows = pl.DataFrame(pa.Table.from_batches([plain(batch) for batch in batches])).rechunk()
    where = finder(rows["_pos"].to_numpy())
    sides = list(work.program.output.texts.values())
    for some in slots.iter_slices(_FRAME_ROWS):
        frame, doubled = work.assembly.frame(some, rows, where)
        if doubled is not None:
            left_out = some.filter(doubled).select("_bucket", *sides)
            same += by_key(left_out.drop("_bucket").to_arrow(), left_out["_bucket"].to_numpy())
        yield frame


def compared(work: Work, number: int, *, parts: Parts, listed: Sequence[Part]) -> Done:
    """The pairs of part `number` that are of one text, by bucket; nothing is written."""
    same: list[Piece] = []
    for _ in frames_of(work, parts, listed[number], same):
        pass
    return Done(same)


def _slots_of(work: Work, parts: Parts, part: Part) -> pl.DataFrame:
    """The slots of a part, in output order, each with its bucket."""
    frames = []
    for bucket, keys in part.slots:
        batches = [plain(batch) for batch in work.shelf.read("rank", [bucket], keys)]
        slots = pa.Table.from_batches(batches)
        inside = parts.of(keys_of(slots, work)) == part.number
        frames.append(
            pl.DataFrame(slots).filter(pl.Series(inside)).with_columns(_bucket=pl.lit(bucket))
        )
    if not frames:
        return pl.DataFrame()
    return pl.concat(frames).sort(_numbers(work.program.output.order))
