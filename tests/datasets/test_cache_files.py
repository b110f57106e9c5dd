"""Cache files, processes, and what becomes of a stream that is left early."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from feedback import feedback

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")

datasets.disable_progress_bars()

import prefmill.datasets as pmd  # noqa: E402
from prefmill.datasets import cached as datasets_cached  # noqa: E402

FEEDBACK = feedback(5, prompts=200)

CLUSTERED = FEEDBACK.sort("prompt", maintain_order=True)


def dataset(frame: pl.DataFrame = FEEDBACK) -> datasets.Dataset:
    return datasets.Dataset.from_polars(frame)


def rows(made) -> list[tuple]:
    return [tuple(row.values()) for row in made]


def expected(plan, frame: pl.DataFrame = FEEDBACK) -> list[tuple]:
    return plan.lazy(frame).collect().rows()


# Memory, the cache, processes


def test_an_indices_mapping_and_pieces_of_tables():
    shuffled = dataset().shuffle(seed=3).select(range(100, 4000))
    order = [int(i) for i in shuffled["id"]]
    assert rows(pmd.pairs(shuffled)) == expected(pm.Pairs(), FEEDBACK[order])
    joined = datasets.concatenate_datasets(
        [dataset(FEEDBACK.head(100)), dataset(FEEDBACK.slice(100))]
    )
    assert rows(pmd.pairs(joined)) == expected(pm.Pairs())
    kept = dataset().filter(lambda row: row["score"] != 3)
    assert rows(pmd.pairs(kept)) == expected(
        pm.Pairs(), FEEDBACK.filter(pl.col("score").is_null() | (pl.col("score") != 3))
    )


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="reads Linux's account of memory"
)
def test_texts_of_a_file_are_not_copied(tmp_path):
    text = "x" * 10_000
    frame = pl.DataFrame(
        {
            "prompt": [f"{i // 2} {text}" for i in range(8000)],
            "completion": [f"{i} {text}" for i in range(8000)],
            "score": range(8000),
        }
    )
    dataset(frame).save_to_disk(tmp_path / "data")
    del frame
    code = """
import sys, polars as pl, datasets
from prefmill.datasets.tables import frame_of, used_table
def anonymous():
    status = open("/proc/self/status").read()
    return int(status.split("RssAnon:")[1].split()[0]) // 1024
ds = datasets.load_from_disk(sys.argv[1]).select(range(7999, -1, -1)).select(range(8000))
pl.DataFrame({"a": ["x"]}).lazy().group_by("a").len().collect()
before = anonymous()
frame = frame_of(ds, used_table(ds, ["prompt", "completion", "score"]))
print(anonymous() - before, frame.height)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    megabytes, height = map(int, done.stdout.split())
    assert height == 8000
    assert megabytes < 40  # of 160 MB of text


CACHED = """
import json, os, sys
import datasets, prefmill.datasets as pmd, prefmill.datasets.tables as tables
ds = datasets.load_from_disk(sys.argv[1])
ran = []
apply = tables.apply
def counted(plan, frame, **how):
    if not hasattr(frame, "explain"):
        ran.append(1)
    return apply(plan, frame, **how)
tables.apply = counted
made = pmd.pairs(ds, weights=None, strategy="best_random", seed=3)
other = pmd.unpaired(ds)
computed = len(ran)
files = [f["filename"] for f in made.cache_files]
third = pmd.pairs(datasets.Dataset.from_dict({"prompt": ["p"], "completion": ["a"], "score": [1]}))
prints = [one._fingerprint for one in (made, other, third)]
print(json.dumps([*prints[:2], len(made), computed, files, prints[2]]))
"""


def test_the_cache_hits_in_another_process(tmp_path):
    dataset().save_to_disk(tmp_path / "data")
    told = []
    for seed in ("1", "77"):
        env = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(
            [sys.executable, "-c", CACHED, str(tmp_path / "data")],
            capture_output=True,
            text=True,
            env=env,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        told.append(json.loads(done.stdout))
    first, second = told
    assert (first[3], second[3]) == (2, 0), "the second process computed again"
    assert first[:3] == second[:3]
    assert first[4:] == second[4:]
    assert first[0] != first[1]
    assert len(list((tmp_path / "data").glob("cache-*.arrow"))) == 2
    assert not list((tmp_path / "data").glob("*.tmp"))


def test_what_changes_the_fingerprint():
    told = {
        name: made._fingerprint
        for name, made in {
            "plain": pmd.pairs(dataset()),
            "plan": pmd.pairs(dataset(), chosen_min=5),
            "layout": pmd.pairs(dataset(), chat=True),
            "roles": pmd.pairs(dataset(), completion="id"),
            "rows": pmd.pairs(dataset(FEEDBACK.head(10))),
            "kind": pmd.unpaired(dataset()),
        }.items()
    }
    assert len(set(told.values())) == len(told)
    four = pmd.pairs(dataset(), chosen_min=4.0)._fingerprint
    assert (
        four
        == pmd.apply(pm.Pairs(chosen_min=4), dataset())._fingerprint
        != told["plain"]
        == pmd.apply(pm.Pairs(), dataset())._fingerprint
    )


def broken_write(tables, features, path, fingerprint) -> None:
    def half():
        yield next(iter(tables))
        raise ZeroDivisionError

    WRITE(half(), features, path, fingerprint)


WRITE = datasets_cached.write_file


def test_a_failure_leaves_no_half_of_a_cache_file(tmp_path, monkeypatch):
    dataset().save_to_disk(tmp_path / "data")
    ds = datasets.load_from_disk(tmp_path / "data")
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(datasets_cached, "write_file", broken_write)
    with pytest.raises(ZeroDivisionError):
        pmd.pairs(ds)
    monkeypatch.undo()
    assert sorted(tmp_path.rglob("*")) == before
    datasets.disable_caching()
    try:
        assert pmd.pairs(ds).cache_files == []
    finally:
        datasets.enable_caching()
    assert sorted(tmp_path.rglob("*")) == before


def longer(row: dict) -> dict:
    return {"completion": row["completion"] + "!"}


def test_what_several_processes_made_and_what_they_are_given():
    wanted = expected(pm.Pairs(), FEEDBACK.with_columns(pl.col("completion") + "!"))
    made = pmd.pairs(dataset().map(longer, num_proc=2))
    assert rows(made) == wanted
    again = made.map(lambda row: {"chosen": row["chosen"].upper()}, num_proc=2)
    assert again["chosen"][:] == [row[1].upper() for row in wanted]


def _in_a_fork(work, queue) -> None:
    try:
        queue.put(work())
    except Exception as error:
        queue.put(str(error))


def forked(work) -> object:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_in_a_fork, args=(work, queue))
    worker.start()
    try:
        return queue.get(timeout=240)
    finally:
        worker.kill()
        worker.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_process_reads_a_stream_and_does_not_wait_for_ever():
    """As the workers of a DataLoader do: Polars' threads do not come along."""
    frame = CLUSTERED.head(300)
    stream = dataset(frame).to_iterable_dataset()
    for made in (pmd.pairs(stream), pmd.pairs(stream, clustered=True)):
        assert forked(lambda made=made: rows(made)) == expected(pm.Pairs(), frame)
    whole = dataset(frame)
    assert "forked" in forked(lambda: pmd.pairs(whole))
    assert "forked" in forked(lambda: pmd.report(pm.Pairs(), stream))
    broken = pmd.pairs(dataset(FEEDBACK).to_iterable_dataset(), clustered=True)
    assert "comes back" in forked(lambda: rows(broken))
