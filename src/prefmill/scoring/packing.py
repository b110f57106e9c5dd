"""Packing: token rows into flat streams without padding, in which a prompt stands once.

    prompt ─┬─ completion 1    one stream: prompt · completion 1 · completion 2 · next prompt ...
            └─ completion 2    positions:  0..P-1 · P..          · P..          · 0..

Each segment sees itself, causally, and its prompt.

What is shared is the longest common prefix of the *token rows* of a group, so that the ids of a row
are the same whether or not it shares. Pure numpy.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from prefmill.models.tokens import Ints, Longs, TokenRows, common_prefix

# Sharing less than this is not worth the longer keys of a segment: measured in
# benchmarks/bench_scoring.py.
LEAST_RATIO = 1.05
# A prompt is repeated only after so many times its own tokens: what repeating it costs is below a
# tenth.
OWN_TOKENS = 10
# Keys that attention may copy for each token of the budget. A key of 8 heads of 128 is 8 kB moved,
# which takes about 0.4 % of the time of a token's matrix products in an 8B layer (arithmetic: 3.3
# TB/s, 700 TFLOP/s).
GATHERED_KEYS = 8


@dataclass(frozen=True)
class Stream:
    """One flat sequence of tokens for one forward pass.

    ids        shape (tokens,), int32
    positions  shape (tokens,), int32: place in the row, as the row alone would count
    segments   shape (segments, 4), int32: start, end, and start and end of the prefix that it sees
               (equal: none). They cover the stream in order.
    rows       shape (rows,), int64: which token rows are scored here
    own        shape (rows,), int32: the segment of each row's own tokens
    """

    ids: Ints
    positions: Ints
    segments: Ints
    rows: Longs
    own: Ints

    def __len__(self) -> int:
        return len(self.ids)

    def locate(self, slots: Longs, tokens: Longs) -> Longs:
        """Where in the stream token `tokens[i]` of row `rows[slots[i]]` stands."""
        start, _, prefix_start, prefix_end = self.segments[self.own[slots]].astype(np.int64).T
        shared = prefix_end - prefix_start
        return np.asarray(np.where(tokens < shared, prefix_start + tokens, start + tokens - shared))


@dataclass(frozen=True)
class _Unit:
    """Rows that share a prefix of `shared` tokens, or one that shares nothing, and their cost."""

    rows: tuple[int, ...]
    shared: int
    cost: int


@dataclass(frozen=True)
class Room:
    """What a stream may hold.

    tokens    of the whole stream. One prompt with its completions may take more, so that it need
              not be repeated: up to `OWN_TOKENS` times the prompt, unless `fixed`
    most      tokens that memory is known not to hold; None: it has not run out
    gathers   the most keys of its prefix that attention copies for each segment (0: it copies
              none); of all keys copied, `GATHERED_KEYS` for each token may be in a stream
    fixed     the split of a row depends on that row alone: the prefix is always its prompt
              (`starts`), whatever its neighbours are
    """

    tokens: int
    most: int | None = None
    gathers: int = 0
    fixed: bool = False

    def takes(self, shared: int, own: int, rows: int, more: int) -> bool:
        """Whether `rows` rows of `own` tokens in all, after a prefix, may get one of `more`."""
        tokens = shared + own + more
        if self.most is not None and tokens > self.most:
            return False
        if self.gathers and self.keys(shared, own + more, rows + 1) > GATHERED_KEYS * self.tokens:
            return False
        return tokens <= self.tokens or (not self.fixed and own < OWN_TOKENS * shared)

    def keys(self, shared: int, own: int, rows: int) -> int:
        """Keys copied for a prefix and `rows` rows of `own` tokens in all behind it."""
        return shared + own + rows * min(shared, self.gathers)

    def cost(self, shared: int, own: int, rows: int) -> int:
        """The tokens of a prefix and its rows, or what their keys are worth, if that is more."""
        keys = self.keys(shared, own, rows) if self.gathers else 0
        return max(shared + own, -(-keys // GATHERED_KEYS))


def pack(
    rows: TokenRows,
    which: Longs,
    budget: int | Room,
    *,
    share: bool = True,
    fixed: bool = False,
    least_ratio: float = LEAST_RATIO,
) -> list[Stream]:
    """Streams within `budget` (tokens, or what a `Room` allows) that hold the rows `which`.

    A longer row has a stream of its own. `fixed` is that of `Room`. The streams depend on the rows
    alone. Cost: O(tokens) and a sort.

    >>> rows = TokenRows.of([[1, 2, 3, 4], [1, 2, 3, 5, 6], [9]], [0, 0, 1])
    >>> [len(stream) for stream in pack(rows, np.arange(3), budget=6)]
    [6, 1]
    """
    room = budget if isinstance(budget, Room) else Room(budget, fixed=fixed)
    units: list[_Unit] = []
    for unit in _units(rows, which, share, room.fixed, least_ratio):
        units += _within(rows, unit, room)
    return [_stream(rows, units_of_stream) for units_of_stream in _bins(units, room.tokens)]


def batches(lengths: Longs, budget: int, *, alike: Longs | None = None) -> list[Longs]:
    """Places for padded batches: sorted by length, and `rows * longest <= budget`.

    No batch has two different numbers of `alike`.

    >>> batches(np.array([3, 1, 3, 1]), budget=6)
    [array([1, 3]), array([0, 2])]
    """
    kind = np.zeros(len(lengths), np.int64) if alike is None else alike
    out: list[list[int]] = []
    for i in np.lexsort((np.arange(len(lengths)), lengths, kind)).tolist():
        if out and kind[out[-1][-1]] == kind[i] and (len(out[-1]) + 1) * lengths[i] <= budget:
            out[-1].append(i)
        else:
            out.append([i])
    return [np.asarray(batch) for batch in out]


def _units(
    rows: TokenRows, which: Longs, share: bool, fixed: bool, least_ratio: float
) -> Iterable[_Unit]:
    lengths = rows.lengths
    if not share:
        yield from (_Unit((int(i),), 0, int(lengths[i])) for i in which)
        return
    groups: dict[tuple[int, int], list[int]] = {}
    for i in which.tolist():
        shared = min(int(rows.starts[i]), int(lengths[i]) - 1) if fixed else 0
        groups.setdefault((int(rows.groups[i]), shared), []).append(i)
    for (_, shared), members in groups.items():
        if not fixed:
            shared = _shared(rows, members)
        alone = int(lengths[members].sum())
        cost = shared + alone - shared * len(members)
        if fixed:
            # Equal prompts give equal ids, but the caller may group others too.
            for same in _alike(rows, members, shared):
                yield _Unit(tuple(same), shared, shared + int((lengths[same] - shared).sum()))
        elif len(members) > 1 and alone >= least_ratio * cost:
            yield _Unit(tuple(members), shared, cost)
        else:
            yield from (_Unit((i,), 0, int(lengths[i])) for i in members)


def _shared(rows: TokenRows, members: list[int]) -> int:
    """The longest common prefix of these rows that leaves every row a token of its own."""
    first = rows.row(members[0])
    shared = int(rows.lengths[members].min()) - 1
    for i in members[1:]:
        shared = min(shared, common_prefix(first[:shared], rows.row(i)[:shared]))
    return shared


def _alike(rows: TokenRows, members: list[int], shared: int) -> Iterable[list[int]]:
    by_head: dict[bytes, list[int]] = {}
    for i in members:
        by_head.setdefault(rows.row(i)[:shared].tobytes(), []).append(i)
    return by_head.values()


def _within(rows: TokenRows, unit: _Unit, room: Room) -> Iterable[_Unit]:
    """`unit`, or parts of it for which there is room: each repeats the prefix."""
    part: list[int] = []
    own = 0
    for i, length in zip(unit.rows, rows.lengths[list(unit.rows)].tolist(), strict=True):
        more = length - unit.shared
        if part and not room.takes(unit.shared, own, len(part), more):
            yield _Unit(tuple(part), unit.shared, room.cost(unit.shared, own, len(part)))
            part, own = [], 0
        part.append(i)
        own += more
    yield _Unit(tuple(part), unit.shared, room.cost(unit.shared, own, len(part)))


def _bins(units: list[_Unit], budget: int) -> list[list[_Unit]]:
    """Best fit, largest first: each unit goes where the least room is left over."""
    bins: list[list[_Unit]] = []
    room: list[tuple[int, int]] = []  # (tokens left, bin), sorted
    for unit in sorted(units, key=lambda u: (-u.cost, u.rows)):
        at = bisect_left(room, (unit.cost, -1))
        if at < len(room):
            left, number = room.pop(at)
        else:
            left, number = budget, len(bins)
            bins.append([])
        bins[number].append(unit)
        if left > unit.cost:
            insort(room, (left - unit.cost, number))
    return bins


def _stream(rows: TokenRows, units: list[_Unit]) -> Stream:
    ids: list[Ints] = []
    positions: list[Ints] = []
    segments: list[tuple[int, int, int, int]] = []
    order: list[int] = []
    own: list[int] = []
    at = 0

    def add(piece: Ints, first: int, prefix: tuple[int, int]) -> None:
        nonlocal at
        ids.append(piece)
        positions.append(np.arange(first, first + len(piece), dtype=np.int32))
        segments.append((at, at + len(piece), *prefix))
        at += len(piece)

    for unit in units:
        prefix = (at, at)
        if unit.shared:
            add(rows.row(unit.rows[0])[: unit.shared], 0, (at, at))
            prefix = (segments[-1][0], segments[-1][1])
        for i in unit.rows:
            order.append(i)
            own.append(len(segments))
            add(rows.row(i)[unit.shared :], unit.shared, prefix if unit.shared else (at, at))
    return Stream(
        np.concatenate(ids),
        np.concatenate(positions),
        np.asarray(segments, np.int32),
        np.asarray(order, np.int64),
        np.asarray(own, np.int32),
    )
