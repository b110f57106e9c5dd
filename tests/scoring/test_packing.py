"""Laws of packing: every token of every row is at its place; shared tokens stand once, at any
depth; budgets hold; the same rows give the same streams.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmill.models.tokens import TokenRows, common_prefix
from prefmill.scoring.forest import BLOCK, blocks, trie
from prefmill.scoring.packing import GATHERED_KEYS, Room, Stream, batches, pack

pytestmark = pytest.mark.score


@st.composite
def token_rows(draw: st.DrawFn) -> TokenRows:
    """Rows of all lengths; many go on from some token of another, or are the beginning of one, or
    the same; a start anywhere in the row, and any group.
    """
    token = st.integers(0, 3)
    rows: list[list[int]] = []
    for _ in range(draw(st.integers(0, 14))):
        head: list[int] = []
        if rows and draw(st.integers(0, 3)):
            head = draw(st.sampled_from(rows))
            head = head[: draw(st.integers(0, len(head)))]
        rows.append((head + draw(st.lists(token, max_size=8))) or [9])
    starts = [draw(st.integers(0, len(row))) for row in rows]
    return TokenRows.of(rows, [draw(st.integers(0, 3)) for _ in rows], starts)


HOW = st.fixed_dictionaries(
    {
        "share": st.booleans(),
        "fixed": st.booleans(),
        "least": st.sampled_from([0, 3, 8]),
        "depth": st.sampled_from([None, 1]),
    }
)


def places(streams: list[Stream]) -> list[np.ndarray]:
    """The ids at every place of each stream: what it goes on from, and its own."""
    found: list[np.ndarray] = []
    for number, stream in enumerate(streams):
        past = found[-1][streams[number - 1].keep] if stream.past else np.zeros(0, np.int32)
        assert len(past) == stream.past
        found.append(np.concatenate((past, stream.ids)))
    return found


def seen_by(stream: Stream, segment: int, here: np.ndarray) -> list[int]:
    """The tokens that attention lets the last token of a segment see, in the order of its row."""
    pieces = []
    while segment >= 0:
        start, end = stream.segments[segment] + stream.past
        pieces.append(here[start:end])
        first, segment = segment, int(stream.parents[segment])
    pieces.append(here[: stream.behind[first]])
    return np.concatenate(pieces[::-1]).tolist()


def tokens_of_a_trie(rows: TokenRows) -> int:
    """Different beginnings: one token each."""
    each = (rows.row(i).tolist() for i in range(len(rows)))
    return len({tuple(row[: n + 1]) for row in each for n in range(len(row))})


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW, seed=st.integers(0, 9))
def test_every_token_of_every_row_is_at_its_place(
    rows: TokenRows, budget: int, how: dict, seed: int
) -> None:
    streams = pack(rows, np.random.default_rng(seed).permutation(len(rows)), budget, **how)
    assert sorted(i for s in streams for i in s.rows.tolist()) == list(range(len(rows)))
    for stream, here in zip(streams, places(streams), strict=True):
        for slot, row in enumerate(stream.rows.tolist()):
            n = int(rows.lengths[row])
            where = stream.locate(np.full(n, slot), np.arange(n))
            assert here[where].tolist() == rows.row(row).tolist()
            own = where[where >= stream.past] - stream.past
            assert stream.positions[own].tolist() == list(range(n - len(own), n))
            assert seen_by(stream, int(stream.own[slot]), here) == rows.row(row).tolist()


@given(rows=token_rows(), budget=st.integers(1, 60))
def test_no_token_runs_twice(rows: TokenRows, budget: int) -> None:
    """However many streams they are cut into, the tokens are those of the trie."""
    every = np.arange(len(rows))
    wanted = tokens_of_a_trie(rows)
    assert sum(map(len, pack(rows, every, budget, least=0))) == wanted
    assert trie(rows, every, least=0).tokens == wanted
    thin = trie(rows, every, least=5)
    assert wanted <= thin.tokens <= rows.lengths.sum()
    assert thin.tokens - wanted <= 5 * len(rows), "what is not shared is little"


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW)
def test_budgets_hold_unless_one_segment_is_longer(rows: TokenRows, budget: int, how: dict) -> None:
    for stream in pack(rows, np.arange(len(rows)), budget, **how):
        assert len(stream) <= budget or len(stream.segments) == 1


@given(
    rows=token_rows(),
    budget=st.integers(1, 60),
    gathers=st.sampled_from([3, 1 << 62]),
    most=st.sampled_from([None, 7]),
)
def test_gathered_keys_and_memory_are_bounded(
    rows: TokenRows, budget: int, gathers: int, most: int | None
) -> None:
    room = Room(budget, most=most, gathers=gathers)
    for stream in pack(rows, np.arange(len(rows)), room, least=0):
        own = np.diff(stream.segments)[:, 0]
        keys = int((own + np.minimum(stream.firsts, gathers)).sum())
        one = len(stream.segments) == 1
        assert one or keys <= GATHERED_KEYS * budget
        assert one or most is None or len(stream) <= most


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW)
def test_segments_cover_the_stream_depth_first(rows: TokenRows, budget: int, how: dict) -> None:
    for stream in pack(rows, np.arange(len(rows)), budget, **how):
        starts, ends = stream.segments.T.tolist()
        assert starts == [0, *ends[:-1]]
        assert ends[-1] == len(stream) == len(stream.positions)
        assert all(start < end for start, end in stream.segments.tolist())
        path: list[int] = []
        for number, parent in enumerate(stream.parents.tolist()):
            while path and path[-1] != parent:
                path.pop()
            assert path or parent == -1, "its parent is on the path of the segment before it"
            path.append(number)
        assert (np.diff(stream.behind) <= 0).all(), "the past is left from its end"
        assert not len(stream.behind) or stream.behind[0] == stream.past


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW, seed=st.integers(0, 9))
def test_same_rows_same_streams_and_no_more_tokens_than_alone(
    rows: TokenRows, budget: int, how: dict, seed: int
) -> None:
    which = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2 + 1]
    first, second = (pack(rows, which.copy(), budget, **how) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in vars(a))
    assert sorted(i for s in first for i in s.rows.tolist()) == sorted(which.tolist())
    assert sum(map(len, first)) <= rows.lengths[which].sum()


@given(rows=token_rows(), size=st.integers(1, 9), seed=st.integers(0, 9))
def test_fixed_cuts_of_a_row_depend_on_that_row_alone(
    rows: TokenRows, size: int, seed: int
) -> None:
    """The segments of a row are what they are when it is alone: constant shapes in any company."""
    some = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2 + 1]
    cuts: dict[int, list[int]] = {}
    for which in (np.arange(len(rows)), some, *([[i]] for i in range(len(rows)))):
        forest = blocks(rows, np.asarray(which, np.int64).ravel(), size)
        for row, node in zip(forest.which.tolist(), forest.own.tolist(), strict=True):
            path = []
            while node >= 0:
                path.append(int(forest.firsts[node]))
                node = int(forest.parents[node])
            assert cuts.setdefault(row, path) == path
            length, start = int(rows.lengths[row]), int(rows.starts[row])
            assert set(path) == {*range(0, length, size)} | ({start} - {length})


def test_fixed_cuts_stand_at_the_prompt_and_at_every_block() -> None:
    row = list(range(3 * BLOCK + 5))
    rows = TokenRows.of([row, [*row[:100], -1]], [0, 1], [BLOCK + 7, BLOCK + 7])
    [stream] = pack(rows, np.arange(2), 1000, fixed=True)
    assert stream.firsts.tolist() == [0, 64, 71, 128, 192, 71]
    assert stream.parents.tolist() == [-1, 0, 1, 2, 3, 1]


def test_rows_with_little_in_common_are_not_shared() -> None:
    rows = TokenRows.of([[1, i, *range(40)] for i in range(3, 7)])
    [stream] = pack(rows, np.arange(4), 1000)
    assert len(stream) == rows.lengths.sum()
    assert stream.parents.tolist() == [-1] * 4, "one token, three times"
    [stream] = pack(rows, np.arange(4), 1000, least=3)
    assert len(stream) == rows.lengths.sum() - 3


def test_rows_of_all_prompts_share_unless_one_level_is_asked_for() -> None:
    rows = TokenRows.of([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6], [1, 2, 3, 4, 7]], [0, 1, 1])
    assert sum(map(len, pack(rows, np.arange(3), 100))) == 7
    assert sum(map(len, pack(rows, np.arange(3), 100, depth=1, least=4))) == 11


def test_a_path_goes_on_in_the_next_stream() -> None:
    rows = TokenRows.of([[*range(10), 20 + i, 30 + i] for i in range(6)], [0] * 6, [10] * 6)
    for how in ({}, {"fixed": True}):
        streams = pack(rows, np.arange(6), 14, **how)
        assert [(len(s), len(s.rows), s.past) for s in streams] == [(14, 2, 0), (8, 4, 10)]
    assert [len(s) for s in pack(rows, np.arange(6), Room(14, most=5))] == [10, 4, 4, 4]


def test_one_is_the_beginning_of_another_and_two_are_the_same() -> None:
    rows = TokenRows.of([[1, 2, 3], [1, 2, 3, 4], [1, 2, 3]])
    [stream] = pack(rows, np.arange(3), 100, least=0)
    assert stream.segments.tolist() == [[0, 3], [3, 4]]
    assert stream.own.tolist() == [0, 1, 0]


def test_siblings_stand_in_the_order_of_the_rows() -> None:
    """Another candidate of the same length leaves the others where they are."""
    rows = TokenRows.of([[5, 5, 5, 9], [3, 1], [5, 5, 5, 1], [0, 2]])
    [stream] = pack(rows, np.array([3, 0, 1, 2]), 100, least=0)
    assert stream.rows.tolist() == [3, 0, 1, 2]
    assert stream.ids.tolist() == [0, 2, 5, 5, 5, 9, 1, 3, 1]


@given(
    lengths=st.lists(st.integers(1, 30), max_size=20),
    budget=st.integers(1, 80),
    kinds=st.integers(1, 3),
    seed=st.integers(0, 5),
)
def test_batches_hold_every_row_once_within_the_budget(
    lengths: list[int], budget: int, kinds: int, seed: int
) -> None:
    many = np.asarray(lengths, np.int64)
    alike = np.random.default_rng(seed).integers(0, kinds, len(many))
    made = batches(many, budget, alike=alike)
    assert sorted(i for batch in made for i in batch.tolist()) == list(range(len(many)))
    for batch in made:
        assert len(batch) * many[batch].max() <= budget or len(batch) == 1
        assert len(set(alike[batch].tolist())) == 1


@given(rows=token_rows())
def test_distinct_rows(rows: TokenRows) -> None:
    first, inverse = rows.distinct()
    content = [(rows.row(i).tolist(), int(rows.starts[i])) for i in range(len(rows))]
    assert [content[i] for i in first[inverse]] == content
    assert len({str(c) for c in content}) == len(first)
    assert all(content.index(content[i]) == i for i in first.tolist())


@given(a=st.lists(st.integers(0, 2), max_size=9), b=st.lists(st.integers(0, 2), max_size=9))
def test_common_prefix(a: list[int], b: list[int]) -> None:
    n = common_prefix(np.asarray(a), np.asarray(b))
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]
