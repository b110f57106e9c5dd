"""docs/report.md runs as it stands, and names every warning."""

from __future__ import annotations

import re

from pages import ROOT, make_targets, run_page

PAGE = (ROOT / "docs" / "report.md").read_text("utf-8")
WARNED = ("reports/warned.py", "loops/told.py")


def test_every_block_of_the_page_of_reports_runs(tmp_path):
    wrong = run_page(PAGE, tmp_path, make_targets(), "docs/report.md")
    assert not wrong, "\n\n".join(wrong)


def test_every_warning_is_named():
    text = "".join((ROOT / "src" / "prefmill" / name).read_text("utf-8") for name in WARNED)
    names = {
        *re.findall(r'Warned\(\s*"([\w ]+)"', text),
        *re.findall(r'^    "(\w+)": \(', text, re.M),
    }
    assert {"leak", "repeated pairs", "length", "reward hacking"} <= names
    table = PAGE.partition("## Warnings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| ([\w ,]+) \|", table, re.M)
    told = {name.strip() for row in rows for name in row.split(",")}
    assert names == told - {"name", "of a loop"}
