"""Whatever is published is flushed before it has its name, and then its name is flushed.

A table of every kind of output: each is made while the calls that change the disk are recorded.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import polars as pl
import pyarrow as pa
import pytest

import prefmill as pm
from prefmill.datasets.cards import write_card
from prefmill.disk.folders import MARK, whole_folder
from prefmill.disk.ledger import Ledger
from prefmill.disk.whole import Staging, put_text
from prefmill.loops.folder import RunFolder
from prefmill.plots import plot_lines
from prefmill.sampling import Answer
from prefmill.writers import write as writers

SOURCE = Path(pm.__file__).parent
HIDDEN = re.compile(
    r"\.\d+-\d+-[0-9a-f]{8}-[0-9a-f]{6}-[0-9a-f]{8}\.tmp(/|$)|/prefmill-[^/]+\.tmp/"
)
ROWS = pl.DataFrame(
    {"prompt": ["p", "p", "q", "q"], "completion": ["a", "b", "c", "d"], "score": [5, 1, 4, 2]}
)


class Recorder:
    """Which files were flushed as they are, and what was wrong about names that were given."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.flushed: set[tuple[int, ...]] = set()
        self.names: list[str] = []  #: visible ones that were given
        self.unflushed: list[str] = []
        self.open_folders: dict[tuple[int, int], str] = {}
        self._fsync = os.fsync
        patch.setattr(os, "fsync", self.fsync)
        for call in ("replace", "rename"):
            patch.setattr(os, call, self.renamed(getattr(os, call)))

    def fsync(self, handle: int) -> None:
        self._fsync(handle)
        status = os.fstat(handle)
        self.flushed.add(content(status))
        self.open_folders.pop((status.st_dev, status.st_ino), None)

    def renamed(self, real: Callable[..., None]) -> Callable[..., None]:
        def call(source: Any, target: Any) -> None:
            source, target = Path(source), Path(target)
            turned = target.name == "now"  # the one rename that publishes a set
            if turned or not HIDDEN.search(str(target)):
                self.check(source.parent / "new" if turned else source)
                folder = os.stat(target.parent)
                self.open_folders[folder.st_dev, folder.st_ino] = str(target.parent)
                self.names.append(str(target))
            real(source, target)

        return call

    def check(self, source: Path) -> None:
        if source.is_symlink():
            return
        for path in [source, *source.rglob("*")]:
            if content(path.stat()) not in self.flushed:
                self.unflushed.append(str(path))


def content(status: os.stat_result) -> tuple[int, ...]:
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    return Recorder(monkeypatch)


class Echo:
    fingerprint: ClassVar = {"sampler": "echo"}

    def sample(self, requests: Any) -> list[Answer]:
        return [Answer(f"{request.prompt}!", "stop", None, None) for request in requests]


def pairs(name: str, **options: Any) -> Callable[[Path], object]:
    return lambda folder: pm.run(pm.Pairs(), ROWS, folder / name, **options)


def rejects(folder: Path) -> None:
    (folder / "rows.jsonl").write_text('{"prompt": "p", "completion": "a", "score": 5}\n{"no\n')
    pm.run(pm.Pairs(), folder / "rows.jsonl", None, rejects=folder / "rejects.jsonl")


def ledger(folder: Path) -> None:
    with Ledger(folder / "out.parquet", {"a": 1}, {}) as made:
        made.write(0, {"score": pa.array([1.0])}, {"tokens": 1})


def loop(folder: Path) -> None:
    for name in ("one", "other"):
        with RunFolder(folder / name, {"a": 1}, reuse=[folder / "one"]) as run:
            run.step(
                "stage",
                {"a": 1},
                ["rows.txt"],
                lambda run=run: run.write("rows.txt", lambda path: path.write_text("rows")) or {},
            )


def model(folder: Path) -> None:
    with whole_folder(folder / "model", overwrite=False, where="train") as made:
        (made / "weights").mkdir()
        (made / "weights" / "part").write_text("weights")
        (made / MARK).write_text("{}")


def card(folder: Path) -> None:
    report = pm.run(pm.Pairs(), ROWS, None)
    write_card(folder, pm.Pairs(), report)


def plot(folder: Path) -> None:
    frame = pl.DataFrame({"x": [0, 1], "y": [1.0, 2.0]})
    plot_lines(frame, folder / "plot.svg", x="x", y="y")


def cache(folder: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict(ROWS.to_dict(as_series=False)).save_to_disk(folder / "rows")
    from prefmill.datasets import pairs as apply

    apply(datasets.load_from_disk(folder / "rows"))


def sql(folder: Path) -> None:
    from prefmill.runs.queries.query_file import to_file

    to_file("SELECT 1 AS a", [], str(folder / "out.parquet"), temp_dir=folder)


OUTPUTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "parquet": (pairs("out.parquet"), "out.parquet"),
    "jsonl.gz": (pairs("out.jsonl.gz"), "out.jsonl.gz"),
    "csv": (pairs("out.csv"), "out.csv"),
    "arrow": (pairs("out.arrow"), "out.arrow"),
    "splits": (pairs("out.jsonl", split={"a": 0.5, "b": 0.5}, allow_empty=True), "out-a.jsonl"),
    "datasets": (pairs("out/"), "out"),
    "rejects": (rejects, "rejects.jsonl"),
    "values": (
        lambda folder: writers.write([ROWS], ROWS.schema, folder / "v.parquet", format="pool"),
        "v.parquet",
    ),
    "scored": (
        lambda folder: pm.score(
            ROWS.drop("score"), folder / "s.parquet", scorer=lambda batch: [0.0] * batch.num_rows
        ),
        "s.parquet",
    ),
    "sampled": (lambda folder: pm.sample(ROWS, folder / "s.parquet", sampler=Echo()), "s.parquet"),
    "ledger": (ledger, "000000.arrow"),
    "loop": (loop, "rows.txt"),
    "model": (model, "model"),
    "card": (card, "README.md"),
    "plot": (plot, "plot.svg"),
    "cache of datasets": (cache, "cache-"),
    "sql": (sql, "out.parquet"),
}


@pytest.mark.parametrize("output", OUTPUTS)
def test_what_is_published_is_flushed(output: str, recorder: Recorder, tmp_path: Path) -> None:
    make, name = OUTPUTS[output]
    make(tmp_path)
    assert recorder.unflushed == []
    ours = [Path(each).name for each in recorder.names]
    assert any(each.startswith(name) for each in ours), recorder.names
    assert not recorder.open_folders


def test_the_recorder_sees_what_is_not_flushed(recorder: Recorder, tmp_path: Path) -> None:
    (tmp_path / "new").write_text("text")
    os.replace(tmp_path / "new", tmp_path / "out")
    assert recorder.unflushed == [str(tmp_path / "new")]
    assert list(recorder.open_folders.values()) == [str(tmp_path)]


def test_a_file_that_grew_after_its_flush_is_not_flushed(
    recorder: Recorder, tmp_path: Path
) -> None:
    with (tmp_path / "new").open("w") as file:
        file.write("text")
        file.flush()
        os.fsync(file.fileno())
        file.write("more")
    os.replace(tmp_path / "new", tmp_path / "out")
    assert recorder.unflushed == [str(tmp_path / "new")]


def test_a_set_is_flushed_before_it_is_turned(recorder: Recorder, tmp_path: Path) -> None:
    targets = [tmp_path / "a", tmp_path / "b"]
    for text in ("old", "new"):
        with Staging(targets, where="t") as staging:
            for target in targets:
                staging.path(target).write_text(text)
            staging.publish(overwrite=True)
    assert recorder.unflushed == []
    assert [Path(name).name for name in recorder.names].count("now") == 2
    assert not recorder.open_folders


def test_one_file_of_a_locked_folder(recorder: Recorder, tmp_path: Path) -> None:
    put_text(tmp_path / "a", "text")
    assert recorder.names == [str(tmp_path / "a")]
    assert recorder.unflushed == []
    assert not recorder.open_folders


def calls(tree: ast.AST) -> Iterator[str]:
    """`module.function` of every call and every import that has one."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{node.value.id}.{node.attr}"
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{name.name}" for name in node.names)


def test_only_the_room_of_the_disk_renames() -> None:
    renames = {"os.replace", "os.rename", "os.renames", "shutil.move", "fcntl.flock"}
    others = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        if renames & set(calls(ast.parse(path.read_text("utf-8"))))
    }
    assert others == {f"disk/{name}.py" for name in ("locks", "settling", "whole")}
