"""Run as a program by disk/test_kills.py: commands killed at random instants while a reader looks.

    python kill_lives.py FOLDER KILLS SEED [--only GROUP,...] [--case NAME]

The parent imports everything once and forks, so that a life is short. A life runs a case of
`kill_cases.py`. Drawn are whether something stands at its output, and the options that may not
change the result. It is killed; at times the next life is killed too, with other options; then one
gets through. All the while a reader finds the old output or the new one. In the end it is that of
an unbroken run, its record fits, nothing else is left, and the same command once more changes
nothing.

Prints the kills by case, the looks and what they found, and how many kills left something to clean.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import random
import select
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import kill_cases
import kill_reading
import warehouses
from kill_cases import CASES, Place
from kill_reading import ABSENT, BUSY, Reader

from prefmill import ending, errors
from prefmill.loops import plot as stage_plot

#: How a life ends that an error of ours or of the system ends.
FAILED = 2
#: How one ends that keeps no record, where its output is there.
STANDS = 3


def import_all(groups: set[str]) -> None:
    """Whatever a life imports, so that it is short."""
    rooms = ("cli", "disk", "engines", "plans", "pools", "readers", "rules", "runs", "shapes")
    for room in (*rooms, "table", "telemetry", "warehouse", "writers"):
        package = importlib.import_module(f"prefmill.{room}")
        for each in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not {"cluster", "workers"} & set(each.name.split(".")):
                importlib.import_module(each.name)
    names = ["datasets", "duckdb", "polars", "pyarrow.parquet", "pyarrow.dataset"]
    if "tables" in groups:
        names += ["deltalake", "pyiceberg.catalog.sql", "pyiceberg.io.pyarrow"]
    if "objects" in groups:
        names += ["obstore.store", "boto3"]
    for name in names:
        importlib.import_module(name)


def serve_objects() -> int:
    """An S3 server with a bucket, in a process of its own; its port."""
    reading, writing = os.pipe()
    if not os.fork():
        from s3_serving import S3, s3_server

        warnings.simplefilter("ignore")
        with s3_server() as port:
            S3(port).client().create_bucket(Bucket=kill_cases.BUCKET)
            os.write(writing, f"{port}\n".encode())
            parent = os.getppid()
            while os.getppid() == parent:
                time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    with os.fdopen(reading) as said:
        return int(said.readline())


def started(work: Callable[[], object]) -> int:
    """A child: exits 0 after `work`, or `STANDS`."""
    child = os.fork()
    if child:
        return child
    code = 0
    signal.alarm(600)  # a life that hangs ends with that signal
    try:
        warnings.simplefilter("ignore")
        stage_plot.draw, stage_plot.can_draw = lambda *_: None, lambda: False  # takes seconds
        work()
    except errors.TargetExists as error:
        print(f"TargetExists: {error}", file=sys.stderr)
        code = STANDS
    except BaseException as error:
        told = isinstance(error, errors.PrefmillError | OSError) or ending.of_disk(error)
        if told:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        else:
            traceback.print_exc()
        code = FAILED if told else 70
    sys.stderr.flush()
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Lives:
    """One case after another, and what the reader saw."""

    def __init__(self, folder: Path, names: list[str], draw: random.Random) -> None:
        self.place, self.names, self.draw = Place(folder), names, draw
        self.reader = Reader(folder)
        self.killed: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.left = self.through = 0  # kills that left something, lives that were through before
        #: By case and whether something stood: the content before, and after.
        self.whole: dict[tuple[str, bool], tuple[list[str], list[str]]] = {}
        self.seconds: dict[str, float] = {}

    def life(self, name: str, age: str, stood: bool, temp: int | None = None) -> int:
        case, draw = CASES[name], random.Random(self.draw.random())
        place = Place(self.place.folder, temp)
        return started(lambda: case.run(place, age, stood, draw))

    def unbroken(self, name: str, stood: bool) -> None:
        """Learn what a case writes when nobody kills it, and how long that takes."""
        if (name, stood) in self.whole:
            return
        self.begin(name, stood)
        before = self.reader.ask("content", name)
        began = time.perf_counter()
        code = ended(self.life(name, "new", stood))
        self.seconds[name] = time.perf_counter() - began
        assert code == 0, f"{name} fails by itself: {code}"
        after = self.reader.ask("content", name)
        assert ABSENT not in after, f"{name}: {after}"
        assert BUSY not in after, name
        assert before != after, name
        self.whole[name, stood] = before, after
        self.is_clean(name)

    def begin(self, name: str, stood: bool) -> None:
        self.reader.ask("clear", name)
        if stood:
            assert ended(self.life(name, "old", False)) == 0, name

    def is_clean(self, name: str) -> None:
        left = self.reader.ask("left", name)
        assert not left, f"{name} left {left}"
        differs = self.reader.ask("differs", name)
        assert not differs, f"{name}: {differs}"

    def judge(self, name: str, stood: bool, found: list[str], *, still: bool) -> None:
        """Once a part is new, all later ones are; of a dead writer all are alike."""
        states = []
        for part, now, was, will in zip(
            CASES[name].parts or ("",), found, *self.whole[name, stood], strict=True
        ):
            if now == BUSY:
                assert not still, f"{name}: {part} is locked by nobody"
                self.seen["busy"] += 1
                return
            assert now in (was, will), f"{name}: {part} is neither old nor new"
            if was != will:  # what is the same in both says nothing
                states.append(now == will)
        if not CASES[name].alone:
            assert states == sorted(states), f"{name}: a mix, {states}"
            assert not still or len(set(states)) == 1, f"{name}: a mix is left, {states}"
        self.seen["new" if states[-1] else "old" if stood else "nothing"] += 1

    def one(self, name: str) -> None:
        """Lives that are killed, and the one after them."""
        stood = self.draw.choice(CASES[name].stood)
        self.unbroken(name, stood)
        self.begin(name, stood)
        while True:
            if not self.kill(name, stood):
                self.through += 1
            if self.draw.random() < 0.6:
                break
        self.again(name, stood)

    def kill(self, name: str, stood: bool) -> bool:
        """One life, killed at a random instant; False where it was through."""
        child = self.life(name, "new", stood)
        until = time.perf_counter() + self.draw.uniform(0, self.seconds[name])
        polled = CASES[name].polled
        if polled:
            self.reader.send("content", name)
        waiting = polled
        while (rest := until - time.perf_counter()) > 0:
            if waiting and select.select([self.reader.handle], [], [], rest)[0]:
                self.judge(name, stood, self.reader.take(), still=False)
                time.sleep(min(0.01, max(0, until - time.perf_counter())))
                self.reader.send("content", name)
            elif not waiting:
                time.sleep(rest)
        os.kill(child, signal.SIGKILL)
        code = ended(child)
        if waiting:
            self.judge(name, stood, self.reader.take(), still=False)
        if code != -signal.SIGKILL:
            assert code in (0, STANDS), f"{name} fails by itself: {code}"
            self.seconds[name] *= 0.85
            return False
        self.killed[name] += 1
        self.left += bool(self.reader.ask("left", name))
        if CASES[name].parts:  # a loop's files are read in the end
            self.judge(name, stood, self.reader.ask("content", name), still=True)
        return True

    def again(self, name: str, stood: bool) -> None:
        new = self.whole[name, stood][1]
        codes = (0,) if CASES[name].again else (0, STANDS)
        # A run cleans the folder that it takes for temporary files: here both are taken.
        for temp, turn in enumerate(("after a kill", "once more")):
            there = self.reader.ask("content", name) == new
            code = ended(self.life(name, "new", stood, temp))
            assert code in codes, f"{name} {turn} ends with {code}"
            assert code == 0 or there, f"{name} {turn} ends with {code}"
            found = self.reader.ask("content", name)
            assert found == new, f"{name}: other content {turn}: {found}, expected {new}"
        self.is_clean(name)


def prepare(folder: Path, names: list[str]) -> None:
    """What lives of these cases need: imports, inputs, variables, and a server of objects."""
    groups = {CASES[name].group for name in names}
    folder.mkdir(parents=True, exist_ok=True)
    temp = folder / "temp-system"
    temp.mkdir(exist_ok=True)
    os.environ["TMPDIR"] = str(temp)
    os.environ.update(warehouses.catalog_of(folder / "out"))  # read at import
    import_all(groups)
    if "objects" in groups:
        from s3_serving import environ

        kill_reading.PORT.append(serve_objects())
        os.environ.update(environ(kill_reading.PORT[0]))
    kill_cases.make_sources(folder)


def main() -> None:
    words = argparse.ArgumentParser()
    words.add_argument("folder", type=Path)
    words.add_argument("kills", type=int)
    words.add_argument("seed", type=int)
    words.add_argument("--only", default=",".join({case.group for case in CASES.values()}))
    words.add_argument("--case", default="")
    given = words.parse_args()
    folder, groups = given.folder, set(given.only.split(","))
    names = [name for name, case in CASES.items() if case.group in groups]
    if given.case:
        names = [given.case]
    prepare(folder, names)
    draw = random.Random(given.seed)
    lives = Lives(folder, names, draw)
    turns = list(names)
    draw.shuffle(turns)  # a few kills meet other cases with each seed
    number = 0
    try:
        while lives.killed.total() < given.kills:
            lives.one(turns[number % len(turns)])
            number += 1
    finally:
        told = {
            "seed": given.seed,
            "killed": lives.killed,
            "looks": lives.seen.total(),
            "seen": lives.seen,
            "left something": lives.left,
            "through": lives.through,
        }
        print(json.dumps(told))


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
