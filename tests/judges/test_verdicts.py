"""A judge of pairs: verdicts, schedules, limits."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import Fake, scored

import prefmill as pm
from prefmill.scoring.judging.answers import (
    parse_verdict,
)
from prefmill.scoring.judging.questions import pairs_of


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("A", "A"),
        ("b", "B"),
        (" C.\n", "C"),
        ("[[A]]", "A"),
        ("**B**", "B"),
        ("tie", "C"),
        ("Both are fine.\n[[C]]", "C"),
        ("Verdict: A", "A"),
        ("Winner: [[B]]", "B"),
        ("**Verdict:** tie", "C"),
        ("[[A]], yes [[A]]", "A"),
        ("A is better", None),
        ("Answer A", None),
        ("", None),
        ("D", None),
        ("AB", None),
        ("Verdict: Ant", None),
        ("Verdict: neither", None),
    ],
)
def test_verdicts_read(text: str, letter: str | None) -> None:
    assert parse_verdict(text) == (letter or "unparseable")


# -- ratings from the probabilities of tokens


def tops(weights: dict[str, float]) -> dict[str, float]:
    return {text: math.log(weight) for text, weight in weights.items() if weight > 0}


# -- pairs


def prefers(key: Callable[[str], float]) -> Callable[[str], str]:
    """Answers A, B or C for the rubric `{prompt}|{a}|{b}` by a key."""

    def says(text: str) -> str:
        _, a, b = text.split("|")
        return "C" if key(a) == key(b) else "A" if key(a) > key(b) else "B"

    return says


def judge(says: Callable[[str], str], **more: Any) -> pm.JudgeScorer:
    return pm.JudgeScorer(sampler=Fake(says), mode="pairwise", rubric="{prompt}|{a}|{b}", **more)


def test_pairs(tmp_path: Path) -> None:
    pool = pa.table(
        {
            "prompt": ["p", "q", "p", "p", "r", "p", "q"],
            "completion": ["dd", "x", "a", "ccc", "alone", "dd", "y"],
        }
    )
    done, out = scored(judge(prefers(len)), tmp_path, pool)
    assert out["score"] == [0.5, 0.5, 0.0, 1.0, None, 0.5, 0.5]
    assert out["score_comparisons"] == [2, 1, 2, 2, None, 2, 1]
    assert out["score_reason"] == [None] * 4 + ["single_candidate"] + [None] * 2
    assert done.requests == 2 * (3 + 1)
    first = json.loads(out["score_verdict"][0])
    assert sorted(first, key=lambda each: each["against"]) == [
        {"against": 1, "as_a": "A", "as_b": "B", "win": 1.0},
        {"against": 2, "as_a": "B", "as_b": "A", "win": 0.0},
    ]
    assert out["score_verdict"][5] == out["score_verdict"][0], "the same text"


def test_a_judge_that_looks_at_the_place_gives_ties(tmp_path: Path) -> None:
    pool = pa.table({"prompt": ["p"] * 4, "completion": ["a", "bb", "ccc", "dddd"]})
    for says in ("A", "B", "C"):
        _, out = scored(judge(lambda text, says=says: says), tmp_path, pool)
        assert out["score"] == [0.5] * 4
    _, out = scored(judge(lambda text: "C" if text.split("|")[1] == "a" else "B"), tmp_path, pool)
    assert out["score"][0] == 0.5, "a win in one order and a tie in the other disagree"


def test_what_cannot_be_read_does_not_count(tmp_path: Path) -> None:
    """One match without a verdict leaves the others; without any, there is no score."""
    pool = pa.table({"prompt": ["p"] * 3, "completion": ["a", "bb", "bad"]})
    done, out = scored(
        judge(lambda text: "who knows" if "|bad" in text else prefers(len)(text)), tmp_path, pool
    )
    assert out["score"] == [0.0, 1.0, None]
    assert out["score_comparisons"] == [1, 1, None]
    assert out["score_reason"] == [None, None, "unparseable"]
    assert json.loads(out["score_verdict"][2])[0]["win"] is None
    assert done.null == {"unparseable": 1}


@given(st.integers(1, 9), st.integers(1, 40) | st.none())
def test_schedules(candidates: int, most: int | None) -> None:
    """All pairs are all pairs, each once; cut anywhere, no candidate has met two more others than
    another (three, where one rests).
    """
    pairs = pairs_of(candidates, "all", most)
    whole = candidates * (candidates - 1) // 2
    assert len(set(pairs)) == len(pairs) == min(whole, most or whole)
    assert all(0 <= a < b < candidates for a, b in pairs)
    met = [sum(number in pair for pair in pairs) for number in range(candidates)]
    assert max(met) - min(met) <= 1 + candidates % 2
    assert pairs_of(candidates, "baseline", most) == [(0, n) for n in range(1, candidates)][:most]


def test_limits(tmp_path: Path) -> None:
    pool = pa.table({"prompt": ["p"] * 5, "completion": ["a", "bb", "ccc", "dddd", "eeeee"]})
    _, out = scored(judge(prefers(len), schedule="baseline"), tmp_path, pool)
    assert out["score"] == [0.0, 1.0, 1.0, 1.0, 1.0]
    assert out["score_comparisons"] == [4, 1, 1, 1, 1]
    done, out = scored(judge(prefers(len), max_pairs=1), tmp_path, pool)
    assert done.null == {"not_compared": 3}
    assert out["score_reason"].count("not_compared") == 3


@pytest.mark.parametrize("chunk_rows", [1, 3, 100])
def test_order_and_chunks_do_not_matter(tmp_path: Path, chunk_rows: int) -> None:
    draw = random.Random(chunk_rows)
    rows = [
        (f"p{i}", "x" * draw.randint(1, 9)) for i in range(6) for _ in range(draw.randint(1, 5))
    ]
    wanted: dict[tuple[str, str], float | None] = {}
    for prompt, text in rows:
        others = [len(other) for p, other in set(rows) if p == prompt and other != text]
        wins = [
            1.0 if len(text) > other else 0.5 if len(text) == other else 0.0 for other in others
        ]
        wanted[prompt, text] = sum(wins) / len(wins) if wins else None
    draw.shuffle(rows)
    pool = pa.table({"prompt": [p for p, _ in rows], "completion": [c for _, c in rows]})
    _, out = scored(judge(prefers(len)), tmp_path, pool, chunk_rows=chunk_rows)
    assert out["score"] == pytest.approx([wanted[row] for row in rows])
