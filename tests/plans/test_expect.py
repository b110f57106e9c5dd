"""What a plan expects of a run: its figures and words; a run that breaks it publishes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path

import polars as pl
import pytest
from command import prefmill

import prefmill as pm
from prefmill.errors import BadArgument, ColumnMissing, ExpectationFailed, PlanError, RunDiffers
from prefmill.plans import read_plan
from prefmill.plans.bounds import REASONS
from prefmill.plans.expect import expect_in
from prefmill.runs.looks.check import check

SEMANTICS = Path(__file__).parents[2] / "docs" / "semantics.md"
#: 4 prompts: two pairs, one tie, one alone; and a row without a score.
ROWS = [
    ("p", "a", 5.0, "web"),
    ("p", "b", 1.0, "web"),
    ("q", "a", 5.0, "app"),
    ("q", "b", 2.0, "web"),
    ("r", "a", 3.0, "app"),
    ("r", "b", 3.0, "app"),
    ("s", "a", 4.0, None),
    ("s", "b", None, "web"),
]
#: Each with an expectation that just holds, one that just fails, and the figure.
BOUNDS = [
    ({"min_rows": 2}, {"min_rows": 3}, 2),
    ({"min_prompts": 2}, {"min_prompts": 3}, 2),
    ({"max_dropped": 0.5}, {"max_dropped": 0.49}, 0.5),
    ({"max_dropped": {"tie": 0.25}}, {"max_dropped": {"tie": 0.24}}, 0.25),
    ({"max_dropped": {"null_score": 0.125}}, {"max_dropped": {"null_score": 0.12}}, 0.125),
    ({"sources": ["app", "null", "web"]}, {"sources": ["app", "web"]}, ["null"]),
]


@pytest.fixture
def feedback(tmp_path):
    path = tmp_path / "feedback.parquet"
    columns = ["prompt", "completion", "score", "source"]
    pl.DataFrame(ROWS, schema=columns, orient="row").write_parquet(path)
    return path


@pytest.mark.parametrize("by", ["duckdb", "polars"])
@pytest.mark.parametrize(("holds", "fails", "figure"), BOUNDS)
def test_a_run_that_breaks_it_publishes_nothing(holds, fails, figure, by, feedback, tmp_path):
    target = tmp_path / "pairs.parquet"
    target.write_bytes(b"what stood there")
    plan = pm.Pairs(expect=pm.Expect(**fails))
    with pytest.raises(ExpectationFailed) as raised:
        pm.run(plan, feedback, target, engine=by, overwrite=True)
    (broken,) = raised.value.broken
    assert broken.got == figure
    assert str(broken) in str(raised.value)
    assert target.read_bytes() == b"what stood there"
    assert sorted(tmp_path.iterdir()) == [feedback, target]
    plan = pm.Pairs(expect=pm.Expect(**holds))
    report = pm.run(plan, feedback, target, engine=by, overwrite=True)
    assert [each["holds"] for each in report.expected] == [True]
    assert pl.read_parquet(target).height == 2


def test_every_broken_one_is_told_at_once(feedback, tmp_path):
    expect = pm.Expect(min_rows=9, min_prompts=1, max_dropped={"tie": 0.1})
    with pytest.raises(ExpectationFailed) as raised:
        pm.run(pm.Pairs(expect=expect), feedback, tmp_path / "out.parquet")
    assert raised.value.exit_code == 1
    assert raised.value.message.splitlines() == [
        "run: min_rows: got 2, expected >= 9.",
        "run: max_dropped.tie: got 0.25, expected <= 0.1.",
    ]
    assert [each.name for each in raised.value.held] == ["min_prompts"]


def test_pairs_of_one_text_count_though_they_are_found_last(tmp_path):
    rows = {"prompt": ["p", "p"], "completion": ["a", "a"], "score": [5, 1]}
    plan = pm.Pairs(expect=pm.Expect(max_dropped={"identical_text": 0}))
    with pytest.raises(ExpectationFailed, match=r"identical_text: got 1, expected <= 0\."):
        pm.run(plan, pl.DataFrame(rows), tmp_path / "out.parquet")


def test_an_empty_output_breaks_what_asks_for_rows(tmp_path):
    rows = {"prompt": ["p"], "completion": ["a"], "score": [5]}
    plan = pm.Pairs(expect=pm.Expect(min_rows=1))
    for allow_empty in (False, True):
        with pytest.raises(ExpectationFailed, match="min_rows: got 0"):
            pm.run(plan, pl.DataFrame(rows), tmp_path / "out.csv", allow_empty=allow_empty)


@pytest.mark.parametrize(
    ("bounds", "holds"),
    [({"min_true": 0.6}, True), ({"min_true": 0.7}, False), ({"max_true": 0.6}, False)],
)
def test_labels_are_balanced(bounds, holds, tmp_path):
    rows = {"prompt": ["p"] * 3, "completion": ["a", "b", "c"], "score": [5, 5, 1]}
    plan = pm.Unpaired(expect=pm.Expect(**bounds))
    report = pm.run(plan, pl.DataFrame(rows), None)  # only reports, so it refuses nothing
    (told,) = report.expected
    assert told["holds"] is holds
    assert told["got"] == pytest.approx(2 / 3)


def test_what_has_no_labels_has_no_balance(feedback):
    plan = pm.Pairs(expect=pm.Expect(min_true=0))
    (told,) = pm.run(plan, feedback, None).expected
    assert (told["holds"], told["got"]) == (False, None)


def test_malformed_rows_and_records_count(tmp_path):
    lines = [json.dumps({"prompt": "p", "chosen": "a", "rejected": "b"}), "no json", "{}"]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(lines))
    expect = pm.Expect(max_dropped={"malformed": 0.1, "records": 0.1})
    words = {"each": None, "completion": "chosen,rejected", "score": "1,0"}
    report = pm.run(
        pm.Pairs(expect=expect),
        source,
        None,
        rejects=tmp_path / "bad.jsonl",
        roles={name: word for name, word in words.items() if word},
    )
    assert report.rows_rejected == 1
    assert {each["name"]: each["holds"] for each in report.expected}[
        "max_dropped.malformed"
    ] is False


def test_it_decides_no_row_and_no_hash():
    plan = pm.Pairs(seed=3, expect=pm.Expect(min_rows=5))
    assert plan.hash() == pm.Pairs(seed=3).hash()
    assert plan != pm.Pairs(seed=3)


@pytest.mark.parametrize(
    "expect",
    [
        pm.Expect(min_rows=1),
        pm.Expect(max_dropped=0.5, sources=["a", "b"]),
        pm.Expect(max_dropped={"tie": 0.5, "all": 1}, min_true=0.2, max_true=0.8),
    ],
)
def test_it_goes_round_through_toml(expect):
    plan = pm.Unpaired(expect=expect)
    assert read_plan(plan.to_toml()) == plan
    hash(plan)


def test_problems_are_told_at_once():
    with pytest.raises(PlanError) as raised:
        pm.Expect(min_rows=-1, max_dropped={"ties": 0.5, "tie": 2}, min_true=0.9, max_true=0.1)
    assert len(raised.value.problems) == 4
    assert "did you mean 'tie'?" in str(raised.value)
    with pytest.raises(PlanError, match="sources must be a list of names"):
        pm.Expect(sources=[])


@pytest.mark.parametrize("text", ["rows=3", "min_rows", "min_rows=many", "min_rows.tie=3"])
def test_words_of_the_command_are_checked(text):
    with pytest.raises(BadArgument, match=re.escape(f"--expect: got {text!r}")):
        expect_in([text])


def test_every_reason_of_the_manual_can_be_bounded():
    """The list of reasons is closed, so that no misspelt one lets everything through."""
    text = SEMANTICS.read_text("utf-8")
    start, end = text.index("## Which rows count"), text.index("## Best of K")
    named = set(re.findall(r"`([a-z]+(?:_[a-z]+)+|tie|excluded)`", text[start:end]))
    assert set(REASONS) - {"below_min_score", "no_weight"} <= named
    for reason in ("below_min_score", "no_weight"):
        assert f"`{reason}`" in text


def test_sources_need_their_column(tmp_path):
    rows = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}
    plan = pm.Pairs(expect=pm.Expect(sources=["web"]))
    with pytest.raises(ColumnMissing, match="no column is 'source'"):
        pm.run(plan, pl.DataFrame(rows), tmp_path / "out.parquet")


def test_check_tells_what_holds_and_what_does_not(feedback):
    expect = pm.Expect(min_rows=2, max_dropped=0.1, sources=["web", "app", "null"])
    found = check(feedback, plan=pm.Pairs(expect=expect))
    assert "max_dropped.all: got 0.5, expected <= 0.1." in found.problems
    held = [text for name, text in found.lines() if name == "holds"]
    assert held[0] == "min_rows: got 2, expected >= 2"
    assert held[1].startswith("sources: got no new one")


def test_the_command_says_figures_and_ends_with_1(feedback, tmp_path):
    plan = tmp_path / "plan.toml"
    plan.write_text("[pairs]\n[expect]\nmin_rows = 9\nmax_dropped = { tie = 0.5 }\n")
    target = tmp_path / "pairs.parquet"
    command = ["pairs", str(feedback), "-o", str(target), "--plan", str(plan)]
    done = prefmill(*command)
    assert done.returncode == 1
    assert "min_rows: got 2, expected >= 9." in done.stderr
    assert not target.exists()
    # An option lies over the plan's word, and leaves the others.
    done = prefmill(*command, "--expect", "min_rows=1", "--json")
    assert done.returncode == 0, done.stderr
    told = {each["name"]: each["holds"] for each in json.loads(done.stdout)["expected"]}
    assert told == {"min_rows": True, "max_dropped.tie": True}
    assert "holds: min_rows: got 2, expected >= 1" in done.stderr


@pytest.mark.parametrize("more", [{}, {"incremental": True}])
def test_a_run_that_was_done_is_compared_with_what_is_expected_now(more, feedback, tmp_path):
    target = tmp_path / "pairs.parquet"
    pm.run(pm.Pairs(expect=pm.Expect(min_rows=1)), feedback, target, **more)
    again = pm.run(pm.Pairs(expect=pm.Expect(min_rows=2)), feedback, target, **more)
    assert "nothing was to do" in again.notes[-1]
    assert [each["holds"] for each in again.expected] == [True]
    with pytest.raises(ExpectationFailed, match="got 2"):
        pm.run(pm.Pairs(expect=pm.Expect(min_rows=3)), feedback, target, **more)
    assert pl.read_parquet(target).height == 2


def test_another_output_for_sources_that_were_not_counted_says_why(tmp_path):
    table = pl.DataFrame(ROWS, schema=["prompt", "completion", "score", "source"], orient="row")
    pm.run(pm.Pairs(), table, tmp_path / "out.parquet")
    asked = pm.Pairs(expect=pm.Expect(sources=["app", "web", "null"]))
    with pytest.raises(RunDiffers, match="counted, as for --expect sources"):
        pm.run(asked, table, tmp_path / "out.parquet")


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"expect": {"min_rows": 100}}, r"a field of the plan: Pairs\(expect=\.\.\.\)"),
        ({"overwrit": True}, "did you mean 'overwrite'"),
        ({"zzz": 1}, r"help\(prefmill\.run\)"),
    ],
)
def test_an_argument_that_no_run_has_is_refused(options, hint, feedback, tmp_path):
    with pytest.raises(BadArgument, match=rf"(?s)no argument '{next(iter(options))}'.*{hint}"):
        pm.run(pm.Pairs(), feedback, tmp_path / "out.parquet", **options)
    assert not (tmp_path / "out.parquet").exists()
