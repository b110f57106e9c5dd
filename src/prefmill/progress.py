"""Who watches a run, and what a run takes of the machine."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

#: Called with a phase, and the share of it that is done: 0 to 1, or None where nobody knows.
Progress = Callable[[str, float | None], None]


#: The environment variable in which a worker of a cluster has the CPUs that it asked for.
CPUS_OF_WORKER = "PREFMILL_CPUS_OF_WORKER"


def silent(phase: str, share: float | None = None) -> None:
    """Where nobody watches, nothing is shown."""


def notebook() -> bool:
    """Whether the cells of a notebook call us: an IPython with a kernel, and not a terminal."""
    shells = sys.modules.get("IPython")
    shell = shells.get_ipython() if shells else None
    return hasattr(shell, "kernel")


def peak_rss_mb() -> float:
    """The largest resident size of this process so far, in MiB."""
    # `ru_maxrss` is never below what the parent held when it started this process.
    with suppress(OSError), open("/proc/self/status", "rb") as status:
        for line in status:
            if line.startswith(b"VmHWM:"):
                return round(int(line.split()[1]) / 1024, 1)
    import resource  # `import prefmill` says where there is none

    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if sys.platform != "darwin":
        size *= 1024  # macOS counts bytes, Linux KiB
    return round(size / 2**20, 1)


def processors() -> int:
    """The processors of this process: those that it may use, or its share as a worker's."""
    if share := os.environ.get(CPUS_OF_WORKER):
        return max(1, int(float(share)))
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def machine_bytes() -> int:
    """The memory of this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
