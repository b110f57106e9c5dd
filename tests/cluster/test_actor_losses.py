"""Workers, nodes and the run itself are lost: no row is lost, doubled or changed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import kill_actors
import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, ScorerDied
from prefmill.runs.workers import actors
from prefmill.runs.workers.workers import Workers, workers_in, workers_of

pytest.importorskip("ray", reason="needs the extra prefmill[ray]")

import ray_nodes

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_nodes.Nodes]:
    with ray_nodes.nodes(2, cpus=1) as made:
        yield made


@pytest.fixture(autouse=True)
def both_nodes(cluster: ray_nodes.Nodes) -> None:
    cluster.until(2)


def pool(rows: int = 240) -> pl.DataFrame:
    texts = ["x" * (number * 7 % 23 + 1) for number in range(rows)]
    return pl.DataFrame({"prompt": [f"p{i // 4}" for i in range(rows)], "completion": texts})


def slow(seconds: float) -> Any:
    def scorer(batch: Any) -> list[float]:
        time.sleep(seconds)
        return [len(text) * 0.5 for text in batch["completion"].to_pylist()]

    scorer.compares = False  # type: ignore[attr-defined]
    scorer.fingerprint = "slow"  # type: ignore[attr-defined]
    return scorer


def assert_whole(path: Path, rows: int = 240) -> None:
    expected = pool(rows).with_columns(score=pl.col("completion").str.len_bytes() * 0.5)
    assert pl.read_parquet(path).equals(expected)


class Troubles:
    """Progress of a run, in which `trouble` comes up after every 40 rows, `times` times.

    It comes in the main thread: Ray adds no nodes in another one.
    """

    def __init__(self, trouble: Any, times: int) -> None:
        self.trouble, self.times, self.done = trouble, times, 0

    def __call__(self, phase: str, share: float | None) -> None:
        if share is not None and self.done < self.times and share * 6 >= self.done + 1:
            self.done += 1
            self.trouble()


def test_workers_that_are_killed(cluster: Any, tmp_path: Path) -> None:
    target = tmp_path / "a.parquet"
    troubles = Troubles(ray_nodes.kill_one, 3)
    workers = Workers(2, address=cluster.address)
    done = pm.score(
        pool(), target, scorer=slow(0.2), chunk_rows=4, workers=workers, progress=troubles
    )
    assert troubles.done == done.workers_lost == 3
    assert_whole(target)
    assert done.rows_scored == 240


def test_a_node_that_goes_and_one_that_comes(cluster: Any, tmp_path: Path) -> None:
    target = tmp_path / "a.parquet"

    def trouble() -> None:
        cluster.remove(cluster.nodes[0])
        cluster.add()

    troubles = Troubles(trouble, 2)
    workers = Workers(1, 2, address=cluster.address)
    done = pm.score(
        pool(), target, scorer=slow(0.3), chunk_rows=4, workers=workers, progress=troubles
    )
    assert troubles.done == 2
    assert done.workers_lost >= 1
    assert_whole(target)


def test_a_run_that_is_killed_and_called_again(cluster: Any, tmp_path: Path) -> None:
    source, target = tmp_path / "pool.parquet", tmp_path / "a.parquet"
    pool().write_parquet(source)
    command = [sys.executable, kill_actors.__file__, source, target, cluster.address]
    for life in range(2):
        child = subprocess.Popen([*map(str, command), "0.3"])
        folder = tmp_path / ".a.parquet.prefmill"
        while len(list(folder.glob("*.arrow"))) < 6 * (life + 1):
            assert child.poll() is None
            time.sleep(0.05)
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
    last = subprocess.run([*map(str, command), "0"], capture_output=True, text=True, check=True)
    assert int(last.stdout) >= 12
    assert_whole(target)


def test_more_workers_where_there_is_room(cluster: Any, tmp_path: Path) -> None:
    phases: list[str] = []
    done = pm.score(
        pool(),
        tmp_path / "a.parquet",
        scorer=slow(0.25),
        chunk_rows=4,
        workers=Workers(1, 8, address=cluster.address),
        progress=lambda phase, share: phases.append(phase),
    )
    assert done.workers == 2  # of a CPU each: that is the room
    assert any(phase.endswith("2 workers") for phase in phases)
    assert_whole(tmp_path / "a.parquet")


def test_rows_that_end_every_worker_are_named(cluster: Any, tmp_path: Path) -> None:
    def deadly(batch: Any) -> list[float]:
        import os

        if any(text.startswith("x" * 23) for text in batch["completion"].to_pylist()):
            os._exit(9)
        return [1.0] * batch.num_rows

    first = next(i for i, text in enumerate(pool(32)["completion"]) if len(text) == 23) // 4 * 4
    target = tmp_path / "a.parquet"
    workers = Workers(2, address=cluster.address)
    with pytest.raises(ScorerDied, match=rf"4 workers ended over .* first row is row {first}"):
        pm.score(pool(32), target, scorer=deadly, chunk_rows=4, workers=workers)
    # Those before it are committed.
    chunks = sorted((tmp_path / ".a.parquet.prefmill").glob("*.arrow"))
    assert [path.stem for path in chunks[: first // 4]] == [f"{n:06d}" for n in range(first // 4)]


def test_workers_that_never_get_to_a_chunk(cluster: Any, tmp_path: Path) -> None:
    class Dead:
        fingerprint: ClassVar = {"scorer": "dead"}
        columns = ("score",)

        def load(self) -> str:
            import os

            os._exit(9)

        def prepare(self, batch: Any) -> Any:
            return batch

        def run(self, batch: Any) -> Any:
            return batch

    with pytest.raises(ScorerDied, match="workers in a row ended, and no chunk was done"):
        pm.score(
            pool(8),
            tmp_path / "a.parquet",
            scorer=Dead(),
            workers=Workers(1, address=cluster.address),
        )


def test_a_cluster_without_room(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(actors, "PATIENCE_S", 3.0)
    phases: list[str] = []
    with pytest.raises(BadArgument, match=r"each takes 1 CPU and 1 GPU, .* 2 CPU and 0 GPU"):
        pm.score(
            pool(8),
            tmp_path / "a.parquet",
            scorer=slow(0),
            workers=Workers(1, gpus=1, address=cluster.address),
            progress=lambda phase, share: phases.append(phase),
        )
    assert "waiting for room for a worker (1 CPU and 1 GPU)" in phases


def test_a_cluster_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="no Ray cluster answers; got the address"):
        pm.score(
            pool(8),
            tmp_path / "a.parquet",
            scorer=slow(0),
            workers=Workers(1, address="127.0.0.1:1"),
        )


@pytest.mark.parametrize(
    "wrong",
    [0, -1, (3, 2), (1, 2, 3), "4", 1.5, True, {"least": 0}, {"least": 1, "cpus": -1},
     {"least": 1, "gpus": 1.5}, {"least": 1, "cpus": True}],
)  # fmt: skip
def test_numbers_of_workers_that_cannot_be(wrong: Any, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="workers: "):
        workers_of(Workers(**wrong) if isinstance(wrong, dict) else wrong)


@pytest.mark.parametrize("text", ["", "two", "0", "3..2", "1...2", "-1", "1..", "2,8"])
def test_texts_that_are_no_number_of_workers(text: str) -> None:
    with pytest.raises(BadArgument, match="workers"):
        Workers(*workers_in(text))


def test_devices_and_batches_are_of_one_machine(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="devices are of one machine"):
        pm.score(pool(8), tmp_path / "a", scorer=slow(0), workers=2, devices=["cpu", "cpu"])
    sampler = pm.BatchSampler(url="http://localhost:1/v1", model="m")
    with pytest.raises(BadArgument, match="asked for by one process"):
        pm.sample(pool(8), tmp_path / "a", sampler=sampler, workers=2)
    judge = pm.JudgeScorer(sampler=sampler)
    with pytest.raises(BadArgument, match="asked for by one process"):
        pm.score(pool(8), tmp_path / "a", scorer=judge, workers=2)


def test_without_ray_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(pm.PrefmillError, match=r"'ray' is not installed[\s\S]*\.\[ray\]"):
        pm.score(pool(8), tmp_path / "a", scorer=slow(0), workers=2)
