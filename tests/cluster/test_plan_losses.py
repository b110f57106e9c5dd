"""Nodes, workers and the driver of a plan's run are lost: no row is lost, doubled or changed.

Troubles come at drawn instants, half of those of nodes in the middle of the shuffle. The seed is
printed; PREFMILL_SEED draws others.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kill_plan
import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, WorkerDied
from prefmill.runs.cluster import on_ray

pytest.importorskip("ray", reason="needs the extra prefmill[ray]")

import ray_nodes

pytestmark = pytest.mark.cluster

SEED = int(os.environ.get("PREFMILL_SEED", "14"))
NODES, MEMORY = 3, 2 << 30
#: Tasks that end in each phase of a run.
SHUFFLE = {"ranking": kill_plan.BUCKETS, "reading texts": kill_plan.SPLITS}
PHASES = {"reading": kill_plan.SPLITS, **SHUFFLE}
#: Seconds of one run with its troubles.
LIMIT_S = 120


def often(short: int, long: int) -> Any:
    """So many troubles: a few every day, many in the torture."""
    return pytest.mark.parametrize("count", [short, pytest.param(long, marks=pytest.mark.torture)])


@pytest.fixture(scope="module")
def cluster() -> Iterator[ray_nodes.Nodes]:
    with ray_nodes.nodes(NODES, cpus=1, memory=MEMORY) as made:
        yield made


@pytest.fixture(autouse=True)
def all_nodes(cluster: ray_nodes.Nodes) -> None:
    cluster.until(NODES)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    kill_plan.pool().write_parquet(path)
    return path


@pytest.fixture(scope="module")
def local(source: Path) -> tuple[pl.DataFrame, dict[str, Any]]:
    """What a run on this machine gives."""
    target = source.with_name("local.parquet")
    report = pm.run(kill_plan.PLAN, source, target, engine="duckdb")
    return pl.read_parquet(target), json.loads(json.dumps(kill_plan.told(report)))


@pytest.fixture
def draw(request: pytest.FixtureRequest) -> random.Random:
    print(f"seed {SEED}")
    return random.Random(f"{SEED} {request.node.name}")


class Troubles:
    """Progress of a run in which `trouble` comes up at some instants: (phase, tasks done, seconds).

    It comes in the main thread: Ray adds no nodes in another one.
    """

    def __init__(self, trouble: Callable[[], bool], instants: list[tuple[str, int, float]]) -> None:
        self.trouble, self.waiting, self.done = trouble, list(instants), 0
        self.steps: dict[str, int] = {}

    def __call__(self, phase: str, share: float | None) -> None:
        step = self.steps[phase] = self.steps.get(phase, -1) + 1
        for instant in self.waiting:
            if instant[0] == phase and instant[1] <= step:
                time.sleep(instant[2])
                if self.trouble():
                    self.waiting.remove(instant)
                    self.done += 1
                return


def instant(draw: random.Random, phases: dict[str, int]) -> tuple[str, int, float]:
    """A phase, how many of its tasks are done by then, but the last, and some seconds more."""
    phase = draw.choice(list(phases))
    return phase, draw.randrange(phases[phase] - 1), draw.uniform(0, 0.1)


@contextlib.contextmanager
def within(seconds: int) -> Iterator[None]:
    """A limit of its own for a run: the alarm of the whole test goes on afterwards."""
    started, left = time.monotonic(), signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(max(1, left - int(time.monotonic() - started)))


def assert_same(target: Path, report: dict[str, Any], local: Any) -> None:
    rows, expected = local
    assert pl.read_parquet(target).equals(rows)
    assert json.loads(json.dumps(report)) == expected
    left = {str(path.relative_to(target.parent)) for path in target.parent.rglob("*")}
    home = f".{target.name}.prefmill"
    kept = {f"{home}/{name}" for name in ("ledger.json", "manifest.json", "report.json")}
    assert left == {target.name, home, *kept}


def run(source: Path, folder: Path, cluster: Any, way: str, local: Any, troubles: Troubles) -> None:
    folder.mkdir()
    target = folder / "a.parquet"
    with within(LIMIT_S):
        report = kill_plan.on_cluster(source, target, cluster.address, way, troubles)
    assert_same(target, kill_plan.told(report), local)
    print(f"{way}: {troubles.done} troubles, the same", flush=True)


def ways(draw: random.Random) -> Iterator[str]:
    """Both ways of the shuffle, in turn."""
    first = draw.choice([0, 1])
    number = first
    while True:
        yield ("storage", "memory")[number % 2]
        number += 1


@often(1, 30)
def test_nodes_that_are_removed(
    count: int, cluster: Any, source: Path, local: Any, tmp_path: Path, draw: random.Random
) -> None:
    def trouble() -> bool:
        cluster.remove(draw.choice(cluster.nodes))
        if draw.random() < 0.5 or len(cluster.nodes) == 1:
            cluster.add()
        return True

    removed, way = 0, ways(draw)
    while removed < count:
        # Every other one in the middle of the shuffle, wherever the draw put the rest.
        phases = PHASES if removed % 2 else SHUFFLE
        troubles = Troubles(trouble, [instant(draw, phases)])
        run(source, tmp_path / str(removed), cluster, next(way), local, troubles)
        assert troubles.done == 1, troubles.waiting
        removed += 1
        cluster.until(NODES)


@often(1, 20)
def test_workers_that_are_killed(
    count: int, cluster: Any, source: Path, local: Any, tmp_path: Path, draw: random.Random
) -> None:
    def trouble() -> bool:
        for process in cluster.tasks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                return True
        return False  # none has a task at this instant: at the next one

    killed, runs, way = 0, 0, ways(draw)
    while killed < count:
        instants = [instant(draw, PHASES) for _ in range(1 if count == 1 else 2)]
        troubles = Troubles(trouble, instants)
        run(source, tmp_path / str(runs), cluster, next(way), local, troubles)
        killed, runs = killed + troubles.done, runs + 1
        assert runs < 3 * count, "no worker is found"


@often(1, 10)
def test_drivers_that_are_killed(
    count: int, cluster: Any, source: Path, local: Any, tmp_path: Path, draw: random.Random
) -> None:
    for number in range(count):
        # What a killed driver has done is kept in storage: daily that way.
        folder, shuffle = tmp_path / str(number), ("storage", "memory")[number % 2]
        folder.mkdir()
        target = folder / "a.parquet"
        command = [sys.executable, kill_plan.__file__, source, target, cluster.address, shuffle]
        ended = killed_after(draw.randrange(3, 15), draw.uniform(0, 0.1), [*map(str, command)])
        assert not target.exists()
        again = subprocess.run(
            [*map(str, command)], capture_output=True, text=True, check=True, timeout=LIMIT_S
        )
        last = json.loads(again.stdout.splitlines()[-1])
        assert_same(target, last["report"], local)
        whole = 2 * kill_plan.SPLITS + 2 * kill_plan.BUCKETS
        if shuffle == "memory":
            assert last["tasks"] == whole
        else:
            assert last["tasks"] <= whole - ended
        print(f"{shuffle}: killed, {last['tasks']} of {whole} tasks then, the same", flush=True)


@pytest.mark.parametrize("way", [pytest.param("storage", marks=pytest.mark.torture), "memory"])
def test_all_nodes_leave_and_one_comes(
    way: str, cluster: Any, source: Path, local: Any, tmp_path: Path
) -> None:
    def trouble() -> bool:
        for node in list(cluster.nodes):
            cluster.remove(node)
        cluster.add()
        return True

    troubles = Troubles(trouble, [("reading texts", 1, 0.0)])
    run(source, tmp_path / way, cluster, way, local, troubles)
    assert troubles.done == 1


@pytest.mark.parametrize("way", [pytest.param("storage", marks=pytest.mark.torture), "memory"])
def test_workers_that_write_parts_are_killed(
    way: str, cluster: Any, source: Path, local: Any, tmp_path: Path
) -> None:
    """Also counts pairs of one text, which workers find then."""

    def trouble() -> bool:
        for process in cluster.tasks():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                return True
        return False

    rows, expected = local
    target = tmp_path / "parts" / "part-*.parquet"
    troubles = Troubles(trouble, [("reading texts", 4, 0.0), ("writing", 0, 0.0)])
    report = kill_plan.on_cluster(source, target, cluster.address, way, troubles)
    assert pl.read_parquet(target).equals(rows)
    assert json.loads(json.dumps(kill_plan.told(report))) == expected
    assert troubles.done >= 1
    assert not [path for path in tmp_path.rglob("*") if path.suffix in {".tmp", ".arrow"}]


def test_all_nodes_leave_and_none_comes(
    cluster: Any, source: Path, local: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trouble() -> bool:
        for node in list(cluster.nodes):
            cluster.remove(node)
        return True

    monkeypatch.setattr(on_ray, "PATIENCE_S", 3.0)
    target = tmp_path / "a.parquet"
    with pytest.raises(WorkerDied, match="no node had room for a task for 3 s; got 0 nodes"):
        kill_plan.on_cluster(
            source, target, cluster.address, "storage", Troubles(trouble, [("ranking", 1, 0.0)])
        )
    assert not target.exists()
    # The same call goes on, as the hint says.
    cluster.add()
    report = kill_plan.on_cluster(source, target, cluster.address, "storage")
    assert_same(target, kill_plan.told(report), local)


def test_a_node_with_another_version(
    cluster: Any, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The nodes have one address here, and each of them is asked."""
    real = on_ray.versions()
    odd = cluster.nodes[0].node_id

    def played() -> dict[str, str]:
        import ray

        here = ray.get_runtime_context().get_node_id()
        return {**real, "polars": "1.0"} if here == odd else real

    monkeypatch.setattr(on_ray, "versions", played)
    told = rf"node .* \({odd[:8]}\) has another polars; got 1\.0, expected {pl.__version__}"
    with pytest.raises(BadArgument, match=told):
        kill_plan.on_cluster(source, tmp_path / "a.parquet", cluster.address, "storage")
    assert not list(tmp_path.glob("*"))


def killed_after(steps: int, seconds: float, command: list[str]) -> int:
    """Kill a driver so many steps of progress after its start; the tasks that it saw end."""
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        try:
            with within(LIMIT_S):
                lines = [child.stdout.readline() for _ in range(steps)]
        finally:
            time.sleep(seconds)
            child.kill()
    assert child.returncode == -signal.SIGKILL
    # The first step of a phase is none of its tasks.
    return steps - len({line.rpartition(" ")[0] for line in lines})
