"""What a figure was taken on: date, system, CPU, cores, memory, load, versions."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import multiprocessing
import os
import platform
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any


def describe(libraries: Sequence[str]) -> dict[str, Any]:
    """The machine as it is now, and the versions of `libraries`."""
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "absent"
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "cores": len(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else os.cpu_count(),
        "ram_gb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9,
        "load_before": os.getloadavg()[0],
        "versions": versions,
    }


def in_child(function: Callable[..., Any], *arguments: object) -> Any:
    """What `function` returns, of a process of its own.

    A process starts with the peak memory of its parent (`ru_maxrss`). So what a benchmark needs
    memory for, its data above all, is made in here: else it is taken for that of what is measured.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def headline(machine: dict[str, Any]) -> list[str]:
    """Two lines for the top of a report; `load_after` is to be set by then."""
    return [
        f"{machine['date']}, {machine['system']}, {machine['cpu']}, {machine['cores']} cores,"
        f" {machine['ram_gb']:.1f} GB RAM, "
        f"load {machine['load_before']:.1f} before and {machine['load_after']:.1f} after.",
        ", ".join(f"{name} {version}" for name, version in machine["versions"].items()) + ".",
    ]


def cpu_name() -> str:
    """The CPU's own name, as the kernel tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown CPU"
