"""The stages that gather: texts of the slots, once, and the parts of the output.

fetch     a split   ──▶ the texts of wanted positions, by part of the output
compared  a part    ──▶ its pairs of one text, where nothing is written
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.runs.cluster.pieces import Done, Piece, by_key, plain
from prefmill.runs.cluster.work import Work, opened
from prefmill.runs.job.gather import finder
from prefmill.runs.job.order import Keys, as_keys, keys_of, numbers, part_key

_FRAME_ROWS = 50_000
#: Rows of texts that are read at a time.
_FETCH_ROWS = 30_000


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
    keys = as_keys([wanted[name].to_numpy() for name in part_key(work.program.output.order)])
    needed = {"_pos": wanted["_wanted"].to_numpy(), "_part": parts.of(keys)}
    split, assembly = work.splits[number], work.assembly
    with opened(work) as con, work.records.told():
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
    """The rows of a part, in order, some at a time; pairs without one go to `same`, by bucket."""
    slots = _slots_of(work, parts, part)
    if not slots.height:
        return
    batches = work.shelf.read("fetch", range(len(work.splits)), [part.number])
    rows = pl.DataFrame(pa.Table.from_batches([plain(batch) for batch in batches])).rechunk()
    where = finder(rows["_pos"].to_numpy())
    sides = list(work.program.output.texts.values())
    for some in slots.iter_slices(_FRAME_ROWS):
        frame, why = work.assembly.frame(some, rows, where)
        if why is not None:
            told = some.select("_bucket", *sides, _excluded=why != "")
            left_out = told.filter(why.is_not_null())
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
    order = work.program.output.order
    frames = []
    for bucket, keys in part.slots:
        batches = [plain(batch) for batch in work.shelf.read("rank", [bucket], keys)]
        slots = pa.Table.from_batches(batches)
        inside = parts.of(keys_of(slots, order)) == part.number
        frames.append(
            pl.DataFrame(slots).filter(pl.Series(inside)).with_columns(_bucket=pl.lit(bucket))
        )
    if not frames:
        return pl.DataFrame()
    return pl.concat(frames).sort(numbers(order))
