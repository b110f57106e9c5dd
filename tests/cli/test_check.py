"""`prefmill check`: what its exit code means, and what it says of words and of strange numbers."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner, Result

from prefmill.cli.main import app
from prefmill.errors import PrefmillError


def command(*args: object) -> Result:
    return CliRunner().invoke(app, [str(arg) for arg in args])


def code(done: Result) -> int:
    """The exit code; an error of ours has its own."""
    if isinstance(done.exception, PrefmillError):
        return done.exception.exit_code
    return done.exit_code


def table(path: Path, scores: list, answers: int = 2) -> Path:
    """So many answers to each prompt, as CSV."""
    count = range(len(scores))
    rows = {
        "prompt": [f"p{i // answers}" for i in count],
        "completion": [f"a{i}" for i in count],
        "score": [str(score) for score in scores],
    }
    pl.DataFrame(rows).write_csv(path)
    return path


@pytest.mark.parametrize(
    ("scores", "options", "expected"),
    [
        ([5, 1], [], 0),
        ([0, 1], [], 0),
        ([1, 0.5, 0, 1], [], 0),
        ([7, -1, 9, 3, 10, 2], [], 0),
        ([5, 1, *([2, 1] * 40)], [], 0),
        ([10, 2, 9, 1], [], 0),
        ([0.1, 0.9], ["--no-thresholds"], 0),
        ([0.1, 0.9, 0.3, 0.4], ["--chosen-quantile=0.5"], 0),
        ([5, 1, "n/a", 3], [], 1),
        ([5, 1, "", 3], [], 1),
        ([5, 1, "nan", 3], [], 1),
        ([3, 3], [], 1),
        ([0.1, 0.9], [], 1),
        ([5, 1], ["--chosen-min=9", "--rejected-below=2"], 1),
        ([5, 1], ["--min-margin=7"], 1),
        ([5, 1], ["--chosen-quantile=7"], 2),
        ([5, 1], ["--prompt=nowhere"], 2),
        ([5, 1], ["--chosen-min=4", "--chosen-quantile=0.5"], 2),
    ],
    ids=str,
)
def test_the_exit_code_is_what_the_help_says(scores, options, expected, tmp_path):
    done = command("check", table(tmp_path / "rows.csv", scores), *options)
    assert code(done) == expected
    if expected < 2:
        assert ("not ok: " in done.stderr) == (expected == 1)
        said = json.loads(command("check", tmp_path / "rows.csv", "--json", *options).stdout)
        assert said["ok"] == (expected == 0)


def test_malformed_rows_and_unreadable_files_are_1(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        '{"prompt":"p","completion":"a","score":5}\n{"prompt":\n'
        '{"prompt":"p","completion":"b","score":1}\n'
    )
    assert code(command("check", path)) == 1
    done = command("check", path, "--rejects", tmp_path / "bad.jsonl")
    assert done.exit_code == 1
    assert "not ok: 1 malformed row was set aside" in done.stderr
    path.write_bytes(b'{"prompt":"\xff","completion":"a","score":5}\n')
    assert code(command("check", path)) == 1


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([1, -1, 10, 3, 7, 9], [-1]),
        ([0.1, -1, 0.9, 0.4], [-1]),
        ([1, 5, 4, 999, 3], [999]),
        ([0.2, 0.9, -100, 0.4], [-100]),
        ([1, 2, 3, 9], [9]),
        ([1, 0, 99, 1], [99]),
        ([-99, 1, 2, 99], [-99]),
        ([1, 2, -9, 99, 3, 5], [99]),
        # labels, verdicts, logits, scales that reach so far, numbers that nobody writes for none
        ([1, -1, 1, -1], []),
        ([1, -1, 0, 1], []),
        ([-1, -2.5, 3.5, 0.1], []),
        ([1, 5, 9, 7], []),
        ([0, 100, 99, 50], []),
        ([1, 2, 3, 50], []),
        ([999, 1], []),
    ],
    ids=str,
)
def test_a_number_that_stands_apart_is_told(scores, expected, tmp_path):
    done = command("check", table(tmp_path / "rows.csv", scores), "--no-thresholds", "--json")
    notes = " ".join(json.loads(done.stdout)["notes"])
    assert [float(value) for value in re.findall(r'--values "(\S+)=null"', notes)] == expected


def test_the_option_that_is_told_takes_the_sentinel_out(tmp_path):
    path = table(tmp_path / "rows.csv", [7, -1, 9, 3, 10, 2])
    note = next(line for line in command("check", path).stderr.splitlines() if "apart" in line)
    assert "score: -1 stands apart from the other scores (1 row)" in note
    options = shlex.split(note[note.index("--values") :])
    found = json.loads(command("check", path, "--json", *options).stdout)
    assert found["scores"][0] == 2
    assert found["unusable"] == {"null_score": 1}
    assert "apart" not in " ".join(found["notes"])


def test_words_are_told_with_the_option_that_says_what_they_mean(tmp_path):
    path = table(tmp_path / "rows.csv", ["good", "bad", "Good ", "so so", "worst", "bad"])
    line = next(line for line in command("check", path).stderr.splitlines() if "got 'good'" in line)
    assert "got 'good', 'bad', 'Good ', expected numbers, true or false" in line
    option = re.search(r'--values ".*?"', line)
    assert option is not None
    assert option[0] == '--values "good=NUMBER,bad=NUMBER"'
    # as it is nobody means it
    assert code(command("check", path, *shlex.split(option[0]))) == 2
    meant = option[0].replace("NUMBER", "5", 1).replace("NUMBER", "1", 1)
    found = json.loads(command("check", path, "--json", *shlex.split(meant)).stdout)
    assert found["scores"] == [1, 3, 5]
    assert found["bad_scores"] == ["'so so'", "'worst'"]


@pytest.mark.parametrize("word", ["1,5", "a=b", 'say "no"', "$HOME", "x" * 50, "a|b"])
def test_words_that_no_shell_takes_are_not_put_into_an_option(word, tmp_path):
    path = table(tmp_path / "rows.csv", [word, "bad"])
    assert '--values "WORD=NUMBER,..."' in command("check", path).stderr


def test_a_refusal_comes_with_numbers(tmp_path):
    done = command("check", table(tmp_path / "rows.csv", [0.1, 0.9, 0.4, 0.3]))
    assert "made for scores from 1 to 5" in done.stderr
    assert "--no-thresholds gives at most 2 pairs" in done.stderr


def test_no_pair_by_another_reason_is_not_answered_with_thresholds(tmp_path):
    done = command("check", table(tmp_path / "rows.csv", [5, 1]), "--min-margin=7")
    assert "the plan makes no pair, and 1 prompt has" in done.stderr
    assert "no prompt spans the margin 7" in done.stderr
