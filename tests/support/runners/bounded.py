"""A command in a process of its own, and the most memory that it and its children held at once."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")
#: A peak that lasts for less is missed by samples of a tree; of one process the kernel knows it.
_EVERY = 0.01


@dataclass(frozen=True)
class Held:
    """What a command held at most, in bytes, and on disk in one folder."""

    code: int
    peak: int
    disk: int
    output: str


def _tree(root: int) -> list[int]:
    """`root` and the processes that it started."""
    found, open_ = [], [root]
    while open_:
        pid = open_.pop()
        found.append(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                text = Path(f"/proc/{pid}/task/{task}/children").read_text("ascii")
                open_ += map(int, text.split())
        except OSError:
            continue
    return found


def _resident(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_text("ascii").split()[1]) * _PAGE
    except OSError:
        return 0


def _highest(pid: int) -> int:
    """The most that a process held so far. Its `ru_maxrss` is not below what we hold ourselves."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text("ascii").splitlines()
    except OSError:
        return 0
    return max((int(line.split()[1]) * 1024 for line in lines if line[:6] == "VmHWM:"), default=0)


def _on_disk(folder: Path) -> int:
    """Blocks of the files in `folder`."""
    total = 0
    for home, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(home, name)).st_blocks * 512
            except OSError:
                continue
    return total


def held_by(command: Sequence[object], *, temp_dir: Path, **env: str) -> Held:
    """Run `python -m prefmill` with the words of `command`, and watch it and `temp_dir`."""
    words = [sys.executable, "-m", "prefmill", *map(str, command)]
    with subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **env}
    ) as process:
        peak, disk, done = 0, 0, threading.Event()

        def watch() -> None:
            nonlocal peak, disk
            while not done.wait(_EVERY):
                peak = max(peak, sum(map(_resident, _tree(process.pid))), _highest(process.pid))
                disk = max(disk, _on_disk(temp_dir))

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read().decode(errors="replace")
            process.wait()
        finally:
            done.set()
            watcher.join()
    return Held(process.returncode, peak, disk, output)
