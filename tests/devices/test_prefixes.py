"""Prompts that run once: budgets, blocks, prefixes in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from played_cuda import CPU, SIZES, before_2_12, group, made, some_rows, tiny_model, values

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


import check_gpu  # noqa: E402
import flash_on_cpu  # noqa: E402

from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import attention  # noqa: E402
from prefmill.scoring.attention import StreamPlan, flash  # noqa: E402
from prefmill.scoring.engine import BATCH_TOKENS  # noqa: E402
from prefmill.scoring.packing import GATHERED_KEYS, Room, pack  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

flash_on_cpu.install()

BUDGET = BATCH_TOKENS["cpu"]


@pytest.mark.parametrize("times", [0.05, 0.3, 0.9, 0.999, 1.0, 1.001, 1.5, 8.0])
@pytest.mark.parametrize(("own", "k"), [(1, 2), (8, 64), (16, 16), (300, 40), (2500, 9)])
def test_a_prompt_around_the_budget_runs_once(times: float, own: int, k: int) -> None:
    """Before, a prompt of the budget or more was run for each of its completions: 13 times the
    tokens.
    """
    prompt = int(BUDGET * times)
    rows = group(prompt, [own] * k)
    streams = pack(rows, np.arange(k), BUDGET)
    assert sum(map(len, streams)) <= 1.1 * (prompt + own * k)
    assert sorted(i for s in streams for i in s.rows.tolist()) == list(range(k))


@settings(deadline=None, max_examples=60)
@given(
    prompt=st.integers(1, 400),
    own=st.lists(st.integers(1, 300), min_size=2, max_size=60),
    budget=st.integers(20, 300),
    gathers=st.sampled_from([0, 7, 100, 1 << 62]),
)
def test_tokens_and_gathered_keys_are_bounded(
    prompt: int, own: list[int], budget: int, gathers: int
) -> None:
    rows = group(prompt, own)
    streams = pack(rows, np.arange(len(own)), Room(budget, gathers=gathers), least_ratio=1.0)
    if not gathers:
        assert sum(map(len, streams)) <= 1.1 * (prompt + sum(own))
    for stream in streams:
        keys = attention.gathered_keys(stream.segments, None if gathers > 100 else gathers + 1)
        assert not gathers or keys <= GATHERED_KEYS * budget or len(stream.rows) == 1
    small = pack(rows, np.arange(len(own)), Room(budget, most=budget), least_ratio=1.0)
    assert all(len(s) <= budget or len(s.rows) == 1 for s in small), (
        "memory that ran out is not asked for again"
    )


def many_short(k: int = 40, prompt: int = 60) -> TokenRows:
    """Completions of two tokens behind a prompt of sixty, next to a small group and a row of its
    own.
    """
    rng = np.random.default_rng(3)
    head, other = (rng.integers(1, 200, n).tolist() for n in (prompt, 4))
    rows = [[*head, 1 + i, 5] for i in range(k)] + [[*other, 7], [*other, 8, 9], [11, 12, 13]]
    return TokenRows.of(rows, [0] * k + [1, 1, 2])


def any_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel in float32, which the real one refuses: to see that the arithmetic is exact."""
    monkeypatch.setattr(flash_on_cpu, "check", lambda *_: None)


def test_prefixes_in_place_where_completions_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, 40 copies of the prompt's keys were made in each layer; now the second call reads
    them where they are.
    """
    any_dtype(monkeypatch)
    model, rows = tiny_model(torch.float32), many_short()
    scorer = made(model, attention.VARLEN)
    assert scorer.cascades
    flash_on_cpu.CALLS.clear()
    found = check_gpu.scores_of(scorer, rows)
    assert set(scorer.layers) == {attention.IN_PLACE}
    [stream] = scorer.plan(rows).streams
    assert attention.gathered_keys(stream.segments) > GATHERED_KEYS * len(stream)
    assert max(call["keys"] for call in flash_on_cpu.CALLS) == len(stream)
    wanted = values(made(model, attention.SEGMENTS), rows)
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()
    few = some_rows(4)
    check_gpu.scores_of(scorer, few)
    assert set(scorer.layers) == {attention.VARLEN}, "a few keys are cheaper copied"


def test_a_kernel_whose_sums_have_another_layout_reads_nothing_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    any_dtype(monkeypatch)

    def transposed(*arguments: Any, return_aux: Any = None, **more: Any) -> Any:
        from torch.nn.attention.varlen import varlen_attn

        found = varlen_attn(*arguments, return_aux=return_aux, **more)
        return found if return_aux is None else (found[0], found[1].transpose(0, 1).contiguous())

    transposed.__signature__ = __import__("inspect").signature(before_2_12)
    monkeypatch.setattr(
        flash, "varlen_kernel", lambda: lambda *a, **k: transposed(*a, enable_gqa=True, **k)
    )
    model, rows = tiny_model(torch.float32), many_short()
    scorer = made(model, attention.VARLEN)
    assert (scorer.way, scorer.cascades, scorer.reason) == ("streams", False, "")
    found = check_gpu.scores_of(scorer, rows)
    assert set(scorer.layers) == {attention.VARLEN}
    wanted = values(made(model, attention.SEGMENTS), rows)
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()


def test_a_sliding_window_copies_what_it_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a window only its last keys are gathered, and streams are cut where these are too
    many.
    """
    any_dtype(monkeypatch)
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, sliding_window=16, initializer_range=0.1)
    model, rows = transformers.MistralForSequenceClassification(config).eval(), many_short()
    scorer = made(model, attention.VARLEN, batch_tokens=64)
    flash_on_cpu.CALLS.clear()
    found = check_gpu.scores_of(scorer, rows)
    assert max(call["keys"] for call in flash_on_cpu.CALLS) <= GATHERED_KEYS * 64
    wanted = values(made(model, attention.SEGMENTS), rows)
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()


@pytest.mark.parametrize("window", [None, 100, 700])
def test_blocks_are_those_of_the_mask(window: int | None) -> None:
    """FlexAttention's blocks, told by segments: none that is needed is left out, and none is whole
    that is not.
    """
    rng = np.random.default_rng(5)
    rows = [
        [*range(n), -k, *range(own)] for n in (300, 129) for k, own in enumerate((5, 400, 130))
    ] + [[9] * 260]
    tokens = TokenRows.of(rows, [0, 0, 0, 1, 1, 1, 2])
    [stream] = pack(tokens, rng.permutation(len(rows)), 10**6)
    length = -(-len(stream) // 128) * 128
    mask = StreamPlan(stream, CPU, length).of(attention.BLOCKMASK, window)
    q, k = torch.arange(length)[:, None], torch.arange(length)[None]
    seen = mask.mask_mod(0, 0, q, k).view(length // 128, 128, length // 128, 128)
    some, whole = seen.any(3).any(1), seen.all(3).all(1)
    partly, wholly = (
        listed(numbers, which)
        for numbers, which in (
            (mask.kv_num_blocks, mask.kv_indices),
            (mask.full_kv_num_blocks, mask.full_kv_indices),
        )
    )
    assert not (some & ~(partly | wholly)).any()
    assert not (wholly & ~whole).any()
    assert not (partly & wholly).any()
    assert wholly.sum() >= whole.sum() // 2, "most blocks that need no mask are known"
    assert (partly | wholly).sum() <= some.sum() + len(stream.segments)


def listed(numbers: Any, which: Any) -> Any:
    """Which blocks are listed, shape (blocks, blocks)."""
    found = torch.zeros(which.shape[-2:], dtype=torch.bool)
    for row, number in enumerate(numbers[0, 0].tolist()):
        found[row, which[0, 0, row, :number].long()] = True
    return found
