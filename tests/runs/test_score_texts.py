"""Scorers that say something beside their number: texts through files, resumption, streams and
ensembles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill as pm
from prefmill.errors import BadInput, BadRow
from prefmill.scoring.ensemble import Ensemble
from prefmill.scoring.scorers import Scored

ROWS = pa.table(
    {
        "prompt": ["p", "q", None, "p", "q", "r", "p"],
        "completion": ["a", "", "x", "bb", None, "a {b}", "ccc"],
    }
)


@dataclass(frozen=True)
class Talker:
    """Scores by length, says so, and has nothing to score in an empty completion."""

    fail_on: str = ""
    columns: tuple[str, ...] = ("score", "half")
    texts: tuple[str, ...] = ("verdict", "reason")
    fingerprint: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "fingerprint", {"talker": "1"})

    def prepare(self, batch: pa.RecordBatch) -> list[str]:
        return batch["completion"].to_pylist()

    def run(self, said: list[str]) -> Scored:
        if self.fail_on in said and self.fail_on:
            raise BadRow(
                "talk", "is not to be had.", row=said.index(self.fail_on), reason="refused"
            )
        length = np.array([len(text) for text in said], float)
        null = length == 0
        counts = {"requests": len(said), "tokens_in": int(length.sum())}
        texts = {
            "verdict": [f"it is {n:g} long: {t}" for n, t in zip(length, said, strict=True)],
            "reason": ["empty" if n else None for n in null],
        }
        return Scored({"score": length, "half": length / 2}, null, counts, texts, texts["reason"])

    def cost(self, counts: Mapping[str, int]) -> float:
        return counts["tokens_in"] / 100


WANTED = {
    "score": [1, None, None, 2, None, 5, 3],
    "score_half": [0.5, None, None, 1, None, 2.5, 1.5],
    "score_verdict": [
        "it is 1 long: a",
        "it is 0 long: ",
        None,
        "it is 2 long: bb",
        None,
        "it is 5 long: a {b}",
        "it is 3 long: ccc",
    ],
    "score_reason": [None, "empty", None, None, None, None, None],
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("chunk_rows", [1, 100])
def test_files(tmp_path: Path, suffix: str, chunk_rows: int) -> None:
    """Prompts stand apart, so that scoring order is not the order of the rows."""
    done = pm.score(ROWS, tmp_path / f"out.{suffix}", scorer=Talker(), chunk_rows=chunk_rows)
    assert done.columns == ("score", "score_half", "score_verdict", "score_reason")
    assert done.null == {"null_prompt": 1, "null_completion": 1, "empty": 1}
    assert (done.rows_in, done.rows_scored, done.requests, done.cost) == (7, 4, 5, 0.11)
    if suffix == "parquet":
        out = pq.read_table(tmp_path / "out.parquet")
        assert out.select(list(WANTED)).to_pydict() == WANTED
        assert out.select(["prompt", "completion"]).to_pydict() == ROWS.to_pydict()


def test_resumed(tmp_path: Path) -> None:
    """What was said before a failure is kept, and the same call goes on; the row that failed is
    named as the owner knows it.
    """
    with pytest.raises(BadInput, match="row 5 is not"):
        pm.score(ROWS, tmp_path / "out.parquet", scorer=Talker(fail_on="a {b}"), chunk_rows=1)
    done = pm.score(ROWS, tmp_path / "out.parquet", scorer=Talker(), chunk_rows=100)
    assert done.chunks_resumed == 2
    assert pq.read_table(tmp_path / "out.parquet").select(list(WANTED)).to_pydict() == WANTED
    again = pm.score(ROWS, tmp_path / "out.parquet", scorer=Talker())
    assert (again.null, again.cost, again.chunks_resumed) == (done.null, done.cost, 3)


def test_nothing_to_score(tmp_path: Path) -> None:
    for rows in (ROWS.slice(0, 0), ROWS.slice(2, 1)):
        pm.score(rows, tmp_path / "out.parquet", scorer=Talker(), overwrite=True)
        out = pq.read_table(tmp_path / "out.parquet")
        assert out["score_verdict"].to_pylist() == [None] * rows.num_rows
        assert pa.types.is_large_string(
            out.schema.field("score_verdict").type
        ) or pa.types.is_string(out.schema.field("score_verdict").type)


def test_stream() -> None:
    out = pm.score_stream(ROWS, Talker(), chunk_rows=2).read_all()
    assert out.schema.field("score_verdict").type == pa.string()
    assert out.select(list(WANTED)).to_pydict() == WANTED
    with pytest.raises(BadInput, match="row 6 is not"):
        pm.score_stream(ROWS, Talker(fail_on="ccc"), chunk_rows=2).read_all()


def test_ensemble(tmp_path: Path) -> None:
    """Each talker's texts stand under its name; a row that both leave out is one row."""
    both = Ensemble(scorers={"one": Talker(), "two": Talker()})
    done = pm.score(ROWS, tmp_path / "out.parquet", scorer=both)
    assert done.columns == (
        "score",
        *("score_one", "score_one_half", "score_two", "score_two_half", "score_disagreement"),
        *(f"score_{n}_{t}" for n in ("one", "two") for t in ("verdict", "reason")),
    )
    assert done.null == {"null_prompt": 1, "null_completion": 1, "empty": 1}
    assert done.cost == pytest.approx(done.tokens_in / 100)
    assert done.tokens_in > 0
    out = pq.read_table(tmp_path / "out.parquet")
    assert out["score_two_verdict"].to_pylist() == WANTED["score_verdict"]
