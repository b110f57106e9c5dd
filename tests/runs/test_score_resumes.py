"""A run of `prefmill.score` that was ended goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from scored import expected, length, pool

import prefmill as pm
from prefmill.disk.ledger import Ledger
from prefmill.errors import (
    RunBusy,
    RunDiffers,
    TargetExists,
)
from prefmill.runs.records.kept import found_in, verify

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# -- resuming


class Stops(Exception):
    """An interruption."""


def stopping(after: int, calls: list[int], scorer: Any = length) -> Any:
    def scorer_that_stops(batch: pa.RecordBatch) -> Any:
        if len(calls) == after:
            raise Stops
        calls.append(batch.num_rows)
        return scorer(batch)

    scorer_that_stops.fingerprint = "length 1"
    return scorer_that_stops


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    frame, out = pool(), tmp_path / "out.parquet"
    first: list[int] = []
    with pytest.raises(Stops):
        pm.score(frame, out, scorer=stopping(4, first), chunk_rows=7)
    assert not out.exists()
    second: list[int] = []
    report = pm.score(frame, out, scorer=stopping(10**6, second), chunk_rows=7)
    assert report.chunks_resumed == 4
    assert sum(first) + sum(second) == frame.height
    assert pl.read_parquet(out)["score"].to_list() == expected(frame)
    third: list[int] = []
    again = pm.score(
        frame, out, scorer=stopping(10**6, third), chunk_rows=7
    )  # the same run: nothing to do
    assert (third, again.rows_scored, again.chunks_resumed) == ([], frame.height, report.chunks)


def test_a_broken_chunk_is_done_again(tmp_path: Path) -> None:
    frame, out = pool(), tmp_path / "out.parquet"
    with pytest.raises(Stops):
        pm.score(frame, out, scorer=stopping(5, []), chunk_rows=7)
    chunks = sorted((tmp_path / ".out.parquet.prefmill").glob("*.arrow"))
    assert len(chunks) == 5
    chunks[1].write_bytes(chunks[1].read_bytes()[:-20])
    chunks[3].write_bytes(b"")
    (chunks[0].parent / ".000002.arrow.77-1-00000000-000000-00000000.tmp").write_bytes(
        b"left by a kill"
    )
    calls: list[int] = []
    report = pm.score(frame, out, scorer=stopping(10**6, calls), chunk_rows=7)
    assert report.chunks_resumed == 3
    assert pl.read_parquet(out)["score"].to_list() == expected(frame)
    assert sorted(p.name for p in (tmp_path / ".out.parquet.prefmill").iterdir()) == [
        "ledger.json",
        "manifest.json",
    ]


def test_another_run_on_the_same_output_is_refused_by_name(tmp_path: Path) -> None:
    frame, out = pool(), tmp_path / "out.parquet"
    with pytest.raises(Stops):
        pm.score(frame, out, scorer=stopping(3, []), chunk_rows=7)

    def other(batch: pa.RecordBatch) -> list[float]:
        return length(batch)

    other.fingerprint = "length 2"
    with pytest.raises(
        RunDiffers, match=r"another scorer.function; got length 2, expected length 1"
    ):
        pm.score(frame, out, scorer=other)
    changed = frame.with_columns(
        completion=pl.when(pl.col("id") == frame["id"][9])
        .then(pl.lit("changed"))
        .otherwise("completion")
    )
    with pytest.raises(RunDiffers, match=r"another input.content"):
        pm.score(changed, out, scorer=stopping(9, []))
    with pytest.raises(RunDiffers, match=r"another input.rows"):
        pm.score(frame[:-1], out, scorer=stopping(9, []))
    with pytest.raises(RunDiffers, match=r"another columns"):
        pm.score(frame, out, scorer=stopping(9, []), score_column="reward")
    pm.score(frame, out, scorer=other, overwrite=True)
    with pytest.raises(RunDiffers):
        pm.score(frame, out, scorer=stopping(10**6, []))


def test_an_output_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out.parquet").write_bytes(b"precious")
    with pytest.raises(TargetExists):
        pm.score(pool(3), tmp_path / "out.parquet", scorer=length)
    assert (tmp_path / "out.parquet").read_bytes() == b"precious"


def test_two_at_a_time_are_refused(tmp_path: Path) -> None:
    frame, out = pool(), tmp_path / "out.parquet"

    def scorer(batch: pa.RecordBatch) -> list[float]:
        with pytest.raises(RunBusy):
            pm.score(frame, out, scorer=scorer)
        return length(batch)

    pm.score(frame, out, scorer=scorer)


# -- with a model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import tiny_models

    return tiny_models.save_reward_model("llama", tmp_path_factory.mktemp("model"))


def test_a_run_goes_on_with_its_batches_and_threads(model: Path, tmp_path: Path) -> None:
    frame = pool()
    whole = pm.score(
        frame,
        tmp_path / "whole.parquet",
        scorer=pm.RewardModel(model=model, batch_tokens=200, threads=1),
        chunk_rows=9,
    )
    reward = pm.RewardModel(model=model, batch_tokens=200, threads=1)

    class Half:
        columns, fingerprint, shape = reward.columns, reward.fingerprint, reward.shape
        calls = 0
        prepare = staticmethod(reward.prepare)

        def run(self, prepared: Any) -> Any:
            self.calls += 1
            if self.calls > 3:
                raise Stops
            return reward.run(prepared)

    with pytest.raises(Stops):
        pm.score(frame, tmp_path / "out.parquet", scorer=Half(), chunk_rows=9)
    report = pm.score(
        frame,
        tmp_path / "out.parquet",
        scorer=pm.RewardModel(model=model, batch_tokens=999, threads=2),
        chunk_rows=50,
    )
    assert report.chunks_resumed == 3
    assert report.chunks == whole.chunks
    a, b = (
        pl.read_parquet(tmp_path / name)["score"].to_numpy()
        for name in ("whole.parquet", "out.parquet")
    )
    assert a.tobytes() == b.tobytes()


def test_another_model_template_or_dtype_is_refused_by_name(model: Path, tmp_path: Path) -> None:
    import tiny_models

    out = tmp_path / "out.parquet"
    pm.score(pool(5), out, scorer=pm.RewardModel(model=model))
    (tmp_path / "shouting.jinja").write_text(
        "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
    )
    other = tiny_models.save_reward_model("llama", tmp_path / "other", seed=1)
    for difference, scorer in {
        "scorer.model": pm.RewardModel(model=other),
        "scorer.template": pm.RewardModel(model=model, template=str(tmp_path / "shouting.jinja")),
        "scorer.dtype": pm.RewardModel(model=model, dtype="bfloat16"),
        "scorer.max_length": pm.RewardModel(model=model, max_length=100),
        "scorer.pooling": pm.RewardModel(model=model, pooling="last"),
    }.items():
        with pytest.raises(RunDiffers, match=f"another {difference}; got"):
            pm.score(pool(5), out, scorer=scorer)
    copy = tmp_path / "copy"  # the same files elsewhere are the same model
    copy.mkdir()
    for file in model.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    assert pm.score(pool(5), out, scorer=pm.RewardModel(model=copy)).chunks_resumed > 0


def test_a_grown_pool_scores_its_new_rows(model: Path, tmp_path: Path) -> None:
    frame = pool()
    scorer = pm.RewardModel(model=model, cache=tmp_path / "cache")
    first = pm.score(frame, tmp_path / "first.parquet", scorer=scorer)
    assert first.cached == 0
    grown = pl.concat([frame, pool(10, seed=1)])
    second = pm.score(grown, tmp_path / "second.parquet", scorer=scorer)
    assert second.cached == frame.height
    old, new = (
        pl.read_parquet(tmp_path / f"{name}.parquet")["score"].to_list()
        for name in ("first", "second")
    )
    assert new[: len(old)] == old
    other = pm.score(
        grown,
        tmp_path / "third.parquet",
        scorer=pm.RewardModel(model=model, cache=tmp_path / "cache", max_length=200),
    )
    assert other.cached == 0  # scored in another way: other scores


@pytest.mark.parametrize("kills", [5, pytest.param(30, marks=pytest.mark.torture)])
def test_killed_at_random_instants(kills: int, model: Path, tmp_path: Path) -> None:
    frame = pool(150, seed=3)
    frame.write_parquet(tmp_path / "pool.parquet")
    whole = pm.score(
        frame, tmp_path / "whole.parquet", scorer=pm.RewardModel(model=model), chunk_rows=6
    )
    assert whole.chunks > 50
    out = tmp_path / "out.parquet"
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "support" / "runners" / "kill_score.py"),
        str(tmp_path / "pool.parquet"),
        str(out),
        str(model),
        str(kills),
        "7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"killed {kills}" in done.stdout
    got, wanted = pl.read_parquet(out), pl.read_parquet(tmp_path / "whole.parquet")
    assert got.select(frame.columns).rows() == frame.rows()  # none lost, none twice, none moved
    np.testing.assert_allclose(
        got["score"].to_numpy(), wanted["score"].to_numpy(), rtol=0, atol=1e-5
    )
    # Bit for bit as one unbroken run with the settings that the first life had.
    shape = json.loads((tmp_path / ".out.parquet.prefmill" / "ledger.json").read_text())["shape"]
    again = pm.RewardModel(model=model).with_shape(shape["scorer"])
    pm.score(frame, tmp_path / "again.parquet", scorer=again, chunk_rows=shape["chunk_rows"])
    assert (
        pl.read_parquet(tmp_path / "again.parquet")["score"].to_numpy().tobytes()
        == got["score"].to_numpy().tobytes()
    )


def test_killed_between_the_record_and_the_ledger_both_know_the_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next life publishes again: it does so under its lock, and with a record of its own."""
    pool().write_parquet(tmp_path / "pool.parquet")
    words = {"inputs": tmp_path / "pool.parquet", "output": tmp_path / "scored.parquet"}

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            pm.score(**words, scorer=length)
    report = pm.score(**words, scorer=length)
    assert report.chunks_resumed == report.chunks
    assert [each.state for each in found_in(tmp_path)] == ["done"]
    assert verify(tmp_path / "scored.parquet") == []
    assert "nothing was to do" in pm.score(**words, scorer=length).notes[-1]


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_between_the_output_and_the_word_that_it_is_there(
    overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was published is this run's own: the next life ends it without a call of the scorer. A
    file of somebody else stays refused.
    """
    frame, target = pool(), tmp_path / "scored.parquet"
    if overwrite:
        target.write_bytes(b"of an earlier run")

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            pm.score(frame, target, scorer=length, overwrite=overwrite)
    first = target.read_bytes()
    report = pm.score(frame, target, scorer=length)
    assert (report.chunks_resumed, target.read_bytes()) == (report.chunks, first)
    assert pl.read_parquet(target)["score"].to_list() == expected(frame)

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "publishing", killed)
        with pytest.raises(KeyboardInterrupt):
            pm.score(frame, tmp_path / "other.parquet", scorer=length)
    (tmp_path / "other.parquet").write_bytes(b"of somebody else")
    with pytest.raises(TargetExists):
        pm.score(frame, tmp_path / "other.parquet", scorer=length)
    assert (tmp_path / "other.parquet").read_bytes() == b"of somebody else"
