"""A judge as a scorer: what it is asked, how its answers are read, what becomes of those that say
nothing.
"""

from __future__ import annotations

import math
import random
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from judges import Fake, scored

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.sampling.samplers import Token
from prefmill.scoring.judging.answers import parse_rating, parse_verdict
from prefmill.scoring.judging.expected import expected_rating
from prefmill.scoring.judging.rubrics import filled, rubric_of

# -- rating


def test_ratings(tmp_path: Path) -> None:
    fake = Fake(
        lambda text: {"a": "3", "bb": "It is short.\nRating: 8/10"}.get(
            text.split("|")[1], "I would say 7"
        )
    )
    done, out = scored(pm.JudgeScorer(sampler=fake, rubric="{prompt}|{completion}"), tmp_path)
    assert out == {
        "score": [3.0, 8.0, None, None, None, 8.0, None],
        "score_rating": [3.0, 8.0, None, None, None, 8.0, None],
        "score_verdict": [
            "3",
            "It is short.\nRating: 8/10",
            None,
            "I would say 7",
            "I would say 7",
            "It is short.\nRating: 8/10",
            None,
        ],
        "score_reason": [None, None, None, "unparseable", "unparseable", None, None],
    }
    assert done.null == {"null_prompt": 1, "null_completion": 1, "unparseable": 2}
    assert sorted(fake.asked) == sorted(
        ["p {completion}|a", "p {completion}|a {prompt} {0} %s \\1", "q|bb", "q|cccc"]
    )
    assert (done.requests, done.tokens_out, done.cost) == (4, 12, None)


def test_what_is_asked(tmp_path: Path) -> None:
    """The default rubric has the texts as they are; messages have their roles."""
    fake = Fake(lambda text: "5")
    talk = [
        {"role": "user", "content": "{a}"},
        {"role": "assistant", "content": "b"},
        {"role": "user", "content": "c"},
    ]
    pool = pa.table(
        {"prompt": [talk], "completion": [[{"role": "assistant", "content": "d {prompt}"}]]}
    )
    scored(pm.JudgeScorer(sampler=fake), tmp_path, pool)
    assert "<conversation>\nuser: {a}\n\nassistant: b\n\nuser: c\n</conversation>" in fake.asked[0]
    assert "<answer>\nd {prompt}\n</answer>" in fake.asked[0]
    file = tmp_path / "rubric.txt"
    file.write_text("How {{good}} is {completion} to {prompt}?", encoding="utf-8")
    for rubric in (file, str(file), file.read_text()):
        fake.asked.clear()
        scored(
            pm.JudgeScorer(sampler=fake, rubric=rubric),
            tmp_path,
            pa.table({"prompt": ["P"], "completion": ["C"]}),
        )
        assert fake.asked == ["How {good} is C to P?"]


@given(st.text(), st.text(), st.text())
def test_texts_with_braces_are_texts(before: str, prompt: str, completion: str) -> None:
    """Against a substitution by hand, which cuts the rubric at its places first."""
    rubric = before.replace("{prompt}", "").replace("{completion}", "") + "{prompt} - {completion}."
    assert (
        filled(rubric, {"prompt": prompt, "completion": completion})
        == f"{rubric[: -len('{prompt} - {completion}.')]}{prompt} - {completion}."
    )


@pytest.mark.parametrize(
    "rubric", ["{prompt} only", "{completion} only", "no/such/file", Path("no/such/file")]
)
def test_bad_rubrics(rubric: Any) -> None:
    with pytest.raises(BadArgument, match="rubric"):
        rubric_of(rubric, "rating")
    with pytest.raises(BadArgument, match=r"no \{a\}"):
        rubric_of("{prompt} {b}", "pairwise")


FORMS = (
    "{}",
    " {}\n",
    "[[{}]]",
    "**{}**",
    "{}/10",
    "{}.",
    "Rating: {}",
    "Good.\nFinal rating: [[{}]]",
    "**Rating:** {}/10, since it is right",
    "Score = {}",
    "I give it [[{}]].",
    "[RESULT] {}",
    "{} out of 10",
    "Rating：{}",
    '{{"rating": {}}}',
    "3 points are right.\nRating: {}",
)

NO_RATINGS = (
    "",
    "0",
    "11",
    "100",
    "-3",
    "+3",
    "7,5",
    "Rating: 11",
    "Rating: 100",
    "Rating: 0",
    "I gave 7",
    "8 out of 10 agree",
    "Rating: 8\n- it is right",
    "seven",
    "VII",
    "٣",
    "Rating: [[N]]",
    "Rating:",
    "[[]]",
    "7 8",
    "1e1",
    "10/100",
    "Rating: 8/100",
    "3-4",
    "Rating: 3-4",
    "Rating: 3 to 4",
    "5/5",
)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        *((form.format(n), n) for n in range(1, 11) for form in FORMS),
        *((text, None) for text in NO_RATINGS),
    ],
)
def test_ratings_read(text: str, number: int | None) -> None:
    found = parse_rating(text)
    if number is None:
        assert found == "unparseable"
    else:
        assert found[0] == number
        assert text[found[1] :].startswith(str(number))


@given(
    st.one_of(
        st.text(),
        st.text(alphabet="0123456789./[]: RatingScore-*\n"),
        st.from_regex(r"(Rating: )?\[{0,2}-?\d{1,3}\]{0,2}(/\d+)?\D*"),
    )
)
def test_no_number_out_of_range(text: str) -> None:
    """Whatever is said: a number from 1 to 10 that stands there, or a reason."""
    found = parse_rating(text)
    if isinstance(found, str):
        assert found in ("unparseable", "contradictory")
    else:
        number, at = found
        assert 1 <= number <= 10
        digits = re.match(r"\d+(\.\d+)?", text[at:])
        assert digits is not None
        assert float(digits[0]) == number
        assert not text[max(0, at - 1) : at].isdecimal()


def test_contradictions_and_answers_cut_off() -> None:
    assert parse_rating("Rating: 3, no, Rating: 4") == "contradictory"
    assert parse_rating("Rating: 3\nNo: Rating: 4")[0] == 4, "the last line counts"
    assert parse_rating("[[3]] or [[3]]")[0] == 3
    assert parse_rating("1", cut_off=True) == "cut_off", "it may have become a 10"
    assert parse_rating("Let me think", cut_off=True) == "cut_off"
    assert parse_rating("Rating: 9", cut_off=True)[0] == 9
    assert parse_verdict("[[A]] or [[B]]") == "contradictory"
    assert parse_verdict("Hmm", cut_off=True) == "cut_off"


# -- ratings from the probabilities of tokens


def tops(weights: dict[str, float]) -> dict[str, float]:
    return {text: math.log(weight) for text, weight in weights.items() if weight > 0}


def token(text: str, weights: dict[str, float]) -> Token:
    return Token(text, math.log(weights[text]), tops(weights))


def test_expected_where_ten_is_one_token() -> None:
    """Ratings by their probabilities, spellings of one rating together, what is no rating left
    out.
    """
    weights = {"8": 0.4, " 8": 0.1, "10": 0.2, "1": 0.1, "[[9": 0.05, "Rating": 0.1, "80": 0.05}
    wanted = (8 * 0.5 + 10 * 0.2 + 1 * 0.1 + 9 * 0.05) / 0.85
    assert expected_rating([token("8", weights), Token("", -0.1)]) == pytest.approx(wanted)


def test_expected_where_ten_is_two_tokens() -> None:
    """ "1" is said: the next token parts 1 from 10. Something else is said: a small "1" is left
    out, a large one tells nothing.
    """
    first, second = {"1": 0.6, "9": 0.3, "2": 0.1}, {"0": 0.75, "<eos>": 0.2, "0.": 0.05}
    wanted = 10 * 0.6 * 0.8 + 1 * 0.6 * 0.2 + 9 * 0.3 + 2 * 0.1
    assert expected_rating([token("1", first), token("0", second)]) == pytest.approx(wanted)
    assert expected_rating(
        [token("1", first), Token("", math.log(0.2), tops(second))]
    ) == pytest.approx(wanted)
    assert expected_rating([token("9", {"9": 0.9, "8": 0.07, "1": 0.03})]) == pytest.approx(
        (9 * 0.9 + 8 * 0.07) / 0.97
    )
    doubtful = [token("9", {"9": 0.6, "1": 0.4})]
    assert expected_rating(doubtful) is None
    assert expected_rating(doubtful, ten_is_one_token=True) == pytest.approx(9 * 0.6 + 0.4)


def test_expected_finds_its_token() -> None:
    """The token of the number that was read, not the first digit of the answer."""
    steps = [
        Token("Step ", -0.1),
        token("1", {"1": 0.9, "2": 0.1}),
        Token(" is done.\nRat", -0.1),
        Token("ing: [[", -0.2),
    ]
    weights = {"7": 0.5, "6": 0.5}
    assert expected_rating([*steps, token("7", weights), Token("]]", 0.0)]) == pytest.approx(6.5)
    assert expected_rating(steps) is None
    assert expected_rating([]) is None


@given(st.lists(st.floats(0.001, 1), min_size=10, max_size=10), st.booleans(), st.randoms())
def test_expected_is_the_mean_of_the_distribution(
    weights: list[float], joined: bool, draw: random.Random
) -> None:
    """A judge that draws 1..10 from known weights: its tokens tell the mean, for both kinds of
    tokenizer, when it says a 1 or a 10.
    """
    total = sum(weights) * 1.25  # a fifth goes to other words
    p = {n: weight / total for n, weight in enumerate(weights, 1)}
    mean = sum(n * each for n, each in p.items()) / sum(p.values())
    if joined:
        said = draw.choice(list(p))
        tokens = [token(str(said), {str(n): each for n, each in p.items()})]
    else:
        heads = {str(n): p[n] for n in range(2, 10)} | {"1": p[1] + p[10]}
        tail = {"0": p[10] / heads["1"], "</s>": p[1] / heads["1"]}
        tokens = [token("1", heads), token(draw.choice(list(tail)), tail)]
        if tokens[1].text == "</s>":
            tokens[1] = Token("", tokens[1].logprob, tokens[1].top)
    assert expected_rating(tokens) == pytest.approx(mean)
