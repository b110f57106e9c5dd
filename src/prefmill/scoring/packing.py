"""Packing: token rows into flat streams without padding, in which what they share stands once.

    prompt ─┬─ completion 1    one stream: prompt · completion 1 · completion 2 · next prompt ...
            └─ completion 2    positions:  0..P-1 · P..          · P..          · 0..

Each segment sees itself, causally, and the segments on its path. A stream is a stretch of a forest
(`forest.py`) in depth-first order. Where it is cut within a tree, the next stream goes on: the keys
and values of the path so far, its `past`, are handed on, and no token runs twice. Pure numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from prefmill.models.tokens import Ints, Longs, TokenRows
from prefmill.scoring import forest as forests
from prefmill.scoring.forest import LEAST_SAVED, Forest

# Keys that attention may copy for each token of the budget. A key of 8 heads of 128 is 8 kB moved,
# which takes about 0.4 % of the time of a token's matrix products in an 8B layer (arithmetic: 3.3
# TB/s, 700 TFLOP/s).
GATHERED_KEYS = 8

_NONE = np.zeros(0, np.int32)


@dataclass(frozen=True)
class Stream:
    """One flat sequence of tokens for one forward pass.

    What it goes on from stands before it: place p < `past` is token p of the path so far, and place
    `past` + t is token t of the stream.

    ids        shape (tokens,), int32
    positions  shape (tokens,), int32: place in the row, as the row alone would count
    segments   shape (segments, 2), int32: start and end. They cover the stream in order, every
               segment before its descendants, and these together
    parents    shape (segments,), int32: the segment that it goes on from; -1: none of this stream
    behind     shape (segments,), int32: how many tokens of the past are on its path
    rows       shape (rows,), int64: which token rows are scored here
    own        shape (rows,), int32: the segment in which each row ends
    past       how many tokens the path has that the stream goes on from
    keep       shape (kept,), int32: the places of the past of the next stream
    """

    ids: Ints
    positions: Ints
    segments: Ints
    parents: Ints
    behind: Ints
    rows: Longs
    own: Ints
    past: int = 0
    keep: Ints = field(default_factory=lambda: _NONE)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def firsts(self) -> Longs:
        """How many tokens stand before each segment on its path, shape (segments,)."""
        return self.positions[self.segments[:, 0]].astype(np.int64)

    def locate(self, slots: Longs, tokens: Longs) -> Longs:
        """At which place token `tokens[i]` of row `rows[slots[i]]` stands."""
        # The last stands for the past, which begins with the row itself.
        starts = np.append(self.segments[:, 0].astype(np.int64) + self.past, 0)
        firsts = np.append(self.firsts, 0)
        at = self.own[slots].astype(np.int64)
        while (above := tokens < firsts[at]).any():
            at[above] = self.parents[at[above]]
        return np.asarray(starts[at] + tokens - firsts[at])


@dataclass(frozen=True)
class Room:
    """What a stream may hold.

    tokens    of the stream; a longer segment has a stream of its own
    most      tokens that memory is known not to hold; None: it has not run out
    gathers   the most keys of its path that attention copies for each segment (0: it copies
              none); of all keys copied, `GATHERED_KEYS` for each token may be in a stream
    fixed     the cuts of a row depend on that row alone, whatever its neighbours are
    """

    tokens: int
    most: int | None = None
    gathers: int = 0
    fixed: bool = False

    def takes(self, tokens: int, keys: int) -> bool:
        """Whether a stream may have so many tokens, for which attention copies so many keys."""
        limit = self.tokens if self.most is None else min(self.tokens, self.most)
        return tokens <= limit and not (self.gathers and keys > GATHERED_KEYS * self.tokens)

    def keys(self, behind: int, own: int) -> int:
        """Keys copied for a segment of `own` tokens after `behind` others."""
        return own + min(behind, self.gathers)


def pack(
    rows: TokenRows,
    which: Longs,
    budget: int | Room,
    *,
    share: bool = True,
    fixed: bool = False,
    least: int = LEAST_SAVED,
    depth: int | None = None,
) -> list[Stream]:
    """Streams within `budget` (tokens, or what a `Room` allows) that hold the rows `which`.

    They are to run in this order: one may go on from the one before it. They depend on the rows
    alone. `fixed` is that of `Room`; `least` as in `forest.trie`; `depth` 1 shares one beginning in
    each group, and no more. Cost: a sort of the rows.

    >>> rows = TokenRows.of([[1, 2, 3, 4], [1, 2, 3, 5, 6], [9]])
    >>> [len(stream) for stream in pack(rows, np.arange(3), budget=6, least=0)]
    [6, 1]
    """
    room = budget if isinstance(budget, Room) else Room(budget, fixed=fixed)
    if not share:
        return cut(rows, forests.alone(rows, which), room)
    if room.fixed:
        return cut(rows, forests.blocks(rows, which), room)
    grow = forests.groups if depth == 1 else forests.trie
    return cut(rows, grow(rows, which, least), room)


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


def cut(rows: TokenRows, forest: Forest, room: Room) -> list[Stream]:
    """A forest in streams, each a stretch of its nodes."""
    own, firsts = (forest.ends - forest.firsts).tolist(), forest.firsts.tolist()
    streams: list[Stream] = []
    ending = np.argsort(forest.own, kind="stable")
    bounds = np.searchsorted(forest.own[ending], np.arange(len(forest) + 1))
    begin = tokens = keys = past = 0
    for node in range(len(forest) + 1):
        last = node == len(forest)
        if not last:
            more, copied = own[node], room.keys(firsts[node], own[node])
            if node == begin or room.takes(tokens + more, keys + copied):
                tokens, keys = tokens + more, keys + copied
                continue
        if begin == node:
            break
        here = ending[bounds[begin] : bounds[node]]
        keep = _NONE if last else _path(forest, begin, node, past)
        streams.append(_stream(rows, forest, slice(begin, node), np.sort(here), past, keep))
        begin, past = node, len(keep)
        if not last:
            tokens, keys = more, copied
    return streams


def _path(forest: Forest, begin: int, node: int, past: int) -> Ints:
    """Where the tokens before `node` on its path stand in a stream that begins at `begin`."""
    length = forest.ends - forest.firsts
    starts = np.cumsum(length[begin:node]) - length[begin:node] + past
    pieces: list[Ints] = []
    above = int(forest.parents[node])
    while above >= begin:
        start = int(starts[above - begin])
        pieces.append(np.arange(start, start + int(length[above]), dtype=np.int32))
        above = int(forest.parents[above])
    if above >= 0:  # the rest is the past of that stream, from its beginning
        pieces.append(np.arange(int(forest.ends[above]), dtype=np.int32))
    return np.concatenate([_NONE, *reversed(pieces)])


def _stream(
    rows: TokenRows, forest: Forest, part: slice, places: Longs, past: int, keep: Ints
) -> Stream:
    """The nodes `part` and the rows at `places` of the forest that end in them."""
    firsts, ends = forest.firsts[part].astype(np.int64), forest.ends[part].astype(np.int64)
    length = ends - firsts
    after = np.cumsum(length)
    starts = after - length
    within = np.arange(int(after[-1])) - np.repeat(starts, length)
    positions = within + np.repeat(firsts, length)
    ids = rows.ids[positions + np.repeat(rows.offsets[forest.rows[part]], length)]
    parents = np.maximum(forest.parents[part] - part.start, -1)
    behind = firsts.copy()
    for number in np.flatnonzero(parents >= 0).tolist():  # parents come first
        behind[number] = behind[parents[number]]
    return Stream(
        ids,
        positions.astype(np.int32),
        np.stack((starts, after), axis=1).astype(np.int32),
        parents.astype(np.int32),
        behind.astype(np.int32),
        forest.which[places],
        (forest.own[places] - part.start).astype(np.int32),
        past,
        keep,
    )
