"""A fingerprint covers all that decides a value; what cannot be told is never used again."""

from __future__ import annotations

import functools
import importlib
import shutil
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill as pm
from prefmill.errors import RunDiffers
from prefmill.scoring import Ensemble, FunctionScorer

POOL = pa.table({"prompt": ["p", "q", "r"], "completion": ["a", "bb", "ccc"]})
SIGN = 1


def lengths(batch: pa.RecordBatch) -> np.ndarray:
    return np.array([len(text) for text in batch["completion"].to_pylist()], float)


def scaled(batch: pa.RecordBatch, by: float = 1.0) -> np.ndarray:
    return lengths(batch) * by


def squared(batch: pa.RecordBatch, by: float = 1.0) -> np.ndarray:
    return lengths(batch) ** 2 * by


def signed(batch: pa.RecordBatch) -> np.ndarray:
    return SIGN * lengths(batch)


def through(batch: pa.RecordBatch) -> np.ndarray:
    """The global that decides stands in a function that is called."""
    return signed(batch)


def closed(by: Any) -> Callable[[pa.RecordBatch], np.ndarray]:
    return lambda batch: lengths(batch) * by


def defaulted(by: float) -> Callable[..., np.ndarray]:
    def score(batch: pa.RecordBatch, *, by: float = by) -> np.ndarray:
        return lengths(batch) * by

    return score


class Weigher:
    table: Any = None

    def __init__(self, by: Any) -> None:
        self.by = by

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return lengths(batch) * self.by

    def score(self, batch: pa.RecordBatch) -> np.ndarray:
        return self(batch)

    @staticmethod
    def plain(batch: pa.RecordBatch) -> np.ndarray:
        return lengths(batch)


@dataclass(frozen=True)
class Slotted:
    __slots__ = ("by",)
    by: float

    def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
        return lengths(batch) * self.by


class Forgetful(Weigher):
    """Leaves out what decides when it is pickled."""

    def __getstate__(self) -> dict[str, Any]:
        return {}


def of_tensor(value: float) -> Any:
    torch = pytest.importorskip("torch")
    return Weigher(torch.tensor([value], dtype=torch.bfloat16))


def print_of(function: Any) -> dict[str, str]:
    return dict(FunctionScorer(function).fingerprint)


@pytest.mark.parametrize(
    ("make", "one", "two"),
    [
        (Weigher, 1.0, -1.0),
        (Slotted, 1.0, -1.0),
        (Forgetful, 1.0, -1.0),
        (lambda by: Weigher(by).score, 1.0, -1.0),
        (closed, 1.0, -1.0),
        (defaulted, 1.0, -1.0),
        (lambda function: functools.partial(function, by=2.0), scaled, squared),
        (lambda by: functools.partial(scaled, by=by), 1.0, -1.0),
        (lambda by: functools.wraps(lengths)(closed(by)), 1.0, -1.0),
        (lambda by: functools.lru_cache(closed(by)), 1.0, -1.0),
        (closed, np.arange(3.0), np.arange(3.0)[::-1]),
        (closed, {"a": [1, {2, 3}]}, {"a": [1, {2, 4}]}),
        (closed, Weigher(1), Weigher(2)),
        (of_tensor, 1.0, -1.0),
        (
            lambda function: Ensemble(scorers={"a": function}).scorers["a"].function,
            closed(1),
            closed(2),
        ),
    ],
)
def test_what_decides_is_in_the_fingerprint(make: Callable[[Any], Any], one: Any, two: Any) -> None:
    """The same twice is the same; another attribute, argument, cell or default is another."""
    assert print_of(make(one)) == print_of(make(one))
    assert print_of(make(one)) != print_of(make(two))


@pytest.mark.parametrize("function", [signed, through, functools.partial(signed), closed(signed)])
def test_globals(function: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before = print_of(function)
    assert print_of(function) == before
    monkeypatch.setattr(sys.modules[__name__], "SIGN", -1)
    assert print_of(function) != before


def test_methods_and_attributes_of_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    before = print_of(Weigher(1.0))
    monkeypatch.setattr(Weigher, "table", {"a": 1})
    changed = print_of(Weigher(1.0))
    monkeypatch.setattr(Weigher, "__call__", squared)
    assert len({str(each) for each in (before, changed, print_of(Weigher(1.0)))}) == 3


def test_a_module_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its code and its values count, wherever they are named; in another process the same file is
    the same.
    """
    monkeypatch.syspath_prepend(str(tmp_path))
    prints = []
    for text in (
        "W = 1\ndef f(x): return x * W\n",
        "W = 2\ndef f(x): return x * W\n",
        "W = 1\ndef f(x): return x * W\n",
    ):
        (tmp_path / "own_weights.py").write_text(text)
        sys.modules.pop("own_weights", None)
        importlib.invalidate_caches()
        sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
        own = importlib.import_module("own_weights")
        sys.dont_write_bytecode = before
        prints.append(print_of(closed_over(own)))
    assert prints[0] == prints[2] != prints[1]


def closed_over(module: Any) -> Callable[[pa.RecordBatch], Any]:
    function = module.f
    return lambda batch: [function(1.0)] * batch.num_rows


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (threading.Lock(), "_thread.lock"),
        ((n for n in range(3)), "generator"),
        (Weigher(threading.Lock()), "_thread.lock"),
    ],
)
def test_what_cannot_be_told_is_another_every_time(value: Any, says: str) -> None:
    one, two = print_of(closed(value)), print_of(closed(value))
    assert one != two
    assert says in one["content"]
    assert "not to be compared" in one["content"]


def test_files_are_not_covered(tmp_path: Path) -> None:
    def from_file(batch: pa.RecordBatch) -> list[float]:
        with open(tmp_path / "weight") as file:
            return [float(file.read())] * batch.num_rows

    assert print_of(from_file) != print_of(from_file)
    assert "calls open" in print_of(from_file)["content"]


def test_a_second_scorer_on_the_same_output_is_another_run(tmp_path: Path) -> None:
    """Before, it did nothing, and the first one's figures stood."""
    out = tmp_path / "out.parquet"
    for by in (1.0, -1.0):
        if by < 0:
            with pytest.raises(RunDiffers, match=r"another scorer\.content"):
                pm.score(POOL, out, scorer=Weigher(by))
        pm.score(POOL, out, scorer=Weigher(by), overwrite=by < 0)
        assert pq.read_table(out)["score"].to_pylist() == [by, 2 * by, 3 * by]
    assert pm.score(POOL, out, scorer=Weigher(-1.0)).chunks_resumed == 3 - 2


def test_a_resumed_run_does_not_mix_scorers(tmp_path: Path) -> None:
    """Before, `[1, 2, -3]`."""

    class Stops(Weigher):
        """Fails on the third row, and is otherwise the same whatever `failing` is: it says so."""

        def __init__(self, by: float, failing: bool) -> None:
            super().__init__(by)
            self.failing = failing
            self.fingerprint = {"weigher": repr(by)}

        def __call__(self, batch: pa.RecordBatch) -> np.ndarray:
            if self.failing and "ccc" in batch["completion"].to_pylist():
                raise KeyboardInterrupt
            return super().__call__(batch)

    out = tmp_path / "out.parquet"
    with pytest.raises(KeyboardInterrupt):
        pm.score(POOL, out, scorer=Stops(1.0, failing=True), chunk_rows=1)
    with pytest.raises(RunDiffers, match="weigher"):
        pm.score(POOL, out, scorer=Stops(-1.0, failing=False), chunk_rows=1)
    done = pm.score(POOL, out, scorer=Stops(1.0, failing=False), chunk_rows=1)
    assert done.chunks_resumed >= 1
    assert pq.read_table(out)["score"].to_pylist() == [1.0, 2.0, 3.0]


def test_what_cannot_be_told_is_not_resumed(tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    lock = threading.Lock()

    def locked(batch: pa.RecordBatch) -> np.ndarray:
        with lock:
            return lengths(batch)

    pm.score(POOL, out, scorer=locked)
    with pytest.raises(
        RunDiffers,
        match=r"(?s)not to be compared, for .*lock.*an attribute fingerprint of the function would "
        r"tell",
    ):
        pm.score(POOL, out, scorer=locked)


def test_a_scorer_inside_a_function_counts_with_its_model(tmp_path: Path) -> None:
    """By the content of its files, though its description is the same."""
    pools = pytest.importorskip("pools")
    folder = shutil.copytree(pools.reward("llama"), tmp_path / "model")

    def made() -> Callable[[pa.RecordBatch], Any]:
        model = pm.RewardModel(model=folder, device="cpu")
        return lambda batch: -model(batch)

    before = print_of(made())
    assert print_of(made()) == before
    shutil.copy(pools.reward("llama", seed=1) / "model.safetensors", folder)
    assert print_of(made()) != before
