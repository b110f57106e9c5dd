"""A Ray cluster on this machine: a head without CPUs, and nodes that may be taken away."""

from __future__ import annotations

import contextlib
import os
import signal
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_STORE = 120 << 20


@dataclass
class Nodes:
    """The nodes of a cluster; `address` is where runs find it."""

    cluster: Any
    cpus: int
    memory: int | None = None  #: bytes of each that tasks may ask for; None: what is free
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        node = self.cluster.add_node(
            num_cpus=self.cpus,
            memory=self.memory,
            object_store_memory=_STORE,
            include_dashboard=False,
        )
        self.nodes.append(node)
        return node

    def remove(self, node: Any) -> None:
        """As a machine that loses its power."""
        self.nodes.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)

    def until(self, count: int) -> None:
        """Have so many nodes again."""
        while len(self.nodes) < count:
            self.add()

    def tasks(self) -> list[int]:
        """The processes of these nodes that run a task of a plan now."""
        own = {each.process.pid for n in self.nodes for each in n.all_processes["raylet"]}
        return [pid for pid in processes(b"ray::prefmill") if _parent(pid) in own]


@contextlib.contextmanager
def nodes(count: int, cpus: int, memory: int | None = None) -> Iterator[Nodes]:
    """`count` nodes of `cpus` CPUs each, and so many bytes of memory."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray's workers give way to all others, and starve beside the processes of other tests.
    os.environ.setdefault("RAY_worker_niceness", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        made = Nodes(cluster, cpus, memory)
        try:
            made.until(count)
            cluster.wait_for_nodes()
            yield made
        finally:
            cluster.shutdown()


def processes(title: bytes) -> list[int]:
    """The processes of this machine whose command line begins so."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cmdline").read_bytes().startswith(title):
                    found.append(int(entry.name))
    return found


def _parent(process: int) -> int:
    with contextlib.suppress(OSError):
        told = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
        return int(told.rpartition(")")[2].split()[1])
    return 0


def workers_of_ray() -> list[int]:
    """The processes of our workers, as the machine knows them: Ray names them after the class."""
    return processes(b"ray::Worker")


def kill_one(seconds: float = 30.0) -> int:
    """End one of our workers as the kernel would, once there is one; its process id."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        for process in workers_of_ray():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
                return process
        time.sleep(0.02)
    raise TimeoutError("no worker of ours is there")
