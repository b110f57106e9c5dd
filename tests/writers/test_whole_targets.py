"""A target is there whole, or as it was."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from written import labels, left_in, read

from prefmill.errors import BadArgument, MissingPackage, TargetExists
from prefmill.writers import write as writers
from prefmill.writers.write import write


def never() -> Iterator[pl.DataFrame]:
    raise AssertionError("a frame was taken")
    yield


def many(prompts: int, rows: int) -> pl.DataFrame:
    return labels(rows).with_columns(
        prompt=pl.format("prompt {} é", pl.int_range(rows) * 7919 % prompts)
    )


# --- whole or not at all

TARGETS = ["a.parquet", "a.jsonl", "a.csv.gz", "a.arrow", "a"]


class Boom(Exception):
    pass


def failing(frame: pl.DataFrame, error: BaseException, after: int = 3) -> Iterator[pl.DataFrame]:
    for _ in range(after):
        yield frame
    raise error


@pytest.mark.parametrize("after", [0, 1, 30])
@pytest.mark.parametrize("split", [None, {"train": 0.5, "test": 0.5}])
@pytest.mark.parametrize("name", TARGETS)
def test_an_error_midway_leaves_nothing(
    name: str, split: dict | None, after: int, tmp_path: Path
) -> None:
    error = Boom("midway")
    with pytest.raises(Boom) as caught:
        write(failing(many(50, 2_000), error, after), labels().schema, tmp_path / name, split=split)
    assert caught.value is error
    assert left_in(tmp_path) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "prefmill-sink"]


@pytest.mark.parametrize("name", TARGETS)
def test_an_error_keeps_the_old_target(name: str, tmp_path: Path) -> None:
    old = write([labels(2)], labels().schema, tmp_path / name).paths[""]
    before = left_in(tmp_path)
    with pytest.raises(Boom):
        write(failing(labels(), Boom()), labels().schema, tmp_path / name, overwrite=True)
    assert left_in(tmp_path) == before
    assert read(old).equals(labels(2))


@pytest.mark.parametrize("name", ["a.parquet", "a"])
def test_an_interrupt_leaves_nothing(name: str, tmp_path: Path) -> None:
    def endless() -> Iterator[pl.DataFrame]:
        for number in itertools.count():
            if number == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield many(50, 2_000)

    with pytest.raises(KeyboardInterrupt):
        write(endless(), labels().schema, tmp_path / name)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", TARGETS)
def test_an_existing_target_is_an_error_before_any_work(name: str, tmp_path: Path) -> None:
    write([labels(2)], labels().schema, tmp_path / name)
    with pytest.raises(TargetExists, match=r"is already there.\nHint: use --overwrite"):
        write(never(), labels().schema, tmp_path / name)
    assert read(
        write([labels(3)], labels().schema, tmp_path / name, overwrite=True).paths[""]
    ).equals(labels(3))
    assert not [left for left in left_in(tmp_path) if left.startswith(".")]


def test_one_existing_split_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a-test.parquet").touch()
    with pytest.raises(TargetExists, match=r"a-test.parquet"):
        write(never(), labels().schema, tmp_path / "a.parquet", split={"train": 0.5, "test": 0.5})


def test_an_error_of_the_disk_comes_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        write(itertools.repeat(labels()), labels().schema, tmp_path / "a.parquet")
    assert left_in(tmp_path) == []


def test_a_directory_of_others_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(BadArgument, match="none of `datasets`"):
        write(never(), labels().schema, tmp_path / "mine", overwrite=True)
    assert left_in(tmp_path) == ["mine", "mine/precious"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.xlsx", {}, "cannot tell the file format from the name"),
        ("a.parquet.gz", {}, "cannot tell the file format"),
        ("a.gz", {}, "cannot tell the file format"),
        ("a.parquet", {"file_format": "orc"}, "unknown file format; got 'orc'"),
        ("folder.parquet", {}, "is no regular file"),
        ("file", {}, "is a file; expected a datasets directory"),
    ],
)
def test_bad_targets(name: str, options: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BadArgument, match=message):
        write(never(), labels().schema, tmp_path / name, **options)


def test_check_target_is_the_check_of_write(tmp_path: Path) -> None:
    writers.check_target(tmp_path / "new" / "a.parquet", split={"train": 0.5, "test": 0.5})
    assert left_in(tmp_path) == []
    (tmp_path / "a-test.parquet").touch()
    for options, error in (
        ({}, TargetExists),
        ({"split": {"test": 0.5}}, BadArgument),
        ({"file_format": "orc"}, BadArgument),
    ):
        with pytest.raises(error):
            writers.check_target(tmp_path / "a.parquet", **{"split": {"test": 1.0}} | options)
    writers.check_target(tmp_path / "a.parquet", split={"test": 1.0}, overwrite=True)


def test_file_format_wins_over_the_name(tmp_path: Path) -> None:
    path = write(
        [labels()], labels().schema, tmp_path / "a.txt", file_format="jsonl", split={"all": 1}
    ).paths["all"]
    assert path.endswith("a-all.txt")
    assert pl.read_ndjson(path).equals(labels())


def test_datasets_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingPackage,
        match=r"'datasets' is not installed.\nHint: in a checkout of prefmill: pip install "
        r"'\.\[datasets\]'",
    ):
        write(never(), labels().schema, tmp_path / "out")
    assert left_in(tmp_path) == []


def test_a_frame_of_another_schema(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="a frame of another schema"):
        write([labels(), labels().drop("id")], labels().schema, tmp_path / "a.parquet")
    assert left_in(tmp_path) == []
