"""Columns of the prompts that a scorer reads go through a loop: criteria of each row."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import loop_fakes
import polars as pl
import pytest
from loop_runs import run

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.sampling import Answer, Request


class Finds:
    """A judge that finds a criterion met if its letter is in the answer."""

    fingerprint = {"sampler": "finds"}  # noqa: RUF012

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        answers = []
        for request in requests:
            text = request.prompt[0]["content"]
            answer = text.split("<answer>\n")[1].split("\n</answer>")[0]
            letter = text.split("<criterion>\n")[1].split("\n</criterion>")[0]
            answers.append(Answer("yes" if letter in answer else "no", "stop", None, 1))
        return answers


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    frame = pl.DataFrame({"prompt": [f"What is {i}?" for i in range(loop_fakes.PROMPTS)]})
    letters = [["abc"[i % 3], "defg"[i % 4]] for i in range(frame.height)]
    frame.with_columns(rubric=pl.Series(letters)).write_parquet(tmp_path / "prompts.parquet")
    return tmp_path


def test_criteria_of_each_prompt(prompts: Path) -> None:
    """Every answer is scored by the criteria of its own prompt, in training and held out."""
    judge = pm.JudgeScorer(sampler=Finds(), criteria="rubric")
    loop = {"scorer": judge}
    report = run(prompts, loop=loop, prompts__keep=["rubric"])
    assert len(report.stages) == 3
    rubrics = dict(pl.read_parquet(prompts / "prompts.parquet").iter_rows())
    for name in ("stage-0/scored.parquet", "stage-1/heldout/score.parquet"):
        scored = pl.read_parquet(prompts / "run" / name)
        assert scored.height
        for row in scored.iter_rows(named=True):
            met = [float(letter in row["completion"]) for letter in rubrics[row["prompt"]]]
            assert row["score_criteria"] == met
            assert row["score"] == sum(met) / 2
    assert run(prompts, loop=loop, prompts__keep=["rubric"]).ran == ()


def test_other_values_are_another_loop(prompts: Path) -> None:
    loop = {"scorer": pm.JudgeScorer(sampler=Finds(), criteria="rubric")}
    run(prompts, loop=loop, prompts__keep=["rubric"], stages=1)
    frame = pl.read_parquet(prompts / "prompts.parquet")
    changed = frame.with_columns(rubric=pl.col("rubric").list.reverse())
    changed.write_parquet(prompts / "prompts.parquet")
    with pytest.raises(Exception, match=r"inputs\.prompts"):
        run(prompts, loop=loop, prompts__keep=["rubric"], stages=1)


def test_what_is_not_kept(prompts: Path) -> None:
    loop = {"scorer": pm.JudgeScorer(sampler=Finds(), criteria="rubric")}
    with pytest.raises(BadArgument, match=r"\[score\] reads \['rubric'\]") as error:
        run(prompts, loop=loop)
    assert '[prompts] keep = ["rubric"]' in str(error.value.hint)
    with pytest.raises(Exception, match="'gone'"):
        run(prompts, loop=loop, prompts__keep=["gone"])


def test_kept_columns_of_two_kinds(prompts: Path) -> None:
    held = pl.read_parquet(prompts / "prompts.parquet").with_columns(rubric=pl.lit("a"))
    held.with_columns(prompt="x" + pl.col("prompt")).write_parquet(prompts / "held.parquet")
    loop = {"scorer": pm.JudgeScorer(sampler=Finds(), criteria="rubric")}
    changes = {"prompts__heldout": str(prompts / "held.parquet"), "prompts__heldout_share": None}
    with pytest.raises(BadInput, match="'rubric' of two kinds"):
        run(prompts, loop=loop, prompts__keep=["rubric"], **changes)
