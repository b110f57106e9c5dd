"""Excel workbooks: which sheet, which row names the columns, and what cells are."""

from __future__ import annotations

import datetime as dt
import json
import sys

import pyarrow as pa
import pytest
from reading import ROWS, put, rows
from workbooks import Error, Formula, workbook

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, MissingPackage

HEAD = ["prompt", "completion", "score"]
GOOD = [HEAD, ["p1", "a", 1], ["p1", "b\nc", 2]]


def book(tmp_path, name="a.xlsx", hidden=(), **sheets):
    return put(tmp_path / name, workbook(sheets, hidden))


def table(tmp_path, read, *rows_of_sheet):
    return rows(read(book(tmp_path, Sheet1=rows_of_sheet)))


def test_a_workbook_is_its_rows(tmp_path, read):
    source = read(book(tmp_path, Sheet1=GOOD))
    assert rows(source) == ROWS
    assert source.columns == pa.schema(
        [("prompt", pa.string()), ("completion", pa.string()), ("score", pa.int64())]
    )
    assert source.notes == ()


def test_it_reaches_a_plan_and_a_query(tmp_path):
    path = book(tmp_path, "my book.xlsx", Answers=GOOD, Notes=[["a"], [1]])
    plan = pm.Pairs(chosen_min=None, rejected_below=None)
    report = pm.run(plan, f"{path}#Answers", tmp_path / "out.jsonl")
    assert (report.rows_in, report.pairs_out) == (2, 1)
    assert json.loads((tmp_path / "out.jsonl").read_text())["chosen"] == "b\nc"


DAYS = [dt.date(2024, 2, 29), dt.date(1999, 12, 31)]
TIMES = [dt.datetime(2024, 2, 29, 13, 30, 15), dt.datetime(2024, 2, 29)]


@pytest.mark.parametrize(
    ("cells", "kind"),
    [
        ([5, -3], pa.int64()),
        ([5, 0.5], pa.float64()),
        ([1e300, 2], pa.float64()),
        ([12345678901234568.0, 1], pa.float64()),
        ([True, False], pa.bool_()),
        (["007", "1e3"], pa.string()),
        (DAYS, pa.date32()),
        (TIMES, pa.timestamp("ms")),
        ([dt.time(4, 5, 6), dt.time(0)], pa.time64("ns")),
        ([dt.timedelta(hours=30), dt.timedelta(minutes=1)], pa.duration("ms")),
        ([" x ", "😀\né"], pa.string()),
    ],
)
def test_cells(tmp_path, read, cells, kind):
    sheet = [["id", "x"], [1, cells[0]], [2, None], [3, cells[1]]]
    source = read(book(tmp_path, Sheet1=sheet))
    assert source.columns.field("x").type == kind
    assert [row["x"] for row in rows(source)] == [cells[0], None, cells[1]]


def test_a_column_of_several_kinds_is_text(tmp_path, read):
    found = table(tmp_path, read, ["x"], [1], ["b"], [2.5], [True])
    assert [row["x"] for row in found] == ["1", "b", "2.5", "true"]


def test_late_cells_decide_as_early_ones_do(tmp_path, read):
    numbers = [[n] for n in range(3000)]
    found = table(tmp_path, read, ["x"], *numbers, ["late"])
    assert [row["x"] for row in found] == [*map(str, range(3000)), "late"]


def test_empty_rows_and_columns(tmp_path, read):
    found = table(
        tmp_path, read, [None], ["a", None, None, "b"], [None], [1, None, 5, None], [None], [2]
    )
    assert found == [
        {"a": 1, "column_3": 5, "b": None},
        {"a": 2, "column_3": None, "b": None},
    ]


def test_a_failed_formula_is_null_and_counted(tmp_path, read):
    path = book(tmp_path, Sheet1=[["a", "b"], [Error("#N/A"), 1], [2, 2], [Error("#REF!"), 3]])
    source = read(path)
    assert rows(source) == [{"a": None, "b": 1}, {"a": 2, "b": 2}, {"a": None, "b": 3}]
    (note,) = source.notes
    assert note.startswith(f"{path}: 2 cells hold no value of their column (the first is row 2,")


def test_a_sheet_is_chosen(tmp_path, read):
    path = book(tmp_path, One=GOOD, **{"Two#2": [["x"], [1]], "Empty": [], "Head": [["y"]]})
    with pytest.raises(BadInput, match=r"several sheets .* got .'One', 'Two#2'., expected") as e:
        read(path)
    assert f"'{path}#One'" in str(e.value)
    assert rows(read(f"{path}#One")) == ROWS
    assert rows(read(f"{path}#Two#2")) == [{"x": 1}]
    assert read(f"{path}#Head").rows == 0
    with pytest.raises(BadInput, match="no sheet 'one'; got"):
        read(f"{path}#one")
    with pytest.raises(BadInput, match="Empty"):
        read(f"{path}#Empty")


def test_one_sheet_with_data_needs_no_choice(tmp_path, read):
    path = book(tmp_path, Cover=[["Report of May"]], Empty=[], Data=GOOD)
    assert rows(read(path)) == ROWS
    path = book(tmp_path, hidden=["Lists"], Lists=[["x"], [1]], Data=GOOD)
    assert rows(read(path)) == ROWS
    assert rows(read(f"{path}#Lists")) == [{"x": 1}]
    path = book(tmp_path, hidden=["Data"], Data=GOOD, Cover=[])
    assert rows(read(path)) == ROWS


def test_names_that_cannot_be_columns(tmp_path, read):
    with pytest.raises(BadArgument, match="duplicate column names"):
        table(tmp_path, read, ["a", "a"], [1, 2])
    with pytest.raises(BadArgument, match="differ only in case"):
        table(tmp_path, read, ["a", "A"], [1, 2])
    assert table(tmp_path, read, [2024, True], [1, 2]) == [{"2024": 1, "true": 2}]


def test_damaged_workbooks(tmp_path, read):
    good = workbook({"Sheet1": GOOD})
    damaged = [b"PK\x03\x04", b"text", good[: len(good) // 2], good[:-40], workbook({})]
    for data in damaged:
        with pytest.raises(BadInput, match=r"a\.xlsx: "):
            read(put(tmp_path / "a.xlsx", data))
    with pytest.raises(BadInput, match="empty"):
        read(put(tmp_path / "a.xlsx", b""))
    with pytest.raises(BadInput, match="empty"):
        read(book(tmp_path, Sheet1=[]))


def test_an_uncomputed_formula_is_empty(tmp_path, read):
    assert table(tmp_path, read, ["a", "b"], [1, Formula("1+1")]) == [{"a": 1, "b": None}]


def test_without_the_extra(tmp_path, read, monkeypatch):
    monkeypatch.setitem(sys.modules, "fastexcel", None)
    with pytest.raises(MissingPackage, match=r"'fastexcel' is not installed") as caught:
        read(book(tmp_path, Sheet1=GOOD))
    assert "pip install '.[excel]'" in str(caught.value)


def test_next_to_other_files(tmp_path, read):
    book(tmp_path, "in/a.xlsx", Sheet1=GOOD)
    put(tmp_path / "in/b.csv", "prompt,completion,score\nq,d,3\n")
    source = read(tmp_path / "in")
    assert [row["score"] for row in rows(source)] == ["1", "2", "3"]
    with pytest.raises(BadArgument, match="no known format"):
        read("https://example.com/a.xlsx")
