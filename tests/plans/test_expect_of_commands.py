"""What is expected of score, sample, votes and values: held, broken, done before, and misspelt."""

from __future__ import annotations

import json
from typing import ClassVar

import polars as pl
import pytest
from command import prefmill

import prefmill as pm
from prefmill.errors import BadArgument, ExpectationFailed, PlanError
from prefmill.plans.bounds import ANY, OF, SCORE
from prefmill.plans.expect import expect_in
from prefmill.sampling import Answer

ROWS = {
    "prompt": ["p", "p", "q", "q"],
    "completion": ["a", "b", "a", None],
    "score": [5.0, 1.0, None, 2.0],
    "source": ["web", "web", "app", "web"],
}
NODES = {"id": [1, 2, 3], "parent_id": [None, 1, 1], "reward": [0, 1, 3], "source": ["a", "a", "b"]}


class Counting:
    """A scorer by length that says how often it was asked; the text `b` has no score."""

    def __init__(self):
        self.rows = 0

    def __call__(self, batch):
        texts = batch["completion"].to_pylist()
        self.rows += len(texts)
        return [None if text == "b" else len(text) for text in texts]


class Terse:
    """A sampler that answers `q` with nothing, and says how often it was asked."""

    fingerprint: ClassVar = {"sampler": "terse"}

    def __init__(self):
        self.asked = 0

    def sample(self, requests):
        self.asked += len(requests)
        return [
            Answer("" if request.prompt == "q" else "yes", "stop", None, None)
            for request in requests
        ]


def scored(target, expect, part=None, **more):
    part = part or Counting()
    return pm.score(
        pl.DataFrame(ROWS), target, scorer=part, on_bad_row="null", score_column="s",
        expect=expect, **more,
    )  # fmt: skip


def sampled(target, expect, part=None, **more):
    part = part or Terse()
    return pm.sample(pl.DataFrame(ROWS), target, sampler=part, n=2, expect=expect, **more)


def voted(target, expect, **more):
    return pm.votes(pl.DataFrame(ROWS), target, expect=expect, **more)


def valued(target, expect, **more):
    return pm.run(pm.Values(expect=expect), pl.DataFrame(NODES), target, **more)


#: A command, what just holds, what just fails, and the figure.
BOUNDS = [
    (scored, {"min_rows": 2}, {"min_rows": 3}, 2),
    (scored, {"max_dropped": 0.5}, {"max_dropped": 0.4}, 0.5),
    (
        scored,
        {"max_dropped": {"null_completion": 0.25}},
        {"max_dropped": {"null_completion": 0.2}},
        0.25,
    ),
    (scored, {"max_dropped": {"not_finite": 0.25}}, {"max_dropped": {"not_finite": 0}}, 0.25),
    (sampled, {"min_rows": 2}, {"min_rows": 3}, 2),
    (sampled, {"min_prompts": 2}, {"min_prompts": 3}, 2),
    (sampled, {"max_dropped": {"empty": 0.5}}, {"max_dropped": {"empty": 0.4}}, 0.5),
    (sampled, {"max_dropped": {"refused": 0}}, {"max_dropped": 0.1}, 0.5),
    (voted, {"min_rows": 2}, {"min_rows": 3}, 2),
    (voted, {"min_prompts": 1}, {"min_prompts": 2}, 1),
    (voted, {"max_dropped": {"null_score": 0.25}}, {"max_dropped": {"null_score": 0.2}}, 0.25),
    (voted, {"sources": ["web", "app"]}, {"sources": ["web"]}, ["app"]),
    (valued, {"min_rows": 3}, {"min_rows": 4}, 3),
    (valued, {"sources": ["a", "b"]}, {"sources": ["b"]}, ["a"]),
]


@pytest.mark.parametrize(("run", "holds", "fails", "figure"), BOUNDS)
def test_a_run_that_breaks_it_publishes_nothing(run, holds, fails, figure, tmp_path):
    target = tmp_path / "out.parquet"
    target.write_bytes(b"what stood there")
    with pytest.raises(ExpectationFailed) as raised:
        run(target, pm.Expect(**fails), overwrite=True)
    (broken,) = raised.value.broken
    assert broken.got == figure
    assert raised.value.exit_code == 1
    assert f"{broken}." in raised.value.message
    assert target.read_bytes() == b"what stood there"
    report = run(target, pm.Expect(**holds), overwrite=True)
    assert [each["holds"] for each in report.as_json()["expected"]] == [True]
    assert pl.read_parquet(target).height > 1
    # The same call again is compared with what is expected now.
    again = run(target, pm.Expect(**holds))
    assert [each["holds"] for each in again.expected] == [True]
    with pytest.raises(ExpectationFailed):
        run(target, pm.Expect(**fails))


@pytest.mark.parametrize("run", [voted, valued])
def test_a_report_alone_refuses_nothing(run):
    (told,) = run(None, {"min_rows": 9}).expected
    assert (told["name"], told["holds"]) == ("min_rows", False)


def test_an_empty_output_breaks_what_asks_for_rows(tmp_path):
    rows = pl.DataFrame({"prompt": ["p"], "completion": ["a"], "score": [None]})
    with pytest.raises(ExpectationFailed, match="votes: min_rows: got 0"):
        pm.votes(rows.cast({"score": pl.Float64}), tmp_path / "out.csv", expect={"min_rows": 1})


@pytest.mark.parametrize(("run", "part"), [(scored, Counting), (sampled, Terse)])
@pytest.mark.parametrize("stood", [None, b"what stood there"])
def test_another_contract_goes_on_from_what_was_done(run, part, stood, tmp_path):
    target = tmp_path / "out.parquet"
    if stood:
        target.write_bytes(stood)
    first, second = part(), part()
    with pytest.raises(ExpectationFailed, match="without --overwrite"):
        run(target, {"min_rows": 3}, first, overwrite=bool(stood))
    assert target.exists() is bool(stood)
    report = run(target, {"min_rows": 2}, second)
    assert report.chunks_resumed == report.chunks == 1
    assert [getattr(each, "rows", getattr(each, "asked", 0)) for each in (first, second)][1] == 0
    assert pl.read_parquet(target).height == 4


def test_what_was_held_back_replaces_no_strangers_file(tmp_path):
    target = tmp_path / "out.parquet"
    with pytest.raises(ExpectationFailed):
        scored(target, {"min_rows": 3})
    target.write_bytes(b"a stranger's")
    with pytest.raises(pm.errors.TargetExists):
        scored(target, None)
    assert target.read_bytes() == b"a stranger's"


@pytest.mark.parametrize(
    ("run", "expect", "told"),
    [
        (scored, {"min_true": 0.5}, "min_true is not of score"),
        (scored, {"max_dropped": {"toolong": 0.1}}, "did you mean 'too_long'?"),
        (scored, {"max_dropped": {"tie": 0.1}}, "'tie' is not of a known reason of score"),
        (sampled, {"max_dropped": {"emty": 0.1}}, "did you mean 'empty'?"),
        (voted, {"max_true": 0.5}, "max_true is not of votes"),
        (valued, {"max_dropped": 0.5}, "'all' is not of a known reason of values"),
    ],
)
def test_words_of_another_command_are_refused(run, expect, told, tmp_path):
    with pytest.raises(PlanError) as raised:
        run(tmp_path / "out.parquet", expect)
    assert told in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_reasons_of_scoring_are_none_of_a_plan():
    with pytest.raises(PlanError, match="'too_long' is not of a known reason of a plan"):
        pm.Pairs(expect={"max_dropped": {"too_long": 0.1}})
    with pytest.raises(BadArgument, match="did you mean min_rows="):
        expect_in(["min_row=3"], SCORE)


def test_any_knows_every_word_and_reason():
    for bounds in OF.values():
        assert set(bounds.words) <= set(ANY.words)
        assert set(bounds.reasons) <= set(ANY.reasons)


def test_the_plan_of_values_goes_round_and_keeps_its_hash():
    plan = pm.Values(gamma=0.5, expect=pm.Expect(min_rows=2))
    assert pm.Values.from_toml(plan.to_toml()) == plan
    assert plan.hash() == pm.Values(gamma=0.5).hash()


@pytest.mark.parametrize("command", ["votes", "values"])
def test_the_command_says_figures_and_ends_with_1(command, tmp_path):
    source, target = tmp_path / "rows.parquet", tmp_path / "out.parquet"
    pl.DataFrame(NODES if command == "values" else ROWS).write_parquet(source)
    asked = [command, str(source), "-o", str(target), "--expect"]
    done = prefmill(*asked, "min_rows=9")
    assert done.returncode == 1
    assert f"{command}: min_rows: got {3 if command == 'values' else 2}, expected >= 9." in (
        done.stderr
    )
    assert not target.exists()
    done = prefmill(*asked, "min_rows=2", "--json")
    assert done.returncode == 0, done.stderr
    assert [each["holds"] for each in json.loads(done.stdout)["expected"]] == [True]
    assert "holds: min_rows: got" in done.stderr
    done = prefmill(*asked, "min_row=2")
    assert done.returncode == 2
    assert "did you mean min_rows=...?" in done.stderr


def test_the_command_scores_once_for_two_contracts(tmp_path):
    source, target = tmp_path / "pool.jsonl", tmp_path / "scored.jsonl"
    rows = [{"prompt": "p", "completion": each, "answer": "a"} for each in ("a", None, "b")]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["score", source, "-o", target, "--scorer", "verify", "--on-bad-row", "null"]
    done = prefmill(*command, "--expect", "max_dropped.null_completion=0.2")
    assert done.returncode == 1
    assert "score: max_dropped.null_completion: got 0.3333, expected <= 0.2." in done.stderr
    assert "without --overwrite" in done.stderr
    assert not target.exists()
    done = prefmill(*command, "--expect", "max_dropped.null_completion=0.4", "--json")
    assert done.returncode == 0, done.stderr
    assert "holds: max_dropped.null_completion: got 0.3333, expected <= 0.4" in done.stderr
    report = json.loads(done.stdout)
    assert (report["rows_scored"], report["chunks_resumed"]) == (2, 1)
    done = prefmill(*command, "--expect", "max_dropped.null_completio=0.4")
    assert done.returncode == 2
    assert "did you mean 'null_completion'?" in done.stderr
