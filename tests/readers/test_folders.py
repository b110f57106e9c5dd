"""The files of a folder are not all data (faults/pairs.md, kind 3)."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill as pm
import prefmill.datasets as pmd
from prefmill import readers
from prefmill.errors import BadInput

datasets = pytest.importorskip("datasets")

PLAN = pm.Pairs(chosen_min=None, rejected_below=None)
HOSTS = ("duckdb", "polars")
ROWS = [{"prompt": f"p{n // 2}", "completion": f"c{n}", "score": n % 2} for n in range(18)]


def columns(rows: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [row[name] for row in rows] for name in rows[0]}


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def pairs_in(folder: Path | str, host: str = "duckdb") -> int:
    return pm.run(PLAN, folder, None, engine=host).pairs_out


@pytest.mark.parametrize("host", HOSTS)
def test_a_saved_dataset_is_its_data(tmp_path, host):
    datasets.Dataset.from_dict(columns(ROWS)).save_to_disk(str(tmp_path / "ds"))
    report = pm.run(PLAN, tmp_path / "ds", None, engine=host)
    assert (report.rows_in, report.pairs_out) == (18, 9)
    # a plan over it keeps its result there, as `map` does
    pmd.pairs(datasets.load_from_disk(str(tmp_path / "ds")), chosen_min=None, rejected_below=None)
    datasets.load_from_disk(str(tmp_path / "ds")).map(
        lambda row: {"completion": row["completion"] + "!"}
    )
    assert list((tmp_path / "ds").glob("cache-*.arrow"))
    assert pm.run(PLAN, tmp_path / "ds", None, engine=host).rows_in == 18
    assert pm.run(PLAN, f"{tmp_path}/ds/*", None, engine=host).rows_in == 18


def test_a_folder_that_we_wrote_is_its_data(tmp_path):
    source = lines(tmp_path / "a.jsonl", ROWS)
    pm.run(pm.BestOf(), source, f"{tmp_path}/best/")
    assert pm.run(PLAN, tmp_path / "best", None).rows_in == 9


@pytest.mark.parametrize("dictionary", [True, False])
def test_splits_are_named(tmp_path, dictionary):
    """`pairs --split` writes a folder of splits, or a file for each: neither is read as one
    heap.
    """
    folder = tmp_path / "out"
    target = f"{folder}/" if dictionary else folder / "feedback.jsonl"
    folder.parent.mkdir(exist_ok=True)
    pm.run(
        pm.BestOf(k=2), lines(tmp_path / "a.jsonl", ROWS), target, split={"train": 0.5, "test": 0.5}
    )
    with pytest.raises(BadInput, match=r"splits \['(train', 'test|test', 'train)'\]") as caught:
        pairs_in(folder)
    if dictionary:
        assert caught.value.hint == f"name one of them: {folder}/train."
        counts = [pm.run(PLAN, folder / split, None).rows_in for split in ("train", "test")]
    else:
        assert pairs_in(f"{folder}/**/*.jsonl") == 9  # what the hint says
        counts = [
            pm.run(PLAN, folder / f"feedback-{split}.jsonl", None).rows_in
            for split in ("train", "test")
        ]
    assert sum(counts) == 18
    assert min(counts) > 0


@pytest.mark.parametrize(
    "names",
    [
        [
            "data/train-00000-of-00002.parquet",
            "data/train-00001-of-00002.parquet",
            "data/test-00000-of-00001.parquet",
        ],
        ["train/a.parquet", "validation/a.parquet"],
        ["x_train.parquet", "x_dev.parquet"],
    ],
)
def test_splits_of_a_snapshot(tmp_path, names):
    for name in names:
        (tmp_path / "s" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table(columns(ROWS)), tmp_path / "s" / name)
    with pytest.raises(BadInput, match="holds the splits"):
        pairs_in(tmp_path / "s")


def test_a_snapshot_with_its_papers(tmp_path):
    lines(tmp_path / "s/data/train-00000-of-00001.jsonl", ROWS)
    for name in (
        "README.md",
        "LICENSE",
        "LICENSE.txt",
        "CITATION.cff",
        "dataset_infos.json",
        ".gitattributes",
        "docs/notes.md",
    ):
        (tmp_path / "s" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "s" / name).write_text("{}")
    assert pairs_in(tmp_path / "s") == 9


def test_what_is_unknown_in_a_folder_is_still_told(tmp_path):
    lines(tmp_path / "s/a.jsonl", ROWS)
    (tmp_path / "s/a.docx").write_text("x")
    with pytest.raises(ValueError, match=r"a\.docx: the ending names no known format"):
        pairs_in(tmp_path / "s")


@pytest.mark.parametrize("name", ["best.jsonl", "best.parquet", "best/"])
def test_the_output_is_not_read(tmp_path, name):
    lines(tmp_path / "d/a.jsonl", ROWS)
    target = f"{tmp_path}/d/{name}"
    for _ in range(2):
        assert pm.run(pm.BestOf(k=2), tmp_path / "d", target, overwrite=True).rows_in == 18
    assert pm.run(pm.BestOf(k=2), f"{tmp_path}/d/*", target, overwrite=True).rows_in == 18


def test_an_earlier_output_is_not_read_as_rows(tmp_path):
    lines(tmp_path / "d/a.jsonl", ROWS)
    pm.run(PLAN, tmp_path / "d", tmp_path / "d/pairs.parquet")
    with pytest.raises(BadInput, match=r"pairs\.parquet: has the columns 'chosen' and 'rejected'"):
        pairs_in(tmp_path / "d")


def test_rejects_are_not_read(tmp_path):
    path = lines(tmp_path / "d/a.jsonl", ROWS)
    path.write_text(path.read_text() + "{\n")
    for _ in range(2):
        report = pm.run(PLAN, tmp_path / "d", None, rejects=tmp_path / "d/rejects.jsonl")
        assert (report.rows_in, report.rows_rejected) == (18, 1)


VALUES = [
    "meta-llama/Llama-3.1-8B",
    "meta-llama/Llama-2-7b",
    "a=b",
    "a?b",
    "a\\b",
    "100%",
    "%2F",
    "*",
    "[x]",
    "it's",
    "é",
    "x y",
    ".",
    "007",
]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("ending", ["parquet", "jsonl"])
def test_hive_values_are_decoded_once(tmp_path, host, ending):
    """One model's answers never pair with another's, and the value is the folder's."""
    for n, value in enumerate(VALUES):
        folder = tmp_path / "h" / f"model={quote(value, safe='')}".replace("=.", "=%2E")
        folder.mkdir(parents=True)
        rows = [
            {"prompt": "p", "completion": f"{n}a", "score": 2 * n},
            {"prompt": "p", "completion": f"{n}b", "score": 2 * n + 1},
        ]
        if ending == "parquet":
            pq.write_table(pa.table(columns(rows)), folder / "a.parquet")
        else:
            lines(folder / "a.jsonl", rows)
    out = tmp_path / "out.jsonl"
    report = pm.run(
        PLAN, tmp_path / "h", out, engine=host, roles={"group": "model"}, keep=["model"]
    )
    assert (report.rows_in, report.pairs_out) == (2 * len(VALUES), len(VALUES))
    pairs = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert {VALUES[int(pair["chosen"][:-1])]: pair["chosen_model"] for pair in pairs} == {
        value: value for value in VALUES
    }


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("value", ["a=b", "a?b", "a\\b", "a b"])
def test_hive_values_that_are_not_escaped(tmp_path, host, value):
    folder = tmp_path / "h" / f"model={value}"
    folder.mkdir(parents=True)
    pq.write_table(pa.table(columns(ROWS)), folder / "a.parquet")
    pm.run(PLAN, tmp_path / "h", tmp_path / "out.jsonl", engine=host, keep=["model"])
    assert json.loads((tmp_path / "out.jsonl").read_text().splitlines()[0])["chosen_model"] == value


def test_many_small_files_share_one_connection(tmp_path, monkeypatch):
    made: Counter[str] = Counter()
    from prefmill.readers import json_engine

    connect = json_engine.connect
    monkeypatch.setattr(
        json_engine, "connect", lambda **more: made.update(["connections"]) or connect(**more)
    )
    for n in range(30):
        lines(tmp_path / f"d/{n:03}.jsonl", [ROWS[n % 18]])
    source = readers.open_source([str(tmp_path / "d")], temp_dir=tmp_path / "stage")
    assert (source.rows, len(source.files)) == (30, 30)
    assert made["connections"] == 1


def test_a_path_that_is_no_metadata_is_data(tmp_path):
    """Only next to what `save_to_disk` writes are these names metadata."""
    lines(tmp_path / "d/state.json", ROWS)
    assert pairs_in(tmp_path / "d") == 9
    assert os.listdir(tmp_path / "d") == ["state.json"]
