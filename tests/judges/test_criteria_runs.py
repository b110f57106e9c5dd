"""A judge of criteria in a run: what is asked, what is written, and what becomes of bad rows."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import serving
from judges import Fake, scored

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.sampling import Answer, Request

RUBRIC = """
[[criteria]]
name = "right"
question = "Is it right?"
weight = 3
scale = "1-5"

[[criteria]]
name = "rude"
question = "Is it rude?"
points = -1
"""
POOL = pa.table(
    {
        "prompt": ["p", "p", "q", "p"],
        "completion": ["good", "rude", "odd", "good"],
    }
)


@pytest.fixture
def rubric(tmp_path: Path) -> Path:
    file = tmp_path / "rubric.toml"
    file.write_text(RUBRIC, encoding="utf-8")
    return file


def about(text: str) -> tuple[str, str]:
    """The answer that is judged, and the criterion."""
    answer = text.split("<answer>\n")[1].split("\n</answer>")[0]
    return answer, text.split("<criterion>\n")[1].split("\n</criterion>")[0]


def says(text: str) -> str:
    answer, criterion = about(text)
    if criterion == "Is it right?":
        return {"good": "5", "rude": "Rating: 3", "odd": "rather"}[answer]
    return "yes" if answer == "rude" else "no"


def test_each_criterion_by_itself(rubric: Path, tmp_path: Path) -> None:
    fake = Fake(says)
    done, out = scored(pm.JudgeScorer(sampler=fake, rubric=rubric), tmp_path, POOL)
    assert done.columns == ("score", "score_right", "score_rude", "score_verdict", "score_reason")
    # 3/3; (3 * 0.5 - 1) / 3; the sum of one criterion alone is never the score of a row.
    assert out["score"] == [1.0, pytest.approx(0.5 / 3), None, 1.0]
    assert out["score_right"] == [5, 3, None, 5]
    assert out["score_rude"] == [0, 1, None, 0]
    assert out["score_reason"] == [None, None, "unparseable: right", None]
    assert done.null == {"unparseable": 1}
    account = json.loads(out["score_verdict"][2])["criteria"]
    assert [(c["name"], c["score"], c["reason"], c["said"]) for c in account] == [
        ("right", None, "unparseable", "rather"),
        ("rude", 0.0, None, "no"),
    ]
    assert [c["weight"] for c in account] == [3, -1]
    # Equal rows are asked about once, and all that differs between criteria stands at the end.
    assert len(fake.asked) == 6
    first, second = (text.split("<criterion>")[0] for text in fake.asked[:2])
    assert first == second
    assert about(fake.asked[0])[0] == about(fake.asked[1])[0]


def test_all_together(rubric: Path, tmp_path: Path) -> None:
    """One request for each distinct row, and one object with every name."""
    answers = {
        "good": '{"right": 5, "rude": false}',
        "rude": 'Hm.\n{"right": 3, "rude": "yes"}',
        "odd": '{"right": 3}',
    }

    def both(text: str) -> str:
        assert '- "right" (1 is not at all, 5 is fully): Is it right?' in text
        assert '{"right": <whole number from 1 to 5>, "rude": <true or false>}' in text
        return answers[text.split("<answer>\n")[1].split("\n</answer>")[0]]

    fake = Fake(both)
    judge = pm.JudgeScorer(sampler=fake, rubric=rubric, ask="together")
    _, out = scored(judge, tmp_path, POOL)
    assert out["score"] == [1.0, pytest.approx(0.5 / 3), None, 1.0]
    assert out["score_reason"] == [None, None, "unparseable: rude", None]
    assert len(fake.asked) == 3
    assert json.loads(out["score_verdict"][1])["said"] == answers["rude"]
    _, out = scored(
        pm.JudgeScorer(sampler=Fake(lambda _: "x"), rubric=rubric, ask="together"), tmp_path, POOL
    )
    assert out["score_reason"] == ["unparseable"] * 4, "about no criterion in particular"


def test_the_score_is_the_sum_of_its_columns(rubric: Path, tmp_path: Path) -> None:
    """Where the server tells tokens, each value is an expectation, and the sum is that of these."""

    def told(text: str, **top: float) -> Any:
        alternatives = [{"token": t, "logprob": math.log(p)} for t, p in top.items()]
        token = {"token": text, "logprob": math.log(top[text]), "top_logprobs": alternatives}
        return {"content": [token]}

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        if "Is it right?" in body["messages"][0]["content"]:
            logprobs = told("4", **{"4": 0.5, "2": 0.5})
            return 200, {}, serving.chat("4", logprobs=logprobs)
        return 200, {}, serving.chat("no", logprobs=told("no", no=0.6, yes=0.2, maybe=0.2))

    with serving.server(answer) as url:
        judge = pm.JudgeScorer(sampler=pm.EndpointSampler(url=url, model="m"), rubric=rubric)
        _, out = scored(judge, tmp_path, POOL)
    assert out["score_right"] == pytest.approx([3.0] * 4)
    assert out["score_rude"] == pytest.approx([0.25] * 4)
    assert out["score"] == pytest.approx([(3 * 0.5 - 0.25) / 3] * 4)


class Lists:
    """A judge that finds a criterion met where its text stands in the answer."""

    fingerprint = {"sampler": "lists"}  # noqa: RUF012

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        answers = []
        for request in requests:
            answer, criterion = about(request.prompt[0]["content"])
            answers.append(Answer("yes" if criterion in answer else "no", "stop", None, 1))
        return answers


def test_criteria_of_each_row(tmp_path: Path) -> None:
    pool = pa.table(
        {
            "prompt": ["p", "p", "q"],
            "completion": ["ab", "a", "c"],
            "rubric": [
                [{"criterion": "a", "points": 3}, {"criterion": "b", "points": 1}],
                [{"criterion": "a", "points": 3}, {"criterion": "b", "points": 1}],
                [{"criterion": "c", "points": -2}],
            ],
        }
    )
    judge = pm.JudgeScorer(sampler=Lists(), criteria="rubric")
    done, out = scored(judge, tmp_path, pool)
    assert done.columns == ("score", "score_criteria", "score_verdict", "score_reason")
    assert out["score"] == [1.0, 0.75, -1.0]
    assert out["score_criteria"] == [[1, 1], [1, 0], [1]]
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.schema.field("score_criteria").type.value_type == pa.float64()
    # The same as JSON text, with another file's rows in chunks of their own.
    texts = [json.dumps(value) for value in pool["rubric"].to_pylist()]
    spelled = pool.set_column(2, "rubric", pa.array(texts))
    assert scored(judge, tmp_path, spelled, chunk_rows=1)[1]["score"] == out["score"]


def test_records_as_they_stand_in_a_file(tmp_path: Path) -> None:
    """Points that are numbers and texts, fields that some rows have: as in each row alone."""
    rubrics = [
        [
            {"criterion": "a", "points": 5, "tags": ["axis:accuracy"]},
            {"criterion": "b", "points": -2.5, "tags": []},
        ],
        [{"criterion": "c", "points": "2", "title": "C"}],
        {"query": "q", "rubrics": [{"description": "d", "weight": 1.0}]},
        ["a", {"question": "x", "scale": [0, 1]}],
    ]
    rows = [
        {"prompt": f"p{i}", "completion": "abc", "rubrics": rubric}
        for i, rubric in enumerate(rubrics)
    ]
    judge = pm.JudgeScorer(sampler=Lists(), criteria="rubrics", ask="each")
    alone = []
    for row in rows:
        (tmp_path / "row.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
        _, out = scored(judge, tmp_path, tmp_path / "row.jsonl")
        alone.append((out["score"][0], out["score_criteria"][0], out["score_reason"][0]))
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tmp_path / "rows.jsonl").write_text(lines, encoding="utf-8")
    _, out = scored(judge, tmp_path, tmp_path / "rows.jsonl")
    columns = (out["score"], out["score_criteria"], out["score_reason"])
    assert list(zip(*columns, strict=True)) == alone
    # A number is not yes or no: the last row's second criterion cannot be read.
    assert [score for score, *_ in alone] == [0.5, 1.0, 0.0, None]
    assert alone[3][2] == "unparseable: 2"


def test_rows_without_criteria(tmp_path: Path) -> None:
    pool = pa.table(
        {
            "prompt": ["p", "q", "r"],
            "completion": ["a", "a", "a"],
            "rubric": ['["a"]', None, '[{"weight": 2}]'],
        }
    )
    judge = pm.JudgeScorer(sampler=Lists(), criteria="rubric")
    with pytest.raises(BadInput, match=r"row 1 .*has no criteria that can be used"):
        scored(judge, tmp_path, pool)
    done, out = scored(judge, tmp_path, pool, on_bad_row="null")
    assert (out["score"], out["score_criteria"]) == ([1.0, None, None], [[1.0], None, None])
    assert done.null == {"bad_column": 2}
    with pytest.raises(BadArgument, match="has no column 'criteria'"):
        scored(pm.JudgeScorer(sampler=Lists(), criteria="criteria"), tmp_path, pool)
    with pytest.raises(BadArgument) as error:
        scored(pm.JudgeScorer(sampler=Lists(), criteria="a.toml"), tmp_path, pool)
    assert "--rubric a.toml" in str(error.value.hint)
    nothing = pool.slice(0, 0)
    assert scored(judge, tmp_path, nothing, on_bad_row="null")[1]["score"] == []


def test_a_refused_criterion_is_the_row(rubric: Path, tmp_path: Path) -> None:
    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        text = body["messages"][0]["content"]
        if "Is it rude?" in text and "odd" in text:
            return 400, {}, {"error": {"message": "filtered"}}
        return 200, {}, serving.chat("3" if "Is it right?" in text else "no")

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", backoff=0.01)
        with pytest.raises(BadInput, match=r"judge: row 2 cannot be judged; .* got 400 filtered"):
            scored(pm.JudgeScorer(sampler=sampler, rubric=rubric), tmp_path, POOL)
        judge = pm.JudgeScorer(sampler=sampler, rubric=rubric)
        done, out = scored(judge, tmp_path, POOL, on_bad_row="null")
    assert out["score"] == [0.5, 0.5, None, 0.5]
    assert out["score_reason"][2] == "refused: rude"
    assert done.null == {"refused": 1}


@pytest.mark.parametrize(
    "other",
    [
        {"ask": "together"},
        {"criteria": [{"name": "right", "question": "Is it right?", "weight": 4}]},
        {"scale": "1-7"},
        {"system": "You are strict."},
        {"rubric": "{prompt}{completion}{criterion}"},
    ],
)
def test_what_decides_the_score_is_in_the_fingerprint(other: dict[str, Any]) -> None:
    criteria = [{"name": "right", "question": "Is it right?", "scale": None, "weight": 3}]
    judge = {"sampler": Lists(), "criteria": criteria}
    assert pm.JudgeScorer(**judge).fingerprint != pm.JudgeScorer(**{**judge, **other}).fingerprint
    assert pm.JudgeScorer(**judge).fingerprint == pm.JudgeScorer(**judge).fingerprint


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "pairwise"}, "criteria are for mode 'rating'"),
        ({"scale": "mt-bench"}, "no scale with one"),
        ({"ask": "some"}, "ask is not one of"),
        ({"rubric": "{prompt} {completion}"}, r"has no \{criterion\}"),
        ({"rubric": "{prompt} {completion} {criteria}", "ask": "each"}, r"has no \{criterion\}"),
        (
            {"rubric": "{prompt} {completion} {criterion} {criteria}"},
            r"has no \{criterion\}|which a rating with criteria",
        ),
        ({"criteria": [{"name": "Score", "question": "a"}]}, "cannot be called 'Score'"),
        ({"criteria": {"a": 1}}, "expected a list, or a column's name"),
    ],
)
def test_what_does_not_fit(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArgument, match=message):
        pm.JudgeScorer(**{"sampler": Lists(), "criteria": ["a"], **wrong})
    if "criteria" not in wrong and wrong.get("ask") != "some":
        return
    with pytest.raises(BadArgument, match="ask is for criteria"):
        pm.JudgeScorer(sampler=Lists(), ask="each")


def test_in_an_ensemble_and_over_pairs(rubric: Path, tmp_path: Path) -> None:
    """Criteria stay with their judge, and both sides of a pair have all of their columns."""
    judge = pm.JudgeScorer(sampler=Fake(says), rubric=rubric)
    length = lambda batch: [len(text) for text in batch["completion"].to_pylist()]  # noqa: E731
    both = pm.Ensemble(scorers={"judge": judge, "length": length})
    done, out = scored(both, tmp_path, POOL)
    assert out["score"][0] == pytest.approx((1 + 4) / 2)
    assert out["score"][2] is None
    pairs = pa.table({"prompt": ["p"], "chosen": ["good"], "rejected": ["rude"]})
    done, out = scored(judge, tmp_path, pairs)
    assert "chosen_score_right" in done.columns
    assert out["chosen_score_right"] + out["rejected_score_right"] == [5, 3]


def test_criteria_in_a_recipe() -> None:
    """A loop's recipe has them as tables, and a judge's sampler as one of its own."""
    from prefmill.loops.recipe import read_recipe

    score = {
        "kind": "judge",
        "sampler": {"url": "http://localhost/v1", "model": "m"},
        "criteria": [{"name": "right", "question": "Is it right?"}],
        "ask": "together",
    }
    tables = {
        "policy": {"model": "m"},
        "prompts": {"train": "p", "heldout_share": 0.5, "keep": ["gold"]},
        "score": score,
    }
    recipe = read_recipe(tables)
    assert recipe.prompts.keep == ("gold",)
    assert json.loads(recipe.as_text())["score"]["criteria"] == score["criteria"]
    with pytest.raises(Exception, match="ask is not one of"):
        read_recipe({**tables, "score": {**score, "ask": "all"}})


def test_a_run_goes_on(rubric: Path, tmp_path: Path) -> None:
    """What stopped in the middle asks only for the rows that are missing."""
    pool = pa.table({"prompt": [f"p{i}" for i in range(6)], "completion": ["good"] * 6})
    asked: list[str] = []

    def answer(path: str, body: Any, headers: dict[str, str]) -> serving.Said:
        if stops and len(asked) == 7:
            return 401, {}, {"error": {"message": "stop"}}
        asked.append(body["messages"][0]["content"])
        return 200, {}, serving.chat("4" if "Is it right?" in asked[-1] else "no")

    with serving.server(answer) as url:
        sampler = pm.EndpointSampler(url=url, model="m", concurrency=1)
        judge = pm.JudgeScorer(sampler=sampler, rubric=rubric)
        stops = True
        with pytest.raises(Exception, match="401"):
            pm.score(pool, tmp_path / "out.parquet", scorer=judge, chunk_rows=1)
        stops = False
        done = pm.score(pool, tmp_path / "out.parquet", scorer=judge, chunk_rows=1)
    assert done.chunks_resumed == 3
    assert len(asked) == 12 + 1, "the half of a row that was under way"
    out = pq.read_table(tmp_path / "out.parquet").to_pydict()
    assert out["score"] == [0.75] * 6
    assert out["score_right"] == [4.0] * 6
