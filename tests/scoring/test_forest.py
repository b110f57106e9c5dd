"""Rows that share what they begin with at any depth, through whole models: the scores of single
rows, in every form of attention, however the forest is cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pools
import pytest
import tiny_models
from hypothesis import given, settings
from hypothesis import strategies as st
from played_cuda import CPU, made, tiny_model

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

import flash_on_cpu  # noqa: E402

from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import LogProb, RewardModel, attention  # noqa: E402
from prefmill.scoring.attention import StreamPlan  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.packing import pack  # noqa: E402

pytestmark = [
    pytest.mark.score,
    pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile"),
]

pools.one_thread()

flash_on_cpu.install()

FORMS = (attention.SEGMENTS, attention.VARLEN, attention.IN_PLACE, attention.BLOCKMASK)
BUDGETS = (17, 64, 4096)  # every tree cut many times; some; none


def forms_of(families: Sequence[str]) -> list[tuple[str, str]]:
    """Families with every form that has them: flash attention has no soft-capping."""
    flash = (attention.VARLEN, attention.IN_PLACE)
    pairs = itertools.product(families, FORMS)
    return [(family, form) for family, form in pairs if family != "gemma2" or form not in flash]


def conversations(seed: int = 0, trees: int = 2) -> TokenRows:
    """A rubric before everything, trees of turns of which each is a row, and a row of its own."""
    rng = np.random.default_rng(seed)

    def turn(most: int = 14) -> list[int]:
        return rng.integers(10, 60, rng.integers(1, most)).tolist()

    rubric, rows, starts = turn(30), [], []
    for _ in range(trees):
        paths = [rubric + turn(20)]
        for _ in range(3):
            paths = [path + turn() for path in paths for _ in range(2)]
            rows += paths
            starts += [max(0, len(path) - 6) for path in paths]
    rows += [rows[0], turn(40)]
    order = rng.permutation(len(rows))
    starts += [starts[0], 2]
    return TokenRows.of([rows[i] for i in order], starts=[starts[i] for i in order])


def tokens_of_a_trie(rows: TokenRows) -> int:
    each = (rows.row(i).tolist() for i in range(len(rows)))
    return len({tuple(row[: n + 1]) for row in each for n in range(len(row))})


def engine_of(family: str, budget: int, form: str = attention.SEGMENTS, **more: Any) -> Engine:
    """A fresh engine over a tiny model of this family, made to use this form."""
    scorer = RewardModel(model=pools.reward(family), device="cpu", batch_tokens=budget, **more)
    engine = scorer.engines[0]
    assert engine.way == "streams"
    engine.streams.cascades, engine.streams.keys_per_token = form == attention.IN_PLACE, 0
    engine.streams.form = attention.VARLEN if form == attention.IN_PLACE else form
    return engine


def single(engine: Engine, rows: TokenRows) -> np.ndarray:
    with torch.inference_mode():
        return engine.headed.one_at_a_time(rows, np.arange(len(rows))).values


def scores(engine: Engine, rows: TokenRows, least: int | None = None) -> np.ndarray:
    """The values of rows, in streams from which no node is left out if `least` is 0."""
    if least is not None:
        engine.streams.plan = lambda rows, which: pack(
            rows, which, engine.streams.room(), least=least
        )
    return engine.run(engine.plan(rows))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize(("family", "form"), forms_of(tiny_models.SHARING))
def test_every_turn_of_a_tree_has_the_score_of_its_row_alone(
    family: str, form: str, budget: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flash_on_cpu, "check", lambda *_: None)  # float32 in the kernel
    flash = form in (attention.VARLEN, attention.IN_PLACE)
    engine, rows = engine_of(family, budget, form), conversations()
    work = engine.plan(rows)
    assert work.tokens <= 1.05 * tokens_of_a_trie(rows) < 0.4 * rows.lengths.sum()
    assert any(stream.past for stream in work.streams or []) == (budget < 4096)
    got, wanted = engine.run(work), single(engine, rows)
    pools.assert_close(got[:, 0], wanted[:, 0], f"{family} {form} {budget}")
    windows = any(window is not None for window in engine.streams.windows)
    if flash and not windows:
        assert set(engine.streams.layers) <= {form, attention.VARLEN}
        assert form in engine.streams.layers


@st.composite
def tries(draw: st.DrawFn) -> TokenRows:
    """Rows that go on from one another, end in one another, or are the same."""
    rows: list[list[int]] = []
    for _ in range(draw(st.integers(1, 10))):
        head: list[int] = []
        if rows and draw(st.integers(0, 4)):
            head = draw(st.sampled_from(rows))
            head = head[: draw(st.integers(0, len(head)))]
        rows.append((head + draw(st.lists(st.integers(10, 14), max_size=12))) or [10])
    return TokenRows.of(rows, starts=[draw(st.integers(0, len(row))) for row in rows])


@pytest.mark.parametrize(("family", "form"), forms_of(["llama", "mistral", "gemma2"]))
@settings(max_examples=8)
@given(rows=tries(), budget=st.sampled_from([1, 7, 20, 400]), least=st.sampled_from([0, 8]))
def test_any_trie(family: str, form: str, rows: TokenRows, budget: int, least: int) -> None:
    flash = form in (attention.VARLEN, attention.IN_PLACE)
    engine = engine_of(family, budget, form)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flash_on_cpu, "check", lambda *_: None)
        got = scores(engine, rows, least)
    if least == 0 and not flash:
        assert engine.plan(rows).tokens == tokens_of_a_trie(rows)
    wanted = single(engine, rows)[:, 0]
    usual = single(engine, conversations())[:, 0]
    pools.assert_close(got[:, 0], wanted, family, pool=np.concatenate((wanted, usual)))


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_log_probabilities_of_shared_completions(family: str, budget: int) -> None:
    """The states that predict a completion may be of an earlier stream."""
    scorer = LogProb(model=pools.causal(family), device="cpu", batch_tokens=budget)
    [engine], rows = scorer.engines, conversations(3)
    got, wanted = scores(engine, rows), single(engine, rows)
    for column in range(2):
        pools.assert_close(got[:, column], wanted[:, column], f"{family} {budget}")


# -- invariant: the bits of a row are its own


@pytest.mark.parametrize("budget", [64, 200])
@pytest.mark.parametrize("kind", ["reward", "logprob"])
@pytest.mark.parametrize("family", ["llama", "mistral", "gemma2"])
def test_invariant_bits_do_not_depend_on_company(family: str, kind: str, budget: int) -> None:
    scorer: Any
    if kind == "reward":
        scorer = RewardModel
        folder = pools.reward(family)
    else:
        scorer, folder = LogProb, pools.causal(family)
    [engine] = scorer(model=folder, device="cpu", batch_tokens=budget, invariant=True).engines
    rows = long_conversations()
    work = engine.plan(rows)
    assert work.tokens < 0.6 * rows.lengths.sum(), "they share, or this tests nothing"
    assert any(stream.past for stream in work.streams), "streams go on, or this tests nothing"
    whole = engine.run(work)
    np.testing.assert_allclose(whole, single(engine, rows), rtol=0, atol=1e-4 * np.abs(whole).max())
    rng = np.random.default_rng(0)
    for _ in range(3):
        some = rng.permutation(len(rows))[: rng.integers(1, len(rows))]
        assert (engine.run(engine.plan(rows.take(some))) == whole[some]).all()
    for place in (0, 3, len(rows) - 1):
        other = [rows.row(i).copy() for i in range(len(rows))]
        other[place][-3:] = 61
        changed = engine.run(engine.plan(TokenRows.of(other, starts=rows.starts.tolist())))
        others = np.arange(len(rows)) != place
        assert (changed[others] == whole[others]).all()
        assert (changed[place] != whole[place]).any()


def long_conversations() -> TokenRows:
    """Rows of some blocks each, which part within blocks, at their prompts, and between."""
    rng = np.random.default_rng(8)
    rubric = rng.integers(10, 60, 150).tolist()
    rows, starts = [], []
    for n in (5, 40, 70):
        prompt = rubric + rng.integers(10, 60, n).tolist()
        for own in (1, 9, 30):
            rows.append(prompt + rng.integers(10, 60, own).tolist())
            starts.append(len(prompt))
    return TokenRows.of(rows, starts=starts)


# -- memory


@pytest.mark.parametrize("most", [150, 60])
def test_streams_that_do_not_fit_are_cut_again(most: int) -> None:
    """Also where the next one would go on from the one that failed."""
    engine, rows = engine_of("llama", 300), conversations(trees=3)
    wanted = single(engine, rows)
    forward, ran = engine.streams.forward, []

    def small(rows: TokenRows, stream: Any, past: Any) -> Any:
        if len(stream) > most:
            raise torch.OutOfMemoryError("no room")
        ran.append(len(stream))
        return forward(rows, stream, past)

    engine.streams.forward = small
    got = scores(engine, rows)
    pools.assert_close(got[:, 0], wanted[:, 0])
    assert engine.splits >= 1
    assert max(ran) <= most
    assert sum(ran) < rows.lengths.sum()


# -- planning and running


def test_streams_of_one_tree_run_no_token_twice() -> None:
    engine, rows = engine_of("llama", 40), conversations(5)
    seen = []
    body = engine.headed.body

    def counted(**inputs: Any) -> Any:
        seen.append(inputs["input_ids"].shape[1])
        return body(**inputs)

    engine.headed.body = counted
    engine._checked = True
    scores(engine, rows, 0)
    assert sum(seen) == tokens_of_a_trie(rows)
    assert len(seen) > 5


def test_the_past_is_of_every_layer_and_is_given_back() -> None:
    model, rows = tiny_model(torch.float32), conversations(6)
    engine = made(model, attention.SEGMENTS)
    first, second, *_ = pack(rows, np.arange(len(rows)), 50)
    with torch.inference_mode(), attention.using(model, attention.SEGMENTS):
        _, past = engine.streams.forward(rows, first, None)
        assert past is not None
        assert len(past.keys) == model.config.num_hidden_layers
        assert {tuple(k.shape[:3]) for pair in past.keys for k in pair} == {(1, 2, second.past)}
        assert past.states.shape == (second.past, model.config.hidden_size)
        plan = StreamPlan(second, CPU, past=past)
        assert plan.make(attention.SEGMENTS, [None]).calls == 0
        with pytest.raises((TypeError, IndexError, RuntimeError)):
            engine.streams.forward(rows, second, None)
