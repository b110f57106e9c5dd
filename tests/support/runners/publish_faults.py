"""Run as a program by test_publish: every fault at every step of publishing, and what is left after
each.

    python publish_faults.py FOLDER KIND OLD HOW

KIND is file, split, dataset or datasets (one with splits); OLD says what stands there before:
nothing, all, or some of the files; HOW is error (EIO) or death. The n-th call of each function that
changes the disk fails, for n = 1, 2, ... until a run passes; the same for the n-th byte that is
written. Each life is a child of its own.

After each fault a reader must find all old or all new, and the same call must then succeed and
leave nothing else there. Prints how many faults there were, by function.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets  # noqa: F401
import polars as pl
import pyarrow as pa

from prefmill.disk import whole
from prefmill.writers import write as writers

SPLIT = {"train": 0.5, "test": 0.5}
CALLS = ("replace", "rename", "fsync", "symlink", "link", "mkdir", "unlink", "rmdir")
#: Bytes that may be written to one file before the fault: inside headers, between blocks, in
#: footers.
BYTES = (0, 1, 100, 400, 700, 1000, 1400, 2000)
SWAPS = "exchange"
FIRED = Path(sys.argv[1] if len(sys.argv) > 1 else "faults").with_suffix(".fired")


def frame(text: str) -> pl.DataFrame:
    prompts = [f"{i}" for i in range(20)]
    scores = {"chosen_score": [5.0] * 20, "rejected_score": [1.0] * 20}
    return pl.DataFrame(
        {"prompt": prompts, "chosen": [text] * 20, "rejected": ["r"] * 20, **scores}
    )


def write(folder: Path, kind: str, text: str, *, overwrite: bool) -> None:
    made = frame(text)
    target = folder / ("out" if kind.startswith("dataset") else "out.parquet")
    split = SPLIT if kind in ("split", "datasets") else None
    writers.write([made], made.schema, target, split=split, overwrite=overwrite)


def targets(kind: str) -> dict[str, str]:
    """Where each part of the output lies, by its published name."""
    arrow = "data-00000-of-00001.arrow"
    return {
        "file": {"out.parquet": "out.parquet"},
        "split": {f"out-{name}.parquet": f"out-{name}.parquet" for name in SPLIT},
        "dataset": {"out": f"out/{arrow}"},
        "datasets": {f"out {name}": f"out/{name}/{arrow}" for name in SPLIT},
    }[kind]


def read(folder: Path, kind: str) -> set[str | None]:
    """The texts that any reader finds, None for a part that is not there."""
    found: set[str | None] = set()
    for path in (folder / each for each in targets(kind).values()):
        if not path.exists():
            found.add(None)
        elif path.suffix == ".parquet":
            found |= set(pl.read_parquet(path)["chosen"])
        else:
            with pa.memory_map(str(path)) as source:
                found |= set(pa.ipc.open_stream(source).read_all()["chosen"].to_pylist())
    return found


def in_child(work: Callable[[], None]) -> int:
    """The exit code; 100 for an `OSError`, -9 for a kill."""
    child = os.fork()
    if not child:
        code = 0
        try:
            work()
        except OSError:
            code = 100
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
            code = 1
        os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def fault(how: str) -> None:
    FIRED.touch()
    if how == "death":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(errno.EIO, os.strerror(errno.EIO))


def failing(name: str, number: int, how: str) -> None:
    """From here on the call `number` of this function fails: before it acts, or, an even one,
    after.
    """
    place, attribute = (whole, "exchange") if name == SWAPS else (os, name)
    real = getattr(place, attribute)
    calls = 0

    def counted(*args: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == (number + 1) // 2:
            if number % 2 == 0:
                real(*args, **more)
            fault(how)
        return real(*args, **more)

    setattr(place, attribute, counted)


def full(size: int, how: str) -> None:
    """From here on no file takes more bytes than these."""
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL if how == "death" else signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def prepare(folder: Path, kind: str, old: str) -> None:
    FIRED.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if old != "nothing":
        assert in_child(lambda: write(folder, kind, "old", overwrite=False)) == 0
    if old == "some":
        (folder / "out-test.parquet").unlink()


def check(folder: Path, kind: str, old: str, where: str, *, failed: bool) -> None:
    """What a reader finds after the fault, and that the same call then does its work; after a
    success, that it may.
    """

    def look() -> None:
        found = read(folder, kind)
        before: dict[str, set[str | None]] = {
            "nothing": {None},
            "all": {"old"},
            "some": {"old", None},
        }
        assert found == {"new"} or (failed and found == before[old]), (
            f"{where}: {found}, {sorted(os.listdir(folder))}"
        )

    def is_new() -> None:
        if read(folder, kind) != {"new"}:
            os._exit(1)

    def again() -> None:
        write(folder, kind, "new", overwrite=old != "nothing" or not failed)
        assert read(folder, kind) == {"new"}, where
        left = {name.split("/")[0] for name in targets(kind).values()}
        assert set(os.listdir(folder)) == left, f"{where}: {os.listdir(folder)}"

    # The journal goes last, and with it the word that the output is of a run that failed: from then
    # on it is a success.
    failed = failed and (in_child(is_new) != 0 or any(folder.glob(".*/journal.json")))
    assert in_child(look) == 0, where
    assert in_child(again) == 0, where


def main() -> None:
    folder, kind, old, how = Path(sys.argv[1]), *sys.argv[2:5]
    warnings.simplefilter("ignore")
    faults: dict[str, int] = {}
    ends = {"death": (-signal.SIGKILL, -signal.SIGXFSZ), "error": (100,)}[how]
    for name in (*CALLS, SWAPS):
        number = 0
        while True:
            number += 1
            prepare(folder, kind, old)

            def life(name: str = name, number: int = number) -> None:
                failing(name, number, how)
                write(folder, kind, "new", overwrite=old != "nothing")

            code = in_child(life)
            if not FIRED.exists() and number % 2:  # past the last call
                break
            if FIRED.exists():
                assert code in (0, *ends), f"{name} {number}: exit {code}"
                faults[name] = faults.get(name, 0) + 1
                check(
                    folder,
                    kind,
                    old,
                    f"{kind} over {old}, {how} at {name} {number}",
                    failed=code != 0,
                )
    for size in BYTES:
        prepare(folder, kind, old)

        def life(size: int = size) -> None:
            full(size, how)
            write(folder, kind, "new", overwrite=old != "nothing")

        code = in_child(life)
        if code:
            faults["write"] = faults.get("write", 0) + 1
            assert code in ends, f"byte {size}: exit {code}"
            check(folder, kind, old, f"{kind} over {old}, {how} at byte {size}", failed=True)
    print(json.dumps(faults))


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
