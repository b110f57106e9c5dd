"""Run as a program by disk/test_faults.py: every n-th call that changes the disk fails, or kills.

    LD_PRELOAD=fail_calls.so python fault_lives.py FOLDER [--case NAME]... [--kind write,fsync,...]
        [--way die,EIO,ENOSPC] [--every N] [--from N]

For n = 1, 2, ... until a life passes. `write`, `fsync`, `rename`, `unlink` and `link` (with mkdir
and symlink) are those of the C library, so DuckDB, Polars and the libraries of tables fall too. EIO
comes once; ENOSPC stays, as a full disk does. After each fault a reader finds the old output or the
new one; a life that says it succeeded left the new one; the same command then ends in it and leaves
nothing else. Prints the faults by case, kind and way.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path

import kill_lives
from kill_cases import CASES

KINDS = {"write": 1, "fsync": 2, "rename": 3, "unlink": 4, "link": 5}
WAYS = {"die": 0, "EIO": errno.EIO, "ENOSPC": -errno.ENOSPC}


class Faults(kill_lives.Lives):
    """One case after another, with every fault."""

    def __init__(self, folder: Path, names: list[str], draw: random.Random) -> None:
        super().__init__(folder, names, draw)
        self.mark = folder / "fired"
        self.counts: Counter[str] = Counter()
        self.shim = ctypes.CDLL(os.environ["LD_PRELOAD"])

    def fault(self, name: str, stood: bool, kind: str, way: str, number: int) -> bool:
        """A life with one fault, and what comes after; whether the life got so far."""
        where = f"{name}, {stood=}: {way} at {kind} {number}"
        self.begin(name, stood)
        self.mark.unlink(missing_ok=True)
        case, draw = CASES[name], random.Random(self.draw.random())

        def work() -> None:
            words = [os.fsencode(path) for path in (self.place.folder, self.mark)]
            self.shim.fault_arm(KINDS[kind], ctypes.c_long(number), WAYS[way], *words)
            case.run(self.place, "new", stood, draw)

        code = kill_lives.ended(kill_lives.started(work))
        if not self.mark.exists():
            assert code == 0, f"{where}: {code}"
            return False
        self.counts[f"{name}: {kind} {way}"] += 1
        expected = (0, -signal.SIGKILL) if way == "die" else (0, kill_lives.FAILED)
        assert code in expected, f"{where}: ends with {code}"
        found = self.reader.ask("content", name)
        if case.parts:
            self.judge(name, stood, found, still=True)
        if code == 0:
            assert found == self.whole[name, stood][1], f"{where}: said that it succeeded"
        try:
            self.again(name, stood)
        except AssertionError as error:
            raise AssertionError(f"{where}: {error}") from None
        return True


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("--case", action="append")
    words.add_argument("--kind", default=",".join(KINDS))
    words.add_argument("--way", default=",".join(WAYS))
    words.add_argument("--every", type=int, default=1)
    words.add_argument("--first", type=int, default=1)
    given = words.parse_args()
    names = given.case or list(CASES)
    kill_lives.prepare(given.folder, names)
    faults = Faults(given.folder, names, random.Random(given.first))
    try:
        for name in names:
            stood = CASES[name].stood[-1]
            faults.unbroken(name, stood)
            for kind in given.kind.split(","):
                for way in given.way.split(","):
                    number = given.first
                    while faults.fault(name, stood, kind, way, number):
                        number += given.every
                    print(f"{name}: {kind} {way} to {number}", file=sys.stderr, flush=True)
    finally:
        print(json.dumps(faults.counts))


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
