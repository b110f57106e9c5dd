"""Scores and samples from workers of a cluster: the very columns of a local run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pools
import pytest
import tiny

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, BadRow
from prefmill.runs.workers.workers import Workers

pytest.importorskip("ray", reason="needs the extra prefmill[ray]")
pytest.importorskip("torch", reason="needs the extra prefmill[score]")

import ray_nodes

pytestmark = [pytest.mark.cluster, pytest.mark.score]
pools.one_thread()


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_nodes.Nodes]:
    with ray_nodes.nodes(2, cpus=2) as made:
        yield made


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokens = tmp_path_factory.mktemp("models"), tiny.tokenizer()
    for name, model in {
        "reward": tiny.reward_model(tokens),
        "other": tiny.reward_model(tokens, 1),
        "policy": tiny.causal_model(tokens),
    }.items():
        model.save_pretrained(folder / name)
        tokens.save_pretrained(folder / name)
    return folder


def pool(rows: int = 160, seed: int = 0) -> pl.DataFrame:
    """Prompts in no order, nulls among them, messages of every length."""
    draws = np.random.default_rng(seed)
    words = ["".join(draws.choice(list("abc de"), draws.integers(1, 40))) for _ in range(rows)]
    prompts = [f"what is {draws.integers(0, rows // 5)}?" for _ in range(rows)]
    texts: list[Any] = [None if number % 37 == 5 else word for number, word in enumerate(words)]
    return pl.DataFrame({"prompt": prompts, "completion": texts, "gold": range(rows)})


def both(
    frame: Any, folder: Path, workers: Any, scorer: Any, **settings: Any
) -> tuple[pm.ScoreReport, pm.ScoreReport]:
    """A local run and one on workers, whose outputs are the same to the last bit."""
    here, there = folder / "here.parquet", folder / "there.parquet"
    one = pm.score(frame, here, scorer=scorer, **settings)
    two = pm.score(frame, there, scorer=scorer, workers=workers, **settings)
    assert_same(here, there)
    times = {"seconds", "seconds_model", "peak_rss_mb", "output", "way"}
    own = {"workers", "workers_lost", "worker_peak_rss_mb"}
    plain = [
        {k: v for k, v in each.as_json().items() if k not in times | own} for each in (one, two)
    ]
    assert plain[0] == plain[1]
    assert two.workers >= 1
    assert two.worker_peak_rss_mb > 0
    return one, two


def assert_same(here: Path, there: Path) -> None:
    one, two = pl.read_parquet(here), pl.read_parquet(there)
    assert one.schema == two.schema
    assert one.equals(two, null_equal=True)
    for name, kind in one.schema.items():
        if kind == pl.Float64:  # `equals` takes -0.0 for 0.0
            bits = [frame[name].reinterpret(signed=True) for frame in (one, two)]
            assert bits[0].equals(bits[1], null_equal=True)


class Long:
    """A function with a state of its own, in a module that workers cannot import."""

    reads = ("gold",)
    compares = True

    def __init__(self, factor: float, bad: str = "") -> None:
        self.factor, self.bad = factor, bad

    def __call__(self, batch: Any) -> list[float]:
        texts = batch["completion"].to_pylist()
        for row, text in enumerate(texts):
            if self.bad and self.bad in text:
                raise BadRow("mine", "is bad.", row=row, reason="refused")
        golds = batch["gold"].to_pylist()
        return [self.factor * len(t) + gold / 7 for t, gold in zip(texts, golds, strict=True)]


def test_a_reward_model(cluster: Any, models: Path, tmp_path: Path) -> None:
    scorer = pm.RewardModel(model=models / "reward", threads=1)
    workers = Workers(2, address=cluster.address)
    one, two = both(pool(), tmp_path, workers, scorer, chunk_rows=16)
    assert two.workers_lost == 0  # one may be done before the other has loaded
    assert two.way == one.way
    assert two.tokens_run > 0
    again = pm.score(pool(), tmp_path / "there.parquet", scorer=scorer, workers=workers)
    assert again.chunks_resumed == again.chunks
    # The run is one run, wherever it is done.
    here = pm.score(pool(), tmp_path / "there.parquet", scorer=scorer)
    assert here.chunks_resumed == here.chunks
    assert here.workers == 0


def test_a_function(cluster: Any, tmp_path: Path) -> None:
    scorer = Long(0.1)
    for number, rows in enumerate((160, 1)):
        folder = tmp_path / str(number)
        folder.mkdir()
        both(
            pool(rows, 1) if rows > 1 else pool(10, 1)[:1],
            folder,
            Workers(3, address=cluster.address),
            scorer,
            chunk_rows=7,
        )


@pytest.mark.parametrize("over", ["prompt", "pool"])
def test_an_ensemble(over: str, cluster: Any, models: Path, tmp_path: Path) -> None:
    parts = {
        "one": pm.RewardModel(model=models / "reward", threads=1),
        "other": pm.RewardModel(model=models / "other", threads=1),
        "long": Long(2.0),
    }
    scorer = pm.Ensemble(scorers=parts, combine="zscore", over=over)
    both(pool(60), tmp_path, Workers(2, address=cluster.address), scorer, chunk_rows=16)


def test_a_verifier(cluster: Any, tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "prompt": [f"what is {i} + {i}?" for i in range(40) for _ in range(2)],
            "completion": [f"It is {2 * i + wrong}." for i in range(40) for wrong in (0, 1)],
            "gold": [str(2 * i) for i in range(40) for _ in range(2)],
        }
    )
    scorer = pm.Verifier(check="number", answer="gold")
    one, _ = both(frame, tmp_path, Workers(2, address=cluster.address), scorer, chunk_rows=10)
    assert sum(one.reasons.values()) == 40


def test_pairs_and_messages(cluster: Any, models: Path, tmp_path: Path) -> None:
    asked = [{"role": "user", "content": "why?"}]
    frame = pl.DataFrame(
        {
            "prompt": [asked] * 30,
            "chosen": [[{"role": "assistant", "content": "a" * (i + 1)}] for i in range(30)],
            "rejected": [[{"role": "assistant", "content": "b" * (i + 1)}] for i in range(30)],
        }
    )
    scorer = pm.RewardModel(model=models / "reward", threads=1)
    one, _ = both(frame, tmp_path, Workers(2, address=cluster.address), scorer, chunk_rows=8)
    assert one.columns == ("chosen_score", "rejected_score")


def test_bad_rows_are_named_or_counted_as_locally(cluster: Any, tmp_path: Path) -> None:
    frame = pool(120, 2).with_columns(id=pl.format("r{}", pl.col("gold")))
    workers = Workers(3, address=cluster.address)
    both(frame, tmp_path, workers, Long(1.0, bad="ab"), chunk_rows=9, on_bad_row="null")
    errors = []
    for number, hands in enumerate((None, workers)):
        target = tmp_path / f"stops{number}.parquet"
        with pytest.raises(BadRow) as raised:
            pm.score(frame, target, scorer=Long(1.0, bad="ab"), chunk_rows=9, workers=hands)
        errors.append(str(raised.value))
    assert errors[0] == errors[1]  # the first of them, whichever came first
    # and what is committed is gone on with
    done = pm.score(
        frame,
        tmp_path / "stops1.parquet",
        scorer=Long(1.0, bad="ab"),
        workers=workers,
        on_bad_row="null",
    )
    assert done.null["refused"] > 0
    assert_same(tmp_path / "here.parquet", tmp_path / "stops1.parquet")


def test_other_errors_are_those_of_a_local_run(cluster: Any, tmp_path: Path) -> None:
    def short(batch: Any) -> list[float]:
        return [1.0]

    def failing(batch: Any) -> list[float]:
        raise ZeroDivisionError("mine")

    workers = Workers(2, address=cluster.address)
    with pytest.raises(BadInput, match="values of shape"):
        pm.score(pool(), tmp_path / "a.parquet", scorer=short, workers=workers)
    with pytest.raises(ZeroDivisionError, match="mine"):
        pm.score(pool(), tmp_path / "a.parquet", scorer=failing, workers=workers)
    with pytest.raises(pm.PrefmillError) as local:
        pm.score(pool(), tmp_path / "a.parquet", scorer=tmp_path / "nothing")
    with pytest.raises(pm.PrefmillError) as away:
        pm.score(pool(), tmp_path / "a.parquet", scorer=tmp_path / "nothing", workers=workers)
    assert str(local.value) == str(away.value)


def test_samples(cluster: Any, models: Path, tmp_path: Path) -> None:
    prompts = pool(60).select("prompt", kept="gold")
    sampler = pm.LocalSampler(model=models / "policy", max_new_tokens=12, threads=1)
    asked: dict[str, Any] = {"sampler": sampler, "n": 4, "keep": ["kept"], "chunk_rows": 16}
    here, there = tmp_path / "here.parquet", tmp_path / "there.parquet"
    one = pm.sample(prompts, here, **asked)
    two = pm.sample(prompts, there, workers=Workers(2, address=cluster.address), **asked)
    assert_same(here, there)
    assert two.workers >= 1
    assert two.way == one.way
    for name in ("answers", "finish_reasons", "duplicates", "empty", "tokens", "tokens_sampled"):
        assert getattr(one, name) == getattr(two, name)


def test_prompts_that_leave_no_room(cluster: Any, models: Path, tmp_path: Path) -> None:
    prompts = pl.DataFrame({"id": ["a", "b", "c"], "prompt": ["p", "q" * 300, "r" * 300]})
    sampler = pm.LocalSampler(model=models / "policy", max_new_tokens=8, threads=1)
    workers = Workers(2, address=cluster.address)
    for hands in (None, workers):
        target = tmp_path / f"{hands is None}.parquet"
        with pytest.raises(BadRow, match=r"\(id 'b'\).*too long"):
            pm.sample(prompts, target, sampler=sampler, n=2, chunk_rows=2, workers=hands)
    done = pm.sample(
        prompts,
        tmp_path / "False.parquet",
        sampler=sampler,
        n=2,
        chunk_rows=2,
        workers=workers,
        on_bad_row="null",
    )
    assert done.null == {"too_long": 4}
    assert done.first_null == {"too_long": "row 1"}


def test_a_model_that_is_another_one_elsewhere_is_refused(cluster: Any, tmp_path: Path) -> None:
    """Each worker says what its model is, and all have to say the same."""

    def differs() -> Any:
        import os
        import time

        from prefmill.scoring.scorers import Scored

        class Differs:
            columns = ("score",)

            @property
            def fingerprint(self) -> dict[str, str]:
                return {"model": str(os.getpid())}

            def prepare(self, batch: Any) -> Any:
                return batch

            def run(self, batch: Any) -> Any:
                time.sleep(1)  # until the other one is there
                return Scored({"score": np.zeros(batch.num_rows)})

        return Differs()

    with pytest.raises(BadArgument, match="has another model; got"):
        pm.score(
            pool(),
            tmp_path / "a.parquet",
            scorer=differs(),
            chunk_rows=4,
            workers=Workers(2, address=cluster.address),
        )


def test_versions_that_differ_are_named(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from prefmill.runs.workers import actors

    real = actors.versions()
    monkeypatch.setattr(actors, "versions", lambda: {**real, "polars": "1.0"})
    with pytest.raises(BadArgument, match=r"another polars; got .*, expected 1\.0"):
        pm.score(
            pool(),
            tmp_path / "a.parquet",
            scorer=Long(1.0),
            workers=Workers(1, address=cluster.address),
        )


def test_what_cannot_be_told_of_a_function_is_told_once(cluster: Any, tmp_path: Path) -> None:
    """Its fingerprint is made here: workers would not agree on a function that nobody knows."""

    def unknown(batch: Any) -> list[float]:
        eval("1")
        return [1.0] * batch.num_rows

    target = tmp_path / "a.parquet"
    workers = Workers(2, address=cluster.address)
    done = pm.score(pool(), target, scorer=unknown, chunk_rows=9, workers=workers)
    assert done.rows_scored == pool()["completion"].count()
    manifest = json.loads((tmp_path / ".a.parquet.prefmill/ledger.json").read_text())
    assert "eval" in manifest["key"]["scorer"]["content"]
