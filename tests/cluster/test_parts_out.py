"""An output in parts: the rows of one file in their order, all parts seen at once."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, TargetExists
from prefmill.runs.cluster import parts_out, spread
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.executor import Inline

ROWS = 600
#: More splits, buckets and parts than one of each.
CUT = Cut(split_rows=100, buckets=3, part_bytes=1500, row_bytes=40)


@pytest.fixture
def feedback(tmp_path: Path) -> Path:
    numbers = pl.int_range(ROWS, eager=True)
    table = pl.DataFrame(
        {
            "prompt": "p" + (numbers * 7 % 150).cast(pl.String),
            "completion": "answer " + (numbers % 31).cast(pl.String),
            "score": ((numbers + numbers // 150) % 5 + 1).cast(pl.Float64),
        }
    )
    path = tmp_path / "feedback.parquet"
    table.write_parquet(path)
    return path


def in_parts(plan: pm.Pairs, source: Path, target: Path, **options: object) -> pm.RunReport:
    return spread.run(plan, source, target, executor=Inline(), cut=CUT, **options)


def test_parts_are_the_rows_of_one_file(feedback: Path, tmp_path: Path) -> None:
    whole = pm.run(pm.Pairs(), feedback, tmp_path / "whole.parquet")
    parts = in_parts(pm.Pairs(), feedback, tmp_path / "out" / "part-*.parquet")
    files = sorted((tmp_path / "out").glob("part-*.parquet"))
    assert len(files) > 2
    assert [file.name for file in files[:2]] == ["part-00000.parquet", "part-00001.parquet"]
    rows = pl.concat([pl.read_parquet(file) for file in files])
    assert rows.equals(pl.read_parquet(tmp_path / "whole.parquet"))
    assert (parts.pairs_out, parts.dropped) == (whole.pairs_out, whole.dropped)
    assert parts.output == {"": str(tmp_path / "out" / "part-*.parquet")}


def test_splits_have_parts_of_their_own(feedback: Path, tmp_path: Path) -> None:
    shares = {"train": 0.7, "test": 0.3}
    whole = pm.run(pm.Pairs(), feedback, tmp_path / "whole.jsonl", split=shares)
    parts = in_parts(pm.Pairs(), feedback, tmp_path / "out" / "p*.jsonl", split=shares)
    assert parts.split_rows == whole.split_rows
    for name, file in whole.output.items():
        texts = [path.read_text() for path in sorted((tmp_path / "out").glob(f"p*-{name}.jsonl"))]
        assert "".join(texts) == Path(file).read_text()


def test_the_same_call_again_does_nothing(feedback: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "part-*.parquet"
    in_parts(pm.Pairs(), feedback, target)
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    again = in_parts(pm.Pairs(), feedback, target)
    assert again.notes[-1] == "this run was done before: nothing was to do."
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()} == before


def test_a_death_before_the_parts_are_seen_costs_no_part(
    feedback: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "part-*.parquet"

    def dies(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(parts_out.PartsOut, "publish", dies)
        with pytest.raises(KeyboardInterrupt):
            in_parts(pm.Pairs(), feedback, target)
    assert not (tmp_path / "out").exists()
    staged = sorted((tmp_path / ".out.prefmill" / "parts").iterdir())
    written = {path.name: path.stat().st_mtime_ns for path in staged}
    in_parts(pm.Pairs(), feedback, target)
    seen = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("part-*")}
    assert seen == written
    assert not (tmp_path / ".out.prefmill" / "parts").exists()


def test_other_folders_are_not_replaced(feedback: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine.txt").write_text("mine")
    with pytest.raises((BadArgument, TargetExists)):
        in_parts(pm.Pairs(), feedback, folder / "part-*.parquet", overwrite=True)
    assert os.listdir(folder) == ["mine.txt"]


def test_overwrite_leaves_no_part_of_the_run_before(feedback: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "part-*.parquet"
    in_parts(pm.Pairs(strategy="all", chosen_min=None, rejected_below=None), feedback, target)
    many = len(list((tmp_path / "out").glob("part-*")))
    with pytest.raises(pm.errors.PrefmillError):
        in_parts(pm.Pairs(), feedback, target)
    in_parts(pm.Pairs(), feedback, target, overwrite=True)
    few = len(list((tmp_path / "out").glob("part-*")))
    assert few < many
    assert json.loads((tmp_path / "out" / "prefmill.json").read_text())["parts"] == few


@pytest.mark.parametrize("target", ["part-*-*.parquet", "a*/part-*.parquet"])
def test_one_star(feedback: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(BadArgument, match="one star"):
        in_parts(pm.Pairs(), feedback, tmp_path / target)
