"""The traps of attention: streams, windows, sinks, models that look both ways."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pools
import pytest
import tiny
import tiny_models

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import RewardModel, attention  # noqa: E402
from prefmill.scoring.attention import CannotShare, StreamPlan, flash  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402
from prefmill.scoring.packing import pack  # noqa: E402
from prefmill.scoring.ways.streams import Streams  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

CPU = torch.device("cpu")


def fresh(family: str, **options: Any) -> RewardModel:
    """A scorer that no other test sees, so that its engine may be broken."""
    scorer = RewardModel(model=pools.reward(family), device="cpu", **options)
    scorer.load()
    return scorer


def shared_rows() -> TokenRows:
    """Four suffixes behind one prompt, one of them a single token, and a row of its own."""
    rng = np.random.default_rng(1)
    prompt, *own = (rng.integers(10, 100, n).tolist() for n in (17, 5, 1, 9, 3, 6))
    return TokenRows.of([prompt + tail for tail in own[:4]] + [own[4]], [0, 0, 0, 0, 1])


def alone(engine: Engine, rows: TokenRows) -> np.ndarray:
    return engine.headed.one_at_a_time(rows, np.arange(len(rows))).values


# -- 1: stock attention on a packed stream


@pytest.mark.parametrize("name", ["sdpa", "eager"])
def test_trap_01_stock_attention_on_a_stream_is_wrong_and_never_run(name: str) -> None:
    engine, rows = fresh("llama").engines[0], shared_rows()
    work = engine.plan(rows)
    assert work.tokens < rows.lengths.sum(), "the prompt is shared, or this tests nothing"
    [stream] = work.streams
    engine.model.set_attn_implementation(name)
    ids, positions = (
        torch.from_numpy(x.astype(np.int64))[None] for x in (stream.ids, stream.positions)
    )
    with torch.inference_mode():
        hidden = engine.headed.body(
            input_ids=ids, position_ids=positions, use_cache=False
        ).last_hidden_state[0]
        silent = engine.head.of_stream(engine.headed, hidden, rows, stream)[0].numpy()
    wanted = alone(engine, rows)[stream.rows]
    assert (np.abs(silent - wanted) > 1e-3).sum() >= 3, (
        "without a word, all but the first of a group are wrong"
    )
    engine.streams.form = name
    with pytest.raises(CannotShare, match="not called"):
        engine.run(engine.plan(rows))


@pytest.mark.parametrize("name", [attention.SEGMENTS, attention.VARLEN, attention.BLOCKMASK])
def test_trap_01_our_attention_refuses_without_a_plan_or_with_a_mask(name: str) -> None:
    model = fresh("llama").engines[0].model
    model.set_attn_implementation(name)
    ids = torch.tensor([[11, 12, 13]])
    with pytest.raises(CannotShare, match="does not hand its keyword arguments"):
        model(input_ids=ids)
    [stream] = pack(TokenRows.of([[11, 12, 13]]), np.arange(1), 10)
    with pytest.raises(CannotShare, match="mask of its own"):
        model(
            input_ids=ids,
            attention_mask=torch.zeros(1, 1, 3, 3),
            prefmill_plan=StreamPlan(stream, CPU),
        )


def test_trap_01_attention_outside_the_interface_is_noticed() -> None:
    """DeBERTa takes the name and never calls it: the calls are counted."""
    engine = fresh("deberta-v2").engines[0]
    engine.headed.body = engine.model.deberta
    with pytest.raises((CannotShare, TypeError)):
        engine.streams.launch(shared_rows(), pack(shared_rows(), np.arange(5), 100))()
    assert engine.way == "batches"


# -- 2: lower-right alignment


def plain_varlen(
    query: Any,
    key: Any,
    value: Any,
    cu_q: Any,
    cu_k: Any,
    max_q: int,
    max_k: int,
    *,
    scale: float | None,
    window_size: tuple[int, int],
    enable_gqa: bool,
) -> Any:
    """What torch.nn.attention.varlen documents, in float64: lower-right aligned, window (left,
    right), keys as many as they are.
    """
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert int(cu_q[-1]) == query.shape[0]
    assert int(cu_k[-1]) == key.shape[0] == value.shape[0]
    assert max_q == int(cu_q.diff().max())
    assert max_k == int(cu_k.diff().max())
    if not enable_gqa and query.shape[1] != key.shape[1]:
        raise ValueError("Expect query and key/value to have the same number of heads")
    groups, (left, right) = query.shape[1] // key.shape[1], window_size
    out = torch.empty(query.shape[0], query.shape[1], value.shape[2], dtype=torch.float64)
    for (a, b), (c, d) in zip(
        itertools.pairwise(cu_q.tolist()), itertools.pairwise(cu_k.tolist()), strict=True
    ):
        q, k, v = (
            query[a:b].double(),
            key[c:d].double().repeat_interleave(groups, 1),
            value[c:d].double().repeat_interleave(groups, 1),
        )
        at = torch.arange(b - a)[:, None] + (d - c) - (b - a)
        seen = torch.ones(b - a, d - c, dtype=torch.bool)
        if left >= 0:
            seen &= torch.arange(d - c) >= at - left
        if right >= 0:
            seen &= torch.arange(d - c) <= at + right
        weights = torch.einsum("qhd,khd->hqk", q, k) * (
            q.shape[-1] ** -0.5 if scale is None else scale
        )
        weights = weights.masked_fill(~seen, -torch.inf).softmax(-1)
        out[a:b] = torch.einsum("hqk,khd->qhd", weights, v)
    return out.to(query.dtype)


@pytest.fixture
def _plain_varlen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flash, "varlen_kernel", lambda: plain_varlen)


FORMS = {
    "segments": attention.segments,
    "varlen": attention.varlen,
    "blockmask": attention.blockmask,
}


def one_row(
    query: Any, key: Any, value: Any, scale: float, window: int | None, softcap: float | None
) -> Any:
    """Causal attention of one row, shapes (heads, tokens, dim), written out in float64."""
    groups, n = query.shape[0] // key.shape[0], query.shape[1]
    key, value = (
        key.repeat_interleave(groups, 0).double(),
        value.repeat_interleave(groups, 0).double(),
    )
    weights = query.double() @ key.transpose(1, 2) * scale
    if softcap is not None:
        weights = softcap * torch.tanh(weights / softcap)
    distance = torch.arange(n)[:, None] - torch.arange(n)
    hidden = (distance < 0) | (distance >= (window or n))
    return weights.masked_fill(hidden, -torch.inf).softmax(-1) @ value


@pytest.mark.usefixtures("_plain_varlen")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize("head_dim", [64, 96, 128])
@pytest.mark.parametrize("form", FORMS)
def test_trap_02_lower_right_alignment(
    form: str, head_dim: int, window: int | None, softcap: float | None
) -> None:
    """Prefixes and suffixes of one token and more, grouped heads 4:1, windows shorter than a
    prefix: each row as if it were alone.
    """
    generator = torch.Generator().manual_seed(0)
    lengths = {0: (1, (1, 3, 2)), 1: (9, (1, 1, 5)), 2: (7, (6,))}  # prefix and suffixes of a group
    rows, groups = [], []
    for group, (shared, own) in lengths.items():
        for number, n in enumerate(own):
            rows.append([group] * shared + [10 + number] * n)
            groups.append(group)
    tokens = TokenRows.of(rows, groups)
    [stream] = pack(tokens, np.arange(len(rows)), 1000, least=0)
    assert len(stream) == 1 + 6 + 9 + 7 + 13
    query = torch.randn(1, 8, len(stream), head_dim, generator=generator)
    key, value = (torch.randn(1, 2, len(stream), head_dim, generator=generator) for _ in range(2))
    plan = StreamPlan(stream, CPU)
    arguments = {
        "scaling": 0.3,
        "prefmill_plan": plan,
        "sliding_window": window,
        "softcap": softcap,
    }
    if form == "varlen" and softcap is not None:
        with pytest.raises(CannotShare, match="soft-capping"):
            attention.varlen(None, query, key, value, **arguments)
        return
    out, _ = FORMS[form](None, query, key, value, **arguments)
    assert out.shape == (1, len(stream), 8, head_dim)
    assert plan.calls == 1
    for slot, row in enumerate(stream.rows.tolist()):
        n = int(tokens.lengths[row])
        where = torch.from_numpy(stream.locate(np.full(n, slot), np.arange(n)))
        wanted = one_row(
            query[0][:, where], key[0][:, where], value[0][:, where], 0.3, window, softcap
        )
        torch.testing.assert_close(
            out[0][where].transpose(0, 1).double(), wanted, rtol=0, atol=5e-6
        )


@pytest.mark.usefixtures("_plain_varlen")
@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", tiny_models.SHARING)
def test_trap_02_every_form_of_attention_through_a_whole_model(family: str, form: str) -> None:
    scorer = fresh(family, batch_tokens=256)
    engine = scorer.engines[0]
    engine.streams.form = f"prefmill_{form}"
    if family == "gemma2" and form == "varlen":
        with pytest.raises(CannotShare, match="soft-capping"):
            scorer(pools.batch(pools.POOL))
        return
    pools.assert_close(
        scorer(pools.batch(pools.POOL)),
        pools.oracle(pools.reward(family), pools.POOL),
        f"{family} {form}",
    )


# -- 15: windows, soft-capping, sinks


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ["s_aux", "alibi_bias", "position_bias"])
def test_trap_15_an_unknown_argument_of_attention_is_refused(form: str, name: str) -> None:
    [stream] = pack(TokenRows.of([[11, 12, 13]]), np.arange(1), 10)
    qkv = [torch.zeros(1, 2, 3, 8)] * 3
    with pytest.raises(CannotShare, match=f"its attention takes {name}"):
        FORMS[form](None, *qkv, prefmill_plan=StreamPlan(stream, CPU), **{name: torch.zeros(2)})


@pytest.mark.parametrize(
    ("family", "setting"),
    [
        ("mistral", {"sliding_window": 400}),
        ("gemma2", {"attn_logit_softcapping": 50.0}),
        ("gemma2", {"sliding_window": 400}),
        ("gpt-oss", {"sliding_window": 400}),
    ],
)
def test_trap_15_windows_and_caps_matter_here(family: str, setting: dict[str, Any]) -> None:
    """The tests of all families hold because windows and caps are honoured, not because they make
    no difference.
    """
    with_it, without = (
        pools.oracle(pools.reward(family), pools.POOL),
        pools.oracle(pools.reward(family, **setting), pools.POOL),
    )
    assert np.abs(with_it - without).max() > 1e-3 * np.abs(with_it).max()
    pools.assert_close(pools.scores(pools.reward(family, **setting), pools.POOL), without)


def test_trap_15_sinks_matter_here() -> None:
    model, _ = pools.plain(pools.reward("gpt-oss"))
    before = pools.oracle(pools.reward("gpt-oss"), pools.POOL)
    sinks = [(name, value) for name, value in model.named_parameters() if name.endswith("sinks")]
    assert sinks
    kept = [value.detach().clone() for _, value in sinks]
    try:
        with torch.no_grad():
            for _, value in sinks:
                value.fill_(-1e4)
        assert np.abs(pools.oracle(pools.reward("gpt-oss"), pools.POOL) - before).max() > 1e-3
    finally:
        with torch.no_grad():
            for (_, value), old in zip(sinks, kept, strict=True):
                value.copy_(old)


# -- 16: what cannot share is found by measuring


def bidirectional(*, told: bool) -> Any:
    """A Llama that looks both ways; `told`: its attention layers say so."""
    tok = tiny.tokenizer()
    config = tiny_models.config("llama", tok)
    config.num_labels, config.is_causal = 1, False
    config._attn_implementation = "eager"
    torch.manual_seed(0)
    model = transformers.LlamaForSequenceClassification(config).eval()
    for layer in model.model.layers:
        layer.self_attn.is_causal = not told
    return model


@pytest.mark.parametrize("told", [True, False])
def test_trap_16_a_llama_that_looks_both_ways_gets_batches(told: bool) -> None:
    """The name of the class says causal; the probe measures."""
    model = bidirectional(told=told)
    engine = Engine(model, RewardHead(), CPU)
    assert engine.way == "batches"
    assert "both ways" in engine.reason or "differ" in engine.reason
    rows = shared_rows()
    with torch.inference_mode():
        wanted = [
            model(input_ids=torch.from_numpy(rows.row(i).astype(np.int64))[None])
            .logits[0, 0]
            .item()
            for i in range(len(rows))
        ]
    pools.assert_close(engine.run(engine.plan(rows))[:, 0], np.array(wanted))
    causal = pools.scorer(pools.reward("llama")).engines[0]
    assert np.abs(causal.run(causal.plan(rows))[:, 0] - wanted).max() > 1e-3, (
        "it does look both ways, or this tests nothing"
    )


def test_trap_16_a_model_that_ignores_positions_or_mixes_tokens_is_measured() -> None:
    """A layer that adds to each token something of the one before it in the stream: right for
    single rows, wrong for packed ones.
    """
    model = transformers.LlamaForSequenceClassification(
        pools.plain(pools.reward("llama"))[0].config
    ).eval()

    def shift(_module: Any, _args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, tuple) else output
        mixed = hidden + 0.5 * torch.nn.functional.pad(hidden, (0, 0, 1, 0))[:, :-1]
        return (mixed, *output[1:]) if isinstance(output, tuple) else mixed

    model.model.layers[0].register_forward_hook(shift)
    engine = Engine(model, RewardHead(), CPU)
    assert (engine.way, engine.reason) == ("batches", "packed rows and single rows differ")


def test_trap_16_an_error_without_words_is_a_reason_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise NotImplementedError

    monkeypatch.setattr(Streams, "forward", broken)
    engine = Engine(pools.plain(pools.reward("llama"))[0], RewardHead(), CPU)
    told = "packed rows do not run: NotImplementedError: "
    assert (engine.way, engine.reason) == ("batches", told)


@pytest.mark.parametrize("budget", [1, 12, 20])
def test_trap_16_the_probe_does_not_depend_on_the_budget(budget: int) -> None:
    """With few tokens a pass every row is alone in its stream, and everything looks as if it could
    share.
    """
    scorer = RewardModel(model=pools.reward("qwen3-next"), device="cpu", batch_tokens=budget)
    assert scorer.load() == "batches: packed rows and single rows differ"
    assert scorer.engines[0].memory.budget == budget
