"""Run as a program by records/test_killed_records.py: runs that keep records, killed and raced.

    python kill_records.py FOLDER kills|races NUMBER

kills: at the n-th change of a name in a folder, for every n, a run that writes an output dies; then
the parent looks whether the record is that of what stands, and the same run is done again.
races: two runs with other keys on one target, at once. The parent forks, so that a life is short.
"""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import polars  # noqa: F401

import prefmill as pm
import prefmill.runs.run
from prefmill.disk import records
from prefmill.errors import RunBusy, RunDiffers, TargetExists
from prefmill.runs.records import kept

SPLIT = {"train": 0.5, "test": 0.5}
#: The command's targets by kind: what is given, its split, the first output.
KINDS = {
    "file": ("out.parquet", None, "out.parquet"),
    "split": ("out.parquet", SPLIT, "out-train.parquet"),
    "folder": ("out", SPLIT, "out"),
}
LOST = (RunBusy, RunDiffers, TargetExists)


def forked(work: Callable[[], object], begin: int | None = None) -> int:
    """A child; exits 0, or 3 where the target is another's. It waits for a byte of `begin`."""
    child = os.fork()
    if child:
        return child
    try:
        if begin is not None:
            os.read(begin, 1)
        work()
        os._exit(0)
    except LOST:
        os._exit(3)
    except BaseException:
        traceback.print_exc()
        os._exit(70)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def make(folder: Path, kind: str, margin: float, *, overwrite: bool) -> pm.RunReport:
    target, split, _ = KINDS[kind]
    plan = pm.Pairs(chosen_min=None, rejected_below=None, min_margin=margin)
    rows = folder / "rows.jsonl"
    return pm.run(plan, rows, folder / "out" / target, split=split, overwrite=overwrite)


def dies_at(number: int) -> None:
    """From here on the process dies before its `number`-th change of a name."""
    left = [number]
    for name in ("replace", "rename", "unlink", "rmdir", "mkdir", "link", "symlink"):
        real = getattr(os, name)

        def counted(*args: object, real: Callable[..., object] = real, **more: object) -> object:
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*args, **more)

        setattr(os, name, counted)


def agrees(folder: Path, kind: str) -> str:
    """The margin of the plan whose record fits what stands, all of it; "" where nothing does."""
    first = folder / "out" / KINDS[kind][2]
    if not first.exists():  # nor is it where a link leads nowhere yet
        return ""
    found = records.record_of(first)
    assert found is not None, f"{kind}: no record fits what stands"
    for output in found["outputs"]:
        for file in output["files"]:
            assert records.sha256_of(first.parent / file["path"]) == file["sha256"], kind
    return f"{found['key']['plan']['min_margin']:g}"


def kills(folder: Path, kind: str, stood: bool) -> Counter[str]:
    seen: Counter[str] = Counter()
    number = 0
    while True:
        number += 1
        print(kind, stood, number, file=sys.stderr, flush=True)
        clear(folder)
        if stood:
            assert ended(forked(lambda: make(folder, kind, 0, overwrite=False))) == 0

        def life(at: int = number) -> None:
            dies_at(at)
            make(folder, kind, 2, overwrite=stood)

        code = ended(forked(life))
        found = agrees(folder, kind)
        assert found in ({"0", "2"} if stood else {"", "2"}), found
        if code == 0:
            assert found == "2"
            return seen
        assert code == -signal.SIGKILL, code
        seen[found or "nothing"] += 1
        assert ended(forked(lambda: make(folder, kind, 2, overwrite=stood))) == 0, number
        assert agrees(folder, kind) == "2"
        assert ended(forked(lambda: make(folder, kind, 2, overwrite=False))) == 0, number
        ours = {f".{KINDS[kind][2]}.prefmill", *(p.name for p in (folder / "out").glob("[!.]*"))}
        left = {path.name for path in (folder / "out").iterdir()} - ours
        assert not left, f"{kind} {number}: {left}"
        home = folder / "out" / f".{KINDS[kind][2]}.prefmill"
        inside = {path.name for path in home.iterdir()}
        assert inside == {"manifest.json"}, f"{kind} {number}: {inside}"


def races(folder: Path, number: int) -> Counter[str]:
    seen: Counter[str] = Counter()
    for turn in range(number):
        kind = list(KINDS)[turn % len(KINDS)]
        clear(folder)
        reader, writer = os.pipe()
        children = [
            forked(partial(make, folder, kind, margin, overwrite=False), begin=reader)
            for margin in (0, 2)
        ]
        os.write(writer, b"go")
        codes = [ended(child) for child in children]
        os.close(reader)
        os.close(writer)
        assert sorted(codes) == [0, 3], codes
        won = ("0", "2")[codes.index(0)]
        assert agrees(folder, kind) == won
        assert kept.verify(folder / "out" / KINDS[kind][2]) == [] if kind != "folder" else True
        seen[kind] += 1
    return seen


def clear(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder / "out", ignore_errors=True)


def main() -> None:
    folder, what = Path(sys.argv[1]), sys.argv[2]
    warnings.simplefilter("ignore")
    lines = [
        f'{{"prompt": "p{i}", "completion": "{side}", "score": {score}}}\n'
        for i in range(40)
        for side, score in (("a", i % 5 + 1), ("b", 0))
    ]
    (folder / "rows.jsonl").write_text("".join(lines))
    if what == "races":
        print(dict(races(folder, int(sys.argv[3]))))
        return
    for kind in KINDS:
        for stood in (False, True):
            print(kind, stood, dict(kills(folder, kind, stood)), flush=True)


if __name__ == "__main__":
    main()
