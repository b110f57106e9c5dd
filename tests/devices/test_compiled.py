"""What CUDA devices run, seen on a CPU: the real `varlen_attn` over a kernel that checks, fake CUDA
tensors, graphs that are counted.
"""

from __future__ import annotations

import types
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pools
import pytest
from played_cuda import CPU, SIZES, PlayedCuda, before_2_12, made, some_rows, tiny_model, values

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


import check_gpu  # noqa: E402
import flash_on_cpu  # noqa: E402

from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import attention, heads  # noqa: E402
from prefmill.scoring.attention import StreamPlan, flash  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

flash_on_cpu.install()

# -- G1: one graph


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (attention.VARLEN, "bfloat16"),
        (attention.VARLEN, "float16"),
        (attention.BLOCKMASK, "float32"),
    ],
)
def test_compiled_streams_are_one_graph(
    monkeypatch: pytest.MonkeyPatch, form: str, dtype: str
) -> None:
    """Ten streams of other segments, one of them without anything shared: no break, no recompile,
    the same scores.
    """
    graphs: list[Any] = []
    plain = torch.compile

    def counting(graph: Any, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def compiled(model: Any = None, **options: Any) -> Any:
        ours = isinstance(model, torch.nn.Module) and "backend" not in options
        return plain(model, **options, **({"backend": counting} if ours else {}))

    model = tiny_model(getattr(torch, dtype))
    eager = made(model, form)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", compiled)
    fast = made(model, form, compile=True)
    for seed in range(10):
        rows = some_rows(seed, groups=1 + seed % 4)
        if seed == 5:
            rows = TokenRows.of([rows.row(0)])
        np.testing.assert_allclose(values(fast, rows), values(eager, rows), rtol=0, atol=1e-6)
    assert len(graphs) == 1
    assert not torch._dynamo.utils.counters["graph_break"]
    assert set(fast.streams.layers) == {form}


def conversations(seed: int) -> TokenRows:
    """Trees of turns of which each is a row: streams of 60 tokens go on from one another."""
    rng = np.random.default_rng(seed)
    paths = [rng.integers(1, 200, 20).tolist()]
    rows: list[list[int]] = []
    for _ in range(4):
        paths = [[*path, *rng.integers(1, 200, 7).tolist()] for path in paths for _ in range(2)]
        rows += paths
    return TokenRows.of(rows)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize(
    ("form", "dtype", "most"),
    [
        (attention.VARLEN, "bfloat16", 4),
        (attention.IN_PLACE, "bfloat16", 12),
        (attention.BLOCKMASK, "float32", 4),
    ],
)
def test_compiled_streams_that_go_on_are_few_graphs(
    monkeypatch: pytest.MonkeyPatch, form: str, dtype: str, most: int
) -> None:
    """With a past or without, with something to hand on or without; whatever the depth is."""
    graphs: list[Any] = []
    plain = torch.compile

    def counting(graph: Any, _: Any) -> Callable[..., Any]:
        graphs.append(graph)
        return graph.forward

    def compiled(model: Any = None, **options: Any) -> Any:
        ours = isinstance(model, torch.nn.Module) and "backend" not in options
        return plain(model, **options, **({"backend": counting} if ours else {}))

    model = tiny_model(getattr(torch, dtype))
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    monkeypatch.setattr(torch, "compile", compiled)
    backend = attention.VARLEN if form == attention.IN_PLACE else form
    fast = made(model, backend, compile=True, batch_tokens=60)
    fast.streams.keys_per_token = 0 if form == attention.IN_PLACE else 1000
    streams = 0
    for seed in range(8):
        rows = conversations(seed)
        with torch.inference_mode():
            wanted = fast.headed.one_at_a_time(rows, np.array([0, 9, 29])).values[:, 0]
        found = values(fast, rows)[[0, 9, 29]]
        if dtype == "float32":
            np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5)
        else:
            np.testing.assert_allclose(found, wanted, rtol=0, atol=0.1 * np.abs(wanted).max())
        streams += sum(bool(stream.past) for stream in fast.plan(rows).streams)
    assert streams > 8, "streams go on, or this tests nothing"
    assert 2 < len(graphs) <= most
    assert not torch._dynamo.utils.counters["graph_break"]


def test_a_compiler_that_fails_or_computes_something_else_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, an assertion of the compiler ended the run, at the first stream."""
    model, rows = tiny_model(torch.float32), some_rows(0)
    wanted = values(made(model, attention.SEGMENTS), rows)

    def broken(*_: Any, **__: Any) -> Any:
        raise AssertionError("Guard failed on the same frame")

    def other(body: Any, **_: Any) -> Callable[..., Any]:
        def run(**inputs: Any) -> Any:
            found = body(**inputs)
            found.last_hidden_state = found.last_hidden_state * 1.5
            return found

        return run

    for wrong, said in (
        ((lambda body, **_: broken), "AssertionError: Guard failed"),
        (other, "it gives other values"),
    ):
        monkeypatch.setattr(torch, "compile", wrong)
        with pytest.warns(
            UserWarning,
            match=f"torch.compile does not serve this model, which runs without: {said}",
        ):
            scorer = made(model, attention.SEGMENTS, compile=True)
        assert values(scorer, rows).tolist() == wanted.tolist()


def test_no_forward_keeps_its_keys() -> None:
    """The model's own forward, for single rows and batches, made a cache that nobody reads."""
    model = tiny_model(torch.float32)
    assert model(input_ids=torch.tensor([[1, 2]])).past_key_values is not None
    made(model, attention.SEGMENTS)
    assert model(input_ids=torch.tensor([[1, 2]])).past_key_values is None


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("signature", ["installed", "2.11"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_real_varlen_attn_over_a_kernel_that_checks(
    monkeypatch: pytest.MonkeyPatch, dtype: str, signature: str, window: int | None
) -> None:
    """Before, an unknown `enable_gqa` was a TypeError that sent everything into padded batches."""
    if signature == "2.11":
        monkeypatch.setattr(flash, "varlen_kernel", lambda: before_2_12)
    model = tiny_model(getattr(torch, dtype))
    if window is not None:
        config = transformers.MistralConfig(**SIZES, sliding_window=window, initializer_range=0.1)
        torch.manual_seed(0)
        model = (
            transformers.MistralForSequenceClassification(config).to(getattr(torch, dtype)).eval()
        )
    scorer, rows = made(model, attention.VARLEN), some_rows(1)
    assert (scorer.way, scorer.reason) == ("streams", "")
    flash_on_cpu.CALLS.clear()
    found = check_gpu.scores_of(scorer, rows)
    streams = scorer.plan(rows).streams
    assert [call["sequences"] for call in flash_on_cpu.CALLS] == [
        len(s.segments) for s in streams for _ in range(2)
    ]
    assert {call["left"] for call in flash_on_cpu.CALLS} == {-1 if window is None else window - 1}
    exact = made(model.float(), attention.SEGMENTS)
    spread = values(exact, rows).std()
    assert np.abs(found - values(exact, rows)).max() < 0.15 * spread


def test_another_form_than_the_one_meant_is_an_error() -> None:
    """The checks of the benchmark ran the form of CPUs, all of them, and said nothing."""
    scorer, rows = made(tiny_model(torch.bfloat16), attention.VARLEN), some_rows(2)
    check_gpu.scores_of(scorer, rows)
    plan = scorer.plan

    def other(rows: TokenRows) -> Any:
        work = plan(rows)
        scorer.streams.form = attention.SEGMENTS if scorer.streams.layers is not None else ""
        return work

    scorer.plan = other
    assert check_gpu.scores_of(scorer, rows) is not None, (
        "the form that the engine has is the form that ran"
    )
    scorer.plan = plan
    scorer.streams.form = attention.VARLEN
    run = attention.varlen
    twice = types.SimpleNamespace(times=0)

    def double(*arguments: Any, **more: Any) -> Any:
        twice.times += 1
        run(*arguments, **more)
        return run(*arguments, **more)

    transformers.AttentionInterface.register(attention.VARLEN, double)
    try:
        with pytest.raises(
            RuntimeError,
            match=r"attention ran as \{'prefmill_varlen': 4\}; expected \{'prefmill_varlen': 2\}",
        ):
            check_gpu.scores_of(scorer, rows)
    finally:
        transformers.AttentionInterface.register(attention.VARLEN, run)
    assert twice.times == 2


@pytest.fixture
def played_cuda(monkeypatch: pytest.MonkeyPatch) -> PlayedCuda:
    for module in (attention, heads):
        monkeypatch.setattr(module, "to_device", lambda array, _: torch.from_numpy(array))
    # What a plan makes itself goes to the CPU, too.
    plain = StreamPlan.__init__
    monkeypatch.setattr(
        StreamPlan, "__init__", lambda self, stream, _, *a, **k: plain(self, stream, CPU, *a, **k)
    )
    return PlayedCuda()


def test_a_decoder_in_batches_on_cuda_is_told_when_it_is_loaded(
    monkeypatch: pytest.MonkeyPatch, played_cuda: PlayedCuda
) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise TypeError("varlen_attn() got an unexpected keyword argument 'enable_gqa'")

    monkeypatch.setattr(flash, "varlen_kernel", lambda: unknown)
    said = (
        r"the model on cuda:0 is run in padded batches, several times slower than it could be: "
        r"packed rows do not run: TypeError"
    )
    with check_gpu.forced(attention.VARLEN), pytest.warns(UserWarning, match=said):
        Engine(tiny_model(torch.bfloat16), RewardHead(), played_cuda)
    bert = transformers.BertConfig(
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=32,
        vocab_size=200,
        num_labels=1,
    )
    with warnings.catch_warnings(), check_gpu.forced(attention.VARLEN):
        warnings.simplefilter("error")  # an encoder has no other way
        encoder = transformers.BertForSequenceClassification(bert).eval()
        assert Engine(encoder, RewardHead(), played_cuda).way == "batches"
