"""The old output without the rows of affected groups, and the new rows at their places."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.runs.incremental.affected import Plan
from prefmill.runs.incremental.output import Rows, Writer, batches
from prefmill.runs.incremental.rows import starts_of
from prefmill.runs.incremental.state import State
from prefmill.runs.job.order import Keys, as_keys, numbers
from prefmill.writers.sinks import Sink

_POSITIONS = ("_first", "_pos")


@dataclass(frozen=True)
class OldPart:
    """The rows of a part: their numbers of order now, and which of them stay."""

    keys: pl.DataFrame
    stays: npt.NDArray[np.bool_]
    #: Rows that go, but whose place is known.
    placed: npt.NDArray[np.bool_]
    moved: bool


class Moves:
    """Where the positions of a state are now.

    `stayed` has the rows of files that changed: (file, row, old_row), `file` as it is now.
    """

    def __init__(self, state: State, plan: Plan, rows: Sequence[int], stayed: pl.DataFrame) -> None:
        starts = starts_of(rows)
        self._old = np.array(starts_of([file.rows for file in state.files]), dtype=np.int64)
        self._shift = np.full(len(state.files), np.iinfo(np.int64).min, dtype=np.int64)
        for old, new in plan.kept.items():
            self._shift[old] = starts[new] - self._old[old]
        self._rows: dict[int, tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]] = {}
        for old, new in plan.same.items():
            some = stayed.filter(pl.col("file") == new).sort("old_row")
            old_rows = some["old_row"].to_numpy() + self._old[old]
            self._rows[old] = old_rows, some["row"].to_numpy() + starts[new]
        self.none = not self._rows and not self._shift[list(plan.kept)].any()
        #: No row of the state has another position now.
        self.none &= len(plan.kept) == len(state.files)

    def now(self, positions: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        """The positions now; -1 for rows that are gone."""
        if self.none:
            return positions
        file = np.searchsorted(self._old, positions, side="right") - 1
        shift = self._shift[file]
        moved = np.where(shift == np.iinfo(np.int64).min, -1, positions + shift)
        for old, (before, after) in self._rows.items():
            mine = np.flatnonzero(file == old)
            if not len(mine) or not len(before):
                continue
            place = np.minimum(np.searchsorted(before, positions[mine]), len(before) - 1)
            there = before[place] == positions[mine]
            moved[mine] = np.where(there, after[place], -1)
        return moved


def old_parts(
    state: State, order: Sequence[str], affected: pl.Series, moves: Moves
) -> list[OldPart]:
    """The parts of the old output, with the order that their rows have now."""
    parts = []
    for part in state.parts:
        keys = pl.read_parquet(state.homes[part.slots])
        if not moves.none:
            moved = [
                pl.Series(ours, moves.now(keys[ours].to_numpy()))
                for ours, name in zip(numbers(order), order, strict=True)
                if name in _POSITIONS
            ]
            keys = keys.with_columns(moved)
        stays = ~keys["class"].is_in(affected.implode()).to_numpy()
        placed = ~stays
        for ours, name in zip(numbers(order), order, strict=True):
            if name in _POSITIONS:
                placed &= keys[ours].to_numpy() >= 0
        parts.append(OldPart(keys, stays, placed, not moves.none))
    return parts


def bytes_of(keys: pl.DataFrame, order: Sequence[str]) -> Keys:
    """The keys of rows as bytes that compare as output order does."""
    return as_keys([keys[name].to_numpy() for name in numbers(order)])


def in_order(parts: Sequence[OldPart], order: Sequence[str]) -> bool:
    """Whether the rows that stay have the order of before."""
    last: bytes | None = None
    if not any(part.moved for part in parts):
        return True
    for part in parts:
        keys = bytes_of(part.keys.filter(part.stays), order)
        if not len(keys):
            continue
        if (last is not None and keys[0] < last) or bool((keys[:-1] > keys[1:]).any()):
            return False
        last = keys[-1]
    return True


class _Taker:
    """New rows, in order, so many at a time."""

    def __init__(self, path: Path, schema: pl.Schema) -> None:
        self._frames = batches(path, schema) if path.exists() else iter(())
        self._rest = pl.DataFrame(schema=schema)

    def take(self, count: int) -> pl.DataFrame:
        frames = [self._rest]
        there = self._rest.height
        while there < count:
            frames.append(next(self._frames))
            there += frames[-1].height
        rows = pl.concat(frames)
        self._rest = rows.slice(count)
        return rows.head(count)


def merge(
    writer: Writer,
    parts: Sequence[OldPart],
    state: State,
    files: Mapping[str, Path],
    new: tuple[Path, pl.DataFrame],
    *,
    order: Sequence[str],
    schema: pl.Schema,
    removed: Sink,
    most: int,
) -> int:
    """Write what stays and what is new to `writer`, what goes to `removed`; rows read.

    `files` are the files of the old output by the name of the part, `new` the file of the new rows
    and their keys.
    """
    path, new_keys = new
    taker = _Taker(path, schema)
    keys = bytes_of(new_keys, order)
    bounds = _bounds(parts, keys, order, small=writer.out is None or state.parts[-1].rows < most)
    read = 0
    for number, (part, old) in enumerate(zip(parts, state.parts, strict=True)):
        mine = slice(bounds[number], bounds[number + 1])
        if writer.out is not None and part.stays.all() and mine.start == mine.stop:
            writer.link(files[old.name], old, part.keys if part.moved else None)
            continue
        read += old.rows
        for rows in _merged(
            part, files[old.name], taker, new_keys[mine], keys[mine], order, schema, removed
        ):
            writer.write(rows)
        # The parts after it stay what they are.
        writer.cut()
    rest = slice(bounds[-1], len(keys))
    if rest.start < rest.stop:
        writer.write((taker.take(rest.stop - rest.start), new_keys[rest]))
    return read


def _bounds(
    parts: Sequence[OldPart], keys: Keys, order: Sequence[str], *, small: bool
) -> list[int]:
    """The first new row of each part; what comes after the last part is one more.

    A new row goes to the part where its group had a row, or else where its neighbours are.
    """
    bounds = [len(keys)]
    following: bytes | None = None
    for number in range(len(parts) - 1, -1, -1):
        part = parts[number]
        if part.stays.all():  # in order, so its ends say all
            kept = bytes_of(part.keys[[0, -1]] if part.keys.height else part.keys, order)
            gone = kept[:0]
        else:
            kept = bytes_of(part.keys.filter(part.stays), order)
            gone = np.sort(bytes_of(part.keys.filter(part.placed), order))
        if following is not None:  # those before the rows of the next part
            gone = gone[gone < following]
        last = max((some[-1] for some in (kept, gone) if len(some)), default=None)
        if number == len(parts) - 1 and small:
            bounds.append(len(keys))
        elif last is None:
            bounds.append(-1)  # as the part before it
        else:
            bounds.append(int(np.searchsorted(keys, last, side="right")))
        if len(kept):
            following = kept[0]
    ends = bounds[:0:-1]
    starts, at = [0], 0
    for end in ends:
        at = max(at, end)
        starts.append(at)
    return starts


def _merged(
    part: OldPart,
    path: Path,
    taker: _Taker,
    new_keys: pl.DataFrame,
    keys: Keys,
    order: Sequence[str],
    schema: pl.Schema,
    removed: Sink,
) -> Iterator[Rows]:
    """The rows of one part that stay, with new ones between them."""
    kept_keys = part.keys.filter(part.stays)
    places = np.searchsorted(bytes_of(kept_keys, order), keys)
    first = before = done = 0
    for frame in batches(path, schema):
        stays = part.stays[first : first + frame.height]
        first += frame.height
        kept = frame
        if not stays.all():
            kept = frame.filter(stays)
            removed.write(frame.filter(~stays))
        until = int(np.searchsorted(places, before + kept.height))
        yield _interleaved(
            (kept, kept_keys.slice(before, kept.height)),
            (taker.take(until - done), new_keys[done:until]),
            places[done:until] - before,
        )
        before, done = before + kept.height, until
    if done < len(keys):
        yield taker.take(len(keys) - done), new_keys[done:]


def _interleaved(old: Rows, new: Rows, places: npt.NDArray[np.int64]) -> Rows:
    """Rows of both, each of `new` before the row of `old` at its place."""
    if not new[0].height:
        return old
    height = old[0].height
    taken = np.insert(np.arange(height), places, height + np.arange(new[0].height))
    frame, keys = (pl.concat([one, two])[taken] for one, two in zip(old, new, strict=True))
    return frame, keys
