"""Where answers stand, and what number they are."""

from __future__ import annotations

import re
import signal
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefmill.scoring.verify.answers import extracted, number_of, spelled


@pytest.mark.parametrize(
    ("text", "how", "answer"),
    [
        (r"a \boxed{1} b \boxed{2}", "boxed", "2"),
        (r"\boxed{\frac{1}{\sqrt{2}}}.", "boxed", r"\frac{1}{\sqrt{2}}"),
        (r"\boxed{\{1, 2\}}", "boxed", r"\{1, 2\}"),
        (r"\boxed{7} and then \boxed{8", "boxed", "7"),
        (r"\fbox{7}", "boxed", "7"),
        (r"\boxed{}", "boxed", None),
        ("6\n#### 5\n#### 1,200 \nbye", "hash", "1,200"),
        ("#### ", "hash", None),
        ("The answer is: **Paris**.", "phrase", "Paris"),
        ("answer = 4\nThe Answer is 5.", "phrase", "5"),
        ("it was 3, then 1,234.5 in all.", "last-number", "1,234.5"),
        ("none", "last-number", None),
        ("  two words \n", "whole", "two words"),
        ("<answer>1</answer><answer> 2 </answer>", "tag:answer", "2"),
        ("<answer>cut off", "tag:answer", "cut off"),
        ("A) x B) y", r"regex:([A-D])\)", "B"),
        ("A=1 B=2", r"regex:(\w)=(?P<answer>\d)", "2"),
        ("nothing", r"regex:\d", None),
        # auto: the box, then ####, then <answer>, then the phrase, then the fallback
        (r"#### 1 and \boxed{2}", "auto", "2"),
        ("#### 1\n<answer>2</answer>", "auto", "1"),
        ("<answer>2</answer> the answer is 3", "auto", "2"),
        ("positive", "auto", "positive"),
        ("", "auto", None),
    ],
)
def test_the_answer_stands_there(text: str, how: str, answer: str | None) -> None:
    assert extracted(text, how) == answer


def test_auto_for_numbers_passes_over_what_is_no_number() -> None:
    assert extracted("The answer is below.\nSo 6 + 6 = 12", "auto", "last-number") == "12"
    assert extracted("The answer is 5 apples", "auto", "last-number") == "5 apples"


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1,234.50", Fraction("1234.5")),
        ("1{,}234", 1234),
        (r"1\,234", 1234),
        ("-5", -5),
        ("−5", -5),
        ("- 5", -5),
        ("-$5", -5),
        ("$-5", -5),
        ("+5", 5),
        (".5", Fraction(1, 2)),
        ("$1,000,000", 10**6),
        (r"\$18", 18),
        ("50%", 50),
        (r"50\%", 50),
        ("72 clips", 72),
        (r"72 \text{ clips}", 72),
        ("x = 5", 5),
        ("2 + 3 = 5", 5),
        ("3/4", Fraction(3, 4)),
        ("-3/4", Fraction(-3, 4)),
        (r"\frac{3}{4}", Fraction(3, 4)),
        (r"\dfrac{-3}{4}", Fraction(-3, 4)),
        ("1 1/2", Fraction(3, 2)),
        ("-1 1/2", Fraction(-3, 2)),
        ("1e3", 1000),
        ("1.5 × 10^3", 1500),
        (r"1.5 \times 10^{-3}", Fraction(15, 10**4)),
        ("007", 7),
        ("3 or 4", None),
        ("3-4", None),
        ("1/0", None),
        ("none", None),
        ("", None),
        ("1e999999999", None),
        ("9" * 900, None),
        ("1" * 5000, None),
    ],
)
def test_numbers_are_read_exactly(text: str, number: Fraction | int | None) -> None:
    assert number_of(text) == number


@given(st.decimals(-(10**12), 10**12, places=3))
def test_every_spelling_of_a_number_is_that_number(value: Decimal) -> None:
    exact = Fraction(value)
    for text in (f"{value}", f"{value:,}", f"{value:,} km", f"so = {value}", f"{value:.9e}"):
        assert number_of(text) == (Fraction(Decimal(text)) if "e" in text else exact)
    assert number_of(spelled(exact)) == exact


@given(st.fractions(max_denominator=10**6))
def test_a_number_has_one_spelling(value: Fraction) -> None:
    assert number_of(spelled(value)) == value
    if spelled(value).count("/") == 0:
        assert Fraction(spelled(value)) == value


@given(st.text(alphabet="{}\\boxed19,./#-= e\n", max_size=300))
def test_any_text_has_an_answer_or_none(text: str) -> None:
    for how in ("auto", "boxed", "hash", "phrase", "last-number", "whole"):
        found = extracted(text, how, "last-number")
        assert found is None or found.strip()
        if found:
            number_of(found)


def slowly_boxed(text: str) -> str | None:
    """The content of the last box that is closed and not empty, by trying each from its start."""
    for found in reversed(list(re.finditer(r"\\(?:boxed|fbox)\s*\{", text))):
        depth, place = 1, found.end()
        while place < len(text) and depth:
            if text[place] == "\\":
                place += 1
            else:
                depth += (text[place] == "{") - (text[place] == "}")
            place += 1
        inside = text[found.end() : place - 1]
        if depth == 0 and inside:
            return inside.strip() or None
    return None


BOXES = ["\\boxed{", "\\\\boxed{", "\\fbox {", "boxed"]
BRACES = ["{", "}", "\\", "\\{", "\\}"]


@given(st.lists(st.sampled_from([*BOXES, *BRACES, "7", " ", "\n"]), max_size=12).map("".join))
def test_the_last_box_is_that_of_a_slow_search(text: str) -> None:
    assert extracted(text, "boxed") == slowly_boxed(text)


HOSTILE = {
    "open boxes": r"\boxed{" * 200_000,
    "backslashes": "\\" * 1_000_000,
    "commas": "1," * 500_000,
    "phrases": "answer is " * 100_000,
    "hashes": "####" * 250_000,
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE)
def test_a_long_hostile_text_ends(text: str) -> None:
    """A search that takes the square of the length would take hours for these."""

    def too_long(*_: object) -> None:
        raise AssertionError("a minute of CPU for a megabyte")

    before = signal.signal(signal.SIGVTALRM, too_long)
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    try:
        for how in ("auto", "last-number"):
            extracted(text, how, "last-number")
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)
