"""`prefmill check` names the shape of records and says the line to type."""

from __future__ import annotations

import shlex
from pathlib import Path

import polars as pl
import pytest
from typer.testing import CliRunner

import prefmill as pm
from prefmill.cli.main import app
from prefmill.errors import ColumnMissing
from prefmill.runs.looks.check import Findings, check

ANSWERS = [{"answer": "So.", "rank": 1}, {"answer": "No.", "rank": 2}]
SIDES = {"prompt": "Why?", "response_a": "So.", "response_b": "No."}


def look(tmp_path: Path, records: list[dict], **roles: object) -> Findings:
    pl.DataFrame(records).write_parquet(tmp_path / "records.parquet")
    return check(tmp_path / "records.parquet", roles=roles)


@pytest.mark.parametrize(
    ("records", "name"),
    [
        ([{"prompt": "Why?", "answers": ANSWERS}], "a list of answers, each a record"),
        (
            [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}],
            "pairs of a chosen and a rejected answer",
        ),
        ([{**SIDES, "winner": "a"}], "answers side by side with a verdict"),
        (
            [
                {"query": "Why?", "reply": reply, "vote": vote}
                for reply, vote in (("a", "up"), ("b", "down"))
            ],
            "words as scores",
        ),
        (
            [
                {"question": "Why?", "answer": "a", "score": 1},
                {"question": "Why?", "answer": "b", "score": 2},
            ],
            "one answer a row",
        ),
    ],
)
def test_the_line_makes_the_same_pairs(records: list[dict], name: str, tmp_path: Path) -> None:
    found = look(tmp_path, records)
    assert found.shape.startswith(name)
    file, plain, typed = (tmp_path / each for each in ("records.parquet", "a.jsonl", "b.jsonl"))
    pm.run(pm.Pairs(chosen_min=None, rejected_below=None), file, plain)
    line = ["pairs", str(file), "-o", str(typed), "--no-thresholds", *shlex.split(found.line)]
    done = CliRunner().invoke(app, line)
    assert done.exit_code == 0, done.output
    assert typed.read_text("utf-8") == plain.read_text("utf-8")


def test_people_see_the_shape_and_no_helper_of_ours(tmp_path: Path) -> None:
    found = look(tmp_path, [{"prompt": "Why?", "answers": ANSWERS}])
    lines = dict(found.lines())
    assert lines["shape"].endswith("--score -answers.rank --each answers")
    assert "group=each record" in lines["roles"]
    assert not any("_record" in text for text in lines.values())
    assert not any(note.startswith("read as") for note in found.notes)
    assert found.as_json()["shape"] == found.shape


def test_ranks_of_several_lists_are_told_where_they_meet(tmp_path: Path) -> None:
    records = [{"prompt": "Why?", "answers": ANSWERS}] * 2
    assert not any("ranks compare" in note for note in look(tmp_path, records).notes)
    met = look(tmp_path, records, group="prompt")
    assert any(note.startswith("1 prompt has one rank several times") for note in met.notes)
    rows = [
        {"prompt": "Why?", "answer": text, "rank": n}
        for text, n in zip("abcd", (1, 2, 1, 2), strict=True)
    ]
    assert any("ranks compare" in note for note in look(tmp_path, rows, score="-rank").notes)
    assert not any(
        "ranks compare" in note for note in look(tmp_path, rows[:2], score="-rank").notes
    )


def test_what_can_be_read_in_several_ways_is_said_with_its_lines(tmp_path: Path) -> None:
    with pytest.raises(ColumnMissing, match="in several ways") as caught:
        look(tmp_path, [{**SIDES, "label": n} for n in (0, 1)])
    hint = str(caught.value.hint)
    lines = hint.removeprefix("type the line that is meant: ").removesuffix(".").split(" or ")
    firsts = []
    for line in lines:
        out = tmp_path / "out.jsonl"
        args = ["pairs", str(tmp_path / "records.parquet"), "-o", str(out), "--overwrite"]
        done = CliRunner().invoke(app, [*args, *shlex.split(line)])
        assert done.exit_code == 0, done.output
        firsts.append(pl.read_ndjson(out)["chosen"].to_list())
    assert firsts == [["No.", "So."], ["So.", "No."]]
