"""A hint is right: following it never gives wrong data. And what a command says of what it did is
so.
"""

from __future__ import annotations

import shlex

import datasets
import numpy as np
import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
import prefmill.datasets
from prefmill.cli.main import app
from prefmill.errors import BadInput, ColumnMissing, MissingPackage, PlanError, RunDiffers
from prefmill.pools.prompts import open_prompts
from prefmill.training.rows import read_pairs


def command(*args: object):
    return CliRunner().invoke(app, [*map(str, args)])


ALPACA = {
    "instruction": ["Add.", "Add.", "Add.", "Add."],
    "input": ["1 2", "1 2", "3 4", ""],
    "output": ["3", "12", "7", "What?"],
    "score": [5, 1, 5, 1],
}


@pytest.mark.parametrize("extra", ["input", "context", "query"])
def test_parts_of_a_prompt_are_joined_and_none_is_proposed_alone(extra, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame(ALPACA).rename({"input": extra}).write_ndjson("rows.jsonl")
    done = command("pairs", "rows.jsonl", "-o", "pairs.jsonl")
    if extra != "input":  # that of Alpaca is read without a word
        assert isinstance(done.exception, ColumnMissing)
        assert "--prompt instruction " not in str(done.exception)
        line = str(done.exception).split("all of them: ")[1].split(" (prompt=")[0]
        assert line == f"--prompt instruction,{extra}"
        done = command("pairs", "rows.jsonl", "-o", "pairs.jsonl", *shlex.split(line))
    assert done.exit_code == 0, done.output
    assert pl.read_ndjson("pairs.jsonl").select("prompt", "chosen", "rejected").rows() == [
        ("Add.\n\n1 2", "3", "12")
    ]


def test_sampling_proposes_no_part_of_a_prompt(tmp_path):
    rows = pl.DataFrame(ALPACA).rename({"input": "context"})
    rows.write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ColumnMissing, match="--prompt instruction,context") as found:
        open_prompts(str(tmp_path / "rows.parquet"), None, tmp_path)
    assert "--prompt instruction " not in str(found.value)


@pytest.mark.parametrize("host", ["run", "frame", "dataset"])
def test_a_critique_is_no_score(host, tmp_path):
    rows = {
        "prompt": ["p", "p"],
        "response": ["a", "b"],
        "Feedback": ["Well put.", "No."],
        "rating": ["5", "1"],
    }
    frame = pl.DataFrame(rows)
    if host == "run":
        frame.write_csv(tmp_path / "rows.csv")
        pm.run(pm.Pairs(), tmp_path / "rows.csv", tmp_path / "out.parquet")
        made = pl.read_parquet(tmp_path / "out.parquet")
    elif host == "frame":
        made = pm.Pairs().lazy(frame).collect()
    else:
        made = pl.DataFrame(
            prefmill.datasets.apply(pm.Pairs(), datasets.Dataset(frame.to_arrow())).to_list()
        )
    assert made.rows() == [("p", "a", "b", 5.0, 1.0)]
    with pytest.raises(ColumnMissing, match="'Feedback' has its name and holds no numbers"):
        pm.Pairs().lazy(frame.drop("rating"))


@pytest.mark.parametrize(
    ("columns", "never", "says"),
    [
        (
            {"prompt": ["p"], "response_a": ["x"], "response_b": ["y"], "score": [1]},
            "did you mean",
            "--completion response_a,response_b --winner COLUMN",
        ),
        (
            {"question_id": [17], "answer": ["x"], "score": [1]},
            "question_id'?",
            "name the column: prompt=COLUMN",
        ),
        (
            {"question_id": ["17"], "answer": ["x"], "score": [1]},
            "question_id'?",
            "name the column: prompt=COLUMN",
        ),
        (
            {"prompt": ["p"], "responses": [["x", "y"]], "score": [1]},
            "responses'?",
            "name the column: completion=COLUMN",
        ),
        (
            {"prompt": ["p"], "answer": ["x"], "ratings": ["good"]},
            "ratings'?",
            "name the column: score=COLUMN",
        ),
        (
            {"prompt": ["p"], "answer": ["x"], "scor": ["4"]},
            "COLUMN",
            "did you mean score='scor'?",
        ),
    ],
)
def test_hints_name_columns_that_can_hold_the_role(columns, never, says, tmp_path):
    pl.DataFrame(columns).write_parquet(tmp_path / "rows.parquet")
    with pytest.raises(ColumnMissing) as found:
        pm.run(pm.Pairs(), tmp_path / "rows.parquet", None)
    assert says in found.value.hint
    assert never not in found.value.hint


@pytest.mark.parametrize("ending", ["jsonl", "csv", "parquet"])
def test_true_and_false_are_scores_in_every_file(ending, tmp_path):
    rows = pl.DataFrame(
        {
            "prompt": ["p", "p", "q", "q"],
            "completion": list("abcd"),
            "score": ["true", "False", "TRUE", "false"],
        }
    )
    path = tmp_path / f"rows.{ending}"
    {"jsonl": rows.write_ndjson, "csv": rows.write_csv, "parquet": rows.write_parquet}[ending](path)
    done = pm.run(pm.Pairs(), path, tmp_path / "out.parquet")
    assert done.dropped == {}
    assert pl.read_parquet(tmp_path / "out.parquet").select("chosen", "rejected").rows() == [
        ("a", "b"),
        ("c", "d"),
    ]


def test_one_text_among_booleans_makes_no_row_bad(tmp_path):
    lines = [
        '{"prompt":"p","completion":"a","score":true}',
        '{"prompt":"p","completion":"b","score":"false"}',
    ]
    (tmp_path / "rows.jsonl").write_text(
        "\n".join([*lines, '{"prompt":"p","completion":"c","score":true}']) + "\n"
    )
    done = pm.run(pm.Unpaired(), tmp_path / "rows.jsonl", tmp_path / "out.parquet")
    assert (done.dropped, done.labels) == ({}, {"true": 2, "false": 1})


def test_words_that_are_no_scores_are_shown(tmp_path):
    words = ["like", "dislike", "correct", "Successful", "like"]
    pl.DataFrame({"prompt": ["p"] * 5, "completion": list("abcde"), "score": words}).write_parquet(
        tmp_path / "rows.parquet"
    )
    done = command("pairs", tmp_path / "rows.parquet", "-o", tmp_path / "out.parquet")
    assert done.exit_code == 1
    assert "got 'like', 'dislike', 'correct', expected numbers, true or false" in done.stderr
    assert pm.run(pm.Pairs(), tmp_path / "rows.parquet", None).bad_scores == (
        "'like'",
        "'dislike'",
        "'correct'",
    )
    raised = command(
        "pairs", tmp_path / "rows.parquet", "-o", tmp_path / "x.parquet", "--on-invalid", "raise"
    )
    assert "row 0 cannot be used; got bad_score 'like'" in str(raised.exception)


@pytest.mark.parametrize(
    ("scores", "options", "says"),
    [
        ([0.1, 0.9], [], "largest score seen 0.9"),
        ([3, 3], [], "no prompt has two answers with different scores"),
        (
            [5, 1],
            ["--chosen-min", "9", "--rejected-below", "2"],
            "the plan makes no pair, and 1 prompt has",
        ),
        ([5, "n/a"], [], "1 of 2 rows cannot be used (bad_score: got 'n/a'"),
    ],
)
def test_check_says_why_its_exit_code_is_1(scores, options, says, tmp_path):
    frame = pl.DataFrame(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [str(s) for s in scores]}
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    done = command("check", tmp_path / "rows.parquet", *options)
    assert done.exit_code == 1
    assert "not ok: " in done.stderr
    assert says in done.stderr


def test_check_previews_the_pairs_of_a_plan(tmp_path):
    frame = pl.DataFrame({"prompt": ["p"] * 3, "completion": list("abc"), "score": [5, 3, 1]})
    frame.write_parquet(tmp_path / "rows.parquet")
    options = ["--strategy", "all", "--no-thresholds"]
    done = command("check", tmp_path / "rows.parquet", *options)
    assert done.exit_code == 0
    assert "3 pairs from 1 prompt (no thresholds)" in done.stderr
    made = command("pairs", tmp_path / "rows.parquet", "-o", tmp_path / "out.parquet", *options)
    assert "3 pairs from 1 of 1 prompt" in made.stderr


def test_check_does_not_print_200_columns(tmp_path):
    wide = {f"column_{i}": [0, 0] for i in range(200)}
    pl.DataFrame(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1], **wide}
    ).write_parquet(tmp_path / "rows.parquet")
    done = command("check", tmp_path / "rows.parquet")
    assert "column_11, and 188 more (--json names all)" in done.stderr
    assert max(map(len, done.stderr.splitlines())) < 250


def test_a_nested_tree_is_refused():
    replies = [[{"id": 2, "text": "b"}], []]
    tree = pl.DataFrame(
        {"id": [1, 3], "parent_id": [None, None], "reward": [1, 0], "replies": replies},
        schema_overrides={"parent_id": pl.Int64},
    )
    with pytest.raises(BadInput, match="'replies' holds lists of records"):
        pm.values(tree)
    with pytest.raises(BadInput, match="'replies' holds lists of records"):
        pm.step_values(tree, success="reward")
    flat = tree.drop("replies")
    assert pm.values(flat)["v"].to_list() == [0.0, 0.0]


def test_words_for_success_are_refused():
    tree = pl.DataFrame(
        {"id": [1, 2, 3], "parent_id": [None, 1, 1], "success": [None, "solved", "failed"]}
    )
    with pytest.raises(BadInput, match="got 'solved' at 2"):
        pm.step_values(tree)
    assert pm.step_values(tree.with_columns(success=pl.col("success") == "solved"))[
        "value"
    ].to_list() == [0.5, 1.0, 0.0]


@pytest.mark.parametrize(
    "args",
    [
        [
            "score",
            "pool.parquet",
            "-o",
            "x.parquet",
            "--model",
            "m",
            "--pooling",
            "hf",
            "--pooling",
            "last",
        ],
        ["pairs", "rows.parquet", "-o", "x.parquet", "--score", "a", "--score", "b"],
        ["sample", "rows.parquet", "-o", "a.parquet", "-o", "b.parquet"],
    ],
)
def test_an_option_of_one_value_is_given_once(args):
    done = command(*args)
    assert "given 2 times, takes one value" in str(done.exception)


def test_the_roles_line_says_the_weighted_sum(tmp_path):
    frame = pl.DataFrame(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "helpful": [5, 1], "honest": [5, 2]}
    )
    frame.write_parquet(tmp_path / "rows.parquet")
    done = command(
        "pairs",
        tmp_path / "rows.parquet",
        "-o",
        tmp_path / "out.parquet",
        "--weights",
        "helpful=0.5,honest=0.5",
    )
    assert "score=0.5 * helpful + 0.5 * honest" in done.stderr


@pytest.mark.parametrize(
    ("given", "meant"),
    [("best-worst", "best_worst"), ("Best_Rest", "best_rest"), ("adjacents", "adjacent")],
)
def test_a_strategy_has_a_nearest_name(given, meant):
    with pytest.raises(PlanError, match=f"did you mean '{meant}'"):
        pm.Pairs(strategy=given)


def test_sql_writes_to_stdout_arrow_and_new_folders(tmp_path):
    assert command("sql", "SELECT 1 AS a", "-o", "-").stdout == '{"a":1}\n'
    target = tmp_path / "new" / "rows.arrow"
    assert command("sql", "SELECT 1 AS a UNION ALL SELECT 2", "-o", target).exit_code == 0
    assert pl.read_ipc(target)["a"].to_list() == [1, 2]


def test_sql_proposes_no_system_table(tmp_path):
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "scored.parquet")
    nothing = command("sql", "FROM nosuch")
    assert "pg_" not in str(nothing.exception)
    assert "NAME=FILE" in str(nothing.exception)
    near = command("sql", "FROM score", tmp_path / "scored.parquet")
    assert 'did you mean "scored"' in str(near.exception)


def test_a_url_without_a_network_says_so():
    done = command("check", "https://nosuch.invalid/rows.parquet")
    assert isinstance(done.exception, BadInput)
    assert "cannot be read" in str(done.exception)
    assert str(done.exception).count("\n") <= 1


def test_a_missing_package_is_installed_from_a_checkout_or_a_wheel():
    assert (
        MissingPackage.for_extra("score", "torch", "score").hint
        == "in a checkout of prefmill: pip install '.[score]'; with a wheel:"
        " pip install 'FILE.whl[score]'"
    )


def test_training_on_a_dictionary_of_splits_is_refused():
    rows = {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}
    both = datasets.DatasetDict(
        {name: datasets.Dataset.from_dict(rows) for name in ("test", "train")}
    )
    with pytest.raises(Exception, match=r"expected one of them") as found:
        read_pairs(both, where="train")
    assert "dataset['train']" in str(found.value)
    assert read_pairs(both["train"], where="train").rows_in == 1


def test_a_pool_with_nothing_in_common_is_told_of_the_cache(tmp_path):
    def length(batch):
        return np.array([float(len(text)) for text in batch["completion"].to_pylist()])

    output = tmp_path / "scored.parquet"
    pm.score(pl.DataFrame({"prompt": ["p"], "completion": ["a"]}), output, scorer=length)
    with pytest.raises(RunDiffers, match=r"nothing of this input stands there.*--cache FOLDER"):
        pm.score(pl.DataFrame({"prompt": ["q"], "completion": ["a"]}), output, scorer=length)


def test_progress_names_what_is_left(monkeypatch):
    import io
    import sys

    from rich.console import Console

    from prefmill.cli import show

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    out = Terminal()
    monkeypatch.setattr(sys, "stderr", out)
    monkeypatch.setattr(show, "console", lambda: Console(file=out, force_terminal=True, width=120))
    with show.progress(quiet=False) as tell:
        tell("reading", 0.5)
    text = out.getvalue()
    assert text.index("so far,") < text.rindex("left")


def test_columns_of_odd_names_are_named_in_one_line(tmp_path):
    """A newcomer needs one more try, not three."""
    path = tmp_path / "tickets.csv"
    path.write_text("Ticket,Customer question,Bot said,Stars given\n1,p,a,5\n2,p,b,1\n")
    hint = command("pairs", path, "-o", tmp_path / "pairs.jsonl").exception.hint
    assert hint == (
        "did you mean prompt='Customer question'? prompt, completion, score are all to be named:"
        " --prompt 'Customer question' --completion COLUMN --score 'Stars given'"
    )
    words = shlex.split(hint.partition("named: ")[2].replace("COLUMN", "'Bot said'"))
    assert command("pairs", path, "-o", tmp_path / "pairs.jsonl", *words).exit_code == 0
