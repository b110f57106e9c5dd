"""Laws of packing: every token of every row is in its stream, at its place; budgets hold; the same
rows give the same streams.
"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmill.models.tokens import TokenRows, common_prefix
from prefmill.scoring.packing import Room, Stream, batches, pack

pytestmark = pytest.mark.score


@st.composite
def token_rows(draw: st.DrawFn) -> TokenRows:
    """Groups with common beginnings, among rows of all lengths; a start anywhere in the row; groups
    need not stand together.
    """
    token = st.integers(0, 3)
    rows, groups, starts = [], [], []
    for group in range(draw(st.integers(0, 4))):
        head = draw(st.lists(token, max_size=12))
        for _ in range(draw(st.integers(1, 5))):
            cut = draw(st.sampled_from([len(head), len(head), len(head) // 2]))
            row = (head[:cut] + draw(st.lists(token, max_size=8))) or [9]
            rows.append(row)
            groups.append(group)
            starts.append(draw(st.integers(0, len(row))))
    order = draw(st.permutations(range(len(rows))))
    return TokenRows.of(
        [rows[i] for i in order], [groups[i] for i in order], [starts[i] for i in order]
    )


def seen_by(stream: Stream, slot: int) -> np.ndarray:
    """The tokens that attention lets the row in `slot` see: its prefix and its own."""
    start, end, prefix_start, prefix_end = stream.segments[stream.own[slot]]
    return np.concatenate((stream.ids[prefix_start:prefix_end], stream.ids[start:end]))


HOW = st.fixed_dictionaries(
    {
        "share": st.booleans(),
        "fixed": st.booleans(),
        "least_ratio": st.sampled_from([1.0, 1.05, 2.0]),
    }
)


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW)
def test_every_token_of_every_row_is_in_its_stream(rows: TokenRows, budget: int, how: dict) -> None:
    streams = pack(rows, np.arange(len(rows)), budget, **how)
    assert sorted(i for s in streams for i in s.rows.tolist()) == list(range(len(rows)))
    for stream in streams:
        for slot, row in enumerate(stream.rows.tolist()):
            n = int(rows.lengths[row])
            where = stream.locate(np.full(n, slot), np.arange(n))
            assert stream.ids[where].tolist() == rows.row(row).tolist()
            assert stream.positions[where].tolist() == list(range(n))
            assert seen_by(stream, slot).tolist() == rows.row(row).tolist()
            start, end, _, _ = stream.segments[stream.own[slot]]
            assert start < end, "every row has a token of its own"


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW)
def test_budgets_hold_unless_one_row_or_one_prompt_is_longer(
    rows: TokenRows, budget: int, how: dict
) -> None:
    for stream in pack(rows, np.arange(len(rows)), budget, **how):
        if len(stream) > budget and len(stream.rows) == 1:
            assert len(stream) == rows.lengths[stream.rows[0]]
        elif (
            len(stream) > budget
        ):  # one prompt, which would else be repeated before it is a tenth of what stands behind it
            assert not how["fixed"]
            shared = int(stream.segments[0, 1])
            assert (stream.segments[1:, 3] == shared).all()
            assert len(stream) - shared - (rows.lengths[stream.rows[-1]] - shared) < 10 * shared


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW)
def test_segments_cover_the_stream_and_see_only_what_is_before_them(
    rows: TokenRows, budget: int, how: dict
) -> None:
    for stream in pack(rows, np.arange(len(rows)), budget, **how):
        starts, ends, prefix_starts, prefix_ends = stream.segments.T.tolist()
        assert starts == [0, *ends[:-1]]
        assert ends[-1] == len(stream) == len(stream.positions)
        heads = set(zip(starts, ends, strict=True))
        for start, first, last in zip(starts, prefix_starts, prefix_ends, strict=True):
            assert first == last or ((first, last) in heads and last <= start)
        assert len(set(stream.own.tolist())) == len(stream.rows)


@given(rows=token_rows(), budget=st.integers(1, 60), how=HOW, seed=st.integers(0, 9))
def test_same_rows_same_streams_and_no_more_tokens_than_alone(
    rows: TokenRows, budget: int, how: dict, seed: int
) -> None:
    which = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2 + 1]
    first, second = (pack(rows, which.copy(), budget, **how) for _ in range(2))
    for a, b in zip(first, second, strict=True):
        assert all(
            np.array_equal(getattr(a, name), getattr(b, name))
            for name in ("ids", "positions", "segments", "rows", "own")
        )
    assert sorted(i for s in first for i in s.rows.tolist()) == sorted(which.tolist())
    if not how["fixed"] or not how["share"]:
        assert sum(map(len, first)) <= rows.lengths[which].sum()


@given(rows=token_rows(), budget=st.integers(1, 60), seed=st.integers(0, 9))
def test_fixed_split_of_a_row_depends_on_that_row_alone(
    rows: TokenRows, budget: int, seed: int
) -> None:
    """The number of tokens that a row shares is what it shares when it is alone: constant shapes in
    any company.
    """
    some = np.random.default_rng(seed).permutation(len(rows))[: len(rows) // 2 + 1]
    shared = {}
    for which in (np.arange(len(rows)), some, *([[i]] for i in range(len(rows)))):
        for stream in pack(rows, np.asarray(which).ravel(), budget, fixed=True):
            for slot, row in enumerate(stream.rows.tolist()):
                _, _, first, last = stream.segments[stream.own[slot]]
                assert shared.setdefault(row, last - first) == last - first
                assert last - first == min(rows.starts[row], rows.lengths[row] - 1)


def test_groups_with_little_in_common_are_not_shared() -> None:
    prompt, tails = [1], [[i, *range(40)] for i in range(2, 6)]
    rows = TokenRows.of([prompt + tail for tail in tails], [0] * 4)
    [stream] = pack(rows, np.arange(4), 1000)
    assert len(stream) == rows.lengths.sum()
    assert (stream.segments[:, 2] == stream.segments[:, 3]).all()
    [stream] = pack(rows, np.arange(4), 1000, least_ratio=1.0)
    assert len(stream) == rows.lengths.sum() - 3


def test_rows_of_two_groups_never_share() -> None:
    rows = TokenRows.of([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], [0, 1])
    assert sum(map(len, pack(rows, np.arange(2), 100))) == 10
    together = TokenRows.of([[1, 2, 3, 4, 5], [1, 2, 3, 4, 6]], [0, 0])
    assert sum(map(len, pack(together, np.arange(2), 100))) == 6


def test_a_group_over_the_budget_repeats_its_prompt() -> None:
    rows = TokenRows.of([[*range(10), 20 + i, 30 + i] for i in range(6)], [0] * 6, [10] * 6)
    assert [(len(s), len(s.rows)) for s in pack(rows, np.arange(6), 14, fixed=True)] == [
        (14, 2)
    ] * 3
    assert [(len(s), len(s.rows)) for s in pack(rows, np.arange(6), Room(14, most=14))] == [
        (14, 2)
    ] * 3
    assert [(len(s), len(s.rows)) for s in pack(rows, np.arange(6), 14)] == [(22, 6)]


def test_one_is_the_beginning_of_another_and_two_are_the_same() -> None:
    rows = TokenRows.of([[1, 2, 3], [1, 2, 3, 4], [1, 2, 3]], [0] * 3)
    [stream] = pack(rows, np.arange(3), 100, least_ratio=1.0)
    assert stream.segments.tolist() == [[0, 2, 0, 0], [2, 3, 0, 2], [3, 5, 0, 2], [5, 6, 0, 2]]


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
