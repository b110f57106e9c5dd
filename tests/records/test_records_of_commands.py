"""Every command that writes a file keeps a record: done, refused by name, busy, or anew."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import jsonschema
import polars as pl
import pytest
from buckets import in_buckets
from command import prefmill

import prefmill as pm
from prefmill.disk import records
from prefmill.disk.locks import FolderLock
from prefmill.errors import RunBusy, RunDiffers, TargetExists
from prefmill.runs.queries.query_file import is_unstable, to_file
from prefmill.runs.records.kept import verify
from prefmill.runs.records.recording import NOTHING_TO_DO

ROWS = pl.DataFrame(
    {
        "prompt": ["p", "p", "q", "q", "r", "r"],
        "completion": ["a", "b", "c", "d", "e", "f"],
        "score": [5, 1, 4, 2, 3, 1],
        "chosen_score": [5, 1, 4, 2, 3, 1],
        "rejected_score": [1.0, 2.0, 3.0, 1.0, 2.0, 0.5],
    }
)
SCHEMA = json.loads((Path(records.__file__).parent / "manifest.schema.json").read_text())
PLAN = {"chosen_min": None, "rejected_below": None}
SPLIT = {"train": 0.5, "test": 0.5}
QUERY = "SELECT prompt, sum(score) AS s FROM rows GROUP BY ALL ORDER BY 1"


def asked(query: str = QUERY, *, output: str = "o.parquet", **more: Any) -> Any:
    return to_file(query, ["rows.csv"], output, **more)


def calibrated(**more: Any) -> Any:
    return pm.calibrate("rows.csv", "o.json", **more)


def spread(output: str = "o.parquet", margin: float = 0, **more: Any) -> Any:
    return in_buckets(pm.Pairs(**PLAN, min_margin=margin), "rows.csv", output, **more)


Run = Callable[..., Any]
#: What runs; the output whose record is looked at; what makes it another run, and its name.
COMMANDS: dict[str, tuple[Run, str, dict[str, Any], str]] = {
    "sql to parquet": (asked, "o.parquet", {"query": "FROM rows"}, "query"),
    "sql to csv": (
        lambda **more: asked(output="o.csv", **more),
        "o.csv",
        {"delimiter": ","},
        "delimiter",
    ),
    "sql to jsonl": (
        lambda **more: asked(output="o.jsonl", **more),
        "o.jsonl",
        {"query": "FROM rows"},
        "query",
    ),
    "sql to arrow": (
        lambda **more: asked(output="o.arrow", **more),
        "o.arrow",
        {"query": "FROM rows"},
        "query",
    ),
    "calibrate": (calibrated, "o.json", {"prompt": "completion"}, "prompt"),
    "on a cluster": (spread, "o.parquet", {"margin": 1}, "plan"),
    "on a cluster, split": (
        lambda **more: spread(**{"split": SPLIT, **more}),
        "o-train.parquet",
        {"margin": 1},
        "plan",
    ),
    "on a cluster, in parts": (
        lambda **more: spread("o/part-*.parquet", **more),
        "o",
        {"margin": 1},
        "plan",
    ),
    "on a cluster, in parts, split": (
        lambda **more: spread("o/part-*.jsonl", split=SPLIT, **more),
        "o",
        {"margin": 1},
        "plan",
    ),
}


@pytest.fixture(autouse=True)
def rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ROWS.write_csv("rows.csv")


def state() -> dict[str, tuple[int, int]]:
    files = [path for path in Path().rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


@pytest.mark.parametrize("name", COMMANDS)
def test_done_refused_busy_and_anew(name: str) -> None:
    run, output, other, named = COMMANDS[name]
    folder = records.folder_of(Path(output))
    folder.mkdir(parents=True)
    held = FolderLock(folder, RunBusy("held"))
    with pytest.raises(RunBusy), contextlib.closing(held):
        run()
    first = run()
    before = state()
    again = run()
    assert state() == before
    assert NOTHING_TO_DO not in first.notes
    assert again.notes[-1] == NOTHING_TO_DO
    told, expected = (json.loads(json.dumps(each.as_json())) for each in (again, first))
    assert told.pop("notes")[:-1] == expected.pop("notes")
    for each in (told, expected):
        each.pop("seconds")
    assert told == expected
    with pytest.raises(RunDiffers, match=f"belongs to a run with another {named}"):
        run(**other)
    assert state() == before
    assert NOTHING_TO_DO not in run(**other, overwrite=True).notes
    assert run(**other).notes[-1] == NOTHING_TO_DO


@pytest.mark.parametrize("name", COMMANDS)
def test_the_record_is_that_of_what_stands(name: str) -> None:
    run, output, _, _ = COMMANDS[name]
    run()
    found = records.record_of(Path(output))
    assert found is not None
    jsonschema.validate(found, SCHEMA)
    assert verify(output) == []
    listed = {file["path"] for made in found["outputs"] for file in made["files"]}
    there = {str(p) for p in Path().rglob("o*/*" if Path(output).is_dir() else "o*")}
    hidden = {path for path in there if "/." in f"/{path}" or path.endswith("prefmill.json")}
    assert listed == {path for path in there - hidden if Path(path).is_file()}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_changed_input_is_another_run(name: str) -> None:
    run, _, _, _ = COMMANDS[name]
    run()
    ROWS.with_columns(score=pl.col("score").reverse()).write_csv("rows.csv")
    os.utime("rows.csv", ns=(0, 0))
    with pytest.raises(RunDiffers, match=r"another input"):
        run()


def test_the_same_rows_from_a_cluster_and_from_here() -> None:
    pm.run(pm.Pairs(**PLAN), "rows.csv", "o.parquet")
    assert spread().notes[-1] == NOTHING_TO_DO


#: Queries that give other rows at another time, or may: such a run is never known to be done.
UNKNOWN = {
    "the time": ({"query": "SELECT now() AS at FROM rows"}, {}),
    "the day": ({"query": "SELECT current_date AS day, prompt FROM rows"}, {}),
    "chance": ({"query": "SELECT prompt, random() AS r FROM rows"}, {}),
    "quoted": ({"query": 'SELECT prompt, "random"() AS r FROM rows'}, {}),
    "a sample": ({"query": "FROM rows USING SAMPLE 2"}, {}),
    "anything": ({"query": "FROM read_csv('rows' || '.csv')"}, {"allow_external": True}),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_what_may_differ_is_never_done(name: str) -> None:
    words, more = UNKNOWN[name]
    asked(**words, **more)
    with pytest.raises(TargetExists):
        asked(**words, **more)


def test_words_in_texts_and_names_are_not_asked_for() -> None:
    query = "SELECT prompt AS \"now\", 'random()' AS age, /* uuid() */ 1 FROM rows -- today()"
    assert not is_unstable(query)
    asked(query)
    assert asked(query).notes[-1] == NOTHING_TO_DO


@pytest.mark.parametrize(
    "before", ['1 AS "a--b"', '"it\'s"', "$$ -- $$", "$a$ ' $a$", r"E'it\'s'", 'prompt AS "/*"']
)
def test_chance_is_seen_after_texts_and_names_of_any_form(before: str) -> None:
    assert is_unstable(f"SELECT {before}, random(), 'x' FROM rows")
    assert is_unstable(f"SELECT {before}, \"random\"(), 'x' FROM rows")


def test_a_comment_with_a_quote_hides_no_file() -> None:
    ROWS.write_parquet("day.parquet")
    to_file("-- today's\nSELECT count(*) AS n FROM 'day.parquet'", [], "n.csv")
    assert Path("n.csv").read_text() == "n\n6\n"


def test_queries_for_other_urls_are_other_queries() -> None:
    pl.DataFrame({"prompt": [f"https://h.org/?q={n}" for n in (1, 2)]}).write_csv("rows.csv")
    asked("FROM rows WHERE prompt = 'https://h.org/?q=1'")
    with pytest.raises(RunDiffers, match="another query") as error:
        asked("FROM rows WHERE prompt = 'https://h.org/?q=2'")
    assert "q=1" not in str(error.value)
    assert NOTHING_TO_DO in asked("FROM rows WHERE prompt = 'https://h.org/?q=1'").notes


def test_every_unstable_function_of_duckdb_is_known() -> None:
    query = "SELECT DISTINCT function_name FROM duckdb_functions() WHERE stability <> 'CONSISTENT'"
    names = [name for (name,) in duckdb.connect().execute(query).fetchall()]
    assert len(names) > 20
    assert [name for name in names if not is_unstable(f"SELECT {name}(1)")] == []


def test_files_that_a_query_names_are_its_inputs() -> None:
    ROWS.write_parquet("day-1.parquet")
    query = "SELECT count(*) AS n FROM 'day-*.parquet'"
    to_file(query, [], "n.csv")
    assert to_file(query, [], "n.csv").notes == [NOTHING_TO_DO]
    ROWS.write_parquet("day-2.parquet")
    with pytest.raises(RunDiffers, match=r"another input '.*day-2.parquet'; got .* no such input"):
        to_file(query, [], "n.csv")
    to_file(query, [], "n.csv", overwrite=True)
    assert Path("n.csv").read_text() == "n\n12\n"


def test_points_and_plots_of_the_command_line() -> None:
    curve = ("curve", "rows.csv", "-o", "c.csv", "--plot", "p.svg", "--resamples", "10", "--json")
    calibrate = ("calibrate", "rows.csv", "-o", "k.json", "--plot", "k.svg", "--json")
    for command, files in ((curve, ["c.csv", "p.svg", "p.csv"]), (calibrate, ["k.json", "k.svg"])):
        first = prefmill(*command)
        assert first.returncode == 0, first.stderr
        before = state()
        again = prefmill(*command)
        assert again.returncode == 0, again.stderr
        assert state() == before
        assert NOTHING_TO_DO in again.stderr
        told, expected = json.loads(again.stdout), json.loads(first.stdout)
        assert told["notes"] == [*expected["notes"], NOTHING_TO_DO]
        assert all(verify(file) == [] for file in files)
    Path("p.svg").unlink()
    Path("p.csv").unlink()  # then it is drawn again, and the points stay
    at = Path("c.csv").stat().st_ino
    assert prefmill(*curve).returncode == 0
    assert Path("p.svg").exists()
    assert Path("c.csv").stat().st_ino == at


@pytest.mark.parametrize("words", [["lst"], ["clean", "lst"], ["lst", "--json"]])
def test_runs_of_no_folder_are_refused(words: list[str], tmp_path: Path) -> None:
    # A misspelt word must not read as "nothing there".
    result = prefmill("runs", *words, cwd=tmp_path)
    assert (result.returncode, result.stdout) == (1, "")
    assert "runs: no folder 'lst'" in result.stderr


def test_runs_of_a_file_and_of_a_table_say_where_to_look(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").touch()
    told = prefmill("runs", "x.parquet", cwd=tmp_path)
    assert "prefmill runs show x.parquet" in told.stderr
    told = prefmill("runs", "verify", "sqlite:a.db#pairs", cwd=tmp_path)
    assert "docs/tables.md" in told.stderr
