"""`prefmill calibrate`: from scored pairs to a file, and from the file to chances to win."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from command import prefmill as command

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ColumnMissing, TargetExists
from prefmill.scoring.calibration import read_calibration
from prefmill.scoring.ensemble import Ensemble

pytestmark = pytest.mark.score


def length(batch: Any) -> list[float]:
    return [float(len(text)) for text in batch["completion"].to_pylist()]


def calm(batch: Any) -> list[float]:
    return [-float(text.count("a")) for text in batch["completion"].to_pylist()]


def labelled(rows: int = 60) -> pl.DataFrame:
    """Pairs of which the longer answer wins in two of three."""
    draws = np.random.default_rng(0)
    chosen, rejected = [], []
    for _ in range(rows):
        short, long = sorted(draws.integers(1, 9, size=2).tolist())
        one, two = "ab" * long, "b" * short
        won = draws.random() < 2 / 3
        chosen.append(one if won else two)
        rejected.append(two if won else one)
    prompts = [f"p{i // 2}" for i in range(rows)]
    return pl.DataFrame({"prompt": prompts, "chosen": chosen, "rejected": rejected})


@pytest.fixture
def scored(tmp_path: Path) -> Path:
    both = Ensemble(scorers={"long.1": length, "long": calm}, combine="zscore")
    pm.score(labelled(), tmp_path / "scored.parquet", scorer=both)
    return tmp_path / "scored.parquet"


def test_from_pairs_to_chances(scored: Path, tmp_path: Path) -> None:
    """A file for each scorer of an ensemble, found by its column; the score is their mean."""
    files = {}
    for name in ("long.1", "long"):
        files[name] = tmp_path / f"{name}.json"
        report = pm.calibrate(scored, files[name], score_column=f"score_{name}")
        assert report.rows_in == report.pairs == 60
        assert report.prompts == 30
        assert report.scorer["content"]
    fingerprints = {name: read_calibration(file).scorer for name, file in files.items()}
    assert fingerprints["long"] != fingerprints["long.1"]
    scorers = {"long.1": length, "long": calm}
    pool = pl.DataFrame({"prompt": ["p"] * 3 + ["q"], "completion": ["ab", "bbbb", "a", "aa"]})
    both = Ensemble(scorers=scorers, combine="calibrated", calibrations=files)
    pm.score(pool, tmp_path / "out.parquet", scorer=both)
    out = pl.read_parquet(tmp_path / "out.parquet")
    wanted = np.zeros(4)
    for name, file in files.items():
        curve = read_calibration(file).curve
        own = out[f"score_{name}"].to_list()
        for row in range(3):
            others = [float(curve(own[row] - own[i])) for i in range(3) if i != row]
            wanted[row] += sum(others) / 4
    wanted[3] = 0.5
    np.testing.assert_allclose(out["score"].to_numpy(), wanted, atol=2e-9)


@pytest.mark.parametrize("name", ["scored.jsonl", "scored.csv", "scored.arrow"])
def test_the_scorer_is_known_from_every_format(name: str, tmp_path: Path) -> None:
    pm.score(labelled(), tmp_path / name, scorer=length)
    report = pm.calibrate(tmp_path / name, None)
    assert report.pairs == 60
    assert report.scorer["function"].endswith("length")


def test_another_scorer_is_refused(scored: Path, tmp_path: Path) -> None:
    file = tmp_path / "long.json"
    pm.calibrate(scored, file, score_column="score_long")
    for scorer, calibrated in ((length, False), (calm, True)):
        one = Ensemble(scorers={"x": scorer}, combine="calibrated", calibrations={"x": file})
        if calibrated:
            assert one.fingerprint["x.calibration"]
            continue
        with pytest.raises(BadArgument, match="'x' is of another scorer, with another content"):
            pm.score(labelled(2), tmp_path / "out.parquet", scorer=one)


def test_the_score_of_an_ensemble_is_not_that_of_a_member(scored: Path, tmp_path: Path) -> None:
    """`score` is the whole ensemble's; a column that is no score is refused for all."""
    whole = pm.calibrate(scored, None)
    assert whole.scorer["combine"] == "zscore"
    apart = pm.calibrate(scored, None, score_column="score_disagreement")
    assert apart.scorer["column"] == "disagreement"


def test_nobody_knows_whose_scores_these_are(tmp_path: Path) -> None:
    frame = labelled().with_columns(
        chosen_score=pl.col("chosen").str.len_chars(), rejected_score=pl.lit(4)
    )
    report = pm.calibrate(frame, tmp_path / "a.json")
    assert report.scorer == {}
    assert any("nobody knows which scorer" in note for note in report.notes)
    told = pm.calibrate(frame, tmp_path / "b.json", scorer={"function": "mine"})
    assert read_calibration(tmp_path / "b.json").scorer == told.scorer == {"function": "mine"}
    one = Ensemble(
        scorers={"x": calm}, combine="calibrated", calibrations={"x": tmp_path / "a.json"}
    )
    assert one.fingerprint["x.calibration"]


def test_a_file_that_was_changed_after_its_run_is_nobodys(scored: Path, tmp_path: Path) -> None:
    frame = pl.read_parquet(scored)
    assert pm.calibrate(scored, None).scorer
    frame.head(30).write_parquet(scored)
    assert pm.calibrate(scored, None).scorer == {}


def test_every_row_is_accounted_for(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {
            "prompt": ["p", None, "q", "r", "s", "t"],
            "chosen_score": [1.0, 2.0, None, float("inf"), float("nan"), 0.0],
            "rejected_score": [0.0, 0.0, 1.0, 0.0, 0.0, None],
        }
    )
    report = pm.calibrate(frame, None)
    assert dict(report.dropped) == {"null_score": 2, "non_finite_score": 2}
    assert report.rows_in == report.pairs + sum(report.dropped.values())
    with pytest.raises(BadInput, match="no pair has two scores; got 4 rows"):
        pm.calibrate(frame[2:], None)
    texts = pl.DataFrame({"chosen_score": ["1.5", "x", None], "rejected_score": ["0", "1", "y"]})
    assert dict(pm.calibrate(texts, None).dropped) == {"null_score": 1, "bad_score": 1}


def test_what_cannot_be_calibrated(tmp_path: Path) -> None:
    frame = pl.DataFrame({"chosen_score": [[1.0]], "rejected_score": [1.0], "chosen_x": [1.0]})
    with pytest.raises(BadArgument, match="holds no numbers"):
        pm.calibrate(frame, None)
    with pytest.raises(ColumnMissing, match="'rejected_x'"):
        pm.calibrate(frame, None, score_column="x")
    with pytest.raises(ColumnMissing, match="'question'"):
        pm.calibrate(frame, None, prompt="question")
    with pytest.raises(BadArgument, match=r"ends in \.json"):
        pm.calibrate(frame, tmp_path / "a.txt")
    (tmp_path / "a.json").write_text("{}")
    with pytest.raises(TargetExists):
        pm.calibrate(frame, tmp_path / "a.json")


def test_pairs_made_of_these_scores_are_told(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": ["p", "q"], "chosen_score": [5, 4], "rejected_score": [1, 1]})
    notes = pm.calibrate(frame, None).notes
    assert any("were the pairs made of these scores" in note for note in notes)


@pytest.mark.parametrize(
    "content",
    [
        "nothing",
        "{}",
        "[]",
        '{"kind": "other"}',
        json.dumps({"kind": "prefmill calibration 1", "margins": [0, 1], "chances": [0.5]}),
    ],
)
def test_what_is_no_calibration(content: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(content)
    with pytest.raises(BadArgument, match="is no calibration"):
        read_calibration(path)


@pytest.mark.parametrize(
    ("margins", "chances"),
    [
        ([0, 1], [0.5, 0.4]),
        ([0, 0], [0.5, 0.6]),
        ([1, 2], [0.5, 0.6]),
        ([0, 1], [0.6, 0.7]),
        ([0, 1], [0.5, 1.1]),
        ([], []),
        ([0, float("nan")], [0.5, 0.6]),
    ],
)
def test_curves_that_cannot_be(margins: list[float], chances: list[float], tmp_path: Path) -> None:
    path, good = tmp_path / "a.json", tmp_path / "good.json"
    frame = pl.DataFrame({"chosen_score": [5, 1], "rejected_score": [1, 2]})
    pm.calibrate(frame, good)
    content = json.loads(good.read_text())
    path.write_text(json.dumps({**content, "margins": margins, "chances": chances}))
    with pytest.raises(BadArgument, match="is no calibration"):
        read_calibration(path)
    assert read_calibration(good).pairs == 2


def test_the_command(scored: Path, tmp_path: Path) -> None:
    done = command(
        *("calibrate", "scored.parquet", "-o", "c.json", "--score-column", "score_long.1"),
        *("--plot", "c.svg", "--json"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["pairs"] == 60
    assert set(report["brier"]) == {"before", "after", "difference"}
    assert (tmp_path / "c.svg").exists()
    shown = pl.read_csv(tmp_path / "c.csv")
    assert set(shown["chance"]) == {"score as log-odds", "calibrated", "as it should be"}
    other = command("calibrate", "scored.parquet", "-o", "c.json", cwd=tmp_path)
    assert other.returncode == 2
    assert "another score_column; got score, expected score_long.1" in other.stderr
    told = command("calibrate", "scored.parquet", "-o", "d.json", cwd=tmp_path)
    for words in ("60", "chance to win", "wrote d.json"):
        assert words in told.stderr
