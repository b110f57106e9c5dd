"""Run as a program by faults/test_kills.py: every command that writes, killed at random instants
while a reader looks on.

    python kill_commands.py FOLDER KILLS SEED

The parent imports everything once and forks, so that a life is short. Each life draws its command,
whether something stands at its output, and its threads. While it lives, and once it is dead, the
parent reads the output: all old (or nothing), or all new. Then the same command runs again: it
succeeds, what it writes is that of an unbroken run, and nothing of the dead one is left. Prints the
lives killed by command, the looks, and how many found each state.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets  # noqa: F401
import loop_fakes

import prefmill.loops.findings
import prefmill.loops.loop
import prefmill.rules.advantages
import prefmill.rules.rollouts
import prefmill.rules.values
import prefmill.runs.curve
import prefmill.runs.query
import prefmill.runs.run
import prefmill.runs.sample
import prefmill.runs.score
from prefmill import errors
from prefmill.cli.main import app
from prefmill.disk import folders
from prefmill.loops import plot as stage_plot

ROWS = 400


@dataclass(frozen=True)
class Command:
    """`run(source, target, overwrite, threads)` writes `parts` below the target's folder; `kept`
    stays there besides.
    """

    run: Callable[[Path, Path, bool, int], object]
    target: str
    parts: tuple[str, ...]
    kept: tuple[str, ...] = ()
    source: str = "rows"


def cli(*words: str) -> Callable[[Path, Path, bool, int], object]:
    """A command as it is typed, on one input."""

    def run(source: Path, target: Path, overwrite: bool, threads: int) -> object:
        more = ["--overwrite"] if overwrite else []
        if words[0] not in ("values", "steps"):
            more += ["--threads", str(threads)]
        given = [
            *words,
            str(source),
            "-o",
            str(target),
            "--temp-dir",
            str(target.parent.parent / "temp"),
            *more,
        ]
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            return app(given, standalone_mode=False)

    return run


def reading(target: Path, threads: int) -> dict[str, Any]:
    return {"threads": threads, "temp_dir": target.parent.parent / "temp"}


def score(source: Path, target: Path, overwrite: bool, threads: int) -> object:
    return prefmill.runs.score.score(
        source,
        target,
        scorer=loop_fakes.words_in,
        score_column="words",
        chunk_rows=100,
        overwrite=overwrite,
        **reading(target, threads),
    )


def sample(source: Path, target: Path, overwrite: bool, threads: int) -> object:
    return prefmill.runs.sample.sample(
        source,
        target,
        sampler=loop_fakes.FakeSampler("base"),
        n=2,
        temperatures=[0.8],
        chunk_rows=64,
        overwrite=overwrite,
        **reading(target, threads),
    )


def train(source: Path, target: Path, overwrite: bool, threads: int) -> None:
    """What train-reward does with its folder, without a model."""
    text = hashlib.sha256(source.read_bytes()).hexdigest()
    with folders.whole_folder(target, overwrite=overwrite, where="train") as folder:
        for name in ("config.json", "weights", folders.MARK):
            (folder / name).write_text(text * 50_000 if name == "weights" else text)


def loop(source: Path, target: Path, overwrite: bool, threads: int) -> object:
    recipe = loop_fakes.recipe(target.parent.parent / "prompts", stages=1)
    return prefmill.loops.loop.loop(recipe, target, **loop_fakes.parts())


_DATA = "data-00000-of-00001.arrow"
_DICT = tuple(
    f"out/{split}/{name}"
    for split in ("test", "train")
    for name in (_DATA, "dataset_info.json", "state.json")
)
COMMANDS = {
    "pairs": Command(cli("pairs", "--no-thresholds"), "out.parquet", ("out.parquet",)),
    "pairs jsonl": Command(
        cli("pairs", "--strategy", "all", "--no-thresholds"), "out.jsonl", ("out.jsonl",)
    ),
    "pairs split": Command(
        cli("pairs", "--no-thresholds", "--split", "train=0.6,test=0.2,val=0.2"),
        "out.parquet",
        ("out-test.parquet", "out-train.parquet", "out-val.parquet"),
    ),
    "pairs data set": Command(
        cli("pairs", "--no-thresholds", "--split", "train=0.5,test=0.5"),
        "out",
        (*_DICT, "out/dataset_dict.json"),
    ),
    "unpair": Command(
        cli("unpair", "--chosen-min", "50", "--rejected-below", "50"), "out.csv", ("out.csv",)
    ),
    "best": Command(cli("best", "-k", "2"), "out.arrow", ("out.arrow",)),
    "advantages": Command(cli("advantages"), "out.parquet", ("out.parquet",)),
    "sql": Command(cli("sql", "FROM best_of(rows, k := 2)"), "out.parquet", ("out.parquet",)),
    "curve": Command(cli("curve", "--resamples", "0"), "out.csv", ("out.csv",)),
    "values": Command(cli("values"), "out.parquet", ("out.parquet",), source="tree"),
    "steps": Command(cli("steps"), "out.jsonl", ("out.jsonl",), source="tree"),
    "score": Command(score, "out.parquet", ("out.parquet",), (".out.parquet.prefmill",)),
    "sample": Command(sample, "out.parquet", ("out.parquet",), (".out.parquet.prefmill",)),
    "train": Command(train, "out", ("out/config.json", "out/weights", f"out/{folders.MARK}")),
    "loop": Command(loop, "out", ()),
}


def make_sources(folder: Path) -> None:
    """The rows of before, and those of now."""
    for name, salt in (("old", 1), ("new", 2)):
        (folder / name).mkdir(parents=True)
        draw = random.Random(salt)
        rows = [
            {
                "prompt": f"{name} {i // 4}",
                "completion": f"{draw.getrandbits(64):x} {i}",
                "score": draw.randrange(100),
            }
            for i in range(ROWS)
        ]
        tree = []
        for i in range(ROWS):
            parent, success = (None if i % 10 == 0 else i - 1), i % 20 == 9
            tree.append(
                {
                    "id": i,
                    "parent_id": parent,
                    "reward": draw.randrange(9),
                    "text": f"{name} {i}",
                    "success": success,
                }
            )
        for file, made in (("rows", rows), ("tree", tree)):
            (folder / name / f"{file}.jsonl").write_text(
                "".join(json.dumps(row) + "\n" for row in made)
            )


def started(work: Callable[[], object]) -> int:
    """A child: exits 0 after `work`, 3 where the output is already there."""
    child = os.fork()
    if child:
        return child
    code = 0
    try:
        warnings.simplefilter("ignore")
        stage_plot.draw = lambda *_: None  # takes seconds
        work()
    except errors.TargetExists:
        code = 3
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        code = 1
    os._exit(code)


def ended(child: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def digests(out: Path, command: Command) -> tuple[str, ...]:
    """What each part holds, in order; `-` where it is not there."""
    found = []
    for part in command.parts:
        try:
            found.append(hashlib.sha256((out / part).read_bytes()).hexdigest())
        except (FileNotFoundError, NotADirectoryError):
            found.append("-")
    return tuple(found)


class Lives:
    """One command after another, and what the reader saw."""

    def __init__(self, folder: Path, draw: random.Random) -> None:
        self.folder, self.draw = folder, draw
        self.out, self.temp = folder / "out", folder / "temp"
        self.killed: Counter[str] = Counter()
        self.seen: Counter[str] = Counter()
        self.whole: dict[tuple[str, str], tuple[str, ...]] = {}
        self.seconds: dict[str, float] = {}
        self.loop = ""

    def run(self, name: str, age: str, *, overwrite: bool = False, threads: int = 1) -> int:
        command = COMMANDS[name]
        source = self.folder / age / f"{command.source}.jsonl"
        return started(lambda: command.run(source, self.out / command.target, overwrite, threads))

    def clear(self) -> None:
        for path in (self.out, self.temp):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()

    def unbroken(self) -> None:
        """What each command writes when nobody kills it, and how long that takes."""
        for name, command in COMMANDS.items():
            for age in ("old", "new"):
                self.clear()
                began = time.perf_counter()
                assert ended(self.run(name, age)) == 0, f"{name} fails by itself"
                self.seconds[name] = time.perf_counter() - began
                self.whole[name, age] = digests(self.out, command)
                assert "-" not in self.whole[name, age], f"{name}: {sorted(self.out.rglob('*'))}"
            if command.parts:
                assert self.whole[name, "old"] != self.whole[name, "new"], name
            else:
                self.loop = self.content(name)

    def content(self, name: str) -> str:
        """What a loop made. A child reads it: once Polars has threads, a fork would be deaf."""
        said = self.folder / "content.json"
        target = self.out / COMMANDS[name].target
        assert (
            ended(
                started(
                    lambda: said.write_text(
                        json.dumps(loop_fakes.content(target, stages=1), default=str)
                    )
                )
            )
            == 0
        )
        return said.read_text()

    def look(self, name: str, stood: bool, *, still: bool) -> None:
        """Read the output, part by part: once one is new, all later ones are; of a dead writer all
        are alike.
        """
        command = COMMANDS[name]
        if not command.parts:
            return
        new = self.whole[name, "new"]
        old = self.whole[name, "old"] if stood else ("-",) * len(new)
        states = []
        for part, (found, was, will) in enumerate(
            zip(digests(self.out, command), old, new, strict=True)
        ):
            assert found in (was, will), f"{name}: {command.parts[part]} is neither old nor new"
            if was != will:  # what is the same in both says nothing
                states.append(found == will)
        assert states == sorted(states), f"{name}: a mix, {states}"
        assert not still or len(set(states)) == 1, f"{name}: a mix is left, {states}"
        self.seen["new" if states[-1] else "old" if stood else "nothing"] += 1

    def one(self, name: str) -> None:
        """A life that is killed, and the one after it."""
        stood, threads = self.draw.random() < 0.5 and name != "loop", self.draw.choice([1, 2])
        self.clear()
        if stood:
            assert ended(self.run(name, "old")) == 0
        child = self.run(name, "new", overwrite=stood, threads=threads)
        until = time.perf_counter() + self.draw.uniform(0, self.seconds[name])
        while time.perf_counter() < until:
            self.look(name, stood, still=False)
            time.sleep(0.002)
        os.kill(child, signal.SIGKILL)
        if ended(child) != -signal.SIGKILL:  # it was through
            self.seconds[name] *= 0.9
            return
        self.killed[name] += 1
        self.look(name, stood, still=True)
        self.again(name, stood)

    def again(self, name: str, stood: bool) -> None:
        command = COMMANDS[name]
        complete = digests(self.out, command) == self.whole[name, "new"] and not any(
            self.out.glob(".*/journal.json")
        )
        code = ended(self.run(name, "new", overwrite=stood, threads=self.draw.choice([1, 2])))
        assert code == 0 or (code == 3 and complete and command.parts), (
            f"{name}: the same command ends with {code}"
        )
        assert digests(self.out, command) == self.whole[name, "new"], (
            f"{name}: other content after the same command"
        )
        if not command.parts:
            assert self.content(name) == self.loop
        left = (
            {path.name for path in self.out.iterdir()}
            - {part.split("/")[0] for part in command.parts}
            - {*command.kept}
            - {f".{part.split('/')[0]}.prefmill" for part in command.parts}
        )
        assert left <= ({command.target} if not command.parts else set()), (
            f"{name}: left in the folder: {left}"
        )
        assert not list(self.out.rglob("*.tmp")), f"{name}: {list(self.out.rglob('*.tmp'))}"
        assert not list(self.temp.iterdir()), (
            f"{name}: left in the temporary folder: {list(self.temp.iterdir())}"
        )


def main() -> None:
    folder, kills, draw = Path(sys.argv[1]), int(sys.argv[2]), random.Random(int(sys.argv[3]))
    folder.mkdir(parents=True, exist_ok=True)
    make_sources(folder)
    lives = Lives(folder, draw)
    lives.unbroken()
    names = list(COMMANDS)
    number = 0
    while lives.killed.total() < kills:
        lives.one(names[number % len(names)])
        number += 1
    print(
        json.dumps(
            {
                "killed": lives.killed,
                "looks": lives.seen.total(),
                "seen": lives.seen,
                "through": number - kills,
            }
        )
    )


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
