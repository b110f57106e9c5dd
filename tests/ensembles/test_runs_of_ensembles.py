"""Ensembles through `prefmill.score`: any order, any chunks, devices, a run that goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, BadRow, RunDiffers
from prefmill.scoring.ensemble import Ensemble

pytestmark = pytest.mark.score


class Length:
    fingerprint = "length"
    compares = False
    reads = ()

    def __call__(self, batch: Any) -> list[float]:
        return [float(len(text)) for text in batch["completion"].to_pylist()]


class Vowels(Length):
    fingerprint = "vowels"

    def __init__(self, bad: str = "") -> None:
        self.bad = bad

    def __call__(self, batch: Any) -> list[float]:
        texts = batch["completion"].to_pylist()
        for row, text in enumerate(texts):
            if text == self.bad:
                raise BadRow("mine", "is bad.", row=row, reason="refused")
        return [10.0 * sum(letter in "aeiou" for letter in text) for text in texts]


def pool(seed: int = 0, rows: int = 90) -> pl.DataFrame:
    draws = np.random.default_rng(seed)
    texts = ["".join(draws.choice(list("abcde"), draws.integers(1, 9))) for _ in range(rows)]
    prompts = [f"p{draws.integers(0, 12)}" for _ in range(rows)]
    return pl.DataFrame({"prompt": prompts, "completion": texts, "row": range(rows)})


def both(bad: str = "", **settings: Any) -> Ensemble:
    return Ensemble(scorers={"length": Length(), "vowels": Vowels(bad)}, **settings)


def by_hand(frame: pl.DataFrame, over: str | None, combine: str) -> list[float]:
    """The mean of z-scores or ranks, by plain Polars."""
    parts = []
    for name in ("score_length", "score_vowels"):
        value = pl.col(name)
        z = (value - value.mean()) / value.std(ddof=0)
        z = pl.when(value.min() == value.max()).then(0.0).otherwise(z)
        rank = (value.rank("average") - 0.5) / value.count()
        part = z if combine == "zscore" else rank
        parts.append(part.over(over) if over else part)
    return frame.select((parts[0] + parts[1]) / 2).to_series().to_list()


@pytest.mark.parametrize("combine", ["zscore", "rank"])
@pytest.mark.parametrize("over", ["prompt", "pool"])
@pytest.mark.parametrize("chunk_rows", [1, 20, 500])
def test_chunks_and_order_change_nothing(
    over: str, combine: str, chunk_rows: int, tmp_path: Path
) -> None:
    frame = pool()
    scorer = both(combine=combine, over=over)
    report = pm.score(frame, tmp_path / "a.parquet", scorer=scorer, chunk_rows=chunk_rows)
    out = pl.read_parquet(tmp_path / "a.parquet")
    assert out["row"].to_list() == frame["row"].to_list()
    group = "prompt" if over == "prompt" else None
    np.testing.assert_allclose(out["score"], by_hand(out, group, combine), atol=2e-9)
    turned = frame.sample(fraction=1, shuffle=True, seed=3)
    pm.score(turned, tmp_path / "b.parquet", scorer=scorer, chunk_rows=chunk_rows)
    other = pl.read_parquet(tmp_path / "b.parquet").sort("row")
    for column in ("score", "score_disagreement"):
        np.testing.assert_allclose(other[column], out[column], atol=2e-9)
    assert report.rows_scored == frame.height


@pytest.mark.parametrize("over", ["prompt", "pool"])
def test_a_row_that_one_scorer_leaves_out(over: str, tmp_path: Path) -> None:
    """It is null in every column and counted once; the others are as if it were not there."""
    frame = pool()
    bad = frame["completion"][5]
    kept = frame["completion"] != bad
    pm.score(frame.filter(kept), tmp_path / "without.parquet", scorer=both(combine="zscore"))
    report = pm.score(
        frame,
        tmp_path / "out.parquet",
        scorer=both(bad, combine="zscore", over=over),
        on_bad_row="null",
    )
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert dict(report.null) == {"refused": int((~kept).sum())}
    assert out.filter(~kept).select(pl.col("^score.*$").is_null().all()).row(0) == (True,) * 4
    left = out.filter(kept)
    group = "prompt" if over == "prompt" else None
    np.testing.assert_allclose(left["score"], by_hand(left, group, "zscore"), atol=2e-9)
    if over == "prompt":
        assert left.equals(pl.read_parquet(tmp_path / "without.parquet"))


def test_nothing_to_score(tmp_path: Path) -> None:
    empty = pool().clear()
    nulls = pool(rows=3).with_columns(completion=pl.lit(None, pl.String))
    for number, frame in enumerate((empty, nulls)):
        for over in ("prompt", "pool"):
            target = tmp_path / f"{number}{over}.parquet"
            report = pm.score(frame, target, scorer=both(combine="zscore", over=over))
            assert report.rows_scored == 0
            assert pl.read_parquet(target)["score_disagreement"].null_count() == frame.height


def test_a_run_that_stopped_goes_on_to_the_same_column(tmp_path: Path) -> None:
    frame, target = pool(), tmp_path / "out.parquet"
    bad = frame["completion"][60]
    with pytest.raises(BadRow):
        pm.score(frame, target, scorer=both(bad, combine="zscore", over="pool"), chunk_rows=8)
    done = pm.score(frame, target, scorer=both(combine="zscore", over="pool"), chunk_rows=8)
    assert 0 < done.chunks_resumed < done.chunks
    whole = tmp_path / "whole.parquet"
    pm.score(frame, whole, scorer=both(combine="zscore", over="pool"))
    columns = ["score", "score_disagreement", "score_length"]
    one, two = (pl.read_parquet(path).select(columns) for path in (target, whole))
    np.testing.assert_allclose(one.to_numpy(), two.to_numpy(), atol=2e-9)
    with pytest.raises(RunDiffers, match="over"):
        pm.score(frame, target, scorer=both(combine="zscore"))


def test_several_devices(tmp_path: Path) -> None:
    frame = pool()
    scorer = both(combine="rank", over="pool")
    pm.score(frame, tmp_path / "a.parquet", scorer=scorer)
    pm.score(frame, tmp_path / "b.parquet", scorer=scorer, chunk_rows=9, devices=["cpu", "cpu"])
    one, two = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in "ab")
    assert one.equals(two)


def test_flat_groups_are_in_the_report(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": list("ppqqr"), "completion": ["b", "c", "a", "bcd", "a"]})
    report = pm.score(frame, tmp_path / "a.parquet", scorer=both(combine="zscore"))
    assert dict(report.flat) == {"length": 1, "vowels": 1}
    assert report.as_json()["flat"] == {"length": 1, "vowels": 1}
    pooled = both(combine="zscore", over="pool")
    assert dict(pm.score(frame, tmp_path / "b.parquet", scorer=pooled).flat) == {}
    mean = pm.score(frame, tmp_path / "c.parquet", scorer=both())
    assert dict(mean.flat) == {}


def test_streams_have_no_pool_and_no_scattered_prompts() -> None:
    frame = pool().sort("prompt")
    with pytest.raises(BadArgument, match="a stream has no end"):
        pm.score_stream(frame, both(combine="zscore", over="pool"))
    out = pl.DataFrame(pm.score_stream(frame, both(combine="zscore"), chunk_rows=4).read_all())
    np.testing.assert_allclose(out["score"], by_hand(out, "prompt", "zscore"), atol=2e-9)
    apart = pl.DataFrame({"prompt": list("pqp"), "completion": list("abc")})
    with pytest.raises(BadInput, match="apart from it"):
        pm.score_stream(apart, both(), chunk_rows=1).read_all()
    plain = both(disagreement=False)
    assert pm.score_stream(apart, plain, chunk_rows=1).read_all().num_rows == 3


def test_pairs_are_scored_with_all_answers_of_their_prompt(tmp_path: Path) -> None:
    pairs = pl.DataFrame(
        {"prompt": ["p", "p"], "chosen": ["abc", "a"], "rejected": ["a", "bbbb"], "n": [1, 2]}
    )
    pm.score(pairs, tmp_path / "out.parquet", scorer=both(combine="rank"))
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out["chosen_score_length"].to_list() == [3, 1]
    assert out["rejected_score_length"].to_list() == [1, 4]
    # Four rows: lengths 3 1 1 4, vowels 1 1 1 0.
    length, vowels = np.array([2.5, 1, 1, 3.5]) / 4, np.array([2.5, 2.5, 2.5, 0.5]) / 4
    got = out.select("chosen_score", "rejected_score").to_numpy().ravel()
    np.testing.assert_allclose(got, (length + vowels) / 2, atol=2e-9)
