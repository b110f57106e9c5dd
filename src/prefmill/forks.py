"""What a forked process must not do: Polars waits for ever for threads that its parent has.

Every entry that computes calls `refuse_fork` first. Whether the threads are there cannot be asked.
If this module was loaded before the fork, it saw them in the parent. Else a small query is tried in
a thread of its own, and given up after `PATIENCE_S`: in a process that looks like a fork and found
Polars loaded.
"""

from __future__ import annotations

import os
import sys
import threading
from typing import Literal

from prefmill.errors import BadArgument

#: A live pool answers in milliseconds; on a busy machine its threads may have to wait for a core.
PATIENCE_S = 10.0

_state: Literal["whole", "lost", "unknown"] = "whole"


def _pool_runs() -> bool | None:
    """Whether Polars' threads run in this process; None where the system does not say."""
    if "polars" not in sys.modules:
        return False
    try:
        return any(
            _is_of_pool(_read(f"/proc/self/task/{task}/comm"))
            for task in os.listdir("/proc/self/task")
        )
    except OSError:
        return None


def _is_of_pool(name: bytes) -> bool:
    """Whether a thread of this name does Polars' work; others are there before any query."""
    numbered = name.startswith(b"polars-") and name[7:8].isdigit()
    return numbered or name.startswith(b"async-executor")


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _looks_forked() -> bool:
    """Whether this process runs its parent's program: a fork, or a program that calls itself."""
    try:
        mine, parents = (_read(f"/proc/{process}/cmdline") for process in ("self", os.getppid()))
    except OSError:
        import multiprocessing

        return multiprocessing.parent_process() is not None
    return mine == parents


_pool_at_fork: bool | None = False


def _before() -> None:
    global _pool_at_fork
    _pool_at_fork = _pool_runs()


def _after_in_child() -> None:
    global _state
    if _pool_at_fork:
        _state = "lost"
    elif _pool_at_fork is None and _state != "lost":
        _state = "unknown"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
    if "polars" in sys.modules and _pool_runs() is not True and _looks_forked():
        _state = "unknown"


def lost_threads() -> bool:
    """Whether this process was forked after Polars had started its threads."""
    global _state
    if _state == "unknown":
        _state = "whole" if _answers() else "lost"
    return _state == "lost"


def _answers() -> bool:
    import polars as pl

    done = threading.Event()

    def ask() -> None:
        pl.LazyFrame({"a": [2, 1]}).select(pl.col("a").sort()).collect()
        done.set()

    threading.Thread(target=ask, name="prefmill-ask", daemon=True).start()
    return done.wait(PATIENCE_S)


def refuse_fork(where: str) -> None:
    """Raise `BadArgument` where a query of Polars would wait for ever."""
    if lost_threads():
        raise BadArgument(
            f"{where}: this process was forked after Polars had been used, and Polars' threads did"
            " not come along; got a forked process, expected one that was started.",
            hint="call it through prefmill.isolated(function, ...), in the main process, or start"
            " workers with the method 'spawn' (multiprocessing.get_context('spawn')).",
        )
