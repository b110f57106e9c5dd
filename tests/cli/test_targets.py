"""What a command may write to: not its input, not a URL, and nothing where nothing came out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import loop_fakes
import polars as pl
import pytest
from command import prefmill

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.loops.dry_run import explain

ROWS = [
    {"prompt": "p", "completion": "a", "score": 5},
    {"prompt": "p", "completion": "b", "score": 1},
    {"prompt": "q", "completion": "c", "score": 4},
    {"prompt": "q", "completion": "d", "score": 2},
]


@pytest.fixture
def log(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "log.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def score(batch) -> list[float]:
    return [float(len(text)) for text in batch["completion"].to_pylist()]


# --- input and output -----------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [pm.Pairs(), pm.BestOf(), pm.Unpaired()])
@pytest.mark.parametrize(
    "spelled", ["itself", "relative", "symlink", "hardlink", "through a linked folder"]
)
def test_the_input_is_no_output(plan, spelled, log, tmp_path):
    before, other = log.read_text(), tmp_path / "other.jsonl"
    if spelled == "symlink":
        other.symlink_to(log)
    elif spelled == "hardlink":
        os.link(log, other)
    elif spelled == "through a linked folder":
        (tmp_path / "folder").symlink_to(tmp_path)
        other = tmp_path / "folder" / "log.jsonl"
    else:
        other = Path(log.name) if spelled == "relative" else log
    with pytest.raises(
        BadArgument, match="is what would be written; got it as input and as output"
    ):
        pm.run(plan, log, other, overwrite=True)
    assert log.read_text() == before


@pytest.mark.parametrize("given", ["folder", "pattern"])
@pytest.mark.parametrize("split", [None, {"train": 0.5, "test": 0.5}])
def test_an_earlier_output_is_left_out_of_its_folder_and_said(given, split, log, tmp_path):
    (tmp_path / "logs").mkdir()
    log.rename(tmp_path / "logs" / "log.jsonl")
    inputs = "logs" if given == "folder" else "logs/*.jsonl"
    first = pm.run(pm.Pairs(), inputs, "logs/pairs.jsonl", split=split)
    second = pm.run(pm.Pairs(), inputs, "logs/pairs.jsonl", split=split, overwrite=True)
    assert (first.rows_in, second.rows_in, second.pairs_out) == (4, 4, 2)
    written = sorted(f"logs/pairs{f'-{name}' if name else ''}.jsonl" for name in (split or {"": 1}))
    assert list(first.notes) == []
    assert list(second.notes) == [
        f"{path!r} is left out of the input: it is an output of this command." for path in written
    ]


def test_a_folder_of_nothing_but_the_output_is_refused(log, tmp_path):
    (tmp_path / "logs").mkdir()
    log.rename(tmp_path / "logs" / "log.jsonl")
    before = (tmp_path / "logs" / "log.jsonl").read_text()
    with pytest.raises(BadArgument, match="'logs' is what would be written"):
        pm.run(pm.Pairs(), "logs", "logs/log.jsonl", overwrite=True)
    assert (tmp_path / "logs" / "log.jsonl").read_text() == before


def test_rejected_rows_do_not_go_into_the_input(log):
    before = log.read_text()
    with pytest.raises(BadArgument, match="is what would be written"):
        pm.run(pm.Pairs(), log, "pairs.jsonl", rejects=log)
    assert log.read_text() == before
    assert not Path("pairs.jsonl").exists()


def test_scores_may_go_into_their_input(log):
    pm.score("log.jsonl", "log.jsonl", scorer=score, score_column="length", overwrite=True)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [
        {**row, "length": 1.0} for row in ROWS
    ]


def test_advantages_may_go_into_their_input_unless_a_row_would_be_lost(log):
    pm.run(pm.Advantage(), log, log, overwrite=True)
    made = [json.loads(line) for line in log.read_text().splitlines()]
    assert [row["advantage"] for row in made] == [2.0, -2.0, 1.0, -1.0]
    log.write_text(
        log.read_text() + '{"prompt":"q","completion":"e","score":null,"advantage":0.0}\n'
    )
    before = log.read_text()
    with pytest.raises(BadArgument, match="is the input, and 1 of its rows would be lost"):
        pm.run(pm.Advantage(), log, "log.jsonl", overwrite=True)
    assert log.read_text() == before


@pytest.mark.parametrize(
    "arguments",
    [
        ("curve", "log.jsonl", "-o", "log.jsonl", "--overwrite"),
        ("curve", "log.jsonl", "log.csv", "--plot", "log.png", "--overwrite"),
        ("values", "log.jsonl", "-o", "log.jsonl", "--overwrite"),
        ("steps", "log.jsonl", "-o", "log.jsonl", "--overwrite"),
        ("sql", "FROM 'log.jsonl'", "-o", "log.jsonl", "--overwrite"),
        ("sql", "FROM read_json('lo*.jsonl')", "-o", "log.jsonl", "--overwrite"),
        ("sql", "FROM log", "log.jsonl", "-o", "log.jsonl", "--overwrite"),
        ("sample", "log.jsonl", "-o", "log.jsonl", "--model", ".", "--overwrite"),
    ],
)
def test_every_command_refuses_its_input_as_output(arguments, log):
    Path("log.csv").write_text("prompt,completion,score\np,a,1\n")
    before = log.read_text(), Path("log.csv").read_text()
    done = prefmill(*arguments)
    assert (done.returncode, "would be written" in done.stderr) == (2, True), done.stderr
    assert (log.read_text(), Path("log.csv").read_text()) == before


def test_training_does_not_replace_what_it_reads(tmp_path):
    folder = tmp_path / "reward"
    folder.mkdir()
    (folder / "prefmill.json").write_text("{}")
    pairs = pl.DataFrame({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]})
    pairs.write_parquet(folder / "pairs.parquet")
    pairs.write_parquet(tmp_path / "pairs.parquet")
    with pytest.raises(
        BadArgument, match=r"train_reward: '.*pairs.parquet' is in what would be written"
    ):
        pm.train_reward(folder / "pairs.parquet", folder, model="org/any", overwrite=True)
    with pytest.raises(BadArgument, match=r"train_reward: '.*reward' is in what would be written"):
        pm.train_reward(tmp_path / "pairs.parquet", folder, model=folder, overwrite=True)
    assert sorted(path.name for path in folder.iterdir()) == ["pairs.parquet", "prefmill.json"]


# --- places that are no files of this machine -----------------------------------------------------


@pytest.mark.parametrize("target", ["hf://datasets/a/b", "file:///tmp/x.csv", "ftp:/b/x.parquet"])
def test_a_url_is_no_output(target, log):
    there = sorted(os.listdir("."))
    for write in (
        lambda path: pm.run(pm.Pairs(), log, path),
        lambda path: pm.score(log, path, scorer=score, score_column="s"),
        lambda path: pm.run(pm.Pairs(), log, "pairs.jsonl", rejects=path),
    ):
        for path in (target, Path(target)):
            with pytest.raises(BadArgument, match=r"(no store|place) of the scheme"):
                write(path)
    assert sorted(os.listdir(".")) == there


def test_the_line_of_the_hint_works(log):
    pm.run(pm.Pairs(), log, "./s3:/bucket/x.jsonl")
    assert len(Path("s3:/bucket/x.jsonl").read_text().splitlines()) == 2


# --- nothing came out -----------------------------------------------------------------------------

NONE = ("pairs", "log.jsonl", "--chosen-min", "9", "--rejected-below", "9")


def test_an_empty_output_does_not_replace_yesterdays(log):
    assert prefmill("pairs", "log.jsonl", "-o", "pairs.jsonl").returncode == 0
    before = Path("pairs.jsonl").read_text()
    done = prefmill(*NONE, "-o", "pairs.jsonl", "--overwrite", "--json")
    assert done.returncode == 1
    assert "no pairs came out, and nothing was written (--allow-empty writes it)" in done.stderr
    assert json.loads(done.stdout)["output"] is None
    assert "wrote" not in done.stderr
    assert Path("pairs.jsonl").read_text() == before


@pytest.mark.parametrize("target", ["pairs.parquet", "pairs", "-"])
def test_the_corrected_command_is_not_refused(target, log):
    before = sorted(os.listdir("."))
    assert prefmill(*NONE, "-o", target).returncode == 1
    assert sorted(os.listdir(".")) == before
    assert prefmill("pairs", "log.jsonl", "-o", target).returncode == 0


def test_an_empty_output_is_written_where_it_is_wanted(log):
    done = prefmill(*NONE, "-o", "pairs.parquet", "--allow-empty")
    assert done.returncode == 0, done.stderr
    made = pl.read_parquet("pairs.parquet")
    assert (made.height, made.columns[:3]) == (0, ["prompt", "chosen", "rejected"])
    report = pm.run(pm.Pairs(chosen_min=9, rejected_below=9), log, "labels.parquet")
    assert (report.pairs_out, dict(report.output), Path("labels.parquet").exists()) == (
        0,
        {},
        False,
    )
    report = pm.run(
        pm.Pairs(chosen_min=9, rejected_below=9), log, "labels.parquet", allow_empty=True
    )
    assert Path(report.output[""]).exists()


def test_no_values_no_file(tmp_path):
    (tmp_path / "rows.csv").write_text("id,parent_id,text,success\n")
    done = prefmill("steps", tmp_path / "rows.csv", "-o", tmp_path / "steps.jsonl")
    assert (done.returncode, "nothing was written" in done.stderr) == (1, True), done.stderr
    assert not (tmp_path / "steps.jsonl").exists()


def test_stdout_is_called_stdout(log):
    done = prefmill("pairs", "log.jsonl", "-o", "-")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert "wrote <stdout>" in done.stderr
    assert "/prefmill-" not in done.stderr
    done = prefmill("pairs", "log.jsonl", "-o", "-", "--incremental")
    assert (done.returncode, "goes on from its output" in done.stderr) == (2, True)
    assert "/prefmill-" not in done.stderr
    done = prefmill("pairs", "log.jsonl", "-o", "-", "--split", "a=0.5,b=0.5")
    assert (done.returncode, done.stdout, "stdout takes one stream of rows" in done.stderr) == (
        2,
        "",
        True,
    )


# --- a loop's dry run -----------------------------------------------------------------------------


def test_a_dry_run_knows_its_own_steps_by_what_they_were_made_from(tmp_path):
    recipe = loop_fakes.recipe(tmp_path)
    parts = loop_fakes.parts()
    from prefmill.loops import loop as loops
    from prefmill.loops.parts import Parts

    pm.loop(recipe, tmp_path / "run", **parts)
    made = loops.read(recipe, parts=["score", "second"])
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    # The folder as a run of the recipe alone would have left it: fakes are no part of a dry run.
    own = Parts(made, "2026-01-01")
    state["decides"] = json.loads(
        json.dumps(loops.decided(made, own, loops.load_prompts(made.prompts)))
    )
    (tmp_path / "run" / "state.json").write_text(json.dumps(state))
    done = {step.step for step in explain(made, tmp_path / "run").steps if step.done}
    assert {"stage-0/sample", "stage-0/score", "stage-0/train"} <= done
    changed = explain(made, tmp_path / "run", seed=99)
    assert [step.step for step in changed.steps if step.done] == []
    assert any(
        "The run would be refused" in note and "seed changed; got 99" in note
        for note in changed.notes
    )
