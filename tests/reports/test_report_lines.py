"""Every line to type that a warning prints runs as printed, over what the report read."""

from __future__ import annotations

import json
import random
import shlex

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app


def text(draw):
    return " ".join(f"word{draw.randint(0, 30)}" for _ in range(draw.randint(3, 20)))


def feedback(draw, scores, name="score", first=0):
    return [
        {"prompt": f"q{n}", "completion": text(draw), name: draw.choice(scores)}
        for n in range(first, first + 30)
        for _ in range(4)
    ]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path.name


def lines_of(*args):
    """The lines of the warnings by name, each of which ran and left a file that it names."""
    result = CliRunner().invoke(app, ["report", *args, "--json", "-q"])
    assert result.exit_code == 0, result.output
    return {each["name"]: each["line"] for each in json.loads(result.stdout)["warnings"]}


def ran(line, code=0):
    words = shlex.split(line)
    assert words.pop(0) == "prefmill"
    result = CliRunner().invoke(app, words)
    assert result.exit_code == code, (line, result.output)
    return result


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_lines_read_what_the_report_read(tmp_path):
    draw = random.Random(0)
    rows = feedback(draw, [0.1, 0.1, 0.1, 0.9], "my score")
    rows = [{**row, "score": 5} for row in rows]  # another column that would be read without it
    rows.append(rows[0])  # judged twice, so the mean of both is worth a line
    lines = lines_of(written(tmp_path / "rows.jsonl", rows), "--score", "my score")
    assert lines["thresholds"].endswith("-o pairs.parquet --no-thresholds")
    for line in lines.values():
        ran(line)
    made = pl.read_parquet("pairs.parquet")
    assert set(made["chosen_score"]) == {0.9}
    assert made.height == pl.read_parquet("merged.parquet").height > 0


def test_ties_of_answers_that_are_judged_once_have_no_mean(tmp_path):
    rows = feedback(random.Random(0), [4, 4, 4, 5])
    lines = lines_of(written(tmp_path / "rows.jsonl", rows))
    assert lines["ties"] == ""


def test_several_judges_are_merged_and_the_lines_say_so(tmp_path):
    draw = random.Random(0)
    rows = []
    for n in range(30):
        row = {"prompt": f"q{n}", "a": text(draw), "b": text(draw)}
        rows.append(row | {f"judge{k}": draw.choice("ab") for k in range(3)})
    name = written(tmp_path / "rows.jsonl", rows + rows[:10])
    words = "--prompt prompt --completion a,b --winner judge0,judge1,judge2 --wins a,b"
    lines = lines_of(name, *words.split())
    assert "--repeats drop --aggregate majority" in lines["repeated pairs"]
    ran(lines["repeated pairs"])
    assert pl.read_parquet("pairs.parquet").height == 30


def test_lines_of_files_with_options_of_reading(tmp_path):
    (tmp_path / "rows.csv").write_text("prompt;completion;score\np;a;5\np;b;1\np;c;x\np;d;1;1\n")
    args = ("rows.csv", "--delimiter", ";", "--rejects", "aside.jsonl")
    lines = lines_of(*args)
    assert set(lines) == {"malformed", "unusable"}
    for line in lines.values():
        assert "1 malformed row was set aside" in ran(line, code=1).output


def test_what_a_run_read_is_read_by_its_words(tmp_path):
    rows = [*feedback(random.Random(0), [1, 5], "stars"), {"prompt": "p", "completion": "c"}]
    written(tmp_path / "rows.jsonl", rows)
    pm.run(pm.Pairs(), "rows.jsonl", "made.parquet", roles={"score": "stars"})
    line = lines_of("made.parquet")["unusable"]
    assert line.endswith("rows.jsonl --score stars")
    assert "null_score" in ran(line, code=1).output


def test_an_input_is_no_target(tmp_path):
    rows = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(30)]
    pl.DataFrame(rows * 2).write_parquet("pairs.parquet")
    ran(lines_of("pairs.parquet")["repeated pairs"])
    assert pl.read_parquet("new-pairs.parquet").height == 30


def test_splits_are_made_with_the_same_thresholds(tmp_path):
    draw = random.Random(0)
    (tmp_path / "pairs").mkdir()
    for name, first in (("train", 0), ("test", 20)):
        written(tmp_path / f"pairs/{name}.jsonl", feedback(draw, [0.1, 0.9], first=first))
    files = ("pairs/train.jsonl", "pairs/test.jsonl")
    ran(lines_of(*files)["leak"].replace("FILE...", " ".join(files)))
    assert (tmp_path / "new-pairs").is_dir()


def test_a_pool_has_no_line_that_needs_scores(tmp_path):
    rows = [
        {"prompt": f"q{n % 20}", "completion": "no", "split": "train" if n < 20 else "test"}
        for n in range(40)
    ]
    lines = lines_of(written(tmp_path / "pool.jsonl", rows))
    assert lines["leak"] == lines["repeated answers"] == ""


def test_audits_have_a_place_for_each_score(tmp_path):
    draw = random.Random(0)
    rows = []
    for n in range(60):
        row = {"prompt": f"q{n}", "chosen": text(draw) + "\n- a\n- b", "rejected": text(draw)}
        rows.append(row | {"good": "x", "bad": "y", "left": draw.randint(1, 5), "right": 3})
    name = written(tmp_path / "rows.jsonl", rows)
    lines = lines_of(name, "--source", "good,bad")
    assert lines["source"] == f"prefmill audit {name} --source good,bad"
    ran(lines["source"])
    assert "agreement" in ran(lines["lists"].replace("COLUMN,COLUMN", "left,right")).output


def test_stdin_has_to_be_named(tmp_path):
    rows = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": f"b{n}"} for n in range(30)]
    lines = "".join(json.dumps(row) + "\n" for row in rows * 2)
    result = CliRunner().invoke(app, ["report", "-", "--json", "-q"], input=lines)
    (told,) = json.loads(result.stdout)["warnings"]
    assert told["line"] == "prefmill pairs FILE... --repeats drop -o pairs.parquet"


def test_scores_as_far_apart_as_numbers_go():
    rows = {
        "prompt": [f"q{n % 20}" for n in range(60)],
        "completion": [f"answer {n}" for n in range(60)],
        "score": [-1.7e308, 1.7e308, *(n / 7 for n in range(58))],
    }
    figures = pm.report(pl.DataFrame(rows)).figures
    assert figures.scores is not None
    assert figures.scores.total == 60
    assert figures.scores.counts[0] == figures.scores.counts[-1] == 1
