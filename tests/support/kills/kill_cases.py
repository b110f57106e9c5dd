"""What is killed: every command that writes, on every kind of target.

A case is run in a fork of a process that has imported everything. It reads the input of an age,
`old` or `new`, and writes below `place.out`. Options that must not change the result are drawn for
each life.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shlex
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import loop_fakes
import typer.main
import warehouses

import prefmill.loops.findings
import prefmill.loops.loop
import prefmill.runs.incremental.work as incremental
import prefmill.runs.resumable.sample
import prefmill.runs.resumable.score
from prefmill.cli.main import app
from prefmill.disk import folders

ROWS = 400
BUCKET = "kills"
#: The commands that have two engines.
PLANS = ("pairs", "unpair", "best", "advantages")


@dataclass(frozen=True)
class Place:
    """A folder in which lives are led: inputs by age, `out`, and folders for temporary files.

    A life takes one of the latter, or the one of that number.
    """

    folder: Path
    temp: int | None = None

    @property
    def out(self) -> Path:
        return self.folder / "out"

    @property
    def temps(self) -> list[Path]:
        both = [self.folder / "temp-0", self.folder / "temp-1"]
        return both if self.temp is None else [both[self.temp]]


#: Runs a case: place, age, whether something stands at the output, how options are drawn.
Run = Callable[[Place, str, bool, random.Random], object]


@dataclass(frozen=True)
class Case:
    """One command with one kind of target.

    parts   what it writes: files and folders below `place.out`, addresses of tables, objects
    alone   each part is old or new by itself; else they are published together
    stood   whether lives begin with nothing at the output, or with what `old` makes
    polled  whether it can be read while it is written: a DuckDB file has one process at a time
    again   the same command on what it has made is done (else it is refused: it keeps no record)
    """

    group: str
    run: Run
    parts: tuple[str, ...]
    stood: tuple[bool, ...] = (False, True)
    alone: bool = False
    polled: bool = True
    again: bool = True

    @property
    def recorded(self) -> bool:
        """Whether a record stands next to the output, in a local folder."""
        return self.again and self.group not in ("tables", "objects") and bool(self.parts)


_COMMANDS: Mapping[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def drawn(command: str, place: Place, draw: random.Random, engines: bool) -> list[str]:
    """Options that must not change what a command writes."""
    known = {param.name for param in _COMMANDS[command].params}
    words = {
        "threads": draw.choice(["1", "2", "3"]),
        "memory_limit": draw.choice([None, "1GB", "2GB"]),
        "temp_dir": str(draw.choice(place.temps)),
        "temp_limit": draw.choice([None, "300MB"]),
        "engine": draw.choice(["polars", "duckdb"]),
        "log_format": draw.choice([None, "json"]),
    }
    given = []
    for name, value in words.items():
        if name in known and value is not None and (name != "engine" or engines):
            given += [f"--{name.replace('_', '-')}", value]
    for name in ("as_json", "quiet"):
        if name in known and command != "sql" and draw.random() < 0.3:
            given.append({"as_json": "--json", "quiet": "--quiet"}[name])
    return given


def typed(
    words: str,
    target: str,
    *,
    source: str = "rows.jsonl",
    over: tuple[str, ...] = ("--overwrite",),
    prepare: Callable[[Place, str], Path] | None = None,
) -> Run:
    """A command as it is typed; `over` are its words where something stands."""

    def run(place: Place, age: str, stood: bool, draw: random.Random) -> object:
        made = prepare(place, age) if prepare else place.folder / age / source
        command, *more = shlex.split(words)
        given = [command, *more, str(made), "-o", target.format(out=place.out)]
        engines = command in PLANS and "--incremental" not in more
        given += [*(over if stood else ()), *drawn(command, place, draw, engines)]
        with (
            open(os.devnull, "w") as nowhere,
            contextlib.redirect_stderr(nowhere),
            contextlib.redirect_stdout(nowhere),
        ):
            return app(given, standalone_mode=False)

    return run


def grown(kind: str, place: Place, age: str) -> Path:
    """An input that is the same file, or the same folder, in both ages, and has grown."""
    source = place.folder / "source"
    if kind == "file":
        _put(place.folder / age / "grown.jsonl", source / "grown.jsonl")
        return source / "grown.jsonl"
    (source / "parts").mkdir(exist_ok=True)
    for name in ("a", "b") if age == "new" else ("a",):
        _put(place.folder / "new" / f"part-{name}.jsonl", source / f"parts/{name}.jsonl")
    return source / "parts"


def _put(made: Path, source: Path) -> None:
    """A file that is there already is not touched: lives have the same input."""
    if not source.exists() or source.stat().st_size != made.stat().st_size:
        shutil.copyfile(made, source)


def _incremental(command: str, target: str) -> Run:
    run = typed(
        f"{command} --incremental", target, over=(), prepare=partial(grown, "folder")
    )  # late rows come to the folder

    def parted(place: Place, age: str, stood: bool, draw: random.Random) -> object:
        incremental.PART_ROWS = draw.choice([30, 40, 70])
        return run(place, age, stood, draw)

    return parted


def _reading(place: Place, draw: random.Random) -> dict[str, Any]:
    return {"threads": draw.choice([1, 2, 3]), "temp_dir": draw.choice(place.temps)}


def with_part(
    call: Callable[..., object], chunks: list[int], target: str, *, late: bool, **options: Any
) -> Run:
    """A run of `score` or `sample`, with a fake part, in chunks of one of these sizes."""

    def run(place: Place, age: str, stood: bool, draw: random.Random) -> object:
        source = grown("file", place, age) if late else place.folder / age / "rows.jsonl"
        return call(
            source,
            target.format(out=place.out),
            chunk_rows=draw.choice(chunks),
            overwrite=stood and not late,
            **options,
            **_reading(place, draw),
        )

    return run


def scores(target: str, *, late: bool = False) -> Run:
    options = {"scorer": loop_fakes.words_in, "score_column": "words"}
    return with_part(
        prefmill.runs.resumable.score.score, [60, 100, 170], target, late=late, **options
    )


def samples(target: str, *, late: bool = False) -> Run:
    options = {"sampler": loop_fakes.FakeSampler("base"), "n": 2, "temperatures": [0.8]}
    return with_part(
        prefmill.runs.resumable.sample.sample, [32, 64, 90], target, late=late, **options
    )


def train(place: Place, age: str, stood: bool, draw: random.Random) -> None:
    """What train-reward does with its folder, without a model."""
    text = hashlib.sha256((place.folder / age / "rows.jsonl").read_bytes()).hexdigest()
    with folders.whole_folder(place.out / "out", overwrite=stood, where="train") as folder:
        for name in ("config.json", "weights", folders.MARK):
            (folder / name).write_text(text * 50_000 if name == "weights" else text)


def loop(place: Place, age: str, stood: bool, draw: random.Random) -> object:
    recipe = loop_fakes.recipe(place.folder / "prompts", stages=1)
    return prefmill.loops.loop.loop(recipe, place.out / "out", **loop_fakes.parts())


def _table(kind: str) -> str:
    return warehouses.address_in(kind, Path("{out}"))


_SPLIT = "--split train=0.6,test=0.2,val=0.2"
_LABELS = "unpair --chosen-min 50 --rejected-below 50"
_WINNER = "--completion one,other --winner verdict"
CASES: dict[str, Case] = {
    "pairs": Case("files", typed("pairs --no-thresholds", "{out}/out.parquet"), ("out.parquet",)),
    "pairs jsonl": Case(
        "files",
        typed("pairs --strategy all --no-thresholds", "{out}/out.jsonl"),
        ("out.jsonl",),
    ),
    "pairs gzip": Case(
        "files", typed("pairs --no-thresholds", "{out}/out.jsonl.gz"), ("out.jsonl.gz",)
    ),
    "pairs split": Case(
        "files",
        typed(f"pairs --no-thresholds {_SPLIT}", "{out}/out.parquet"),
        ("out-test.parquet", "out-train.parquet", "out-val.parquet"),
    ),
    "pairs data set": Case(
        "files", typed(f"pairs --no-thresholds {_SPLIT}", "{out}/out"), ("out/",)
    ),
    "pairs partitioned": Case(
        "files",
        typed("pairs --no-thresholds --keep source --partition-by chosen_source", "{out}/out"),
        ("out/",),
    ),
    "unpair": Case("files", typed(_LABELS, "{out}/out.csv"), ("out.csv",)),
    "best": Case("files", typed("best -k 2", "{out}/out.arrow"), ("out.arrow",)),
    "advantages": Case("files", typed("advantages", "{out}/out.tsv"), ("out.tsv",)),
    "rows": Case(
        "commands",
        typed(f"rows {_WINNER}", "{out}/out.parquet", source="verdicts.jsonl"),
        ("out.parquet",),
    ),
    "votes": Case(
        "commands",
        typed(f"votes {_WINNER}", "{out}/out.parquet", source="verdicts.jsonl"),
        ("out.parquet",),
    ),
    "values": Case(
        "commands", typed("values", "{out}/out.parquet", source="tree.jsonl"), ("out.parquet",)
    ),
    "steps": Case(
        "commands", typed("steps", "{out}/out.jsonl", source="tree.jsonl"), ("out.jsonl",)
    ),
    "sql": Case(
        "commands",
        typed("sql 'FROM best_of(rows, k := 2)'", "{out}/out.parquet"),
        ("out.parquet",),
        again=False,
    ),
    "curve": Case(
        "commands", typed("curve --resamples 0", "{out}/out.csv"), ("out.csv",), again=False
    ),
    "calibrate": Case(
        "commands",
        typed("calibrate", "{out}/out.json", source="scored.jsonl"),
        ("out.json",),
        again=False,
    ),
    "train": Case("commands", train, ("out/",), again=False),
    "loop": Case("commands", loop, (), stood=(False,), polled=False),
    "score": Case("pools", scores("{out}/out.parquet"), ("out.parquet",)),
    "score grown": Case(
        "pools", scores("{out}/out.parquet", late=True), ("out.parquet",), stood=(True,)
    ),
    "sample": Case("pools", samples("{out}/out.parquet"), ("out.parquet",)),
    "sample grown": Case(
        "pools", samples("{out}/out.parquet", late=True), ("out.parquet",), stood=(True,)
    ),
    **{
        f"{command.split()[0]} incremental": Case(
            "grown",
            _incremental(command, "{out}/out.parquet"),
            ("out.parquet", "out-changes.parquet"),
            alone=True,
        )
        for command in ("pairs --no-thresholds", _LABELS, "best -k 2", "advantages")
    },
    "pairs incremental parts": Case(
        "grown",
        _incremental("pairs --no-thresholds", "{out}/out/part-*.parquet"),
        ("out/", "out-changes.parquet"),
        alone=True,
    ),
    **{
        f"pairs {kind} {mode}": Case(
            "tables",
            typed("pairs --no-thresholds", _table(kind), over=("--mode", mode)),
            (_table(kind),),
            stood=(True,) if mode == "append" else (False, True),
            polled=kind != "duckdb",
        )
        for kind in warehouses.KINDS
        if kind != "postgres"  # its server has the files; test_killed_writers.py kills its writers
        for mode in ("append", "replace")
    },
    **{
        f"pairs {kind} incremental": Case(
            "tables",
            _incremental("pairs --no-thresholds", _table(kind)),
            (_table(kind),),
            polled=kind != "duckdb",
        )
        for kind in warehouses.KINDS
        # In a catalog or on a server it has no folder to go on from.
        if kind not in ("iceberg", "postgres")
    },
    "pairs object": Case(
        "objects",
        typed("pairs --no-thresholds", f"s3://{BUCKET}/out.parquet"),
        (f"s3://{BUCKET}/out.parquet",),
    ),
    "pairs object split": Case(
        "objects",
        typed(f"pairs --no-thresholds {_SPLIT}", f"s3://{BUCKET}/out.parquet"),
        tuple(f"s3://{BUCKET}/out-{name}.parquet" for name in ("test", "train", "val")),
    ),
    "unpair object": Case(
        "objects", typed(_LABELS, f"s3://{BUCKET}/out.jsonl"), (f"s3://{BUCKET}/out.jsonl",)
    ),
    "score object": Case(
        "objects", scores(f"s3://{BUCKET}/out.parquet"), (f"s3://{BUCKET}/out.parquet",)
    ),
}


def _rows(name: str, draw: random.Random, count: int = ROWS) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"{name} {i // 4}",
            "completion": f"{draw.getrandbits(64):x} {i}",
            "score": draw.randrange(100),
            "source": f"source {i // 4 % 3}",
        }
        for i in range(count)
    ]


def _tree(name: str, draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "id": i,
            "parent_id": None if i % 10 == 0 else i - 1,
            "reward": draw.randrange(9),
            "text": f"{name} {i}",
            "success": i % 20 == 9,
        }
        for i in range(ROWS)
    ]


def _verdicts(name: str, draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"{name} {i // 6}",
            "one": f"answer {i % 3}",
            "other": f"answer {(i + 1) % 3}",
            "verdict": draw.choice(["A", "B", "tie"]),
        }
        for i in range(ROWS // 2)
    ]


def _scored(name: str, draw: random.Random) -> list[dict[str, Any]]:
    return [
        {
            "prompt": f"{name} {i}",
            "chosen": f"c{i}",
            "rejected": f"r{i}",
            "chosen_score": draw.gauss(0.5, 1),
            "rejected_score": draw.gauss(0, 1),
        }
        for i in range(ROWS)
    ]


def make_sources(folder: Path) -> None:
    """The inputs of both ages."""
    for age, salt in (("old", 1), ("new", 2)):
        home = folder / age
        home.mkdir(parents=True)
        late = _rows("late", random.Random(3))
        parts = _rows("part", random.Random(4), 200)
        tables = {
            "rows": _rows(age, random.Random(salt)),
            "tree": _tree(age, random.Random(salt)),
            "verdicts": _verdicts(age, random.Random(salt)),
            "scored": _scored(age, random.Random(salt)),
            "grown": late if age == "new" else late[:300],
            "part-a": parts,
            # Prompts of before and new ones.
            "part-b": [{**row, "completion": f"b{row['completion']}"} for row in parts[150:]]
            + _rows("more", random.Random(5), 60),
        }
        for name, rows in tables.items():
            text = "".join(json.dumps(row) + "\n" for row in rows)
            (home / f"{name}.jsonl").write_text(text)
