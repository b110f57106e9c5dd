"""The command line, as users run it: a process, its streams, its exit code."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest
from command import prefmill

EXAMPLE = Path(__file__).parents[2] / "examples" / "feedback.csv"


def test_pairs_and_its_report(tmp_path):
    out = tmp_path / "pairs.jsonl"
    done = prefmill("pairs", EXAMPLE, "-o", out, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (
        report["rows_in"]
        == report["rows_used"] + report["rows_not_selected"] + sum(report["dropped"].values())
        == 14
    )
    assert report["dropped"] == {
        "bad_score": 1,
        "below_chosen_min": 2,
        "not_below_rejected": 2,
        "null_completion": 1,
        "single_completion": 1,
        "tie": 2,
    }
    assert (report["pairs_out"], report["groups_in"], report["groups_used"]) == (2, 6, 2)
    assert report["output"] == str(out)
    assert {"seconds", "peak_rss_mb", "engine", "plan_hash"} <= set(report)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [(r["prompt"], r["chosen_score"], r["rejected_score"]) for r in rows] == [
        ("How do I boil an egg?", 5.0, 1.0),
        ("Name a prime number above 20.", 5.0, 2.0),
    ]
    for words in (
        "roles: prompt=question, completion=answer, score=feedback",
        "rows in",
        "dropped: bad_score",
        "2 pairs from 2 of 6 prompts",
    ):
        assert words in done.stderr


def test_quiet_says_nothing(tmp_path):
    done = prefmill("pairs", EXAMPLE, "-o", tmp_path / "p.csv", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_stdin_to_stdout():
    rows = b'{"prompt":"p","completion":"a","score":5}\n{"prompt":"p","completion":"b","score":1}\n'
    done = prefmill("pairs", "-", "-o", "-", stdin=rows)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "prompt": "p",
        "chosen": "a",
        "rejected": "b",
        "chosen_score": 5.0,
        "rejected_score": 1.0,
    }


def test_nothing_out_is_exit_code_1_with_a_hint_from_the_data(tmp_path):
    pl.DataFrame(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [0.98, 0.1]}
    ).write_parquet(tmp_path / "in.parquet")
    done = prefmill("pairs", tmp_path / "in.parquet", "-o", tmp_path / "out.parquet")
    assert done.returncode == 1
    assert "largest score seen 0.98, chosen_min 4" in done.stderr
    assert "--chosen-min NUMBER --rejected-below NUMBER; or `none` for both" in done.stderr
    assert not (tmp_path / "out.parquet").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        (["pairs", "EXAMPLE"], 2, "no output named"),
        (["pairs", "missing.csv", "-o", "x.csv"], None, "missing.csv"),
        (
            ["pairs", "EXAMPLE", "-o", "x.csv", "--prompt", "questoin"],
            2,
            "did you mean prompt='question'",
        ),
        (["pairs", "EXAMPLE", "-o", "x.csv", "--strategy", "best"], 2, "strategy is not one of"),
        (
            ["pairs", "EXAMPLE", "-o", "x.csv", "--chosen-min", "high"],
            2,
            "expected a number or none",
        ),
        (["pairs", "EXAMPLE", "-o", "x.csv", "--split", "train=0.9"], 2, "sum to 1"),
        (["pairs", "EXAMPLE", "-o", "x.csv", "--memory-limit", "lots"], 2, "for example 2GB"),
        (["pairs", "EXAMPLE", "-o", "x.csv", "--keep", "modell"], 2, "modell"),
        (["pairs", "EXAMPLE", "-o", "x.csv", "--engine", "spark"], 2, "spark"),
        (["pairs", "EXAMPLE", "-o", "x.csv", "--format", "alpaca"], 2, "alpaca"),
        (
            ["pairs", "EXAMPLE", "-o", "x.csv", "--on-invalid", "raise"],
            1,
            "row 5 cannot be used; got null_completion",
        ),
        (
            ["pairs", "EXAMPLE", "-o", "x.csv", "--normalize", "zscore"],
            2,
            "needs the role annotator",
        ),
        (
            ["unpair", "EXAMPLE", "-o", "x.csv", "--rejected-below", "5"],
            2,
            "rejected_below must not exceed chosen_min",
        ),
        (["check", "missing.csv"], None, "missing.csv"),
    ],
)
def test_errors_are_for_people(args, code, words, tmp_path):
    done = prefmill(*(EXAMPLE if a == "EXAMPLE" else a for a in args), cwd=tmp_path)
    assert words in done.stderr
    assert done.returncode == code if code is not None else done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_needs_overwrite(tmp_path):
    out = tmp_path / "pairs.csv"
    out.write_text("mine")
    done = prefmill("pairs", EXAMPLE, "-o", out)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    assert out.read_text() == "mine"
    assert prefmill("pairs", EXAMPLE, "-o", out, "--overwrite").returncode == 0
    assert out.read_text().startswith("prompt,chosen,rejected")


def test_plan_files_and_options_on_top(tmp_path):
    (tmp_path / "plan.toml").write_text(
        '[pairs]\nstrategy = "all"\nchosen_min = "none"\nrejected_below = "none"\n'
    )
    both = prefmill(
        "pairs", EXAMPLE, "-o", tmp_path / "a.jsonl", "--plan", tmp_path / "plan.toml", "--json"
    )
    fewer = prefmill(
        "pairs",
        EXAMPLE,
        "-o",
        tmp_path / "b.jsonl",
        "--plan",
        tmp_path / "plan.toml",
        "--json",
        "--min-margin",
        "4",
    )
    flags = prefmill(
        "pairs",
        EXAMPLE,
        "-o",
        tmp_path / "c.jsonl",
        "--strategy",
        "all",
        "--no-thresholds",
        "--json",
    )
    assert json.loads(both.stdout)["pairs_out"] == 6
    assert json.loads(fewer.stdout)["pairs_out"] == 1
    assert json.loads(flags.stdout)["plan_hash"] == json.loads(both.stdout)["plan_hash"]


@pytest.mark.parametrize("by", ["duckdb", "polars"])
def test_dry_run_prints_and_writes_nothing(by, tmp_path):
    done = prefmill("pairs", EXAMPLE, "--dry-run", "--engine", by, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "[pairs]" in done.stdout
    assert ("pref_pairs('groups'" if by == "duckdb" else "SCAN") in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_dry_run_tells_folders_and_what_is_read_again(tmp_path):
    for name, score in {"a": 5, "b": 1}.items():
        lines = f"prompt,completion,score\np,{name},{score}\n"
        (tmp_path / f"{name}.csv").write_text(lines)
    more = ("--partition-by", "chosen_score,rejected_score")
    done = prefmill("pairs", "a.csv", "b.csv", "--dry-run", *more, cwd=tmp_path)
    assert "folders: one for each value of chosen_score, rejected_score" in done.stdout
    command = ("pairs", "a.csv", "b.csv", "-o", "pairs.parquet", "--incremental", "--no-thresholds")
    first = prefmill(*command, "--dry-run", cwd=tmp_path)
    assert "incremental: all 2 files are read" in first.stdout, first.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.csv", "b.csv"]
    assert prefmill(*command, cwd=tmp_path).returncode == 0
    (tmp_path / "b.csv").write_text("prompt,completion,score\np,other,1\n")
    again = prefmill(*command, "--dry-run", cwd=tmp_path)
    assert "incremental: of 2 files 1 are new or changed and read again" in again.stdout
    assert f"read again: {tmp_path / 'b.csv'}" in again.stdout


def test_dry_run_reads_and_refuses_what_the_run_does(tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    (rows / "a.csv").write_text('prompt,completion,score\np,good,5\np,bad,1\n"cut,off')
    command = ("pairs", "rows", "-o", "rows/pairs.parquet", "--rejects", "rows/rejects.jsonl")
    first = prefmill(*command, "--dry-run", cwd=tmp_path)
    assert "inputs: 2 rows, 1 malformed" in first.stdout, first.stderr
    assert [path.name for path in rows.iterdir()] == ["a.csv"]
    assert prefmill(*command, cwd=tmp_path).returncode == 0
    again = prefmill(*command, "--dry-run", "--incremental", cwd=tmp_path)
    assert "inputs: 2 rows, 1 malformed" in again.stdout, again.stderr
    assert "is of a run that was not incremental" in again.stdout
    both = prefmill(*command, "--dry-run", "--incremental", "--partition-by", "x", cwd=tmp_path)
    assert both.returncode == 2
    assert "partitions are written by a whole run" in both.stderr


def test_unpair_splits_and_keeps(tmp_path):
    out = tmp_path / "labels.parquet"
    done = prefmill(
        "unpair",
        EXAMPLE,
        "-o",
        out,
        "--keep",
        "model",
        "--split",
        "train=0.5,test=0.5",
        "--seed",
        "3",
        "--json",
    )
    assert done.returncode == 0, done.stderr
    train, test = (
        pl.read_parquet(tmp_path / "labels-train.parquet"),
        pl.read_parquet(tmp_path / "labels-test.parquet"),
    )
    assert train.columns == ["prompt", "completion", "label", "score", "model"]
    assert train.height + test.height == json.loads(done.stdout)["pairs_out"] == 12
    assert not set(train["prompt"]) & set(test["prompt"])


def test_check(tmp_path):
    done = prefmill("check", EXAMPLE, "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 1  # a bad score and a missing answer
    assert found["unusable"] == {"bad_score": 1, "null_completion": 1}
    assert (found["rows"], found["prompts"], found["repeated"], found["conflicting"]) == (
        14,
        6,
        1,
        0,
    )
    assert found["default_plan"]["pairs_out"] == 2
    good = tmp_path / "good.jsonl"
    good.write_text(
        '{"prompt":"p","completion":"a","score":5}\n{"prompt":"p","completion":"b","score":1}\n'
    )
    assert prefmill("check", good).returncode == 0


def test_help_version_and_completion():
    shown = prefmill("--help").stdout
    for command in ("pairs", "unpair", "best", "check"):
        assert command in shown
        assert prefmill(command, "--help").returncode == 0
    assert prefmill("--version").stdout.startswith("prefmill 0.")
    assert "complete" in prefmill("--show-completion", "bash").stdout


def test_sigterm_leaves_nothing_behind(tmp_path):
    child = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "prefmill",
            "pairs",
            "-",
            "-o",
            str(tmp_path / "out.parquet"),
            "--temp-dir",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    deadline = time.monotonic() + 30
    while not list(tmp_path.glob("prefmill-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(tmp_path.glob("prefmill-*"))
    child.send_signal(signal.SIGTERM)
    child.communicate(timeout=30)
    assert child.returncode == 143
    assert list(tmp_path.iterdir()) == []


def test_json_has_no_nan(tmp_path):
    """NaN and infinity are no JSON: reports say null."""

    def strict(text: str) -> dict:
        return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))

    rows = {
        "prompt": ["p", "p", "q"],
        "completion": ["a", "b", "c"],
        "score": [1e308, -1e308, 1.0],
        "heat": [float("nan"), 0.5, 0.5],
    }
    pl.DataFrame(rows).write_parquet(tmp_path / "pool.parquet")
    points = strict(
        prefmill(
            "curve",
            tmp_path / "pool.parquet",
            "--by",
            "heat",
            "--json",
            "--quiet",
            "--resamples",
            "0",
        ).stdout
    )["points"]
    assert [(point["heat"], point["n"]) for point in points] == [(0.5, 1), (None, 1)]
    strict(prefmill("check", tmp_path / "pool.parquet", "--json").stdout)
    for command in (["pairs", "--no-thresholds"], ["best"], ["advantages"]):
        strict(
            prefmill(
                *command,
                tmp_path / "pool.parquet",
                "-o",
                tmp_path / f"{command[0]}.parquet",
                "--json",
                "--quiet",
            ).stdout
        )


def test_a_lower_rank_is_better_says_the_hint(tmp_path):
    (tmp_path / "ranked.csv").write_text("prompt,completion,rank\np,a,0\np,b,1\n")
    done = prefmill("best", tmp_path / "ranked.csv", "-o", tmp_path / "out.csv")
    assert done.returncode == 2
    assert "did you mean score='-rank'?" in done.stderr
    done = prefmill("best", tmp_path / "ranked.csv", "-o", tmp_path / "out.csv", "--score=-rank")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out.csv").read_text() == "prompt,completion,rank_in,rank\np,a,0,1\n"
