"""`Values` over files: a plan like the others, with the rows that the function in memory gives."""

from __future__ import annotations

import inspect
import json
from pathlib import Path

import polars as pl
import pytest
from command import prefmill
from processes import process

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ColumnMissing, RunDiffers
from prefmill.runs import plan as runs
from prefmill.runs import run as feedback
from prefmill.runs import values as valued
from prefmill.runs.cluster.where import Looking
from prefmill.runs.job.opening import Reading

TREE = pl.DataFrame({"id": [3, 1, 2, 4], "parent_id": [1, None, 1, 2], "reward": [3, 0, 1, 4]})


def test_a_run_writes_what_the_function_gives_and_reports(tmp_path):
    frame = process(1, 40).rename({"state": "s"})
    frame.write_parquet(tmp_path / "steps.parquet")
    plan, out = pm.Values(gamma=0.9), tmp_path / "values.parquet"
    phases = []
    report = pm.run(
        plan,
        tmp_path / "steps.parquet",
        out,
        roles={"state": "s"},
        progress=lambda phase, share: phases.append(phase),
    )
    wanted = pm.values(frame, plan, state="s")
    assert pl.read_parquet(out).equals(wanted)
    assert "working out values" in phases
    assert report.rows_in == frame.height
    assert (report.rows_out, report.states, report.tree) == (120, 40, False)
    assert (report.output, report.plan_hash) == (str(out), plan.hash())
    assert report.columns["state"] == "s"
    assert json.loads(json.dumps(report.as_json()))["rows_out"] == 120
    assert "<td>states</td><td>40</td>" in report._repr_html_()


def test_rows_come_in_order_however_many_they_are(tmp_path, monkeypatch):
    """Frames cut states in two, and no state is counted twice."""
    monkeypatch.setattr(valued, "_FRAME_ROWS", 2048)
    states = pl.DataFrame({"state": range(5000)}).sample(fraction=1, shuffle=True, seed=1)
    actions = pl.DataFrame({"action": ["a", "b", "c"]})
    steps = states.join(actions, how="cross").with_columns(
        next_state=pl.col("state") + 7, reward=pl.col("state") % 5
    )
    report = pm.run(pm.Values(gamma=0.5), steps, tmp_path / "values.parquet", threads=4)
    assert pl.read_parquet(tmp_path / "values.parquet").equals(
        pm.values(steps, pm.Values(gamma=0.5))
    )
    assert (report.rows_out, report.states) == (15_000, 5000)


def test_a_tree_from_csv_with_a_malformed_row(tmp_path):
    text = "id,parent_id,reward\n1,,0\n2,1,1\n2,1,1,9\n3,1,3\n"
    (tmp_path / "tree.csv").write_text(text)
    rejects, out = tmp_path / "rejects.jsonl", tmp_path / "values.jsonl"
    report = pm.run(pm.Values(), tmp_path / "tree.csv", out, rejects=rejects)
    assert (report.rows_in, report.rows_rejected, report.rows_out) == (3, 1, 3)
    assert report.tree
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(row["id"], row["parent_id"], row["q"]) for row in rows] == [
        ("1", None, 2),
        ("2", "1", 1),
        ("3", "1", 3),
    ]


def test_types_of_keys_stay_and_numbers_are_read_from_json(tmp_path):
    lines = [
        {"state": 1, "action": "a", "next_state": None, "reward": True},
        {"state": 2, "action": "a", "next_state": None, "reward": "2.5"},
    ]
    (tmp_path / "steps.jsonl").write_text("\n".join(map(json.dumps, lines)))
    pm.run(pm.Values(), tmp_path / "steps.jsonl", tmp_path / "values.parquet")
    rows = pl.read_parquet(tmp_path / "values.parquet")
    assert rows.schema["state"] == pl.Int64
    assert rows.select("state", "q").rows() == [(1, 1.0), (2, 2.5)]
    narrow = TREE.cast({"parent_id": pl.Int16})
    pm.run(pm.Values(), narrow, tmp_path / "tree.parquet")
    assert pl.read_parquet(tmp_path / "tree.parquet").equals(pm.values(narrow))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (TREE.cast({"parent_id": pl.String}), BadArgument, "got types String and Int64"),
        (
            TREE.with_columns(id=1, parent_id=pl.lit(None, pl.Int64)),
            BadInput,
            "^tree_values: the id 1 is there 4 times",
        ),
        (TREE.drop("id"), ColumnMissing, "no column 'id'"),
        (
            pl.DataFrame(
                {"id": [1], "parent_id": [None], "replies": [[{"id": 2}]]},
                schema_overrides={"parent_id": pl.Int64},
            ),
            BadInput,
            "'replies' holds lists of records",
        ),
        (
            pl.DataFrame({"state": ["a"], "action": ["x"], "next_state": [1]}),
            BadArgument,
            "next_state and state are compared; got types Int64 and String",
        ),
    ],
)
def test_what_is_refused_is_refused_alike_and_leaves_nothing(tmp_path, data, error, words):
    with pytest.raises(error, match=words):
        pm.values(data)
    with pytest.raises(error, match=words):
        pm.run(pm.Values(), data, tmp_path / "values.parquet")
    assert not list(tmp_path.iterdir())


def test_targets(tmp_path):
    out = tmp_path / "values.parquet"
    report = pm.run(pm.Values(), TREE, None)
    assert (report.rows_out, report.output) == (4, None)
    empty = TREE.clear()
    assert pm.run(pm.Values(), empty, out).output is None
    assert not out.exists()
    pm.run(pm.Values(), empty, out, allow_empty=True)
    assert pl.read_parquet(out).equals(pm.values(empty))
    with pytest.raises(RunDiffers, match=r"values: .* another input 'a table in memory'"):
        pm.run(pm.Values(), TREE, out)
    pm.run(pm.Values(), TREE, out, overwrite=True)
    assert pl.read_parquet(out).equals(pm.values(TREE))


@pytest.mark.parametrize(
    ("options", "module", "more"),
    [(runs.FeedbackRunning, feedback, Looking), (runs.ValuesRunning, valued, Reading)],
)
def test_the_options_of_a_run_are_those_of_its_runner(options, module, more):
    parameters = inspect.signature(module.run).parameters.values()
    named = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
    of_tables = {"mode", "run_key"}  # which never reach the runner
    assert set(options.__annotations__) == named | set(more.__annotations__) | of_tables


def test_the_command_reports(tmp_path):
    TREE.write_parquet(tmp_path / "tree.parquet")
    out = Path(tmp_path, "values.parquet")
    limits = ["--threads", "1", "--memory-limit", "600MB"]
    done = prefmill("values", tmp_path / "tree.parquet", "-o", out, "--json", *limits)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["states"] == 4
    assert "values of 4 nodes of a tree" in done.stderr
    assert pl.read_parquet(out).equals(pm.values(TREE))
    TREE.clear().write_parquet(tmp_path / "none.parquet")
    done = prefmill("values", tmp_path / "none.parquet", "-o", "-")
    assert done.returncode == 1
    assert "no values came out" in done.stderr
