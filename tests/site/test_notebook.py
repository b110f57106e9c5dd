"""In a notebook: plans, reports and curves are shown, a bar stands there while a run runs, and
docs/first_look.ipynb shows what it shows.
"""

from __future__ import annotations

import json
import os
import shutil
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from notebooks import left, run_cells, same_everywhere
from pages import ROOT

import prefmill as pm
from prefmill.connection import connect
from prefmill.telemetry.notebook import drawn

NOTEBOOK = ROOT / "docs" / "first_look.ipynb"
HOSTILE = '<script>alert(1)</script>"\x1b[31m\u202e'

pytest.importorskip("IPython")


def test_the_notebook_shows_what_it_shows(tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    book = json.loads(NOTEBOOK.read_text("utf-8"))
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    shown = run_cells(["".join(cell["source"]) for cell in code], tmp_path)
    if os.environ.get("PREFMILL_UPDATE"):
        for cell, outputs in zip(code, shown, strict=True):
            cell["outputs"] = left(outputs)
        NOTEBOOK.write_text(json.dumps(book, indent=1, ensure_ascii=False) + "\n", "utf-8")
    wanted = [cell["outputs"] for cell in code]
    assert same_everywhere([left(outputs) for outputs in shown]) == same_everywhere(wanted)
    assert len(code) > 5
    assert all(wanted), "a cell shows nothing"


def test_a_bar_stands_there_while_a_run_runs(tmp_path):
    rows = "{'prompt': ['p', 'p'], 'completion': ['a', 'b'], 'score': [5, 1]}"
    head = f"import polars as pl, prefmill as pm\nrows = pl.DataFrame({rows})\n"
    quiet = "pm.run(pm.Pairs(), rows, None, progress=lambda phase, share=None: None).pairs_out"
    failing = "try:\n    pm.run(pm.Pairs(), 'nowhere.csv', None)\nexcept Exception:\n    pass"
    plain = "pm.run(pm.Pairs(), rows, None).pairs_out"
    first, second, third = run_cells([head + plain, quiet, failing], tmp_path)

    *bar, value = [each for each in first if "data" in each]
    assert value["data"]["text/plain"] == "1"
    texts = [each["data"]["text/html"] for each in bar]
    assert texts[0].endswith("pairs: starting")
    assert [each["update"] for each in bar] == [False] + [True] * (len(bar) - 1)
    assert texts[-1] == ""
    assert [each["data"].get("text/plain") for each in second] == ["1"]
    assert [each["data"]["text/html"] for each in third][-1] == ""


def test_no_bar_outside_a_notebook(capsys):
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    report = pm.run(pm.Pairs(), rows, None)
    assert capsys.readouterr() == ("", "")
    report.show()
    assert "rows_used                   2\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("share", "value"), [(None, ""), (0.25, 'value="0.2500"'), (7.0, 'value="1.0000"')]
)
def test_a_phase_stays_text(share, value):
    html = drawn("pairs", HOSTILE, share)
    assert value in html
    assert "<script" not in html
    assert "\x1b" not in html
    assert "\u202e" not in html


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)


def faces(tmp_path: Path) -> dict[str, Any]:
    rows = pl.DataFrame(
        {"prompt": [HOSTILE] * 3, "completion": list("abc"), "score": [5, 3, 1], HOSTILE: ["s"] * 3}
    )
    unscored = rows.drop("score")
    scored = pm.score(
        unscored, tmp_path / "scored.parquet", scorer=lambda batch: [1.0] * len(batch)
    )
    return {
        "plan": pm.Pairs(weights={HOSTILE: 1.0}),
        "expect": pm.Unpaired(),
        "pair report": pm.pair_report(rows, id=HOSTILE),
        "run report": pm.run(pm.Pairs(), rows, None, roles={"id": HOSTILE}),
        "score report": scored,
        "curve": pm.curve(rows.with_columns(by=pl.lit(HOSTILE)), by="by", resamples=20),
        "report": pm.report(rows),
    }


def test_what_is_shown_is_text(tmp_path, capsys):
    allowed = {"table", "tr", "td", "pre", "svg", "title", "polyline", "polygon", "text"}
    for name, face in faces(tmp_path).items():
        html = face._repr_html_()
        tags = Tags()
        tags.feed(html)
        assert tags.seen, name
        assert "script" not in tags.seen, name
        assert name == "report" or tags.seen <= allowed, (name, tags.seen)
        assert "\x1b" not in html, name
        face.show()
        said = capsys.readouterr().out
        assert said.strip(), name
        assert "\x1b" not in said, name
        assert "\u202e" not in said, name


def test_every_report_can_be_shown():
    reports = [getattr(pm, name) for name in pm.__all__ if name.endswith(("Report", "Curve"))]
    assert len(reports) > 14
    for kind in [*reports, pm.Pairs, pm.BestOf, pm.Values]:
        assert callable(getattr(kind, "show", None)), kind
        assert callable(getattr(kind, "_repr_html_", None)), kind


class Refusing:
    """A connection in Jupyter without ipywidgets, as DuckDB gives it."""

    def __init__(self, con: Any) -> None:
        self._con = con

    def __getattr__(self, name: str) -> Any:
        return getattr(self._con, name)

    def execute(self, query: str, *values: Any) -> Any:
        if "progress_bar" in query:
            raise duckdb.InvalidInputException("required package 'ipywidgets' is missing")
        return self._con.execute(query, *values)


def test_without_ipywidgets_plans_run(monkeypatch, tmp_path):
    plain = duckdb.connect
    monkeypatch.setattr(duckdb, "connect", lambda **words: Refusing(plain(**words)))
    con = connect(temp_dir=tmp_path, reads=())
    assert con.execute("SELECT 1").fetchall() == [(1,)]
    con.close()
