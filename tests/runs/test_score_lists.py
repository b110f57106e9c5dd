"""Scorers that give a number for each step: lists through files, pairs, devices, resumption,
streams and ensembles.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, BadRow
from prefmill.scoring.scorers import Scored, Staged

ROWS = pa.table(
    {
        "prompt": ["p", "q", None, "p", "q", "r", "p"],
        "completion": ["a", "", "x", "bb c", None, "d ee fff", "stop"],
    }
)


@dataclass(frozen=True)
class Words(Staged):
    """Scores each word by its length; a row is its longest word, and one without words is null."""

    fail_on: str = "nothing"
    strange: float = 0.0

    fingerprint = {"words": "1"}  # noqa: RUF012
    columns = ("score",)
    lists = ("steps",)
    texts = ("last",)

    def prepare(self, batch: pa.RecordBatch) -> list[str]:
        return batch["completion"].to_pylist()

    def run(self, texts: list[str]) -> Scored:
        if self.fail_on in texts:
            raise BadRow("words", "stops.", row=texts.index(self.fail_on), reason="refused")
        steps = [[float(len(word)) for word in text.split()] for text in texts]
        null = np.array([not each for each in steps])
        scores = {"score": np.array([max(each, default=0.0) for each in steps])}
        if self.strange:
            steps = [[*each, self.strange] if each == [4.0] else each for each in steps]
        reasons = ["no_steps" if each else None for each in null]
        last = {"last": [(text.split() or [""])[-1] for text in texts]}
        return Scored(scores, null, {}, last, reasons, {"steps": steps})


NAMES = ["score", "score_steps", "score_last"]
WANTED = {
    "score": [1, None, None, 2, None, 3, 4],
    "score_steps": [[1], None, None, [2, 1], None, [1, 2, 3], [4]],
}


def read(path: Path) -> dict[str, list[Any]]:
    return pl.read_parquet(path).select(list(WANTED)).to_dict(as_series=False)


@pytest.mark.parametrize("chunk_rows", [1, 100])
def test_files(tmp_path: Path, chunk_rows: int) -> None:
    """Prompts stand apart, so that scoring order is not the order of the rows."""
    done = pm.score(ROWS, tmp_path / "out.parquet", scorer=Words(), chunk_rows=chunk_rows)
    assert done.columns == tuple(NAMES)
    assert done.null == {"null_prompt": 1, "null_completion": 1, "no_steps": 1}
    assert read(tmp_path / "out.parquet") == WANTED
    kinds = pl.read_parquet_schema(tmp_path / "out.parquet")
    assert (kinds["score_steps"], kinds["score_last"]) == (pl.List(pl.Float64), pl.String)
    pm.score(ROWS, tmp_path / "out.jsonl", scorer=Words(), chunk_rows=chunk_rows)
    lines = pl.read_ndjson(tmp_path / "out.jsonl")
    assert lines["score_steps"].to_list() == WANTED["score_steps"]
    with pytest.raises(BadArgument, match=r"CSV holds no lists.*'score_steps'"):
        pm.score(ROWS, tmp_path / "out.csv", scorer=Words())


def test_resumed(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    with pytest.raises(BadInput, match="row 5 stops"):
        pm.score(ROWS, target, scorer=Words(fail_on="d ee fff"), chunk_rows=1)
    assert pm.score(ROWS, target, scorer=Words(), chunk_rows=100).chunks_resumed == 2
    assert read(target) == WANTED


def test_strange_step(tmp_path: Path) -> None:
    """A step that is no number makes the row bad, wherever it stands in the list."""
    for strange in (np.nan, -np.inf):
        with pytest.raises(BadInput, match=r"row 6 got .* as its steps"):
            pm.score(ROWS, tmp_path / "out.parquet", scorer=Words(strange=strange), overwrite=True)
    scorer = Words(strange=np.nan)
    done = pm.score(ROWS, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null")
    assert done.null["not_finite"] == 1
    assert read(tmp_path / "out.parquet")["score_steps"] == [*WANTED["score_steps"][:6], None]


def test_nothing_to_score(tmp_path: Path) -> None:
    for rows in (ROWS.slice(0, 0), ROWS.slice(2, 1)):
        pm.score(rows, tmp_path / "out.parquet", scorer=Words(), overwrite=True)
        out = pl.read_parquet(tmp_path / "out.parquet")["score_steps"]
        assert (out.to_list(), out.dtype) == ([None] * rows.num_rows, pl.List(pl.Float64))


def test_all_rows_bad(tmp_path: Path) -> None:
    """A chunk of which no row is left has a list for none of them."""
    rows, scorer = ROWS.slice(6, 1), Words(fail_on="stop")
    done = pm.score(rows, tmp_path / "out.parquet", scorer=scorer, on_bad_row="null")
    assert done.null == {"refused": 1}
    assert read(tmp_path / "out.parquet")["score_steps"] == [None]


def test_pairs(tmp_path: Path) -> None:
    pairs = pl.DataFrame({"prompt": ["p"], "chosen": ["a bb"], "rejected": ["ccc"]})
    pm.score(pairs, tmp_path / "out.parquet", scorer=Words())
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out["chosen_score_steps"].to_list() == [[1, 2]]
    assert out["rejected_score_steps"].to_list() == [[3]]


def test_devices(tmp_path: Path) -> None:
    """Another process for each device: the lists come through its chunks."""
    target = tmp_path / "out.parquet"
    pm.score(ROWS, target, scorer=Words(), chunk_rows=1, devices=["cpu", "cpu"])
    assert read(target) == WANTED


def test_stream() -> None:
    out = pm.score_stream(ROWS, Words(), chunk_rows=2).read_all()
    assert out.schema.field("score_steps").type == pa.list_(pa.float64())
    assert out.select(list(WANTED)).to_pydict() == WANTED


def test_ensemble(tmp_path: Path) -> None:
    both = pm.Ensemble(scorers={"one": Words(), "two": Words()})
    done = pm.score(ROWS, tmp_path / "out.parquet", scorer=both)
    names = ("one", "two")
    lists = [f"score_{name}_steps" for name in names]
    assert done.columns == (
        *("score", "score_one", "score_two", "score_disagreement"),
        *lists,
        *(f"score_{name}_last" for name in names),
    )
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert [out[name].to_list() for name in lists] == [WANTED["score_steps"]] * 2
