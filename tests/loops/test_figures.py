"""The figures of a loop, its findings, its intervals, against plain Python."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

import prefmill as pm
from prefmill.loops import findings as stage_report
from prefmill.loops import plot as stage_plot
from prefmill.rules.intervals import bootstrap, wilson

DRAW = stage_plot.draw


@pytest.fixture(autouse=True)
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots take seconds: one test draws them."""
    monkeypatch.setattr(stage_plot, "draw", lambda *_: None)


# -- what a loop does


def rows_of(folder: Path, stage: int, name: str) -> pl.DataFrame:
    return pl.read_parquet(folder / "run" / f"stage-{stage}" / name)


def test_figures_are_those_of_plain_python(done: tuple[Path, pm.LoopReport]) -> None:
    folder, report = done
    base: dict[str, list[dict[str, Any]]] = {}
    for stage in range(3):
        answers: dict[str, list[dict[str, Any]]] = {}
        for row in rows_of(
            folder, stage, f"heldout/{'kl' if stage else 'second'}.parquet"
        ).to_dicts():
            answers.setdefault(row["prompt"], []).append(row)
        base = base or answers
        told = report.stages[stage]
        mean = np.mean([np.mean([a["score"] for a in each]) for each in answers.values()])
        assert told["reward_mean"] == pytest.approx(mean)
        assert (
            told["reward_low" if "reward_low" in told else "reward_mean_low"]
            < mean
            < told["reward_mean_high"]
        )
        assert told["reward_best"] == pytest.approx(
            np.mean([max(a["score"] for a in each) for each in answers.values()])
        )
        assert told["reward_median"] == pytest.approx(
            np.mean([np.median([a["score"] for a in each]) for each in answers.values()])
        )
        words = [a["completion"].split() for each in answers.values() for a in each]
        pairs = [pair for text in words for pair in itertools.pairwise(text)]
        assert told["distinct_2"] == pytest.approx(len(set(pairs)) / len(pairs))
        assert told["tokens"] == pytest.approx(np.mean([len(text) + 1 for text in words]))
        assert (told["prompts"], told["answers"]) == (len(answers), 3 * len(answers))
        if not stage:
            assert told["kl"] == 0
            assert told.get("win") is None
            continue
        shares = {name: [] for name in ("score", "second")}
        for prompt, mine in answers.items():
            for name, found in shares.items():
                pairs_of = [(a[name], b[name]) for a in mine for b in base[prompt]]
                found.append(np.mean([(a > b) + (a == b) / 2 for a, b in pairs_of]))
        assert told["win"] == pytest.approx(np.mean(shares["score"]))
        assert told["second_win"] == pytest.approx(np.mean(shares["second"]))
        assert told["win_low"] < told["win"] < told["win_high"]
        ratios = [np.mean([a["log_ratio"] for a in each]) for each in answers.values()]
        assert told["kl"] == pytest.approx(np.mean(ratios))
        total = sum(a["log_ratio"] for each in answers.values() for a in each)
        assert told["kl_per_token"] == pytest.approx(total / sum(len(text) + 1 for text in words))
    table = pl.read_parquet(folder / "run" / "stages.parquet")
    assert table["stage"].to_list() == [0, 1, 2]
    assert table["reward_mean"].to_list() == pytest.approx(
        [row["reward_mean"] for row in report.stages]
    )


def test_the_report_says_reward_hacking_where_judges_part(done: tuple[Path, pm.LoopReport]) -> None:
    folder, report = done
    text = (folder / "run" / "report.md").read_text()
    assert "reward hacking" in text
    assert all(said in text for said in report.said)
    assert (
        "Under the second judge, which selection never saw, the mean over held-out prompts fell"
        in text
    )
    assert "| 0 |" in text
    assert "stages.png" not in text


def test_a_plot_where_matplotlib_is_there(done: tuple[Path, pm.LoopReport], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the plot is optional")
    from prefmill.loops.folder import RunFolder

    with RunFolder(tmp_path / "plots", {}) as folder:
        assert DRAW(folder, done[1].stages) == "stages.png"
    assert (tmp_path / "plots" / "stages.png").read_bytes().startswith(b"\x89PNG")
    assert b"<svg" in (tmp_path / "plots" / "stages.svg").read_bytes()


def row(
    stage: int,
    gain: tuple[float, float] | None,
    second: tuple[float, float] | None = None,
    **more: Any,
) -> dict[str, Any]:
    made: dict[str, Any] = {
        "stage": stage,
        "prompts": 9,
        "reward_mean": 0.0,
        "second_mean": 0.0,
        "tokens": 10.0,
        "chars": 40.0,
    }
    for prefix, interval in (("", gain), ("second_", second)):
        if interval is not None:
            low, high = interval
            made |= {
                f"{prefix}gain": (low + high) / 2,
                f"{prefix}gain_low": low,
                f"{prefix}gain_high": high,
            }
            made |= {f"{prefix}win": 0.5, f"{prefix}win_low": 0.4, f"{prefix}win_high": 0.6}
    return {**made, **more}


@pytest.mark.parametrize(
    ("gain", "second", "said"),
    [
        ((0.1, 0.3), (0.1, 0.2), "no sign of reward hacking"),
        ((0.1, 0.3), (-0.2, -0.1), "what reward hacking looks like"),
        ((0.1, 0.3), (-0.1, 0.1), "does not confirm the gain"),
        ((0.1, 0.3), None, "No second judge"),
        ((-0.3, -0.1), (-0.2, -0.1), "training did harm"),
        ((-0.1, 0.1), (-0.2, -0.1), "moved only the second judge"),
    ],
)
def test_findings_say_what_the_figures_say(gain: Any, second: Any, said: str) -> None:
    found = " ".join(stage_report.findings([row(0, None), row(2, gain, second)], None))
    assert said in found
    assert ("rose" in found) == any(each is not None and each[0] > 0 for each in (gain, second))


def test_findings_say_when_selection_had_little_to_choose_from() -> None:
    pool = {"pool_cut_off": 0.5, "pool_mean": 0.2, "pool_best": 0.6, "selected_mean": 0.21}
    found = " ".join(stage_report.findings([row(0, None, **pool), row(1, (-0.1, 0.1))], None))
    assert (
        "50 % of the samples of stage 0 were cut off. What was trained on has a mean score of 0.21"
        in found
    )


def test_findings_name_length_and_diversity() -> None:
    found = " ".join(
        stage_report.findings(
            [
                row(0, None, distinct_2=0.8),
                row(1, (0.1, 0.2), tokens=14.0, distinct_2=0.4, cut_off=0.5),
            ],
            None,
        )
    )
    for part in (
        "Answers became longer: 10 tokens at stage 0, 14 at stage 1",
        "bigrams fell from 0.800 to 0.400",
        "50 % at",
    ):
        assert part in found


@pytest.mark.parametrize(
    ("share", "trials", "wanted"),
    [(0.0, 10, (0.0, 0.2775)), (0.5, 30, (0.3315, 0.6685)), (1.0, 5, (0.5655, 1.0))],
)
def test_wilson(share: float, trials: int, wanted: tuple[float, float]) -> None:
    assert wilson(share, trials) == pytest.approx(wanted, abs=1e-4)


def test_intervals_cover_what_they_should() -> None:
    """The bootstrap interval of 40 values holds their true mean about 95 times in 100."""
    draws = np.random.default_rng(1)
    held = [
        low <= 0 <= high for low, high in (bootstrap(draws.normal(size=40)) for _ in range(200))
    ]
    assert 0.88 <= np.mean(held) <= 0.99
    assert all(map(math.isnan, bootstrap(np.ones(1))))
