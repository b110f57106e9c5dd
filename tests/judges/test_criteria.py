"""Criteria: the shapes that files and columns have them in, and their weighted sum."""

from __future__ import annotations

import json
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.scoring.judging.answers import parse_answer
from prefmill.scoring.judging.criteria import criteria_of, weighted
from prefmill.scoring.judging.expected import expected_answer
from prefmill.scoring.judging.objects import parse_scores

#: the record shapes of public data, written small; name, question, weight of each criterion
SHAPES = {
    "healthbench": (
        [
            {"criterion": "Says to call a doctor", "points": 7, "tags": ["axis:accuracy"]},
            {"criterion": "Is rude", "points": -3, "tags": []},
        ],
        [("1", "Says to call a doctor", 7.0), ("2", "Is rude", -3.0)],
    ),
    "open-instruct": (
        [
            json.dumps(
                {
                    "query": "q",
                    "rubrics": [
                        {"title": "Edge cases", "description": "Names one", "weight": 1.0},
                        {"rubric_item": "Is short", "weight": -1.0},
                    ],
                }
            )
        ],
        [("Edge cases", "Names one", 1.0), ("2", "Is short", -1.0)],
    ),
    "rubrics as rewards": (
        [{"title": "Dose", "description": "Essential: says 5 mg", "weight": 5}],
        [("Dose", "Essential: says 5 mg", 5.0)],
    ),
    "a name and what it means": (
        {"rubric": [{"criterion": "Main idea", "description": "Says what it is", "weight": "2"}]},
        [("Main idea", "Says what it is", 2.0)],
    ),
    "texts": (
        ["Is it right?", "Is it short?"],
        [("1", "Is it right?", 1), ("2", "Is it short?", 1)],
    ),
    "JSON text": ('["Is it right?"]', [("1", "Is it right?", 1.0)]),
    "a column of Arrow": (
        [{"name": None, "question": "a", "weight": None}, {"name": "x", "question": "b"}],
        [("1", "a", 1.0), ("x", "b", 1.0)],
    ),
    "names twice": (
        [{"title": "Clear", "description": "a"}, {"title": "clear", "description": "b"}],
        [("Clear", "a", 1.0), ("clear (2)", "b", 1.0)],
    ),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_of_public_data(shape: str) -> None:
    value, expected = SHAPES[shape]
    assert [(c.name, c.question, c.weight) for c in criteria_of(value)] == expected


def test_what_earns_the_weight() -> None:
    """NeMo Gym's MultiChallenge asks for a yes or a no; scales are the column's own, or one."""
    (no,) = criteria_of([{"question": "Does it lie?", "pass_criteria": "NO"}])
    assert (no.share(0.0), no.share(1.0)) == (1.0, 0.0)
    own, other = criteria_of([{"question": "a", "scale": "1-5"}, {"question": "b"}], (0.0, 2.0))
    assert (own.scale, other.scale) == ((1, 5), (0, 2))
    assert (own.share(2), other.share(1)) == (0.25, 0.5)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "expected a list of criteria"),
        ([], "none are there"),
        ("", "not JSON"),
        ("{", "not JSON"),
        ({"query": "q"}, "under one of rubrics, rubric, criteria"),
        ({"rubric": ["a"], "criteria": ["b"]}, "under one of"),
        ([3], "expected a record or a text"),
        ([{"weight": 1}], r"no question; got the keys \['weight'\]"),
        ([" "], "question is empty"),
        ([{"question": "a", "weight": "Essential"}], "weight is not a number; got 'Essential'"),
        ([{"question": "a", "weight": float("nan")}], "weight is not a number"),
        ([{"question": "a", "weight": True}], "weight is not a number"),
        ([{"question": "a", "weight": 0}], "all weights are 0"),
        ([{"question": "a", "scale": "5-1"}], "scale must be two numbers"),
        ([{"question": "a", "scale": "1-5", "wanted": "no"}], "wanted is for yes/no"),
        ([{"question": "a", "wanted": "maybe"}], "wanted is not yes or no"),
    ],
)
def test_what_are_no_criteria(value: Any, message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        criteria_of(value)


def healthbench(points: list[float], met: list[bool]) -> Fraction | None:
    """The score as its authors define it, from the paper: what is met, by what can be earned."""
    possible = sum((Fraction(p) for p in points if p > 0), Fraction(0))
    if possible == 0:
        return None
    return sum((Fraction(p) for p, m in zip(points, met, strict=True) if m), Fraction(0)) / possible


@given(st.lists(st.tuples(st.integers(-10, 10), st.booleans()), min_size=1))
def test_the_sum_is_that_of_healthbench(items: list[tuple[int, bool]]) -> None:
    points, met = [p for p, _ in items], [m for _, m in items]
    if not any(points):
        return
    criteria = [pm.Criterion(question="q", weight=p) for p in points]
    score, expected = weighted(criteria, [float(m) for m in met]), healthbench(points, met)
    if expected is None:  # faults only: 0 is the best, -1 the worst
        assert -1 <= score <= 0
        assert (score == 0) == (not any(m and p for p, m in items))
    else:
        assert score == pytest.approx(float(expected))


@given(st.lists(st.tuples(st.floats(0.1, 9), st.integers(1, 5)), min_size=1))
def test_positive_weights_give_the_mean(items: list[tuple[float, int]]) -> None:
    """Rubrics as Rewards and open-instruct divide by all weights: the same if none is below 0."""
    criteria = [pm.Criterion(question="q", weight=w, scale="1-5") for w, _ in items]
    mean = sum(w * (v - 1) / 4 for w, v in items) / sum(w for w, _ in items)
    assert weighted(criteria, [float(v) for _, v in items]) == pytest.approx(mean)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", 1),
        ("No.", 0),
        ("**Yes**", 1),
        ("true", 1),
        ("It is rude.\nAnswer: yes", 1),
        ("Verdict: no, since it names none", 0),
        ("<think>yes</think>no", 0),
        ('It says "Answer: yes".\nno', 0),
        ('{"explanation": "no errors", "criteria_met": true}', 1),
        ('```json\n{"met": false}\n```', 0),
        ('{"answer": "Yes"}', 1),
        ("Answer: yes, no errors are there", 1),
        ("Answer: yes. Or no.", "contradictory"),
        ('{"met": true, "criteria_met": false}', "contradictory"),
        ("yes and no", "unparseable"),
        ("Yes, it does", 1),
        ("**No** - it names none.", 0),
        ("Yes it does", "unparseable"),
        ("Yes, and no.", "contradictory"),
        ("Hm.\nYes, it does", "unparseable"),
        ("<think>Is it?</think>Yes, it does", 1),
        ('"Yes, it does" is what it says', "unparseable"),
        ("maybe", "unparseable"),
        ("1", "unparseable"),
        ("", "unparseable"),
        ("<think>yes", "unparseable"),
        ('It says "yes"', "unparseable"),
        ("yes\nThat is what it wants to hear.", "unparseable"),
    ],
)
def test_yes_and_no(text: str, value: float | str) -> None:
    parsed = parse_answer(text)
    assert (parsed if isinstance(parsed, str) else parsed[0]) == value


def test_answers_cut_off() -> None:
    assert parse_answer("So: yes", cut_off=True) == "cut_off"
    assert parse_answer("x</think>yes", cut_off=True) == "cut_off"
    assert parse_answer("yes", cut_off=True) == (1.0, 0)
    assert parse_scores('{"a": 1', {"a": None}, cut_off=True) == "cut_off"


def test_no_token_no_expectation() -> None:
    """Where a token is only a part of the word, nothing is told."""
    from prefmill.sampling.samplers import Token

    assert expected_answer([Token("Ye", -0.1, {"No": -2.0}), Token("s", 0.0)]) is None
    assert expected_answer([Token("maybe", -0.1)]) is None
    tokens = [Token('{"met": ', 0.0), Token("true", -0.2231436, {"false": -1.6094379})]
    assert expected_answer([*tokens, Token("}", 0.0)]) == pytest.approx(0.8)


SCALES = {"right": (1.0, 5.0), "short": None}


@pytest.mark.parametrize(
    ("text", "scores"),
    [
        ('{"right": 4, "short": true}', [4, 1]),
        ('{"Right": "4", "SHORT": "no"}', [4, 0]),
        ('Because.\n```json\n{"right": 4.5, "short": false, "overall": 9}\n```', [4.5, 0]),
        ('{"right": {"reason": "3 of 5", "score": 4}, "short": {"met": true}}', [4, 1]),
        ('<think>{"right": 1, "short": true}</think>{"right": 4, "short": true}', [4, 1]),
        ('It ends in {"right": 5, "short": true}\n{"right": 1, "short": false}', [1, 0]),
        ('{"right": 4, "right": 4, "short": true}', [4, 1]),
        ('{"right": 4, "right": 5, "short": true}', ["contradictory", 1]),
        ('{"right": 4, "RIGHT": 5, "short": true}', ["contradictory", 1]),
        ('{"right": {"score": 4, "rating": 5}, "short": true}', ["contradictory", 1]),
        ('{"right": 9, "short": true}', ["unparseable", 1]),
        ('{"right": true, "short": 1}', ["unparseable", "unparseable"]),
        ('{"right": null, "short": []}', ["unparseable", "unparseable"]),
        ('{"right": "I would say\\nRating: 5", "short": "yes"}', ["unparseable", 1]),
        ('{"short": true}', ["unparseable", 1]),
        ('{"right": 4, "short": true', "unparseable"),
        ('{"right": 4, "short": true} is what it wants', "unparseable"),
        ('"{"right": 4, "short": true}"', "unparseable"),
        ("right: 4, short: yes", "unparseable"),
        ("[]", "unparseable"),
        ("{}", ["unparseable", "unparseable"]),
        ("", "unparseable"),
    ],
)
def test_scores_in_an_object(text: str, scores: Any) -> None:
    read = parse_scores(text, SCALES)
    assert (read if isinstance(read, str) else list(read.values())) == scores


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 9), min_size=1))
def test_any_name_comes_back(scores: dict[str, int]) -> None:
    """Names with quotes, braces and line ends are JSON like any other."""
    names = {name.strip().casefold(): name for name in scores}
    scales = dict.fromkeys(names.values(), (0.0, 9.0))
    text = json.dumps({name: scores[name] for name in scales})
    assert parse_scores(text, scales) == {name: float(scores[name]) for name in scales}
