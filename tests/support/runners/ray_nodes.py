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
    nodes: list[Any] = field(default_factory=list)

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def add(self) -> Any:
        node = self.cluster.add_node(
            num_cpus=self.cpus, object_store_memory=_STORE, include_dashboard=False
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


@contextlib.contextmanager
def nodes(count: int, cpus: int) -> Iterator[Nodes]:
    """`count` nodes of `cpus` CPUs each."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": _STORE, "include_dashboard": False}
        cluster = Cluster(initialize_head=True, head_node_args=head)
        made = Nodes(cluster, cpus)
        try:
            made.until(count)
            cluster.wait_for_nodes()
            yield made
        finally:
            cluster.shutdown()


def workers_of_ray() -> list[int]:
    """The processes of our workers, as the machine knows them: Ray names them after the class."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                title = (entry / "cmdline").read_bytes()
                if title.startswith(b"ray::Worker"):
                    found.append(int(entry.name))
    return found


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
