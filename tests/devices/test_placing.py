"""What goes to which device, in which type, and what ends when one fails."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
from failing_scorer import Failing
from played_cuda import CPU, PlayedCuda, some_rows, tiny_model, values

torch = pytest.importorskip("torch", reason="needs the extra prefmill[score]")

transformers = pytest.importorskip("transformers", reason="needs the extra prefmill[score]")


import check_gpu  # noqa: E402
import flash_on_cpu  # noqa: E402

import prefmill as pm  # noqa: E402
from prefmill.errors import BadArgument, OutOfDeviceMemory  # noqa: E402
from prefmill.models import loading as models  # noqa: E402
from prefmill.models.tokens import TokenRows  # noqa: E402
from prefmill.scoring import EndpointScorer, RewardModel, attention, heads  # noqa: E402
from prefmill.scoring.attention import StreamPlan  # noqa: E402
from prefmill.scoring.engine import Engine  # noqa: E402
from prefmill.scoring.heads import RewardHead  # noqa: E402
from prefmill.scoring.packing import Stream  # noqa: E402

pytestmark = pytest.mark.score

pools.one_thread()

flash_on_cpu.install()


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


def listed(numbers: Any, which: Any) -> Any:
    """Which blocks are listed, shape (blocks, blocks)."""
    found = torch.zeros(which.shape[-2:], dtype=torch.bool)
    for row, number in enumerate(numbers[0, 0].tolist()):
        found[row, which[0, 0, row, :number].long()] = True
    return found


# -- G5, G6, G10: loading, failing, memory


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
        match=r"does not fit into the memory of cuda:1\.\nHint: .*no tensor parallelism.*--scorer "
        r"endpoint",
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
    wanted, forward = values(scorer, rows), scorer.streams.forward
    held: list[weakref.ref[Any]] = []
    alive: list[bool] = []

    def short(rows: TokenRows, stream: Stream, past: Any) -> Any:
        if len(stream) > 60:
            states = torch.ones(len(stream))
            held.append(weakref.ref(states))
            raise type(error)(*error.args)
        return forward(rows, stream, past)

    scorer.streams.forward = short
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: alive.append(held[-1]() is not None))
    np.testing.assert_allclose(values(scorer, rows), wanted, rtol=0, atol=1e-6)
    assert alive
    assert not any(alive)
    assert scorer.splits == len(alive)


# -- G7: the model of --parity


def test_the_parity_model_runs_on_the_cpu_unless_told() -> None:
    """The server fills the GPU: before, the model was loaded next to it."""
    import prefmill.cli.score as command

    def parity_of(**given: Any) -> RewardModel:
        options: dict[str, Any] = {
            "combine": None,
            "scorer": "endpoint",
            "model": None,
            "url": "http://localhost:1",
            "parity": "folder",
            **given,
        }
        return command.scorer_of(options).parity

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
