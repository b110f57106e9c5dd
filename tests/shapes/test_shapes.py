"""Every entry of the corpus on every host equals the oracles."""

from __future__ import annotations

import importlib.util
import json
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from corpus import ENTRIES, STEPS
from entry import Entry
from oracle_rows import number
from shape_files import write
from shape_hosts import HOSTS, KINDS, invoke, plain, reading, typed, wanted

from prefmill.errors import BadArgument

COUNTS = ("rows_in", "rows_used", "rows_not_selected", "groups_in", "groups_used", "pairs_out")
#: What no table in memory holds: rows that have lists, objects and text by turns.
FILES_ONLY = ("lm-eval samples, older",)
#: What is a matter of files.
OF_FILES = ("A file for each model",)


def param(entry: Entry) -> object:
    needs = entry.kind == "xlsx" and importlib.util.find_spec("fastexcel") is None
    marks = [pytest.mark.skip(reason="needs fastexcel, an extra")] if needs else []
    return pytest.param(entry, id=entry.name.replace(" ", "_"), marks=marks)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Joined files are named as people name them: by their path from here."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("entry", [param(entry) for entry in ENTRIES])
def test_the_command_gives_the_rows(entry: Entry, tmp_path: Path) -> None:
    """`prefmill rows`, by the line that people type: the rows, and the account of the records."""
    names = [path.name for path in write(entry, tmp_path)]
    done = invoke(*typed(entry, names, "rows.parquet", command="rows"), "--json", "--quiet")
    assert done.exit_code == 0, done.output
    found = pq.read_table(tmp_path / "rows.parquet").to_pylist()
    expected = reading(entry)
    named = [role for role in ("source", "id", "system") if role in entry.words]
    named += ["annotator"] if "annotator" in expected.roles else []
    assert [told(row, named) for row in found] == [told(row, named) for row in expected.rows]
    report = json.loads(done.stdout)
    account = report.get("records", report)
    dropped = {name: count for name, count in account.get("dropped", {}).items() if count}
    assert dropped == entry.dropped


@pytest.mark.parametrize("entry", [param(entry) for entry in ENTRIES if not entry.line])
def test_the_line_that_is_said_reads_the_same_rows(entry: Entry, tmp_path: Path) -> None:
    """What was recognised is said as options; typed, they give the same."""
    names = [path.name for path in write(entry, tmp_path)]
    done = invoke("rows", *names, "-o", "one.parquet", "--json", "--quiet")
    assert done.exit_code == 0, done.output
    line = (json.loads(done.stdout).get("records") or json.loads(done.stdout)).get("read_as", "")
    again = invoke("rows", *names, *shlex.split(line), "-o", "two.parquet", "--quiet")
    assert again.exit_code == 0, again.output
    assert pq.read_table(tmp_path / "one.parquet") == pq.read_table(tmp_path / "two.parquet")


def told(row: dict, named: list[str]) -> tuple:
    score = row["score"]
    if score is not None:
        score = number(score)
    return plain(row["prompt"]), plain(row["completion"]), score, *(row[name] for name in named)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("entry", [param(entry) for entry in ENTRIES if entry.command in KINDS])
def test_hosts(entry: Entry, host: str, tmp_path: Path) -> None:
    if host != "cli" and entry.name in FILES_ONLY + OF_FILES:
        return
    if host == "sql" and entry.files:
        with pytest.raises(BadArgument, match="join is for files"):
            HOSTS[host](entry, tmp_path)
        return
    rows, report = HOSTS[host](entry, tmp_path)
    expected, counts = wanted(entry)
    assert rows == expected
    if report:
        assert {name: report[name] for name in COUNTS} == {name: counts[name] for name in COUNTS}
        assert dict(report["dropped"]) == dict(counts["dropped"])


def test_a_curve_over_lists(tmp_path: Path) -> None:
    """Rollouts: the first point is the mean of the prompts' means."""
    (entry,) = (entry for entry in ENTRIES if entry.command == "curve")
    names = [path.name for path in write(entry, tmp_path)]
    done = invoke(*typed(entry, names, "out.parquet"), "--resamples", "0", "--quiet")
    assert done.exit_code == 0, done.output
    points = pq.read_table(tmp_path / "out.parquet").to_pylist()
    by_prompt: dict[str, list[bool]] = {}
    for row in reading(entry).rows:
        by_prompt.setdefault(row["prompt"], []).append(row["score"])
    means = [sum(scores) / len(scores) for scores in by_prompt.values()]
    assert points[0]["best"] == pytest.approx(sum(means) / len(means))
    assert points[-1]["n"] == 4
    assert points[-1]["best"] == sum(map(max, by_prompt.values())) / len(by_prompt)


@pytest.mark.parametrize("entry", STEPS, ids=lambda entry: entry.name)
def test_labelled_steps(entry: Entry, tmp_path: Path) -> None:
    names = [path.name for path in write(entry, tmp_path)]
    done = invoke(*typed(entry, names, "out.parquet"), "--quiet")
    assert done.exit_code == 0, done.output
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["prompt", "completions", "labels"]
    rows = [tuple(row.values()) for row in table.to_pylist()]
    assert rows[: len(entry.first)] == entry.first
    assert len(rows) == entry.rows


def test_tables_in_memory_hold_the_corpus() -> None:
    """What is left out above is left out for a reason."""
    for entry in ENTRIES:
        if entry.name in FILES_ONLY:
            with pytest.raises(pa.lib.ArrowException):
                pa.Table.from_pylist(entry.records)
