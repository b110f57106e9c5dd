"""`prefmill steps`: of records and of trees, what it says, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import typer

from prefmill.cli.main import app
from prefmill.errors import BadArgument, BadInput, PlanError

SOLUTIONS = [
    {"question": "q", "steps": ["a", "b", "c"], "rating": [1, 0, 1]},
    {"question": "r", "steps": [], "rating": []},
    {"question": None, "steps": ["d"], "rating": [1]},
    {"question": "s", "steps": ["e"], "rating": [None]},
]
TREE = [
    {"id": 1, "parent_id": None, "text": "q", "success": None},
    {"id": 2, "parent_id": 1, "text": "a", "success": None},
    {"id": 3, "parent_id": 1, "text": "b", "success": 0},
    {"id": 4, "parent_id": 2, "text": "c", "success": 1},
    {"id": 5, "parent_id": 2, "text": "d", "success": 0},
]


def write(path: Path, records: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return str(path)


def steps(*arguments: str) -> Any:
    return typer.main.get_command(app).main(["steps", *arguments], standalone_mode=False)


@pytest.fixture
def solutions(tmp_path):
    return write(tmp_path / "solutions.jsonl", SOLUTIONS)


@pytest.fixture
def tree(tmp_path):
    return write(tmp_path / "tree.jsonl", TREE)


def test_every_record_is_accounted_for(solutions, tmp_path, capsys):
    steps(solutions, "-o", str(tmp_path / "out.parquet"), "--json")
    told = capsys.readouterr()
    report = json.loads(told.out)
    assert {name: report[name] for name in ("rows_in", "paths", "rows_out", "dropped")} == {
        "rows_in": 4,
        "paths": 4,
        "rows_out": 1,
        "dropped": {"no_steps": 1, "null_prompt": 1, "unknown_rating": 1},
    }
    assert report["steps"] == {"true": 2, "false": 1}
    assert "read as: --prompt question --steps steps --rating rating" in told.err
    for line in ("dropped: no_steps        1", "2 true, 1 false", "wrote "):
        assert line in told.err
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [
        ("q", ["a", "b", "c"], [True, False, True])
    ]


def test_the_line_that_is_printed_can_be_typed(solutions, tmp_path, capsys):
    steps(solutions, "-o", "-", "--after-error", "drop")
    told = capsys.readouterr()
    line = next(line for line in told.err.splitlines() if line.startswith("read as: "))
    steps(solutions, "-o", "-", *line.removeprefix("read as: ").split())
    assert (
        capsys.readouterr().out
        == told.out
        == ('{"prompt":"q","completions":["a","b"],"labels":[true,false]}\n')
    )


def test_a_tree_is_a_tree(tree, tmp_path, capsys):
    steps(tree, "-o", "-")
    told = capsys.readouterr()
    rows = [json.loads(line) for line in told.out.splitlines()]
    assert [(row["completions"], row["labels"]) for row in rows] == [
        (["b"], [False]),
        (["a", "c"], [True, True]),
        (["a", "d"], [True, False]),
    ]
    assert "read as: --id id --parent-id parent_id --text text --success success" in told.err
    assert "rollouts  3" in told.err
    steps(tree, "-o", "-", "--threshold", "0.9", "--quiet")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["labels"] for row in rows] == [[False], [False, True], [False, False]]
    steps(tree, "-o", "-", "--labels", "hard", "--success-min", "0", "--quiet")
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["labels"] for row in rows] == [[True], [True, True], [True, True]]


def test_options_of_both_are_refused(solutions, tree):
    with pytest.raises(BadArgument, match="--rating is of records, and --success of a tree"):
        steps(solutions, "-o", "-", "--rating", "rating", "--success", "won")
    with pytest.raises(BadInput, match="no column is known as steps"):
        steps(tree, "-o", "-", "--prompt", "text", "--step-separator", "x")
    with pytest.raises(PlanError, match="after_error is not one of"):
        steps(solutions, "-o", "-", "--after-error", "stop")
    with pytest.raises(BadArgument, match="no output named"):
        steps(solutions)


def test_nothing_out_writes_nothing(solutions, tmp_path, capsys):
    out = str(tmp_path / "out.jsonl")
    assert steps(solutions, "-o", out, "--values", "1=null,0=null") == 1
    told = capsys.readouterr().err
    assert "dropped: unknown_rating  2" in told
    assert "nothing was written" in told
    assert not (tmp_path / "out.jsonl").exists()
