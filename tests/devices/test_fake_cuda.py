"""A forward pass on a device that only counts: copies, kernels, chunks."""

from __future__ import annotations

import collections
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pools
import pytest
from played_cuda import group

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


import flash_on_cpu  # noqa: E402

import prefmill as pm  # noqa: E402
from prefmill.models import loading as models  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import RewardModel, attention, engine  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import LogProbHead, RewardHead  # noqa: E402
from prefmill.scoring.scorers import Scored  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

flash_on_cpu.install()

POOL = pl.DataFrame({"prompt": [f"p{i}" for i in range(12)], "completion": ["a"] * 12})

# -- G9: nothing waits

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


def unprobed(_headed: Any, streams: Any, _padded: Any) -> str:
    """What the probe would find: fake tensors have no values."""
    streams.cascades, streams.windows = True, {None}
    return ""


def forward_on_fake_cuda(
    monkeypatch: pytest.MonkeyPatch,
    layers: int,
    rows: TokenRows,
    *,
    causal: bool = False,
    streams: int = 1,
) -> Any:
    """The counts of forward passes, one a stream, at the shape of an 8B model."""
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: (9, 0))
    monkeypatch.setattr(engine, "why_not_streams", unprobed)
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
        head = LogProbHead() if causal else RewardHead()
        scorer = Engine(model, head, torch.device("cuda"))
        made, past = scorer.plan(rows).streams, None
        assert len(made) == streams
        with attention.using(model, scorer.streams.form), counter, torch.no_grad():
            for stream in made:
                _, past = scorer.streams.forward(rows, stream, past)
    counter.layers = dict(scorer.streams.layers)
    return counter


def a_forest() -> TokenRows:
    """Conversations of which every turn is a row, more tokens than one stream holds."""
    head = list(range(3000))
    rows = [[*head, 5000 + i, *range(i, i + 700)] for i in range(24)]
    rows += [[*row, 7, 8, 9, *range(40)] for row in rows]
    return TokenRows.of(rows, starts=[len(row) - 30 for row in rows])


@pytest.mark.parametrize("causal", [False, True])
def test_streams_that_go_on_wait_for_nothing_either(
    monkeypatch: pytest.MonkeyPatch, causal: bool
) -> None:
    """The keys and states of the path stay on the device."""
    rows = a_forest()
    found = forward_on_fake_cuda(monkeypatch, 2, rows, causal=causal, streams=2)
    assert found.layers in ({attention.VARLEN: 4}, {attention.IN_PLACE: 4})
    assert found.waits == []


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
