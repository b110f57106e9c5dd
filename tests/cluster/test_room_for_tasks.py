"""Clusters that cannot take a plan's tasks: what their nodes say is played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from prefmill.connection import MB
from prefmill.disk.hidden import hidden_name
from prefmill.disk.ledger import Ledger
from prefmill.disk.stores import LocalStore
from prefmill.errors import BadArgument, WorkerDied
from prefmill.runs.cluster import on_ray
from prefmill.runs.cluster.executor import Stage
from prefmill.runs.cluster.in_memory import MemoryTasks
from prefmill.runs.cluster.on_ray import RayTasks
from prefmill.runs.workers.session import Session
from prefmill.runs.workers.versions import versions

pytest.importorskip("ray", reason="needs the extra prefmill[ray]")


def node(name: str, cpus: float, memory: int, alive: bool = True) -> dict[str, Any]:
    there = {"CPU": cpus, "memory": memory, "object_store_memory": 200 * MB}
    return {
        "NodeID": name * 56,
        "NodeManagerAddress": "10.0.0.7",  # all of one machine
        "Alive": alive,
        "Resources": {key: value for key, value in there.items() if value},
    }


@dataclass
class Played:
    """What is asked of Ray; its tasks never end. `others` are the versions of some nodes."""

    told: Sequence[dict[str, Any]]
    others: dict[str, dict[str, str]] = field(default_factory=dict)
    cancelled: list[Any] = field(default_factory=list)
    where: str = ""

    def nodes(self) -> Sequence[dict[str, Any]]:
        return self.told

    def remote(self, call: Any) -> Played:
        return self

    def options(self, scheduling_strategy: Any = None, **_: Any) -> Any:
        played = self

        class Placed:
            def remote(self, *_: Any) -> Any:
                if scheduling_strategy is None:
                    return object()
                return versions() | played.others.get(scheduling_strategy.node_id, {})

        return Placed()

    def put(self, value: Any) -> Any:
        return value

    def get(self, value: Any) -> Any:
        return value

    def wait(self, references: list[Any], timeout: float) -> tuple[list[Any], list[Any]]:
        return [], references

    def cancel(self, reference: Any, force: bool) -> None:
        self.cancelled.append(reference)


def tasks(*nodes: dict[str, Any], memory: int | None = None, **others: Any) -> RayTasks:
    return RayTasks(Session(Played(nodes, **others), is_own=False), memory)


HEAD = node("f", 0, 4000 * MB)


def test_a_cluster_without_a_cpu() -> None:
    gone = node("b", 4, 4000 * MB, alive=False)
    with pytest.raises(
        BadArgument, match=r"no node of the cluster has a CPU for work; got 0\."
    ) as e:
        tasks(HEAD, gone, node("c", 0.5, 4000 * MB))
    assert "`ray start --address ADDRESS`" in str(e.value)


@pytest.mark.parametrize(
    ("cpus", "memory", "each"), [(1, 2000, 1800), (4, 8000, 1800), (4, 1600, 700)]
)
def test_a_task_has_its_share_of_the_smallest_node(cpus: int, memory: int, each: int) -> None:
    made = tasks(HEAD, node("d", 2, 64_000 * MB), node("c", cpus, memory * MB))
    assert made.memory_bytes == each * MB
    assert made.slots == 2 + cpus
    assert made.store_bytes == 3 * 200 * MB


def test_memory_that_no_node_has() -> None:
    nodes = HEAD, node("a", 2, 1500 * MB), node("b", 1, 1000 * MB)
    with pytest.raises(BadArgument, match="got 1500 MB on the largest one, expected 1501 MB") as e:
        tasks(*nodes, memory=1500 * MB + 1)
    # What the hint says does.
    assert f"--memory-limit 1500MB (memory_bytes={1500 * MB})" in str(e.value)
    assert tasks(*nodes, memory=1500 * MB).memory_bytes == 1500 * MB


@pytest.mark.parametrize("asked", [None, 900 * MB])
@pytest.mark.parametrize("memory", [0, 200, 699])
def test_nodes_too_small_for_any_task(memory: int, asked: int | None) -> None:
    """No limit is advised with which no task ends."""
    told = rf"got {memory} MB on the largest one, expected {(asked or 700 * MB) // MB} MB"
    with pytest.raises(BadArgument, match=told) as e:
        tasks(HEAD, node("a", 1, memory * MB), memory=asked)
    assert "nodes with more memory" in str(e.value)
    assert "--memory-limit" not in str(e.value)


@pytest.mark.parametrize("odd", ["a", "b", "c"])
def test_every_node_of_a_machine_is_asked_for_its_versions(odd: str) -> None:
    nodes = [node(name, 1, 2000 * MB) for name in "abc"]
    told = rf"node 10\.0\.0\.7 \({odd * 8}\) has another polars; got 1\.0, expected"
    with pytest.raises(BadArgument, match=told) as e:
        tasks(HEAD, *nodes, others={odd * 56: {"polars": "1.0", "numpy": "1.0"}})
    assert "other differences: numpy" in str(e.value)
    # A head without a CPU runs no task; what models are made with is nothing to a plan.
    tasks(HEAD, *nodes, others={"f" * 56: {"polars": "1.0"}, odd * 56: {"torch": "1.0"}})


@pytest.mark.parametrize("left", [(), (node("c", 1, 700 * MB),)])
def test_nodes_that_leave_and_do_not_come_back(left: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 200))
    monkeypatch.setattr(on_ray.time, "monotonic", lambda: next(seconds))
    made = tasks(HEAD, node("a", 1, 2000 * MB))
    made.session.ray.told = [HEAD, *left]
    told = f"for 600 s; got {len(left)} nodes with a CPU and at most {700 * len(left)} MB"
    with pytest.raises(WorkerDied, match=f"{told}, expected 1800 MB"):
        list(made.run(None, Stage("rank", None), [1, 2]))  # type: ignore[arg-type]
    assert len(made.session.ray.cancelled) == 2


def test_a_lost_piece_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter(range(0, 10_000, 200))
    monkeypatch.setattr(on_ray.time, "monotonic", lambda: next(seconds))
    made = MemoryTasks(Session(Played([HEAD, node("a", 1, 2000 * MB)]), is_own=False))
    made.session.ray.told = [HEAD]
    made.shelf.objects["fetch", 0, 0] = object()
    with pytest.raises(WorkerDied, match="no node had room for a task for 600 s; got 0 nodes"):
        list(made.shelf.read("fetch", [0], [0]))


def test_what_killed_workers_left_goes_when_the_run_is_done(tmp_path: Path) -> None:
    """Also of another machine, where nobody can know whether its process lives."""
    output = tmp_path / "a.parquet"
    with Ledger(output, {}, {}) as ledger:
        LocalStore(ledger.folder).put("rank-000001.arrow", lambda file: file.write(b"whole"))
        for name in (hidden_name("rank-000000.arrow"), ".r.arrow.7-7-deadbeef-cafe00-12345678.tmp"):
            (ledger.folder / name).write_bytes(b"half")
        ledger.finish({})
        assert {path.name for path in ledger.folder.iterdir()} == {"ledger.json"}
