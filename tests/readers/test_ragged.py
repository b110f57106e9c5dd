"""CSV rows that are shorter than their header, and a delimiter at the end of every row
(faults/pairs.md, kind 6).
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.runs.looks.check import check

PLAN = pm.Pairs(chosen_min=None, rejected_below=None)


def put(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_that_lack_only_what_nobody_uses(tmp_path):
    """A raw crowd-work export leaves out empty columns at the end of a row."""
    path = put(
        tmp_path / "a.csv",
        'prompt,completion,score,comment,approved\np,a,1\np,"b\nb",2,fine\np,c,3,good,yes\n',
    )
    report = pm.run(PLAN, path, tmp_path / "out.jsonl", keep=["comment", "approved"])
    pair = json.loads((tmp_path / "out.jsonl").read_text())
    assert (pair["chosen"], pair["chosen_comment"], pair["rejected"], pair["rejected_comment"]) == (
        "c",
        "good",
        "a",
        None,
    )
    assert (report.rows_in, report.rows_rejected) == (3, 0)
    assert (
        report.notes[0]
        == f"{path}: 2 rows are shorter than the header (the first in line 2); what they lack is "
        f"null."
    )


def test_rows_that_lack_a_role_are_malformed(tmp_path):
    path = put(tmp_path / "a.csv", "prompt,completion,comment,score\np,a,x,1\np,b,x\np,c,x,3\n")
    with pytest.raises(BadInput, match="line 3: 3 fields where the header has 4"):
        pm.run(PLAN, path, None)
    report = pm.run(PLAN, path, None, rejects=tmp_path / "r.jsonl")
    assert (report.rows_in, report.rows_rejected, report.pairs_out) == (2, 1, 1)
    # which columns hold a role is up to the command
    assert pm.run(PLAN, path, None, roles={"score": "comment"}).rows_in == 3


TURK = '''"HITId","WorkerId","Input.prompt","Input.answer","Answer.rating","Answer.note","Reject"
"H1","W1","What is 2+2?","4","5"
"H1","W2","What is 2+2?","5","1","no"
"H2","W1","Say hi","hi, you","4","",
"H2","W2","Say hi","go ""away""","2","rude","x"
'''
TURK_ROLES = {"prompt": "Input.prompt", "completion": "Input.answer", "score": "Answer.rating"}


def test_an_export_of_crowd_work(tmp_path):
    """Rows end where their last filled column is; `Input.` and `Answer.` are parts of names."""
    path = put(tmp_path / "batch.csv", TURK)
    report = pm.run(PLAN, path, tmp_path / "out.jsonl", roles=TURK_ROLES)
    pairs = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [(pair["chosen"], pair["rejected"]) for pair in pairs] == [
        ("4", "5"),
        ("hi, you", 'go "away"'),
    ]
    assert (report.rows_in, report.rows_rejected) == (4, 0)
    assert report.notes[0] == (
        f"{path}: 2 rows are shorter than the header (the first in line 2); what they lack is null."
    )


def test_a_short_row_where_no_role_is_known_asks_for_the_roles(tmp_path):
    with pytest.raises(BadInput, match="line 2: 5 fields where the header has 7") as caught:
        pm.run(PLAN, put(tmp_path / "batch.csv", TURK), None)
    assert "name the columns of the roles" in str(caught.value)
    long = put(tmp_path / "long.csv", "a,b,c\n1,2,3,4\n")
    with pytest.raises(BadInput, match="--rejects"):
        pm.run(PLAN, long, None)


def test_a_plan_needs_its_own_roles(tmp_path):
    path = put(tmp_path / "a.csv", "prompt,completion,score,id\np,a,1,x\np,b,2\n")
    assert pm.run(PLAN, path, None).pairs_out == 1
    with pytest.raises(BadInput, match="line 3: 3 fields"):
        pm.run(pm.Pairs(chosen_min=None, rejected_below=None, tie_break="id"), path, None)


def test_scoring_needs_texts_only(tmp_path):
    path = put(tmp_path / "a.csv", "prompt,completion,comment\np,a\np,b,x\n")
    assert (
        pm.score(
            path, tmp_path / "out.jsonl", scorer=lambda batch: [1.0] * batch.num_rows
        ).rows_scored
        == 2
    )
    put(path, "prompt,comment,completion\np,a\n")
    with pytest.raises(BadInput, match="line 2: 2 fields"):
        pm.score(path, tmp_path / "out2.jsonl", scorer=lambda batch: [1.0] * batch.num_rows)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_delimiter_at_the_end_of_every_row(tmp_path, ends):
    path = put(tmp_path / "a.csv", "")
    path.write_bytes(ends.join(["prompt,completion,score", 'p,"a,",1,', "p,b,2,", ""]).encode())
    pm.run(PLAN, path, tmp_path / "out.jsonl")
    pair = json.loads((tmp_path / "out.jsonl").read_text())
    assert (pair["chosen"], pair["rejected"], pair["chosen_score"]) == ("b", "a,", 2.0)


@pytest.mark.parametrize(
    ("row", "fields"), [("p,b,2", 3), ("p,b,2,x", 4), ("p,b,2,,", 4), ("p,b", 2)]
)
def test_a_row_that_ends_otherwise_is_malformed(tmp_path, row, fields):
    """It may have a delimiter too few inside: `p,b, more,2` would give another score."""
    rows = 9_000  # 9 MB: the last row is in another block than the first
    path = put(
        tmp_path / "a.csv", "prompt,completion,score\n" + f"p,{'a' * 1000},1,\n" * rows + f"{row}\n"
    )
    with pytest.raises(BadInput, match=f"line {rows + 2}: {fields} field"):
        pm.run(PLAN, path, None)
    assert pm.run(PLAN, path, None, rejects=tmp_path / "r.jsonl").rows_in == rows


def test_an_extra_empty_field_in_one_row_is_malformed(tmp_path):
    path = put(tmp_path / "a.csv", "prompt,completion,score\np,a,1\np,c,3,\n")
    with pytest.raises(BadInput, match="line 3: 4 fields where the header has 3"):
        pm.run(PLAN, path, None)


def test_a_key_that_is_twice_is_told_once(tmp_path):
    path = put(
        tmp_path / "a.jsonl",
        '{"prompt":"p","completion":"a","score":1}\n{"prompt":"p","completion":"b","score":2,'
        '"score":0}\n{"prompt":"p","prompt":"q"}\n{}\n',
    )
    report = pm.run(PLAN, path, None)
    assert [note for note in report.notes if "twice" in note] == [
        f"{path}: line 2: a key is there twice; the first counts."
    ]
    assert report.pairs_out == 1


def test_a_quote_that_swallows_rows_is_told(tmp_path):
    """The quote of row 2 is closed by that of row 6: four rows are one."""
    rows = [
        "prompt,completion,score",
        "p,a,1",
        'p,"b,2',
        "p,c,3",
        "p,d,4",
        "p,e,5",
        'p,f",6',
        "p,g,7",
    ]
    path = put(tmp_path / "a.csv", "\n".join(rows) + "\n")
    report = pm.run(PLAN, path, None)
    assert report.rows_in == 3
    assert (
        report.notes[0]
        == f"{path}: a field holds lines that look like rows (the first is line 4); is a quote not "
        f"closed?"
    )


def test_a_text_of_several_lines_is_no_swallowed_row(tmp_path):
    text = "one, two, three\nand, so on\nplain\n, ,\nend"
    path = put(tmp_path / "a.csv", f'prompt,completion,score\np,"{text}",1\np,b,2\n')
    assert not [note for note in pm.run(PLAN, path, None).notes if "quote" in note]


def test_check_shows_the_first_rows_as_read(tmp_path):
    """A missing header, or a decimal comma, is seen in them."""
    path = put(
        tmp_path / "a.csv", "p,prompt,completion,score\nq," + "x" * 100 + ',,"1,5"\nq,z,"a\nb",2\n'
    )
    found = check(path)
    assert found.first_rows == [
        {"prompt": repr("x" * 24 + " ... " + "x" * 12), "completion": "null", "score": "'1,5'"},
        {"prompt": "'z'", "completion": repr("a\nb"), "score": "'2'"},
    ]
    assert ("row 1", "prompt 'z', completion 'a\\nb', score '2'") in found.lines()
