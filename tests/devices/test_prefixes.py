"""Prompts that run once: budgets, blocks, prefixes in place."""

from __future__ import annotations

from typing import Any

import numpy as np
import pools
import pytest
from played_cuda import CPU, SIZES, before_2_12, group, made, some_rows, tiny_model, values

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


import check_gpu  # noqa: E402
import flash_on_cpu  # noqa: E402

from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import attention  # noqa: E402
from prefmill.scoring.attention import StreamPlan, flash  # noqa: E402
from prefmill.scoring.engine import BATCH_TOKENS  # noqa: E402
from prefmill.scoring.packing import GATHERED_KEYS, Stream, pack  # noqa: E402

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
    assert sum(map(len, streams)) == prompt + own * k
    assert sorted(i for s in streams for i in s.rows.tolist()) == list(range(k))


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
    assert scorer.streams.cascades
    flash_on_cpu.CALLS.clear()
    found = check_gpu.scores_of(scorer, rows)
    assert set(scorer.streams.layers) == {attention.IN_PLACE}
    [stream] = scorer.plan(rows).streams
    assert attention.gathered_keys(stream) > GATHERED_KEYS * len(stream)
    assert max(call["keys"] for call in flash_on_cpu.CALLS) == len(stream)
    wanted = values(made(model, attention.SEGMENTS), rows)
    assert np.abs(found - wanted).max() <= 5e-6 * np.abs(wanted).max()
    few = some_rows(4)
    check_gpu.scores_of(scorer, few)
    assert set(scorer.streams.layers) == {attention.VARLEN}, "a few keys are cheaper copied"


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
    assert (scorer.way, scorer.streams.cascades, scorer.reason) == ("streams", False, "")
    found = check_gpu.scores_of(scorer, rows)
    assert set(scorer.streams.layers) == {attention.VARLEN}
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


@pytest.mark.parametrize("budget", [10**6, 700])
@pytest.mark.parametrize("window", [None, 100, 700])
def test_blocks_are_those_of_the_mask(window: int | None, budget: int) -> None:
    """FlexAttention's blocks, told by segments: none that is needed is left out, and none is whole
    that is not.
    """
    rng = np.random.default_rng(5)
    rows = [
        [*range(n), -k, *range(own)] for n in (300, 129) for k, own in enumerate((5, 400, 130))
    ] + [[9] * 260]
    rows += [rows[1][:650], [*rows[1][:500], 8, 8, 8], [*rows[1], *range(90)]]
    tokens = TokenRows.of(rows)
    streams = pack(tokens, rng.permutation(len(rows)), budget, least=0)
    assert any(stream.past for stream in streams) == (budget == 700)
    for stream in streams:
        padded = StreamPlan(stream, CPU, -(-len(stream) // 128) * 128)
        mask = padded.of(attention.BLOCKMASK, window)
        length, total = padded.length, padded.past + padded.length
        q, k = torch.arange(length)[:, None], torch.arange(total)[None]
        seen = mask.mask_mod(0, 0, q, k)
        assert (seen == allowed(tokens, stream, length, window)).all()
        columns = -(-total // 128)
        seen = torch.nn.functional.pad(seen, (0, columns * 128 - total))
        seen = seen.view(length // 128, 128, columns, 128)
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
        if total % 128 == 0:
            assert (wholly == whole).all(), "all blocks that need no mask are known"
        assert (partly | wholly).sum() <= some.sum() + len(stream.segments)


def allowed(rows: TokenRows, stream: Stream, length: int, window: int | None) -> Any:
    """Which places each token of a stream may see: those of its rows' beginnings."""
    seen = torch.zeros(length, stream.past + length, dtype=torch.bool)
    for slot, row in enumerate(stream.rows.tolist()):
        n = int(rows.lengths[row])
        places = stream.locate(np.full(n, slot), np.arange(n))
        for number, place in enumerate(places.tolist()):
            if place >= stream.past:
                first = 0 if window is None else max(0, number - window + 1)
                seen[place - stream.past, places[first : number + 1]] = True
    padding = torch.ones(length, length, dtype=torch.bool).tril()
    if window is not None:
        padding = padding.triu(1 - window)
    end = len(stream)
    seen[end:, stream.past + end :] = padding[end:, end:]
    return seen


def listed(numbers: Any, which: Any) -> Any:
    """Which blocks are listed, shape (blocks, blocks)."""
    found = torch.zeros(which.shape[-2:], dtype=torch.bool)
    for row, number in enumerate(numbers[0, 0].tolist()):
        found[row, which[0, 0, row, :number].long()] = True
    return found
