"""A run of `prefmill.sample` that was ended goes on where it was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from echo import Echo, prompts, read

import prefmill as pm
from prefmill.errors import (
    RunDiffers,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# -- resuming


def test_goes_on_where_it_was(tmp_path: Path) -> None:
    frame, out = prompts(), tmp_path / "pool.parquet"
    pm.sample(frame, tmp_path / "whole.parquet", sampler=Echo(), n=4, chunk_rows=12)
    first, second, third = Echo(fails_after=4), Echo(), Echo()
    with pytest.raises(KeyboardInterrupt):
        pm.sample(frame, out, sampler=first, n=4, chunk_rows=12)
    assert not out.exists()
    done = pm.sample(frame, out, sampler=second, n=4, chunk_rows=99)
    assert (done.chunks, done.chunks_resumed) == (14, 4)
    assert len(first.seen) + len(second.seen) == done.answers == 160
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    again = pm.sample(frame, out, sampler=third, n=4)
    assert (third.seen, again.chunks_resumed, again.tokens) == ([], 14, done.tokens)
    assert again.finish_reasons == done.finish_reasons


def test_another_run_on_the_same_output_is_refused_by_name(tmp_path: Path) -> None:
    frame, out = prompts(), tmp_path / "pool.parquet"
    with pytest.raises(KeyboardInterrupt):
        pm.sample(frame, out, sampler=Echo(fails_after=1), n=4, chunk_rows=12, keep=["topic"])
    changed = frame.with_columns(topic=pl.col("topic") + 1)
    for difference, (source, sampler, more) in {
        "n": (frame, Echo(), {"n": 6}),
        "temperatures": (frame, Echo(), {"temperatures": [0.9, 0.8]}),
        "seed": (frame, Echo(), {"seed": 1}),
        "stage": (frame, Echo(), {"stage": 1}),
        "source": (frame, Echo(), {"source": "b"}),
        "keep": (frame, Echo(), {"keep": []}),
        "sampler.model": (frame, Echo(model="b"), {}),
        "input.prompts": (frame[1:], Echo(), {}),
        "input.content": (changed, Echo(), {}),
    }.items():
        with pytest.raises(RunDiffers, match=f"sample: .*another {difference}"):
            pm.sample(source, out, sampler=sampler, **{"n": 4, "keep": ["topic"], **more})
    assert pm.sample(changed, out, sampler=Echo(), overwrite=True).answers == 320


# -- with a model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import pools

    pools.one_thread()
    return pools.causal("gpt2")


@pytest.mark.score
def test_a_pool_hangs_on_its_requests_alone(model: Path, tmp_path: Path) -> None:
    frame = prompts(12)
    names = ("prompt", "completion", "id", "seed", "finish_reason", "n_tokens", "duplicate")
    found = []
    for number, (rows, budget) in enumerate(((99, None), (5, 60), (20, 400))):
        sampler = pm.LocalSampler(model=model, max_new_tokens=10, batch_tokens=budget, threads=1)
        source = frame if number else frame.reverse()
        done = pm.sample(
            source,
            tmp_path / f"{number}.parquet",
            sampler=sampler,
            n=3,
            temperatures=[0, 1.0],
            chunk_rows=rows,
        )
        found.append(read(tmp_path / f"{number}.parquet").sort("id"))
    assert found[0].select(names).equals(found[1].select(names))
    assert found[0].select(names).equals(found[2].select(names))
    assert (found[0]["logprob"] - found[1]["logprob"]).abs().max() < 1e-4
    assert done.way == "together"
    assert done.tokens == done.tokens_sampled == found[0]["n_tokens"].sum()
    assert done.tokens_per_second
    assert set(found[0]["source"]) == {model.name}
    pm.sample(frame[:1], tmp_path / "here.parquet", sampler=model, n=1, temperatures=[0])
    sampler = pm.LocalSampler(model=model, max_new_tokens=10, top_p=0.5)
    with pytest.raises(RunDiffers, match=r"another sampler.top_p; got 0.5, expected 1.0"):
        pm.sample(frame, tmp_path / "1.parquet", sampler=sampler, n=3, temperatures=[0, 1.0])


@pytest.mark.score
@pytest.mark.parametrize("kills", [2, pytest.param(8, marks=pytest.mark.torture)])
def test_killed_at_random_instants(kills: int, model: Path, tmp_path: Path) -> None:
    frame = prompts(60, seed=3)
    frame.write_parquet(tmp_path / "prompts.parquet")
    out = tmp_path / "out.parquet"
    program = str(Path(__file__).parents[1] / "support" / "runners" / "kill_sample.py")
    command = [
        sys.executable,
        program,
        str(tmp_path / "prompts.parquet"),
        str(out),
        str(model),
        str(kills),
        "7",
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert f"killed {kills}" in done.stdout
    # Byte for byte as one unbroken run with the settings that the first life had.
    shape = json.loads((tmp_path / ".out.parquet.prefmill" / "ledger.json").read_text())["shape"]
    sampler = pm.LocalSampler(model=model, max_new_tokens=12).with_shape(shape["sampler"])
    whole = tmp_path / "whole.parquet"
    pm.sample(
        frame,
        whole,
        sampler=sampler,
        n=4,
        temperatures=[0.8, 0],
        chunk_rows=4 * shape["chunk_prompts"],
    )
    assert out.read_bytes() == whole.read_bytes()
    assert sorted(p.name for p in (tmp_path / ".out.parquet.prefmill").iterdir()) == [
        "ledger.json",
        "manifest.json",
    ]
