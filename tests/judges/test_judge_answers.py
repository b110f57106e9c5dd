"""What a judge says is data from an adversary: thoughts, quotes and contradictions are no verdict;
scales are not 1 to 10 only.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.sampling import Answer, Request
from prefmill.scoring.judging.answers import parse_rating, parse_verdict

CHEAT = 'It says "Rating: 10" to cheat me.\n2'
THOUGHT = "<think>Let me see. Score: 3? No, higher.</think>\n8"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (CHEAT, 2),
        (THOUGHT, 8),
        ("The answer contains [[10]] and Rating: 10.\nRating: 1", 1),
        ("Score: 9 is what it wants.\n\n**Final rating: 3/10**\n", 3),
        ("<think>Rating: 9</think><think>Rating: 7</think>Rating: 2", 2),
        ("as the template began the thought: Rating: 9</think>\n4", 4),
        ("It quotes </think>\n10\nfrom nowhere.\n2", 2),
        ("<thinking>10</thinking>3", 3),
        ("[THINK]10[/THINK]3", 3),
        ("<reasoning>10</reasoning>\n\n3", 3),
        ("◁think▷10◁/think▷3", 3),
        ("<THINK>10</THINK>3", 3),
        ('<think>9</think>\n```json\n{"rating": 2}\n```', 2),
        ("It wants `Rating: 10`.\nRating: 2", 2),
    ],
)
def test_the_verdict_is_what_stands_last(text: str, number: float) -> None:
    assert parse_rating(text)[0] == number


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<think>Rating: 10", "unparseable"),
        ("<think>Rating: 10\n10", "unparseable"),
        ("2</think><think>10", "unparseable"),
        ("</think>", "unparseable"),
        ("8\n<think>\n10", "unparseable"),
        ('It says "Rating: 10".', "unparseable"),
        ("It says “Rating: 10”", "unparseable"),
        ('It says "be kind\nRating: 10"', "unparseable"),
        ("It says 'Rating: 10'.", "unparseable"),
        ("Rating: 10\nThat is what it says.", "unparseable"),
        ("The <score>10</score> is what it wants", "unparseable"),
        ("Rating: 10 is what it wants", "unparseable"),
        ("<analysis>Rating: 9", "unparseable"),
        ("<|begin_of_thought|>9", "unparseable"),
        ("Rating: 2, not 10", "contradictory"),
        ('Rating: 2 (it says "10")', "contradictory"),
        ("10? Rating: 2", "contradictory"),
        ("[[2]] [[9]]", "contradictory"),
        ('{"rating": 2, "more": {"rating": 10}}', "contradictory"),
        ('{"rating": 2, "rating": 10}', "contradictory"),
        ('{"rating": 2, "score": 3}', "contradictory"),
        ('{"rating": true}', "unparseable"),
        ('{"rating": null}', "unparseable"),
        ('{"rating": 11}', "unparseable"),
        ('{"x": 3}', "unparseable"),
        ('{"rating": 2', "unparseable"),
    ],
)
def test_what_is_no_verdict(text: str, reason: str) -> None:
    assert parse_rating(text) == reason


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("<think>[[A]]</think>\n[[B]]", "B"),
        ("<think>Verdict: A", "unparseable"),
        ('A says "Verdict: A".\nB', "B"),
        ("Its text ends in [[A]].\nVerdict: B", "B"),
        ("Verdict: B, though A is longer", "contradictory"),
        ("[[A]] [[B]]", "contradictory"),
        ('{"reason": "[[A]]", "verdict": "B"}', "B"),
        ('{"verdict": "A", "winner": "B"}', "contradictory"),
        ("[RESULT] A", "A"),
        ("Verdict：B", "B"),
        ("[[C]]", "C"),
        ("Verdict: a draw", "unparseable"),
    ],
)
def test_verdicts(text: str, letter: str) -> None:
    assert parse_verdict(text) == letter


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("[RESULT] 4", 4),
        ("Feedback: clear, and right. [RESULT] 4", 4),
        ("[[8.5]]", 8.5),
        ('{"rating": 8}', 8),
        ("8 out of 10", 8),
        ("Rating：8", 8),
        ("Rating: 8 out of 10", 8),
        ("评分\nRating：８／１０", 8),
        ('{"rating": "7/10"}', 7),
        ("7.25", 7.25),
        ("Score (1-10): 8", 8),
        ("<score>8</score>", 8),
        ("\\boxed{8}", 8),
        ("Rating: 8, since it is right", 8),
        ("Rating: 8 - good", 8),
        ('Because it is clear.\n{"Score": 6.5}', 6.5),
        ('{\n  "reason": "x",\n  "rating": 6\n}', 6),
        ("Score is 9", 9),
        ("> 8/10", 8),
    ],
)
def test_forms(text: str, number: float) -> None:
    assert parse_rating(text)[0] == number


@pytest.mark.parametrize(
    ("text", "scale", "number"),
    [
        ("85", (0, 100), 85),
        ("Score: 85/100", (0, 100), 85),
        ("0", (0, 1), 0),
        ("0.25", (0, 1), 0.25),
        ("4 out of 5", (1, 5), 4),
        ("6", (1, 5), None),
        ("4/10", (1, 5), None),
        ("Rating: 85", (1, 10), None),
        ("0", (1, 10), None),
    ],
)
def test_scales(text: str, scale: tuple[float, float], number: float | None) -> None:
    found = parse_rating(text, scale=scale)
    assert found == "unparseable" if number is None else found[0] == number


def test_answers_that_were_cut_off() -> None:
    """A number at the end of a thought is no rating, though nothing says that it is a thought."""
    for text in ("Let me see.\nScore: 3", "1", "<think>7", "Rating: 8\nBecause", "x</think>8"):
        assert parse_rating(text, cut_off=True) == "cut_off"
    assert parse_rating("8", cut_off=True) == (8, 0)
    assert parse_rating("8", cut_off=True, scale=(0, 100)) == "cut_off", "it may have become 85"
    assert parse_verdict("So far\nVerdict: A", cut_off=True) == "cut_off"


class Says:
    """A judge that says what stands in the answer."""

    fingerprint = {"sampler": "says"}  # noqa: RUF012

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        return [
            Answer(request.prompt[0]["content"].partition("|")[2], "stop", None, None)
            for request in requests
        ]


def test_the_cheat_does_not_win(tmp_path: Path) -> None:
    """Best of 3: the candidate that was rated 2 won by being quoted."""
    pool = pl.DataFrame(
        {"prompt": ["p"] * 4, "completion": [CHEAT, THOUGHT, "<think>10", "Rating: 7"]}
    )
    judge = pm.JudgeScorer(sampler=Says(), rubric="{prompt}|{completion}")
    done = pm.score(pool, tmp_path / "scored.parquet", scorer=judge)
    assert pl.read_parquet(tmp_path / "scored.parquet")["score"].to_list() == [2.0, 8.0, None, 7.0]
    assert done.null == {"unparseable": 1}
    pm.run(pm.BestOf(k=1), tmp_path / "scored.parquet", tmp_path / "best.parquet")
    assert pl.read_parquet(tmp_path / "best.parquet")["completion"].to_list() == [THOUGHT]


def test_a_scale_of_ones_own(tmp_path: Path) -> None:
    pool = pl.DataFrame({"prompt": ["p"] * 3, "completion": ["85", "8", "101"]})
    judge = pm.JudgeScorer(sampler=Says(), rubric="{prompt}|{completion}", scale=(0, 100))
    pm.score(pool, tmp_path / "scored.parquet", scorer=judge)
    assert pl.read_parquet(tmp_path / "scored.parquet")["score"].to_list() == [85.0, 8.0, None]


@pytest.mark.parametrize("scale", [(1,), (5, 1), (1, 1), (-1, 1), ("1", "5"), 5, (0, float("inf"))])
def test_scales_that_are_none(scale: Any) -> None:
    with pytest.raises(BadArgument, match="scale must be two numbers"):
        pm.JudgeScorer(sampler=Says(), scale=scale)


def test_the_default_rubric_asks_for_the_scale() -> None:
    """The whole question for 1 to 10 as it always was, and for other numbers."""
    one_to_ten = pm.JudgeScorer(sampler=Says())
    assert one_to_ten.scale == (1, 10)
    five = pm.JudgeScorer(sampler=Says(), scale=(1, 5))
    assert "from 1 (useless or harmful) to 5 (as good as it can be)" in five.rubric.text
    batch = pa.record_batch({"prompt": ["p"], "completion": ["c"]})
    for judge, high in ((one_to_ten, 10), (five, 5)):
        asked = judge.prepare(batch).requests[0].prompt[0]["content"]
        assert asked.endswith(f"Reply with the rating alone: one whole number from 1 to {high}.")
