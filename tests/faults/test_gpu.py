"""What CUDA devices run, seen on a CPU: the real `varlen_attn` over a kernel that checks, fake CUDA
tensors, graphs that are counted.
"""

from __future__ import annotations

import collections
import sys
import threading
import types
import warnings
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pools
import pytest
from failing_scorer import Failing
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")
transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "gpu"))

import check_gpu  # noqa: E402
import flash_on_cpu  # noqa: E402

import prefmill as pm  # noqa: E402
from prefmill.errors import BadArgument, OutOfDeviceMemory  # noqa: E402
from prefmill.models import loading as models  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import EndpointScorer, RewardModel, abilities, attention, heads  # noqa: E402
from prefmill.scoring.attention import StreamPlan  # noqa: E402
from prefmill.scoring.engine import BATCH_TOKENS, Engine  # noqa: E402
from prefmill.scoring.heads import LogProbHead, RewardHead  # noqa: E402
from prefmill.scoring.packing import GATHERED_KEYS, Room, Stream, pack  # noqa: E402
from prefmill.scoring.scorers import Scored  # noqa: E402

pytestmark = pytest.mark.score
pools.one_thread()
flash_on_cpu.install()

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 200,
    "num_labels": 1,
    "pad_token_id": 0,
}


def tiny_model(dtype: Any, **more: Any) -> Any:
    """A random Llama reward model, grouped heads 4:1."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, initializer_range=0.1, **more)
    return transformers.LlamaForSequenceClassification(config).to(dtype).eval()


def made(model: Any, form: str, **more: Any) -> Engine:
    """An engine with this form of attention, whatever the device is."""
    with check_gpu.forced(form):
        return Engine(model, RewardHead(), CPU, **more)


def some_rows(seed: int, groups: int = 3, prompt: int = 40) -> TokenRows:
    """Groups of several sizes, with completions from one token on, and a row of its own."""
    rng = np.random.default_rng(seed)
    rows, numbers = [], []
    for group in range(groups):
        head = rng.integers(1, 200, rng.integers(2, prompt)).tolist()
        for _ in range(rng.integers(2, 7)):
            rows.append([*head, *rng.integers(1, 200, rng.integers(1, 9)).tolist()])
            numbers.append(group)
    return TokenRows.of([*rows, rng.integers(1, 200, 5).tolist()], [*numbers, groups])


def values(scorer: Engine, rows: TokenRows) -> np.ndarray:
    return scorer.run(scorer.plan(rows))[:, 0]


# -- G1: one graph
# ----------------------------------------------------------------------------------------


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
        return graph.forward  # type: ignore[no-any-return]

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
    assert set(fast.layers) == {form}


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


# -- G2, G3: which form runs
# -------------------------------------------------------------------------------


def before_2_12(
    query: Any,
    key: Any,
    value: Any,
    cu_seq_q: Any,
    cu_seq_k: Any,
    max_q: int,
    max_k: int,
    *,
    return_aux: Any = None,
    scale: float | None = None,
    window_size: tuple[int, int] = (-1, -1),
) -> Any:
    """`varlen_attn` as torch 2.11 has it: nobody tells it of grouped heads, which the kernel
    sees.
    """
    from torch.nn.attention.varlen import varlen_attn

    more = {"return_aux": return_aux, "scale": scale, "window_size": window_size}
    return varlen_attn(query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, enable_gqa=True, **more)


@pytest.mark.parametrize("window", [None, 7])
@pytest.mark.parametrize("signature", ["installed", "2.11"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_the_real_varlen_attn_over_a_kernel_that_checks(
    monkeypatch: pytest.MonkeyPatch, dtype: str, signature: str, window: int | None
) -> None:
    """Before, an unknown `enable_gqa` was a TypeError that sent everything into padded batches."""
    if signature == "2.11":
        monkeypatch.setattr(attention, "varlen_kernel", lambda: before_2_12)
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
        scorer.ours = attention.SEGMENTS if scorer.layers is not None else ""
        return work

    scorer.plan = other  # type: ignore[method-assign]
    assert check_gpu.scores_of(scorer, rows) is not None, (
        "the form that the engine has is the form that ran"
    )
    scorer.plan = plan  # type: ignore[method-assign]
    scorer.ours = attention.VARLEN
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


class PlayedCuda:
    """A device that says it is CUDA, with its tensors on the CPU."""

    type = "cuda"

    def __str__(self) -> str:
        return "cuda:0"


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

    monkeypatch.setattr(attention, "varlen_kernel", lambda: unknown)
    said = r"the model on cuda:0 is run in padded batches, several times slower than it could be: packed rows do not run: TypeError"
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


# -- G4: long prompts stay shared
# --------------------------------------------------------------------------


def group(prompt: int, own: list[int]) -> TokenRows:
    """One prompt and its completions, which differ from their first token on."""
    head = list(range(prompt))
    rows = [[*head, -1 - i, *range(n - 1)] for i, n in enumerate(own)]
    return TokenRows.of(rows, [0] * len(own), [prompt] * len(own))


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
    monkeypatch.setattr(flash_on_cpu, "_check", lambda *_: None)


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

    transposed.__signature__ = __import__("inspect").signature(before_2_12)  # type: ignore[attr-defined]
    monkeypatch.setattr(
        attention, "varlen_kernel", lambda: lambda *a, **k: transposed(*a, enable_gqa=True, **k)
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


# -- G5, G6, G10: loading, failing, memory
# -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("stored", "asked", "device", "capability", "runs"),
    [
        ("float32", "auto", "cuda:1", (9, 0), "bfloat16"),
        ("float32", "auto", "cuda:0", (7, 5), "float32"),
        ("float32", "float32", "cuda:0", (9, 0), "float32"),
        ("float16", "auto", "cuda:0", (9, 0), "float16"),
        ("bfloat16", "auto", "cuda:0", (8, 0), "bfloat16"),
        ("bfloat16", "auto", "cpu", (0, 0), "float32"),
    ],
)
def test_the_dtype_that_runs_and_its_fingerprint(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    stored: str,
    asked: str,
    device: str,
    capability: tuple[int, int],
    runs: str,
) -> None:
    import shutil

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    monkeypatch.setattr(models, "pick_device", torch.device)
    folder = tmp_path / "model"
    shutil.copytree(pools.reward("llama"), folder)
    transformers.AutoModelForSequenceClassification.from_pretrained(
        folder, dtype=getattr(torch, stored)
    ).save_pretrained(folder)
    assert models.dtype_of(folder, asked, torch.device(device)) == runs
    assert RewardModel(model=folder, device=device, dtype=asked).fingerprint["dtype"] == runs
    config = folder / "config.json"  # an old folder does not say it: the weights do
    config.write_text(
        config.read_text()
        .replace(f'"dtype": "{stored}",', "")
        .replace(f'"torch_dtype": "{stored}",', "")
    )
    assert models.dtype_of(folder, asked, torch.device(device)) == runs


def test_weights_go_straight_to_the_device_and_a_model_too_large_says_where_to_go(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: dict[str, Any] = {}

    def load(*_: Any, **options: Any) -> Any:
        told.update(options)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(models, "pick_device", torch.device)
    monkeypatch.setattr(transformers.AutoModelForSequenceClassification, "from_pretrained", load)
    with pytest.raises(
        OutOfDeviceMemory,
        match=r"does not fit into the memory of cuda:1\.\nHint: .*no tensor parallelism.*--scorer endpoint",
    ):
        models.load(pools.reward("llama"), "reward", device="cuda:1")
    assert told["device_map"] == {"": torch.device("cuda:1")}
    assert told["dtype"] is torch.bfloat16


POOL = pl.DataFrame({"prompt": [f"p{i}" for i in range(12)], "completion": ["a"] * 12})


@pytest.mark.parametrize(
    ("how", "said"),
    [("raises", "the second device is broken"), ("dies", "second died; got exit code 9")],
)
def test_the_first_error_ends_the_other_devices(tmp_path: Path, how: str, said: str) -> None:
    """Before, the error was told when all other devices had done their whole share: here that is
    hours.
    """
    import multiprocessing

    with pytest.raises(pm.PrefmillError, match=said):
        pm.score(
            POOL,
            tmp_path / "out.parquet",
            scorer=Failing(how),
            devices=["first", "second"],
            chunk_rows=2,
        )
    assert multiprocessing.active_children() == []


def test_several_devices_tell_how_they_run(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    report = pm.score(
        POOL,
        tmp_path / "out.parquet",
        scorer=Failing("works"),
        devices=["first", "second"],
        chunk_rows=2,
    )
    assert report.rows_scored == 12
    assert sorted(report.way.split("; ")) == ["streams on first", "streams on second"]
    told = capfd.readouterr().err
    assert "first is slow" in told
    assert "second is slow" in told


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
    ids=["torch", "cublas", "cudnn"],
)
def test_memory_is_given_back_when_the_failed_pass_is_gone(
    monkeypatch: pytest.MonkeyPatch, played_cuda: PlayedCuda, error: Exception
) -> None:
    """Before, the cache was emptied while the traceback still held every tensor of the pass."""
    model = tiny_model(torch.float32)
    with check_gpu.forced(attention.SEGMENTS):
        scorer = Engine(model, RewardHead(), played_cuda, batch_tokens=4096)
    rows = some_rows(6)
    wanted, forward = values(scorer, rows), scorer._forward
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def short(rows: TokenRows, stream: Stream) -> Any:
        if len(stream) > 60:
            states = torch.ones(len(stream))
            held.append(weakref.ref(states))
            raise type(error)(*error.args)
        return forward(rows, stream)

    scorer._forward = short  # type: ignore[method-assign]
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    np.testing.assert_allclose(values(scorer, rows), wanted, rtol=0, atol=1e-6)
    assert alive
    assert not any(alive)
    assert scorer.splits == len(alive)


# -- G7: the model of --parity
# -----------------------------------------------------------------------------


def test_the_parity_model_runs_on_the_cpu_unless_told() -> None:
    """The server fills the GPU: before, the model was loaded next to it."""
    import prefmill.cli.scorers as command

    def parity_of(**given: Any) -> RewardModel:
        options: dict[str, Any] = dict.fromkeys([*command._ALL, "combine"])
        options |= {
            "scorer": "endpoint",
            "model": None,
            "url": "http://localhost:1",
            "parity": "folder",
            **given,
        }
        return command.scorer_of(options).parity  # type: ignore[no-any-return]

    assert (parity_of().device, parity_of().dtype) == ("cpu", "auto")
    chosen = parity_of(device=["cuda:1"], dtype="bfloat16")
    assert (chosen.device, chosen.dtype) == ("cuda:1", "bfloat16")
    assert (
        EndpointScorer(url="http://localhost:1", parity=RewardModel(model="folder")).parity.device
        == "cpu"
    )
    kept = EndpointScorer(
        url="http://localhost:1", parity=RewardModel(model="folder", device="cuda:0")
    )
    assert kept.parity.device == "cuda:0"
    with pytest.raises(BadArgument, match=r"--dtype is that of --parity.*\nHint: --parity DIR"):
        parity_of(parity=None, dtype="bfloat16")
    with pytest.raises(BadArgument, match="one device for --parity"):
        parity_of(device=["cpu", "cuda"])


# -- G9: nothing waits
# -------------------------------------------------------------------------------------

aten = torch.ops.aten


def indexed(tensor: Any, key: Any) -> Any:
    """`tensor[key]` by operators: Python's own indexing asks for a CUDA driver."""
    key = key if isinstance(key, tuple) else (key,)
    if Ellipsis in [k for k in key if not isinstance(k, torch.Tensor)]:
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        free = tensor.dim() - sum(k is not None and k is not Ellipsis for k in key)
        key = (*key[:at], *[slice(None)] * free, *key[at + 1 :])
    dim, picks = 0, []
    for k in key:
        if k is None:
            tensor, dim = aten.unsqueeze(tensor, dim), dim + 1
        elif isinstance(k, int):
            tensor = aten.select(tensor, dim, k)
        elif isinstance(k, slice):
            tensor = (
                tensor
                if k == slice(None)
                else aten.slice(tensor, dim, k.start, k.stop, k.step or 1)
            )
            dim += 1
        else:
            picks += [
                *[None] * (dim - len(picks)),
                k if isinstance(k, torch.Tensor) else torch.as_tensor(k),
            ]
            dim += 1
    return aten.index(tensor, picks) if picks else tensor


def fake_cuda() -> tuple[Any, Any, Any]:
    """Modes under which tensors are on CUDA without a driver, pinned memory is known, and operators
    are counted.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.overrides import TorchFunctionMode
    from torch.utils._python_dispatch import TorchDispatchMode

    fake = FakeTensorMode(allow_non_fake_inputs=True)

    class Driverless(TorchFunctionMode):
        def __torch_function__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if func is torch.Tensor.__getitem__:
                return indexed(*args)
            if func is torch.Tensor.__setitem__:
                return aten.index_put_(args[0], [args[1]], args[2])
            if func is torch.Tensor.pin_memory:
                pinned = fake.from_tensor(args[0])
                pinned.pinned = True
                return pinned
            if (
                func is torch.Tensor.to
                and len(args) > 1
                and isinstance(args[1], torch.device)
                and args[1].type != args[0].device.type
            ):
                return aten._to_copy(
                    args[0], device=args[1], non_blocking=bool(kwargs.get("non_blocking"))
                )
            return func(*args, **kwargs)

    class Counter(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.kernels: collections.Counter[str] = collections.Counter()
            self.waits: list[str] = []
            self.copies = 0

        def __torch_dispatch__(self, func: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, kwargs = func.name(), kwargs or {}
            if not (
                func.is_view
                or name in ("prim::device", "aten::lift_fresh", "aten::_unsafe_view", "aten::t")
            ):
                self.kernels[name] += 1
            if name == "aten::_to_copy" and kwargs.get("device") is not None:
                self.copies += 1
                if args[0].device.type != "cpu" or not (
                    getattr(args[0], "pinned", False) and kwargs.get("non_blocking")
                ):
                    self.waits.append(f"{name} of {tuple(args[0].shape)}")
            if name in ("aten::_local_scalar_dense", "aten::nonzero", "aten::item"):
                self.waits.append(name)
            return func(*args, **kwargs)

    return fake, Driverless(), Counter()


class Unprobed(Engine):
    """An engine of which fake tensors need no values."""

    def _probe(self) -> None:
        self.way, self.cascades, self._windows = "streams", True, {None}


def forward_on_fake_cuda(
    monkeypatch: pytest.MonkeyPatch, layers: int, rows: TokenRows, *, causal: bool = False
) -> Any:
    """The counts of one forward pass at the shape of an 8B model."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    fake, driverless, counter = fake_cuda()
    config = transformers.LlamaConfig(
        hidden_size=4096,
        intermediate_size=14336,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        vocab_size=128256,
        num_labels=1,
        pad_token_id=None,
    )
    kind = transformers.LlamaForCausalLM if causal else transformers.LlamaForSequenceClassification
    with fake, driverless:
        model = kind(config).eval()
        for module in model.modules():
            for tensors, dtype in ((module._parameters, torch.bfloat16), (module._buffers, None)):
                for name, tensor in tensors.items():
                    if tensor is None:
                        continue
                    there = torch.empty(tensor.shape, dtype=dtype or tensor.dtype, device="cuda")
                    tensors[name] = (
                        torch.nn.Parameter(there, requires_grad=False) if dtype else there
                    )
        scorer = Unprobed(model, LogProbHead() if causal else RewardHead(), torch.device("cuda"))
        [stream] = scorer.plan(rows).streams
        with abilities.using(model, scorer.ours), counter, torch.no_grad():
            scorer._forward(rows, stream)
    counter.layers = dict(scorer.layers)
    return counter


def test_a_forward_waits_for_no_copy_and_launches_few_kernels(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Before, a pageable copy after the forward waited for all of it: one a stream, and 189 for
    log-probabilities.
    """
    rows = group(512, [256] * 16)
    two, three = (forward_on_fake_cuda(monkeypatch, layers, rows) for layers in (2, 3))
    assert two.layers == {attention.VARLEN: 2}
    assert two.waits == three.waits == []
    assert two.copies >= 4, "ids, positions, lengths and places are copied, or this tests nothing"
    per_layer = three.kernels - two.kernels
    assert per_layer["torch_attn::_varlen_attn"] == 1
    assert per_layer["aten::mm"] == 7
    assert per_layer.total() <= 45


def test_log_probabilities_read_the_projection_once_for_2048_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = forward_on_fake_cuda(monkeypatch, 2, group(512, [256] * 16), causal=True)
    places = 16 * 255 + 1  # the prompt's last token predicts the first of all completions
    assert found.kernels["aten::mm.dtype"] == -(-places // 2048)
    assert found.waits == []


def test_short_completions_on_fake_cuda_read_prefixes_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = forward_on_fake_cuda(monkeypatch, 2, group(4096, [8] * 256))
    assert found.layers == {attention.IN_PLACE: 2}
    assert found.kernels["torch_attn::_varlen_attn"] == 4
    assert found.waits == []


class Overlapping:
    """Its scores of a chunk arrive only when the next chunk has been started."""

    columns = ("score",)
    fingerprint: ClassVar[dict[str, str]] = {"scorer": "overlapping"}
    chunk_tokens: int | None = None

    def __init__(self, chunks: int) -> None:
        self.began = [threading.Event() for _ in range(chunks)]
        self.started = self.fetched = self.most = 0
        self.threads: set[str] = set()

    def prepare(self, batch: Any) -> int:
        return int(batch.num_rows)

    def start(self, rows: int) -> Callable[[], Scored]:
        number, self.started = self.started, self.started + 1
        self.most = max(self.most, self.started - self.fetched)
        self.began[number].set()

        def fetch() -> Scored:
            if number + 1 < len(self.began):
                assert self.began[number + 1].wait(60), (
                    "the next chunk is not started before this one is fetched"
                )
            self.threads.add(threading.current_thread().name)
            self.fetched += 1
            return Scored({"score": np.full(rows, float(number))})

        return fetch

    def run(self, rows: int) -> Scored:
        return self.start(rows)()


def test_scores_are_fetched_and_committed_while_the_next_chunk_runs(tmp_path: Path) -> None:
    scorer = Overlapping(6)
    report = pm.score(POOL, tmp_path / "out.parquet", scorer=scorer, chunk_rows=2)
    assert report.chunks == 6
    assert pl.read_parquet(tmp_path / "out.parquet")["score"].to_list() == [
        float(i // 2) for i in range(12)
    ]
    assert scorer.most == 2, "one runs, one is fetched: a run that is killed loses no more"
    assert all(name.startswith("prefmill-commit") for name in scorer.threads)


@dataclass
class Wanting:
    """A scorer whose device wants so many tokens in a chunk."""

    chunk_tokens: int | None
    columns: ClassVar[tuple[str, ...]] = ("score",)
    fingerprint: ClassVar[dict[str, str]] = {"scorer": "wanting"}

    def prepare(self, batch: Any) -> int:
        return int(batch.num_rows)

    def run(self, rows: int) -> Scored:
        return Scored({"score": np.zeros(rows)})


def test_chunks_are_of_tokens_where_the_device_wants_many(tmp_path: Path) -> None:
    text = "some forty letters in each of the answers"
    pool = pl.DataFrame({"prompt": [f"p{i}" for i in range(3000)], "completion": [text] * 3000})

    def chunks(tokens: int | None, **options: Any) -> int:
        return pm.score(
            pool, tmp_path / f"{tokens}{options}.parquet", scorer=Wanting(tokens), **options
        ).chunks

    assert chunks(None) == chunks(100) == 6, "512 rows, and never fewer"
    assert chunks(1 << 20) == 1
    assert chunks(20_000) in (2, 3)
    assert chunks(1 << 20, chunk_rows=100) == 30, "what is asked for counts"


def test_a_model_on_a_gpu_wants_a_million_tokens_in_a_chunk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "pick_device", torch.device)
    assert RewardModel(model="folder", device="cuda:0").chunk_tokens == 1 << 20
    assert RewardModel(model="folder", device="cpu").chunk_tokens is None
