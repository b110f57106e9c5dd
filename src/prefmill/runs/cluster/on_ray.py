"""Tasks on a Ray cluster: any worker takes any task, and a lost one is run again elsewhere.

Ray moves no rows here: a task reads what it needs from storage, and leaves what it made there. So
the loss of a worker or node costs its tasks under way, and that of the driver or head no more.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from prefmill.connection import MB
from prefmill.errors import BadArgument, WorkerDied
from prefmill.runs.cluster.executor import Note, Stage, task
from prefmill.runs.cluster.work import Work
from prefmill.runs.workers.session import Session
from prefmill.runs.workers.versions import OF_MODELS, refuse_other, versions

#: Deaths of worker or node that one task outlives.
_RETRIES = 20
#: Tasks handed out for each that can run: the next one is there when one ends.
_AHEAD = 3
#: A task has one CPU; Polars would start a thread for each of the machine's.
_ONE_CPU = {"env_vars": {"POLARS_MAX_THREADS": "1"}}
#: What Python, its libraries and a task's smallest tables take.
_LEAST_BYTES = 700 * MB
#: Seconds without a node for any task after which a run gives up.
PATIENCE_S = 600.0


@dataclass
class RayTasks:
    """Runs tasks on the nodes of a cluster, each on one CPU of it.

    memory_bytes  that a task may take; None: its share of the smallest node, by CPUs
    """

    session: Session
    memory_bytes: int | None = None
    name: str = field(default="ray", init=False)

    def __post_init__(self) -> None:
        here = {name: ours for name, ours in versions().items() if name not in OF_MODELS}
        nodes = self._nodes()
        if not nodes:
            raise BadArgument(
                "run: no node of the cluster has a CPU for work; got 0.",
                hint="add a node: `ray start --address ADDRESS` on it.",
            )
        self._check_versions(here, nodes)
        if self.memory_bytes is None:
            least = min(_memory_of(node) / max(1, node["Resources"]["CPU"]) for node in nodes)
            self.memory_bytes = max(_LEAST_BYTES, int(least * 0.9))
        largest = max(map(_memory_of, nodes)) // MB
        if self.memory_bytes > largest * MB:
            hint = "nodes with more memory (`ray start --memory BYTES` says how much)."
            if self.memory_bytes > _LEAST_BYTES and largest * MB >= _LEAST_BYTES:
                hint = f"--memory-limit {largest}MB (memory_bytes={largest * MB}), or larger nodes."
            raise BadArgument(
                f"run: no node has memory for a task; got {largest} MB on the largest one,"
                f" expected {-(-self.memory_bytes // MB)} MB.",
                hint=hint,
            )

    def _nodes(self) -> list[dict[str, Any]]:
        return [
            node
            for node in self.session.ray.nodes()
            if node["Alive"] and node["Resources"].get("CPU", 0) >= 1
        ]

    def _check_versions(self, here: dict[str, str], nodes: Sequence[dict[str, Any]]) -> None:
        """Refuse a cluster whose nodes compute with other versions than this process."""
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ray = self.session.ray
        look = ray.remote(versions)
        found = {}
        for node in nodes:
            on = NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
            # Two nodes of one machine have one address.
            place = f"{node['NodeManagerAddress']} ({node['NodeID'][:8]})"
            found[place] = look.options(num_cpus=0, scheduling_strategy=on).remote()
        for place, answer in found.items():
            refuse_other("run", here, ray.get(answer), f"node {place}")

    @property
    def store_bytes(self) -> int:
        """What the nodes hold of objects in memory."""
        alive = (node for node in self.session.ray.nodes() if node["Alive"])
        return int(sum(node["Resources"].get("object_store_memory", 0) for node in alive))

    @property
    def slots(self) -> int:
        """How many tasks run at a time, as the cluster is now."""
        return max(1, sum(int(node["Resources"]["CPU"]) for node in self._nodes()))

    def run(self, work: Work, stage: Stage, numbers: Sequence[int]) -> Iterator[tuple[int, Note]]:
        """Run the tasks; the notes come as they end. The first error ends the others."""
        if not numbers:
            return
        submit = self._remote(work, stage)
        waiting = list(reversed(numbers))
        under_way: dict[Any, int] = {}
        alone_since: float | None = None
        try:
            while waiting or under_way:
                while waiting and len(under_way) < self.slots * _AHEAD:
                    number = waiting.pop()
                    under_way[submit(number)] = number
                ended, _ = self.session.ray.wait(list(under_way), timeout=1)
                alone_since = None if ended else self._alone(alone_since)
                for reference in ended:
                    number = under_way.pop(reference)
                    yield number, self._note(reference, stage, number)
        finally:
            for reference in under_way:
                self.session.ray.cancel(reference, force=True)

    def got(self, reference: Any) -> Any:
        """The value of an object, made again where it was lost."""
        alone_since: float | None = None
        while not self.session.ray.wait([reference], timeout=1)[0]:
            alone_since = self._alone(alone_since)
        return self.session.ray.get(reference)

    def _alone(self, since: float | None) -> float | None:
        """Since when no node has room for a task, busy or not; Ray itself waits for ever."""
        needed = self.memory_bytes or 0
        nodes = self._nodes()
        if any(_memory_of(node) >= needed for node in nodes):
            return None
        now = time.monotonic()
        if since is not None and now > since + PATIENCE_S:
            largest = max(map(_memory_of, nodes), default=0) // MB
            raise WorkerDied(
                f"run: no node had room for a task for {PATIENCE_S:.0f} s; got {len(nodes)} nodes"
                f" with a CPU and at most {largest} MB, expected {needed // MB} MB.",
                hint="add nodes as large as those that left, and run the same command again.",
            )
        return now if since is None else since

    def _options(self, stage: Stage) -> dict[str, Any]:
        return {
            "num_cpus": 1,
            "memory": self.memory_bytes,
            "max_retries": _RETRIES,
            "runtime_env": _ONE_CPU,
            "name": f"prefmill {stage.name}",
        }

    def _remote(self, work: Work, stage: Stage) -> Callable[[int], Any]:
        """What hands out one task of a stage; it gives the object of the task's note."""
        ray = self.session.ray
        remote = ray.remote(task).options(**self._options(stage))
        told = ray.put((work, stage.call))
        return lambda number: remote.remote(told, stage.name, number)

    def _told(self, stage: Stage, number: int, answer: Any) -> Note:
        """The note in what a task gave."""
        note: Note = answer
        return note

    def _note(self, reference: Any, stage: Stage, number: int) -> Note:
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = self.session.ray.get(reference)
        except RayTaskError as error:
            cause = error.cause
            cause.add_note(str(error))
            raise cause from None
        except RayError as error:
            raise WorkerDied(
                f"run: the task {stage.name} {number} died {_RETRIES + 1} times;"
                f" got {str(error).splitlines()[0]}",
                hint="memory, often: a smaller --memory-limit makes smaller tasks (in another"
                " output's run), larger nodes take larger ones. The same command goes on.",
            ) from error
        return self._told(stage, number, answer)


def _memory_of(node: dict[str, Any]) -> int:
    """The bytes that tasks may ask for on a node; Ray leaves out what is zero."""
    return int(node["Resources"].get("memory", 0))
