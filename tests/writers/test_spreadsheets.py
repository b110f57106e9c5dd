"""CSV for people: nothing in it is a formula, numbers stay numbers, and the report says so."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import polars as pl
import pytest
from command import prefmill
from hypothesis import given
from hypothesis import strategies as st

import prefmill as pm
from prefmill.errors import BadArgument, RunDiffers
from prefmill.writers.spreadsheets import safe, safe_schema
from prefmill.writers.write import write

#: What OWASP lists, and the wide forms.
STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
FORMULAS = [f"{start}HYPERLINK(1)" for start in STARTS]
NUMBER = re.compile(r"-[0-9.]+")
HARMLESS = ["x", "", "'=1", " =1", "1-1", "a\n=1", "é"]
ROWS = {
    "prompt": ["=cmd|' /C calc'!A0"] * 2,
    "completion": ["@SUM(1+1)", "-no"],
    "score": [5.0, -1.0],
    "+model": ["=m", "n"],
}


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    path = tmp_path / "rated.parquet"
    pl.DataFrame(ROWS).write_parquet(path)
    return path


def cells(path: Path) -> list[list[str]]:
    delimiter = "\t" if path.suffix == ".tsv" else ","
    text = path.read_bytes().decode()
    return list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))


def is_formula(cell: str) -> bool:
    return cell.startswith(STARTS)


@pytest.mark.parametrize("name", ["out.csv", "out.tsv"])
def test_no_text_begins_like_a_formula(name: str, tmp_path: Path) -> None:
    texts = [*FORMULAS, *HARMLESS]
    frame = pl.DataFrame({"text": texts, "@kind": pl.Series(texts, dtype=pl.Categorical)})
    frame = frame.with_columns(number=pl.lit(-1.5), whole=pl.lit(-2))
    written = write([frame], frame.schema, tmp_path / name, format="pool", spreadsheet_safe=True)
    head, *rows = cells(tmp_path / name)
    assert head == ["text", "'@kind", "number", "whole"]
    marked = [f"'{text}" for text in FORMULAS] + HARMLESS
    assert [row[0] for row in rows] == [row[1] for row in rows] == marked
    assert {tuple(row[2:]) for row in rows} == {("-1.5", "-2")}
    assert written.marked == 2 * len(FORMULAS)


@given(st.lists(st.text(st.sampled_from("=+-@\t\r\n'a1 ＝"), max_size=4), min_size=1, max_size=9))
def test_only_what_begins_so_is_changed(texts: list[str]) -> None:
    frame, marked = safe(pl.DataFrame({"text": texts}))
    made = frame["text"].to_list()
    assert not any(map(is_formula, made))
    assert made == [f"'{text}" if is_formula(text) else text for text in texts]
    assert marked == sum(map(is_formula, texts))


def test_a_json_number_stays_a_number_and_two_columns_keep_two_names() -> None:
    from prefmill.table.json_values import JSON_FIELD

    values = [{JSON_FIELD: text} for text in ('{"a": 1}', "-5", "-1e3", "-1+cmd()")]
    frame, marked = safe(pl.DataFrame({"extra": values}))
    assert frame["extra"].to_list() == ['{"a": 1}', "-5", "-1e3", "'-1+cmd()"]
    assert marked == 1
    with pytest.raises(BadArgument, match="two columns"):
        safe_schema(pl.Schema({"=a": pl.String(), "'=a": pl.String()}))


@pytest.mark.parametrize("on", ["duckdb", "polars"])
def test_a_run_says_what_it_did_and_numbers_stay(on: str, rated: Path, tmp_path: Path) -> None:
    target = tmp_path / "pairs.csv"
    report = pm.run(pm.Pairs(), rated, target, engine=on, keep=["+model"], spreadsheet_safe=True)
    head, row = cells(target)
    assert row[:5] == ["'=cmd|' /C calc'!A0", "'@SUM(1+1)", "'-no", "5.0", "-1.0"]
    assert not any(map(is_formula, [*head, *row[:3], *row[5:]]))
    assert any("4 texts have an apostrophe" in note for note in report.notes)
    # It is another run than the one with the texts as they are.
    with pytest.raises(RunDiffers, match="spreadsheet_safe"):
        pm.run(pm.Pairs(), rated, target, engine=on, keep=["+model"])
    again = pm.run(pm.Pairs(), rated, target, engine=on, keep=["+model"], spreadsheet_safe=True)
    assert "nothing was to do" in again.notes[-1]


PLANS = {
    "best": lambda *where: pm.run(pm.BestOf(k=1), *where, spreadsheet_safe=True),
    "unpair": lambda *where: pm.run(pm.Unpaired(), *where, spreadsheet_safe=True),
    "advantages": lambda *where: pm.run(pm.Advantage(), *where, spreadsheet_safe=True),
    "split": lambda *where: pm.run(
        pm.Pairs(), *where, spreadsheet_safe=True, split={"a": 0.5, "b": 0.5}
    ),
    "rows": lambda *where: pm.rows(*where, spreadsheet_safe=True),
    "votes": lambda *where: pm.votes(*where, method="win-rate", spreadsheet_safe=True),
}


def safe_in(folder: Path) -> bool:
    texts = [cell for path in folder.glob("*.csv") for row in cells(path) for cell in row]
    return bool(texts) and not [
        cell for cell in texts if is_formula(cell) and not NUMBER.fullmatch(cell)
    ]


@pytest.mark.parametrize("work", PLANS)
def test_whatever_writes_csv_has_it(work: str, rated: Path, tmp_path: Path) -> None:
    report = PLANS[work](rated, tmp_path / "out.csv")
    assert any("have an apostrophe" in note for note in report.notes)
    assert safe_in(tmp_path)


@pytest.mark.parametrize("command", [("pairs",), ("curve", "--by", "+model")])
def test_people_are_told(command: tuple[str, ...], rated: Path, tmp_path: Path) -> None:
    words = [command[0], rated, "-o", tmp_path / "out.csv", *command[1:]]
    done = prefmill(*words, "--spreadsheet-safe")
    assert done.returncode == 0, done.stderr
    assert "spreadsheet-safe: " in done.stderr
    assert safe_in(tmp_path)


def test_of_sql_also_where_two_columns_have_one_name(tmp_path: Path) -> None:
    query = "SELECT '=1' AS a, '+2' AS a, -3 AS n, '-4'::JSON AS j, ['=5'] AS \"@l\", NULL AS z"
    done = prefmill("sql", query, "-o", tmp_path / "out.csv", "--spreadsheet-safe")
    assert done.returncode == 0, done.stderr
    head, row = cells(tmp_path / "out.csv")
    assert row == ["'=1", "'+2", "-3", "-4", "['=5']", ""]
    assert head[2:] == ["n", "j", "'@l", "z"]
    assert "apostrophe" in done.stderr


@pytest.mark.parametrize(
    ("target", "more", "said"),
    [
        ("out.parquet", {}, "end the output with .csv"),
        ("out.jsonl.gz", {}, "end the output with .csv"),
        ("out", {}, "end the output with .csv"),
        ("duckdb:x.db#t", {}, "leave --spreadsheet-safe out"),
        ("out.parquet", {"incremental": True}, "leave --spreadsheet-safe out"),
    ],
)
def test_other_outputs_are_refused_with_a_hint(
    target: str, more: dict[str, bool], said: str, rated: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(rated.parent)
    with pytest.raises(BadArgument) as refused:
        pm.run(pm.Pairs(), rated, target, spreadsheet_safe=True, **more)
    assert said in str(refused.value)
    assert [path.name for path in rated.parent.iterdir()] == [rated.name]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("pairs", "-o", "-"), "end the output with .csv"),
        (("curve", "-o", "p.csv", "--plot", "p.png"), "give -o another name"),
    ],
)
def test_the_command_refuses_what_would_not_be_safe(
    words: tuple[str, ...], said: str, rated: Path
) -> None:
    done = prefmill(words[0], rated, *words[1:], "--spreadsheet-safe", cwd=rated.parent)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert [path.name for path in rated.parent.iterdir()] == [rated.name]
