"""A judge as a scorer: what it is asked, how its answers are read, what becomes of those that say
nothing.
"""

from __future__ import annotations

import json
import math
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
from hypothesis import given
from hypothesis import strategies as st

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.sampling import Answer, Request
from prefmill.sampling.samplers import Token
from prefmill.scoring.judge import pairs_of
from prefmill.scoring.rubrics import (
    RUBRIC,
    expected_rating,
    filled,
    parse_rating,
    parse_verdict,
    rubric_of,
)

POOL = pa.table(
    {
        "prompt": ["p {completion}", "q", None, "p {completion}", "q", "q", "p {completion}"],
        "completion": ["a", "bb", "x", "a {prompt} {0} %s \\1", "cccc", "bb", None],
    }
)


@dataclass
class Fake:
    """A sampler that answers by a function of the text that it is asked."""

    says: Callable[[str], str]
    reason: str = "stop"
    asked: list[str] = field(default_factory=list)
    fingerprint: Any = field(default_factory=lambda: {"sampler": "fake"})

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        texts = [request.prompt[0]["content"] for request in requests]
        assert all(request.temperature == 0 for request in requests)
        self.asked += texts
        return [Answer(self.says(text), self.reason, None, 3) for text in texts]


def scored(
    judge: pm.JudgeScorer, tmp_path: Path, pool: pa.Table = POOL, **more: Any
) -> tuple[Any, dict[str, list[Any]]]:
    done = pm.score(pool, tmp_path / "out.parquet", scorer=judge, overwrite=True, **more)
    return done, pq.read_table(tmp_path / "out.parquet").select(list(done.columns)).to_pydict()


# -- rating
# --------------------------------------------------------------------------------------------------------------------------------


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
    file.write_text("How {good} is {completion} to {prompt}?", encoding="utf-8")
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
# ----------------------------------------------------------------------------------------------


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


def test_over_a_server(tmp_path: Path) -> None:
    """The expected rating where the server tells tokens, else the number; tokens, requests, retries
    and cost in the report.
    """
    weights = {"8": 0.5, "6": 0.25, "4": 0.25}
    told = {
        "content": [
            {
                "token": "8",
                "logprob": math.log(0.5),
                "top_logprobs": [
                    {"token": text, "logprob": math.log(weight)} for text, weight in weights.items()
                ],
            }
        ]
    }
    asked: list[Any] = []

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        asked.append(body)
        if len(asked) == 1:
            return 503, {}, {"detail": "loading"}
        return (
            200,
            {},
            serving.chat(
                "8", logprobs=told if "cccc" not in body["messages"][0]["content"] else None
            ),
        )

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        done, out = scored(
            pm.JudgeScorer(sampler=sampler, price_in=1.0, price_out=10.0), tmp_path, chunk_rows=1
        )
    assert out["score"] == pytest.approx([6.5, 6.5, None, 6.5, 8.0, 6.5, None])
    assert out["score_rating"] == [8.0, 8.0, None, 8.0, 8.0, 8.0, None]
    assert asked[0]["top_logprobs"] == 20
    assert (done.requests, done.retries, done.tokens_in, done.tokens_out) == (5, 1, 40, 4)
    assert done.retried == {"503": 1}
    assert done.cost == pytest.approx(80 / 1e6)
    again = pm.score(
        POOL, tmp_path / "out.parquet", scorer=pm.JudgeScorer(sampler=sampler, price_in=2.0)
    )
    assert (again.chunks_resumed, again.retries, again.cost) == (2, 1, pytest.approx(80 / 1e6)), (
        "prices decide no score"
    )


def test_refused_rows(tmp_path: Path) -> None:
    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        return (
            (400, {}, {"error": {"message": "filtered"}})
            if "cccc" in body["messages"][0]["content"]
            else (200, {}, serving.chat("4"))
        )

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        with pytest.raises(BadInput, match=r"judge: row 4 cannot be judged; .* got 400 filtered"):
            scored(pm.JudgeScorer(sampler=sampler), tmp_path)
        done, out = scored(pm.JudgeScorer(sampler=sampler, on_refused="null"), tmp_path)
    assert out["score"] == [4.0, 4.0, None, 4.0, None, 4.0, None]
    assert out["score_reason"][4] == "refused"
    assert "filtered" in out["score_verdict"][4]
    assert done.null["refused"] == 1


# -- pairs
# ---------------------------------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    "wrong",
    [
        {"mode": "both"},
        {"schedule": "some"},
        {"max_pairs": 0, "mode": "pairwise"},
        {"max_pairs": 3},
        {"schedule": "baseline"},
        {"top_logprobs": -1},
        {"price_in": -1},
        {"on_refused": "ignore"},
        {"sampler": object()},
    ],
)
def test_arguments(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadArgument, match="JudgeScorer"):
        pm.JudgeScorer(**{"sampler": Fake(str), **wrong})


def test_another_rubric_is_another_run(tmp_path: Path) -> None:
    scored(pm.JudgeScorer(sampler=Fake(lambda text: "3")), tmp_path)
    with pytest.raises(Exception, match=r"another scorer\.rubric"):
        pm.score(
            POOL,
            tmp_path / "out.parquet",
            scorer=pm.JudgeScorer(sampler=Fake(lambda text: "3"), rubric=RUBRIC["rating"] + "!"),
        )
    other = Fake(lambda text: "3", fingerprint={"sampler": "other"})
    with pytest.raises(Exception, match=r"another scorer\.sampler\.sampler"):
        pm.score(POOL, tmp_path / "out.parquet", scorer=pm.JudgeScorer(sampler=other))


def test_devices() -> None:
    """A local judge moves to the device; a server has its own."""
    here = pm.JudgeScorer(sampler=pm.LocalSampler(model="m"))
    assert here.on_device("cuda:1").sampler.device == "cuda:1"
    there = pm.JudgeScorer(sampler=pm.EndpointSampler(url="http://h", model="m"))
    assert there.on_device("cuda:1") is there


def test_spoken() -> None:
    """What a judge reads of messages: roles by their names of the field, parts as their texts,
    calls as JSON.
    """
    from prefmill.table.conversations import messages_of, spoken

    def said(value: object) -> str:
        return spoken(messages_of(value, "user"))

    assert said("a") == "a"
    assert said([{"from": "human", "value": "a"}]) == "a"
    assert (
        said([{"role": "system", "content": "s"}, {"role": "user", "content": ""}])
        == "system: s\n\nuser: "
    )
    call = {"function": {"name": "f", "arguments": {"x": 1, "y": None}}}
    assert (
        said([{"role": "assistant", "content": None, "tool_calls": [call]}])
        == 'tool_call: {"name": "f", "arguments": {"x": 1}}'
    )


def test_killed(tmp_path: Path) -> None:
    """SIGKILL and Ctrl-C in the middle of a run over a server: the same command goes on, and asks
    for no row of a finished chunk again.
    """
    pool = pa.table({"prompt": [f"p{i}" for i in range(24)], "completion": ["c"] * 24})
    pq.write_table(pool, tmp_path / "pool.parquet")
    asked: Counter[str] = Counter()

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        text = body["messages"][0]["content"]
        asked[text] += 1
        time.sleep(0.05)
        return 200, {}, serving.chat(str(1 + int(text.split("p")[1].split("/")[0]) % 10))

    (tmp_path / "rubric.txt").write_text("{prompt}/{completion}")
    with serving.server(answer) as url:
        command = [
            sys.executable,
            "-m",
            "prefmill",
            "score",
            "pool.parquet",
            "-o",
            "out.parquet",
            "--scorer",
            "judge",
            "--model",
            "m",
            "--url",
            url,
            "--rubric",
            "rubric.txt",
            "--chunk-rows",
            "4",
            "--concurrency",
            "2",
            "--quiet",
        ]
        for kill, after in ((signal.SIGKILL, 7), (signal.SIGINT, 17)):
            child = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
            while asked.total() < after:
                assert child.poll() is None
                time.sleep(0.01)
            child.send_signal(kill)
            said = child.communicate(timeout=30)[1]
            assert child.returncode == (-9 if kill == signal.SIGKILL else 130)
            assert ("what is scored is kept" in said) == (kill == signal.SIGINT)
        assert subprocess.run(command, cwd=tmp_path, timeout=60).returncode == 0
    out = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert out["score"] == [1 + i % 10 for i in range(24)]
    assert max(asked.values()) <= 3
    assert asked.total() <= 24 + 2 * 6, (
        "at most a chunk, and what was under way, is asked for again after each"
    )
