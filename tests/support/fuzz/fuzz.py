"""Run as a program: files and words near good ones, made from a seed, until the time is over.

    make fuzz    or: fuzz.py --seconds 60 --seed 1 [--kinds parquet,csv] [--keep FOLDER]

Every case is read by a child. Right is: the same rows from both engines, or an error of ours that
names the file. Wrong is a crash, a traceback, more than 60 seconds of CPU time, more than 1.5 GB,
or rows that differ between the engines (of a page with a checksum: from what was written). Prints
the cases by kind, and what was wrong; the files of it are kept in FOLDER.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import selectors
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import bad_files
import mutations
import plan_words

from prefmill.progress import peak_rss_mb

SECONDS = 60  #: a case that takes more CPU time hangs
MOST_MB = 1500
#: Damage in these may be read as data, and each engine has a right to its own reading.
_WHOLE = ("roles:", "run:", "rows:", "advantages:")
LOSSY = ("parquet", "arrow", "arrows")


def judged(case: dict[str, Any]) -> str | None:
    """In the child: what is wrong with one case, or None."""
    if "words" in case:
        from prefmill.errors import PrefmillError

        try:
            plan_words.READERS[case["words"]](random.Random(case["seed"]))
        except PrefmillError:
            return None
        except BaseException as error:
            return f"{type(error).__name__}: {error}"[:400]
        return None
    path, ending = case["path"], case["ending"]
    found = [bad_files.outcome(path, engine) for engine in ("duckdb", "polars")]
    for each in found:
        if "traceback" in each:
            return str(each["traceback"])
        error = each.get("error", Path(path).name)
        # What stands in no file: a role, or the whole of the input.
        if Path(path).name not in error and not error.startswith(_WHOLE):
            return f"the error does not name the file: {error}"
    peak = round(peak_rss_mb())
    if peak > MOST_MB:
        return f"{peak} MB"
    one, other = found
    if ending in LOSSY:
        return None
    if ("error" in one) != ("error" in other):
        return f"one engine only refuses it: {one} {other}"[:600]
    if str(one.get("rows")) != str(other.get("rows")):
        return f"the engines differ: {one.get('rows')} {other.get('rows')}"[:600]
    rows = one.get("rows")
    if ending == "checked.parquet" and rows and [tuple(row) for row in rows] != bad_files.ROWS:
        return f"read as {rows[:3]} though its checksum is wrong"
    return None


def serve() -> None:
    """The child: a case a line."""
    out = sys.stdout
    sys.stdout = sys.stderr
    for line in sys.stdin:
        json.dump(judged(json.loads(line)), out)
        out.write("\n")
        out.flush()


class Child:
    """A process that judges cases, and a new one after it died."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, case: dict[str, Any]) -> str | None:
        if self.process is None or self.process.poll() is not None:
            self.close()  # its pipes too
            self.process = subprocess.Popen(
                [sys.executable, __file__, "--serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(case) + "\n")
        self.process.stdin.flush()
        with selectors.DefaultSelector() as waiting:
            waiting.register(self.process.stdout, selectors.EVENT_READ)
            began = self._cpu()
            for _ in range(10 * SECONDS):
                if waiting.select(1):
                    break
                # A busy machine gives a child little: what counts is what it used.
                if self._cpu() - began > SECONDS:
                    break
            else:
                self.close()
                return "stands still"
            if not waiting.select(0):
                self.close()
                return f"hangs: more than {SECONDS} s of CPU time"
        line = self.process.stdout.readline()
        return json.loads(line) if line else f"the process ended with {self.process.wait()}"

    def _cpu(self) -> float:
        """Seconds of CPU time that the child has used."""
        assert self.process is not None
        try:
            text = Path(f"/proc/{self.process.pid}/stat").read_text()
        except OSError:
            return 0.0
        user, system = text[text.rindex(")") + 2 :].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None


def cases(kinds: list[str], seed: int, folder: Path) -> Any:
    """Cases without end: those of a seed are always the same."""
    number = 0
    while True:
        for kind in kinds:
            number += 1
            each = f"{seed} {kind} {number}"
            if kind in plan_words.READERS:
                yield kind, each, {"words": kind, "seed": each}
            else:
                path = mutations.write(folder, kind, number, random.Random(each))
                yield kind, each, {"path": str(path), "ending": kind}
                path.unlink(missing_ok=True)


def run(
    kinds: list[str], seconds: float, seed: int, keep: Path | None, most: int | None = None
) -> dict[str, Any]:
    """The counts of cases by kind, and what was found: by seed, what was wrong.

    It ends when the time is over, or after `most` cases.
    """
    child, counts, wrong = Child(), Counter[str](), {}
    until = time.monotonic() + seconds
    with tempfile.TemporaryDirectory() as home:
        for kind, name, case in cases(kinds, seed, Path(home)):
            if time.monotonic() > until or sum(counts.values()) == most:
                break
            counts[kind] += 1
            if said := child.ask(case):
                wrong[name] = said
                if keep is not None:
                    print(f"{name}: {said}", file=sys.stderr, flush=True)
                    keep.mkdir(parents=True, exist_ok=True)
                    if "path" in case:
                        shutil.copy(case["path"], keep / f"{name} {Path(case['path']).name}")
            if sum(counts.values()) % 2000 == 0:  # so that memory is that of few files
                child.close()
    child.close()
    return {"cases": dict(counts), "wrong": wrong}


def main() -> None:
    known = [*mutations.BINARY, *mutations.TEXT, *plan_words.READERS]
    words = argparse.ArgumentParser()
    words.add_argument("--serve", action="store_true")
    words.add_argument("--seconds", type=float, default=60)
    words.add_argument("--seed", type=int, default=1)
    words.add_argument("--kinds", default=",".join(known))
    words.add_argument("--keep", type=Path)
    given = words.parse_args()
    if given.serve:
        serve()
        return
    told = run(given.kinds.split(","), given.seconds, given.seed, given.keep)
    print(json.dumps(told, indent=1))
    sys.exit(bool(told["wrong"]))


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
