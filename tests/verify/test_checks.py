"""Verdicts of the checks that run no code."""

from __future__ import annotations

import json
from typing import Any

import pytest

from prefmill.scoring.verify.checks import Settings, Verdict, verdict
from prefmill.scoring.verify.workers import Workers


def told(check: str, text: str, gold: Any, **settings: Any) -> Verdict:
    return verdict(Settings(check=check, **settings), text, gold)


@pytest.mark.parametrize(
    ("text", "gold", "score"),
    [
        ("It makes 72 clips.", "Some reasoning.\n#### 72", 1),
        ("It makes 72 clips.", 72, 1),
        ("It makes 72 clips.", 72.0, 1),
        ("72", ["71", "72"], 1),
        ("#### 1,234", "1234", 1),
        ("0.333333333", "1/3", 1),
        ("0.333", "1/3", 0),
        ("#### 73", "72", 0),
        ("no idea", "72", 0),
        ("72", "seventy-two", None),
        ("72", None, None),
        ("72", [], None),
        ("72", "", None),
    ],
)
def test_number(text: str, gold: Any, score: float | None) -> None:
    found = told("number", text, gold)
    assert found.score == score
    assert (found.reason is None) == (score == 1)


def test_the_reasons_of_number_are_words_and_what_was_seen() -> None:
    assert told("number", "x", 5) == Verdict(0.0, None, "no_answer")
    assert told("number", "#### 3 or 4", 5, extract="hash").word == "not_a_number"
    assert told("number", "6", 5).reason == "wrong_answer: expected 5"
    assert told("number", "6", "x").word == "bad_column"


def test_exact_is_exact_but_for_spaces() -> None:
    assert told("exact", "The answer is  New   York.", "New York").score == 1
    assert told("exact", "new york", "New York").score == 0
    assert told("exact", "new york", "New York", ignore_case=True).score == 1
    assert told("exact", "The answer is (B)", "B") == Verdict(1.0, "B")
    assert told("exact", "The answer is (B)", "A").score == 0
    assert told("exact", "", "A") == Verdict(0.0, None, "no_answer")


def test_regex_searches_or_matches_the_whole() -> None:
    assert told("regex", "call 555-1234 now", r"\d{3}-\d{4}") == Verdict(1.0, "555-1234")
    assert told("regex", "call 555-1234", r"\d{3}-\d{4}", match="full").word == "no_match"
    assert told("regex", "555-1234", r"(\d{3})-\d{4}", match="full") == Verdict(1.0, "555")
    assert told("regex", "x", "(").word == "bad_column"
    assert told("regex", "NAME", "name", ignore_case=True).score == 1


SCHEMA = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("text", "word", "answer"),
    [
        ('{"n": 1}', "", '{"n": 1}'),
        ('Here:\n```json\n{"n": 1, "a": 2}\n```', "", '{"a": 2, "n": 1}'),
        ('It is {"n": 1}, I think.', "", '{"n": 1}'),
        ('{"n": "1"}', "invalid", '{"n": "1"}'),
        ("{}", "invalid", "{}"),
        ("[1]", "invalid", "[1]"),
        ("none", "no_json", None),
        ('{"n": ', "no_json", None),
        ("[" * 100_000, "no_json", None),
    ],
)
def test_json_schema(text: str, word: str, answer: str | None) -> None:
    found = told("json-schema", text, SCHEMA)
    assert (found.word, found.answer, found.score) == (word, answer, float(not word))
    assert told("json-schema", text, json.dumps(SCHEMA)) == found


def test_a_schema_that_is_none_is_no_fault_of_the_completion() -> None:
    for schema in ('{"type": 5}', "[1]", "x", None):
        assert told("json-schema", "{}", schema).score is None
    # A schema somewhere else is not fetched.
    far = {"$ref": "http://example.com/schema.json"}
    [found] = Workers(Settings(check="json-schema"), 1).ask([("{}", far)])
    assert found.score is None
    assert found.word == "check_failed"


MATH = [
    (r"So $x = \boxed{\frac{1}{2}}$.", "0.5"),
    (r"\boxed{x^2 + 2x + 1}", "(x+1)^2"),
    (r"\boxed{\{1, 2\}}", r"\{2, 1\}"),
    ("The answer is 3/4", r"\frac{3}{4}"),
    ("It is 10.", "11"),
    (r"\boxed{x+1}", "x+2"),
]


@pytest.mark.parametrize(("text", "gold"), MATH)
def test_math_is_what_math_verify_says(text: str, gold: str) -> None:
    from math_verify import parse, verify

    expected = verify(parse(f"${gold}$"), parse(text))
    found = told("math", text, gold)
    assert found.score == float(expected)
    assert (found.reason is None) == bool(expected)


def test_equal_numbers_are_one_answer() -> None:
    texts = (r"\boxed{0.5}", r"\boxed{\frac{1}{2}}", "The answer is 1/2", r"\boxed{\frac{2}{4}}")
    assert {told("math", text, "1").answer for text in texts[:3]} == {"0.5"}
    assert {told("number", text, "1").answer for text in texts} == {"0.5"}


def test_workers_answer_in_order_and_survive_what_never_ends() -> None:
    workers = Workers(Settings(check="regex", seconds=1.0), 2)
    hard = ("a" * 40 + "!", "(a+)+$")
    rows = [("1", "1"), hard, ("1", "2"), ("x", "("), ("2", "2")]
    found = workers.ask(rows)
    assert [each.score for each in found] == [1.0, None, 0.0, None, 1.0]
    assert found[1].word == "check_failed"
    assert workers.ask(rows[:1])[0].score == 1.0


def test_mathematics_without_end_is_ended() -> None:
    workers = Workers(Settings(check="math", seconds=2.0), 1)
    first, second = workers.ask([(r"\boxed{9^{9^{9^{9^{9}}}}}", "1"), (r"\boxed{1}", "1")])
    assert first.score != 1.0
    assert second.score == 1.0
