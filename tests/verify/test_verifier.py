"""`Verifier`, as a scorer: from files to files, with every row accounted for."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import BadArgument, ColumnMissing, RunDiffers
from prefmill.scoring.scorers import Staged

ROWS = [
    ("6+6?", "It is 12.", "#### 12"),
    ("6+6?", "#### 13", "#### 12"),
    ("6+6?", "no idea", "#### 12"),
    ("7?", r"\boxed{7}", "none"),
    ("7?", r"\boxed{7}", None),
    ("8?", None, "8"),
]


@pytest.fixture
def pool(tmp_path: Path) -> Path:
    frame = pl.DataFrame(ROWS, schema=["prompt", "completion", "gold"], orient="row")
    path = tmp_path / "pool.parquet"
    frame.write_parquet(path)
    return path


def test_every_row_has_a_score_or_a_reason(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    report = pm.score(pool, out, scorer=pm.Verifier(check="number", answer="gold"))
    frame = pl.read_parquet(out)
    assert frame["score"].to_list() == [1.0, 0.0, 0.0, None, None, None]
    assert frame["score_answer"].to_list() == ["12", "13", None, None, None, None]
    words = [reason and reason.partition(":")[0] for reason in frame["score_reason"]]
    assert words == [None, "wrong_answer", "no_answer", "bad_column", "bad_column", None]
    assert report.null == {"bad_column": 2, "null_completion": 1}
    assert report.reasons == {"wrong_answer": 1, "no_answer": 1}
    assert report.rows_in == report.rows_scored + sum(report.null.values())
    assert "row 3" in report.first_null["bad_column"]


def test_no_answer_may_be_no_score(pool: Path, tmp_path: Path) -> None:
    scorer = pm.Verifier(check="number", answer="gold", on_no_answer="null")
    report = pm.score(pool, tmp_path / "out.parquet", scorer=scorer)
    assert report.null["no_answer"] == 1


def test_the_command_line_says_the_same(pool: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    words = ["score", str(pool), "-o", str(out), "--scorer", "verify", "--answer", "gold"]
    result = CliRunner().invoke(app, [*words, "--check", "number"])
    assert result.exit_code == 0, result.output
    assert [json.loads(line)["score"] for line in out.read_text().splitlines()][:2] == [1.0, 0.0]
    for more, told in (
        (["--model", "x"], "--model has no meaning for --scorer verify"),
        (["--rubric", "x"], "--rubric has no meaning"),
        (["--check", "nothing"], "check is not one of"),
        (["--pattern", "a"], "pattern is of check 'regex'"),
    ):
        bad = CliRunner().invoke(app, [*words, "--overwrite", *more])
        assert bad.exit_code != 0
        assert told in " ".join((bad.output + str(bad.exception)).split())


def test_a_column_that_is_not_there_is_named(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(ColumnMissing, match="no column 'answer'"):
        pm.score(pool, tmp_path / "out.parquet", scorer=pm.Verifier(check="number"))


def test_a_run_goes_on_only_with_the_same_check(pool: Path, tmp_path: Path) -> None:
    prints = [
        pm.Verifier(check="number", answer="gold"),
        pm.Verifier(check="exact", answer="gold"),
        pm.Verifier(check="number", answer="other"),
        pm.Verifier(check="number", answer="gold", tolerance=0.1),
        pm.Verifier(check="number", answer="gold", extract="boxed"),
        pm.Verifier(check="number", answer="gold", on_no_answer="null"),
        pm.Verifier(check="math", answer="gold"),
        pm.Verifier(check="regex", pattern="a"),
        pm.Verifier(check="regex", pattern="b"),
        pm.Verifier(check="regex", pattern="b", match="full"),
        pm.Verifier(check="regex", pattern="b", ignore_case=True),
        pm.Verifier(check="json-schema", schema='{"type": "object"}'),
        pm.Verifier(check="json-schema", schema='{"type": "array"}'),
        pm.Verifier(check="tests"),
        pm.Verifier(check="tests", code="continued"),
        pm.Verifier(check="tests", timeout=3.0),
        pm.Verifier(check="tests", memory_mib=99),
        pm.Verifier(check="tests", packages=True),
        pm.Verifier(check="tests", entry_point="name"),
        pm.Verifier(check="command", command="true"),
        pm.Verifier(check="command", command="false"),
    ]
    texts = {json.dumps(dict(each.fingerprint), sort_keys=True) for each in prints}
    assert len(texts) == len(prints)
    # How many rows run at a time decides nothing.
    one = pm.Verifier(check="number", answer="gold", processes=1)
    assert one.fingerprint == prints[0].fingerprint


def test_a_stopped_run_is_refused_with_another_check(pool: Path, tmp_path: Path) -> None:
    class Stops(Exception):
        pass

    class Once(pm.Verifier):
        def run(self, prepared: Any) -> Any:
            if prepared.prompts[0] == "7?":
                raise Stops
            return super().run(prepared)

    out = tmp_path / "out.parquet"
    with pytest.raises(Stops):
        pm.score(pool, out, scorer=Once(check="number", answer="gold"), chunk_rows=2)
    other = pm.Verifier(check="exact", answer="gold")
    with pytest.raises(RunDiffers):
        pm.score(pool, out, scorer=other, chunk_rows=2)
    same = pm.Verifier(check="number", answer="gold")
    report = pm.score(pool, out, scorer=same, chunk_rows=2)
    assert report.chunks_resumed >= 1
    assert report.reasons == {"wrong_answer": 1, "no_answer": 1}


def test_messages_are_read_too() -> None:
    prompt = [{"role": "user", "content": "6+6?"}]
    said = [{"role": "assistant", "content": "12"}]
    batch = pa.record_batch({"prompt": [prompt], "completion": [said], "answer": [12]})
    assert pm.Verifier(check="number")(batch).tolist() == [1.0]


def test_code_is_scored_from_files_and_the_run_goes_on(tmp_path: Path) -> None:
    fence = "Sure:\n```python\n{}\n```\n"
    codes = {
        "def f(x): return x + 1": 1.0,
        "def f(x): return 2": 0.5,
        "while True: pass": 0.0,
        "import os; os.kill(os.getpid(), 9)": 0.0,
    }
    tests = ["assert f(1) == 2", "assert f(2) == 3"]
    rows = [{"prompt": "p", "completion": fence.format(c), "tests": tests} for c in codes]
    rows.append({"prompt": "p", "completion": fence.format("def f(x): return x + 1"), "tests": []})
    frame = pl.DataFrame(rows)
    scorer = pm.Verifier(check="tests", timeout=3.0)
    report = pm.score(frame, tmp_path / "out.parquet", scorer=scorer)
    found = pl.read_parquet(tmp_path / "out.parquet")
    assert found["score"].to_list() == [*codes.values(), None]
    assert report.reasons == {"wrong_answer": 1, "timed_out": 1, "killed": 1}
    assert report.null == {"bad_column": 1}
    assert report.way.startswith("in a sandbox")


def test_base_models_continue_the_prompt() -> None:
    prompt = 'def f(x):\n    """One more."""\n'
    script = "def check(g):\n    assert g(1) == 2\n"
    columns = {"prompt": [prompt] * 2, "completion": ["    return x + 1", "    return x"]}
    batch = pa.record_batch({**columns, "test": [script] * 2, "name": ["f", "f"]})
    scorer = pm.Verifier(check="tests", tests="test", entry_point="name", code="continued")
    assert scorer(batch).tolist() == [1.0, 0.0]


COMMAND = """
import json, sys, time
row = json.loads(sys.stdin.read())
if row["completion"] == "slow": time.sleep(60)
if row["completion"] == "bad": sys.exit("it is bad")
if row["completion"] == "number": print("0.25")
assert row["further"] == 7
"""


def test_a_command_of_ones_own(tmp_path: Path) -> None:
    program = tmp_path / "check.py"
    program.write_text(COMMAND)
    command = f"{sys.executable} {program}"
    scorer = pm.Verifier(check="command", command=command, timeout=5.0)
    said = ["good", "bad", "number", "slow"]
    batch = pa.record_batch({"prompt": ["p"] * 4, "completion": said, "further": [7] * 4})
    scored = scorer.run(scorer.prepare(batch))
    assert scored.numbers()[:3].tolist() == [1.0, 0.0, 0.25]
    assert scored.null is not None
    assert scored.null.tolist() == [False, False, False, True]
    assert scored.texts["reason"][1:] == [
        "refused: code 1: it is bad",
        None,
        "check_failed: timed out",
    ]
    before = scorer.fingerprint
    program.write_text(COMMAND + "\n")
    assert scorer.fingerprint != before
    with pytest.raises(BadArgument, match="there is no program"):
        pm.Verifier(check="command", command="no-such-program-here")


def test_a_check_is_a_part_of_an_ensemble() -> None:
    both = pm.Ensemble(
        scorers={
            "right": pm.Verifier(check="number"),
            "short": lambda batch: [-float(len(t)) for t in batch["completion"].to_pylist()],
        }
    )
    batch = pa.record_batch({"prompt": ["p"], "completion": ["12"], "answer": ["12"]})
    assert both(batch).tolist() == [-0.5]
    assert isinstance(both, Staged)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"check": "regex", "pattern": "("}, "no regular expression"),
        ({"extract": "regex:("}, "no regular expression"),
        ({"extract": "boxes"}, "extract is not one of"),
        ({"check": "tests", "extract": "boxed"}, "extract has no meaning"),
        ({"check": "json-schema", "schema": "{"}, "no JSON schema"),
        ({"check": "json-schema", "schema": "no-such-file"}, "No such file"),
        ({"check": "command"}, "needs a command"),
        ({"timeout": 0}, "timeout must be a number > 0"),
        ({"processes": -1}, "processes must be a whole number"),
        ({"sandbox": "none"}, "sandbox is not one of"),
    ],
)
def test_what_cannot_be_meant_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadArgument, match=told):
        pm.Verifier(**options)


def test_both_sides_of_pairs_are_checked(tmp_path: Path) -> None:
    rows = {"prompt": ["6+6?"], "chosen": ["12"], "rejected": ["#### 13"], "answer": [12]}
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs.parquet")
    out = tmp_path / "out.parquet"
    pm.score(tmp_path / "pairs.parquet", out, scorer=pm.Verifier(check="number"))
    frame = pl.read_parquet(out)
    assert frame.select("chosen_score", "rejected_score").rows() == [(1.0, 0.0)]
    assert frame["rejected_score_reason"].to_list() == ["wrong_answer: expected 12"]


def test_streams_are_checked_with_the_truth_along() -> None:
    rows = [{"prompt": "6+6?", "completion": c, "answer": "12"} for c in ("12", "13", "twelve")]
    source = pa.Table.from_pylist(rows)
    scored = pm.score_stream(source, pm.Verifier(check="number")).read_all()
    assert scored["score"].to_pylist() == [1.0, 0.0, 0.0]
    assert scored["score_answer"].to_pylist() == ["12", "13", None]


def test_a_file_may_say_what_is_checked(pool: Path, tmp_path: Path) -> None:
    table = tmp_path / "check.toml"
    table.write_text('[score]\nkind = "verify"\ncheck = "number"\nanswer = "gold"\n')
    out = tmp_path / "out.parquet"
    words = ["score", str(pool), "-o", str(out), "--scorer", str(table)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    assert pl.read_parquet(out)["score"].to_list()[:3] == [1.0, 0.0, 0.0]


def test_an_empty_pool_is_no_error(tmp_path: Path) -> None:
    schema = {"prompt": pl.String, "completion": pl.String, "answer": pl.String}
    frame = pl.DataFrame(schema=schema)
    report = pm.score(frame, tmp_path / "out.parquet", scorer=pm.Verifier(check="math"))
    assert report.rows_in == 0
