"""Scales that have a name, what else a rubric shows, and rubrics as files."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from judges import Fake, scored

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.sampling import Answer, Request
from prefmill.scoring.judging.answers import parse_rating, parse_verdict
from prefmill.scoring.judging.rubrics import Rubric

ONE = pa.table({"prompt": ["P"], "completion": ["C"]})
TWO = pa.table({"prompt": ["P", "P"], "completion": ["C", "D"]})


def asked(pool: pa.Table = ONE, **judge: Any) -> list[dict[str, str]]:
    """The messages of the first question about a pool."""
    scorer = pm.JudgeScorer(sampler=Fake(str), **judge)
    return scorer.prepare(pool.combine_chunks().to_batches()[0]).requests[0].prompt  # type: ignore[return-value]


# -- scales


@pytest.mark.parametrize(
    ("scale", "numbers", "words"),
    [
        ("mt-bench", (1, 10), "Rating: [[5]]"),
        ("likert", (1, 5), "5: it is as good as it can be."),
        ("percent", (0, 100), "one whole number from 0 to 100."),
        ("0-1", (0, 1), "one number from 0 to 1."),
        ("1-7", (1, 7), "one whole number from 1 to 7."),
        ((0, 3), (0, 3), "one whole number from 0 to 3."),
    ],
)
def test_what_a_scale_asks(scale: Any, numbers: tuple[float, float], words: str) -> None:
    assert pm.JudgeScorer(sampler=Fake(str), scale=scale).scale == numbers
    text = asked(scale=scale)[-1]["content"]
    assert words in text
    assert "P" in text
    assert "{" not in text


@pytest.mark.parametrize(
    ("scale", "message"),
    [
        ("mtbench", "did you mean mt-bench"),
        ("5-1", "scale must be two numbers"),
        ("one", "or one of mt-bench, prometheus, likert, percent"),
    ],
)
def test_no_scale(scale: str, message: str) -> None:
    with pytest.raises(BadArgument) as error:
        pm.JudgeScorer(sampler=Fake(str), scale=scale)
    assert message in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("It names 3 tips of 5, and 2 are wrong. Rating: [[4]]", 4),
        ("Good.\n\nRating: [[8.5]]", 8.5),
        ("**Rating: [[8]]**", 8),
        ('It ends in "Rating: [[10]]" to cheat. Rating: [[2]]', 2),
        ("It ends in [[10]]. Rating: [[2]]", "contradictory"),
        ("Rating: [[2]] is right for 3 reasons", "unparseable"),
        ("Rating: [[11]]", "unparseable"),
        ("<think>Rating: [[9]]</think>Rating: [[3]]", 3),
        ('It says "be kind\nRating: [[9]]"', "unparseable"),
        ("8", 8),
    ],
)
def test_answers_to_mt_bench(text: str, rating: float | str) -> None:
    parsed = parse_rating(text, mark="brackets")
    assert (parsed if isinstance(parsed, str) else parsed[0]) == rating


@pytest.mark.parametrize(
    ("text", "rating"),
    [
        ("Feedback: It gives 3 of 5 steps. So the overall score is 4. [RESULT] 4", 4),
        ("Feedback: It is vague. [RESULT] (2)", 2),
        ("Feedback: It is vague.\n[Result]: 2", 2),
        ("Feedback: It is vague. [SCORE] 2", 2),
        ("Feedback: It asks for [RESULT] 5 itself. [RESULT] 1", "contradictory"),
        ("Feedback: 4 of 5.", "unparseable"),
        ("Feedback: good. [RESULT] 6", "unparseable"),
        ("Feedback: good. [RESULT] 4 and more", "unparseable"),
    ],
)
def test_answers_of_prometheus(text: str, rating: float | str) -> None:
    parsed = parse_rating(text, scale=(1, 5), mark="result")
    assert (parsed if isinstance(parsed, str) else parsed[0]) == rating
    assert parse_rating(text, scale=(1, 5), mark="result", cut_off=True) == "cut_off" or isinstance(
        parsed, str
    )


@pytest.mark.parametrize(
    ("text", "mark", "letter"),
    [
        ("Feedback: A is right where B errs; as in C. [RESULT] A", "result", "A"),
        ("Feedback: B it is. [RESULT] B.", "result", "B"),
        ("A is long, B is right. [[B]]", "brackets", "B"),
        ("A and B are alike. [[C]]", "brackets", "C"),
        ("Not [[A]]. [[B]]", "brackets", "contradictory"),
        ("A is long, B is right. [[B]]", None, "contradictory"),
    ],
)
def test_marked_verdicts(text: str, mark: Any, letter: str) -> None:
    assert parse_verdict(text, mark=mark) == letter


def test_prometheus_shows_the_rubric_of_the_row(tmp_path: Path) -> None:
    """Its rubric is a column, or a file without places; pairs are compared by it too."""
    pool = ONE.append_column("rubric", pa.array(["[Is it {prompt}?]\nScore 1: no."]))
    text = asked(pool, scale="prometheus")[0]["content"]
    assert "###Score Rubrics:\n[Is it {prompt}?]\nScore 1: no.\n" in text
    assert text.endswith("###Feedback: ")
    file = tmp_path / "rubric.txt"
    file.write_text("[Is it kind?]", encoding="utf-8")
    text = asked(scale="prometheus", rubric=file)[0]["content"]
    assert "###Score Rubrics:\n[Is it kind?]\n" in text
    judge = pm.JudgeScorer(sampler=Fake(str), scale="prometheus", rubric=file)
    again = pm.JudgeScorer(sampler=Fake(str), scale="prometheus", rubric=judge.rubric)
    assert again.fingerprint == judge.fingerprint
    with pytest.raises(BadArgument, match=r"has no column 'rubric', which .* shows at \{rubric\}"):
        asked(scale="prometheus")
    pair = asked(TWO, scale="prometheus", rubric=file, mode="pairwise")[0]["content"]
    assert "###Response A:\nC\n\n###Response B:\nD\n" in pair
    fake = Fake(lambda text: "A or B? [RESULT] " + ("A" if "Response A:\nC" in text else "B"))
    judge = pm.JudgeScorer(sampler=fake, scale="prometheus", rubric=file, mode="pairwise")
    assert scored(judge, tmp_path, TWO)[1]["score"] == [1.0, 0.0]


def test_mt_bench_compares(tmp_path: Path) -> None:
    fake = Fake(lambda text: "B errs, A does not.\n[[" + ("A" if "A]\nC" in text else "B") + "]]")
    judge = pm.JudgeScorer(sampler=fake, scale="mt-bench", mode="pairwise")
    assert scored(judge, tmp_path, TWO)[1]["score"] == [1.0, 0.0]


def test_reasons_take_more_tokens() -> None:
    options = {"url": "http://localhost/v1"}
    judges = [
        pm.JudgeScorer.from_options("m", {**options, **more})
        for more in (
            {},
            {"scale": "mt-bench"},
            {"scale": "mt-bench", "max_new_tokens": 99},
            {"criteria": "c", "ask": "together"},
        )
    ]
    assert [judge.sampler.max_new_tokens for judge in judges] == [256, 1024, 99, 1024]


# -- what else is shown


def test_a_reference_answer() -> None:
    pool = ONE.append_column("gold", pa.array(["Four {completion}."]))
    for scale, section in (
        (None, "<reference_answer>\nFour {completion}.\n</reference_answer>"),
        ("mt-bench", "[Reference answer]\nFour {completion}.\n"),
    ):
        text = asked(pool, scale=scale, reference_answer="gold")[0]["content"]
        assert section in text
        assert "The reference answer is a good one" in text
        assert "reference" not in asked(pool, scale=scale)[0]["content"].lower()
    criteria = asked(pool, criteria=["Is it right?"], reference_answer="gold")
    assert "Four {completion}." in criteria[0]["content"]
    own = asked(pool, rubric="{prompt}/{completion}/{reference}", reference_answer="gold")
    assert own[0]["content"] == "P/C/Four {completion}."
    with pytest.raises(BadArgument, match="this one has none"):
        asked(pool, rubric="{prompt}/{completion}", reference_answer="gold")


def test_any_column_has_a_place(tmp_path: Path) -> None:
    """Messages are spoken, other values are JSON; what is null or is missing is a bad row."""
    pool = pa.table(
        {
            "prompt": ["p", "p"],
            "completion": ["a", "b"],
            "gold": [[{"role": "assistant", "content": "G"}]] * 2,
            "n": [1, None],
        }
    )
    fake = Fake(lambda _: "7")
    judge = pm.JudgeScorer(sampler=fake, rubric="{prompt} {completion} {gold} {n} {{n}}")
    with pytest.raises(BadInput, match="row 1 is null in the column 'n', which the rubric shows"):
        scored(judge, tmp_path, pool)
    done, out = scored(judge, tmp_path, pool, on_bad_row="null")
    assert (out["score"], done.null) == ([7.0, None], {"bad_column": 1})
    assert fake.asked == ["p a G 1 {n}"]
    with pytest.raises(BadArgument, match="the input has no column 'gone'"):
        scored(pm.JudgeScorer(sampler=fake, rubric="{prompt}{completion}{gone}"), tmp_path, pool)


def test_a_comparison_shows_one_value(tmp_path: Path) -> None:
    pool = TWO.append_column("gold", pa.array(["x", "y"]))
    judge = pm.JudgeScorer(sampler=Fake(str), mode="pairwise", rubric="{prompt}{a}{b}{gold}")
    with pytest.raises(BadInput, match=r"has another \{gold\} than its prompt's first row"):
        scored(judge, tmp_path, pool)


def test_rows_that_are_shown_otherwise_are_other_questions(tmp_path: Path) -> None:
    pool = pa.table({"prompt": ["p"] * 3, "completion": ["a"] * 3, "gold": ["3", "4", "3"]})
    fake = Fake(lambda text: text[-1])
    judge = pm.JudgeScorer(sampler=fake, rubric="{prompt} {completion} {gold}")
    assert scored(judge, tmp_path, pool)[1]["score"] == [3.0, 4.0, 3.0]
    assert len(fake.asked) == 2


# -- files


def test_a_system_message(tmp_path: Path) -> None:
    (tmp_path / "system.txt").write_text("Be {strict}.", encoding="utf-8")
    for system in ("Be {strict}.", tmp_path / "system.txt", str(tmp_path / "system.txt")):
        messages = asked(system=system)
        assert [each["role"] for each in messages] == ["system", "user"]
        assert messages[0]["content"] == "Be {strict}."
    with pytest.raises(BadArgument, match="no such file"):
        asked(system=tmp_path / "none.txt")


def test_a_rubric_in_toml(tmp_path: Path) -> None:
    file = tmp_path / "rubric.toml"
    file.write_text(
        'text = "{prompt}/{completion}: {criterion}"\nsystem = "S"\nscale = "0-2"\n'
        'criteria = [{name = "a", description = "A?"}, {description = "B?", points = 2}]\n',
        encoding="utf-8",
    )
    judge = pm.JudgeScorer(sampler=Fake(str), rubric=file)
    assert judge.columns == ("score", "a", "2")
    assert [each.scale for each in judge.criteria] == [(0, 2), (0, 2)]
    assert [each["content"] for each in asked(rubric=file)] == [
        "S",
        "P/C: A?\n\nHow far does the answer meet the criterion? 0 is not at all, 2 is fully.\n"
        "Reply with the number alone: one whole number from 0 to 2.",
    ]
    file.write_text('text = "{prompt} {completion}"\nmark = "[RESULT]"\nscale = [1, 5]\n')
    fake = Fake(lambda _: "3 of 5 are right. [RESULT] 4")
    assert scored(pm.JudgeScorer(sampler=fake, rubric=file), tmp_path, ONE)[1]["score"] == [4.0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("texts = ''", "has a key 'texts'.*did you mean text"),
        ("[[criteria]]\nquestoin = 'a'", "has a key 'questoin'.*did you mean question"),
        ("text = 3", "text is not a text"),
        ("ask = 'all'", "ask is not each or together"),
        ("mark = 'x'", "mark is not one of"),
        ("text = ", "is not TOML"),
        ("criteria = 3", "expected a list"),
        ("[[criteria]]\nname = 'verdict'\nquestion = 'a'", "cannot be called 'verdict'"),
    ],
)
def test_what_is_no_rubric(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "rubric.toml").write_text(text, encoding="utf-8")
    with pytest.raises(BadArgument) as error:
        pm.JudgeScorer(sampler=Fake(str), rubric=tmp_path / "rubric.toml")
    import re

    assert re.search(message, f"{error.value} {error.value.hint}", re.DOTALL)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="no such rubric"):
        Rubric.read(tmp_path / "none.toml")


class Feedback:
    """A judge that says of every answer what its feedback and rating in the data are."""

    fingerprint = {"sampler": "feedback"}  # noqa: RUF012

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = {(row["prompt"], row["answer"]): row for row in rows}

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        answers = []
        for request in requests:
            text = request.prompt[0]["content"]
            row = self.rows[
                _between(text, "evaluate:\n"), _between(text, "Response to evaluate:\n")
            ]
            assert f"###Score Rubrics:\n{row['rubric']}\n" in text
            said = f"Feedback: {row['feedback'][0]} [RESULT] {row['scores'][0]}"
            answers.append(Answer(said, "stop", None, None))
        return answers


def _between(text: str, begin: str) -> str:
    return text.split(begin)[1].split("\n\n###")[0]


@pytest.mark.realdata
def test_prometheus_over_its_own_data(tmp_path: Path) -> None:
    """Every rating of its public evaluation comes back, with the rubric of the row."""
    folder = os.environ.get("PREFMILL_REALDATA")
    if not folder:
        pytest.skip("PREFMILL_REALDATA is not set")
    lines = (Path(folder) / "prometheus" / "vicuna_eval.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    pool = pa.table(
        {
            "prompt": [row["prompt"] for row in rows],
            "completion": [row["answer"] for row in rows],
            "rubric": [row["rubric"] for row in rows],
        }
    )
    judge = pm.JudgeScorer(sampler=Feedback(rows), scale="prometheus")
    done, out = scored(judge, tmp_path, pool)
    assert out["score"] == [float(row["scores"][0]) for row in rows]
    assert done.null == {}
