"""A forest over token rows: what rows begin with alike stands once, at any depth.

    rubric ─┬─ prompt 1 ─┬─ completion 1      a node for every run of tokens after which rows part,
            │            └─ completion 2      or at which one of them ends
            └─ prompt 2 ─── turn ─┬─ turn
                                  └─ turn

It is built on the ids of whole rows, so that the ids of a row are the same whether or not it
shares. A row is the path from a root to its node; a row that others begin with ends in an inner
node. Pure numpy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from prefmill.models.tokens import Ints, Longs, TokenRows, common_prefix

# Tokens that a node must save, over its rows: below, its own segments cost as much. Measured in
# benchmarks/bench_forest.py.
LEAST_SAVED = 4
# Where the cuts of a row may depend on that row alone, they stand at its prompt and at every
# multiple of this.
BLOCK = 64


@dataclass(frozen=True)
class Forest:
    """Nodes in depth-first order: every node before its descendants, and these together.

    parents  shape (nodes,), int32: the node before it on the path; -1: it is a root
    firsts   shape (nodes,), int32: where its first token stands in its rows
    ends     shape (nodes,), int32: the end of its tokens there
    rows     shape (nodes,), int64: a row that goes through it
    which    shape (rows,), int64: the rows of the forest
    own      shape (rows,), int32: the node in which each of them ends
    """

    parents: Ints
    firsts: Ints
    ends: Ints
    rows: Longs
    which: Longs
    own: Ints

    def __len__(self) -> int:
        return len(self.parents)

    @property
    def tokens(self) -> int:
        """Tokens of all nodes."""
        return int((self.ends - self.firsts).sum())


def alone(rows: TokenRows, which: Longs) -> Forest:
    """Every row a root of its own."""
    nodes = np.arange(len(which), dtype=np.int32)
    ends = rows.lengths[which].astype(np.int32)
    return Forest(np.full_like(nodes, -1), np.zeros_like(nodes), ends, which, which, nodes)


def trie(rows: TokenRows, which: Longs, least: int = LEAST_SAVED) -> Forest:
    """The trie of the rows `which`, without nodes that save fewer than `least` tokens.

    Siblings stand in the order of `which`. Cost: a sort of the rows, and a few operations a row.

    >>> rows = TokenRows.of([[1, 2, 3], [1, 2], [1, 4]])
    >>> forest = trie(rows, np.arange(3), least=0)
    >>> list(zip(forest.parents.tolist(), forest.firsts.tolist(), forest.ends.tolist()))
    [(-1, 0, 1), (0, 1, 2), (1, 2, 3), (0, 1, 2)]
    """
    nodes = _Nodes(len(which))
    # Big-endian bytes sort as ids do, and a beginning before what goes on.
    keys = [rows.row(i).astype(">i4").tobytes() for i in which.tolist()]
    before: Ints | None = None
    for place in sorted(range(len(which)), key=keys.__getitem__):
        row = int(which[place])
        ids = rows.row(row)
        shared = 0 if before is None else common_prefix(before, ids)
        nodes.add(place, row, len(ids), shared)
        before = ids
    nodes.thin(least)
    return nodes.forest(which)


def groups(rows: TokenRows, which: Longs, least: int = LEAST_SAVED) -> Forest:
    """One level: the rows of a group share the longest beginning that is common to all of them.

    What benchmarks compare a forest with.
    """
    nodes = _Nodes(len(which))
    members: dict[int, list[int]] = {}
    for place, row in enumerate(which.tolist()):
        members.setdefault(int(rows.groups[row]), []).append(place)
    for places in members.values():
        here = [rows.row(int(which[place])) for place in places]
        shared = min(map(len, here)) - 1
        for ids in here[1:]:
            shared = min(shared, common_prefix(here[0][:shared], ids[:shared]))
        if len(here) == 1 or shared * (len(here) - 1) < max(least, 1):
            shared = 0
        for number, place in enumerate(places):
            nodes.branch(place, int(which[place]), [shared, len(here[number])], bool(number))
    return nodes.forest(which)


def blocks(rows: TokenRows, which: Longs, size: int = BLOCK) -> Forest:
    """The forest in which the cuts of a row depend on that row alone.

    A row is cut at its prompt (`starts`) and at every multiple of `size`; rows share what they
    begin with alike and cut alike.
    """
    nodes = _Nodes(len(which))
    paths: list[tuple[list[int], list[bytes]]] = []
    for row in which.tolist():
        ids, start = rows.row(row), int(rows.starts[row])
        cuts = sorted({*range(size, len(ids), size), start, len(ids)} - {0})
        cuts = cuts[: cuts.index(len(ids)) + 1]
        pieces = [ids[a:b].tobytes() for a, b in zip([0, *cuts], cuts, strict=False)]
        paths.append((cuts, pieces))
    before: list[bytes] = []
    for place in sorted(range(len(which)), key=lambda place: paths[place][1]):
        cuts, pieces = paths[place]
        same = 0
        while same < min(len(before), len(pieces)) and before[same] == pieces[same]:
            same += 1
        nodes.chain(place, int(which[place]), cuts, same)
        before = pieces
    return nodes.forest(which)


class _Nodes:
    """A forest in the making; rows come sorted, so that each leaves the path of the one before."""

    def __init__(self, rows: int) -> None:
        self.parents: list[int] = []
        self.firsts: list[int] = []
        self.ends: list[int] = []
        self.rows: list[int] = []
        self.own = [-1] * rows
        self.path: list[int] = []

    def new(self, parent: int, first: int, end: int, row: int) -> int:
        self.parents.append(parent)
        self.firsts.append(first)
        self.ends.append(end)
        self.rows.append(row)
        return len(self.parents) - 1

    def add(self, place: int, row: int, length: int, shared: int) -> None:
        """A row of which the first `shared` tokens are those of the row before it."""
        path = self.path
        while path and self.ends[path[-1]] > shared:
            node = path.pop()
            first = self.firsts[node]
            if first < shared:  # they part within this node
                upper = self.new(self.parents[node], first, shared, self.rows[node])
                self.parents[node], self.firsts[node] = upper, shared
                path.append(upper)
        if shared < length:
            path.append(self.new(path[-1] if path else -1, shared, length, row))
        self.own[place] = path[-1]

    def chain(self, place: int, row: int, cuts: Sequence[int], same: int) -> None:
        """A row cut at `cuts`, of which the first `same` pieces are those of the row before it."""
        del self.path[same:]
        first = cuts[same - 1] if same else 0
        for end in cuts[same:]:
            self.path.append(self.new(self.path[-1] if self.path else -1, first, end, row))
            first = end
        self.own[place] = self.path[-1]

    def branch(self, place: int, row: int, cuts: Sequence[int], more: bool) -> None:
        """A row that is cut once; with `more` its first piece is that of the row before it."""
        shared, length = cuts
        if not shared:
            self.chain(place, row, [length], 0)
        else:
            self.chain(place, row, cuts, int(more))

    def thin(self, least: int) -> None:
        """Take out nodes that save fewer than `least` tokens: their tokens go to the next ones."""
        count = len(self.parents)
        below: list[list[int]] = [[] for _ in range(count)]
        roots: list[int] = []
        for node, parent in enumerate(self.parents):
            (below[parent] if parent >= 0 else roots).append(node)
        ending = np.bincount(self.own, minlength=count).tolist() if count else []
        waiting = roots
        while waiting:
            node = waiting.pop()
            waiting += below[node]
            parts = len(below[node]) + bool(ending[node])
            saved = (self.ends[node] - self.firsts[node]) * (parts - 1)
            if (parts == 1 and not below[node]) or saved >= least:
                continue
            for child in below[node]:
                self.parents[child] = self.parents[node]
                self.firsts[child] = self.firsts[node]
            if not ending[node]:
                self.ends[node] = self.firsts[node]  # no tokens: left out

    def forest(self, which: Longs) -> Forest:
        """The nodes that have tokens, depth first, siblings in the order of `which`."""
        count = len(self.parents)
        parents = self.parents
        foremost = [len(which)] * count
        for place, node in enumerate(self.own):
            while node >= 0 and foremost[node] > place:
                foremost[node] = place
                node = parents[node]
        below: list[list[int]] = [[] for _ in range(count)]
        roots: list[int] = []
        # Backwards, because what is put last is taken first.
        for node in sorted(range(count), key=lambda node: -foremost[node]):
            if self.firsts[node] < self.ends[node]:
                (below[parents[node]] if parents[node] >= 0 else roots).append(node)
        order = []
        while roots:
            node = roots.pop()
            order.append(node)
            roots += below[node]
        number = np.full(count + 1, -1, np.int32)  # the last is that of -1, no parent
        number[order] = np.arange(len(order))
        chosen = np.asarray(order, np.int64)
        above, firsts, ends = (
            np.asarray(x, np.int32)[chosen] for x in (parents, self.firsts, self.ends)
        )
        nodes = np.asarray(self.rows, np.int64)[chosen]
        return Forest(number[above], firsts, ends, nodes, which, number[self.own])
