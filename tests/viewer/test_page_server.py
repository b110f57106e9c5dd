"""The page of `prefmill view` over real loopback: who may ask, and what is answered."""

from __future__ import annotations

import json
import math
import random
import socket
from urllib.parse import urlsplit

import polars as pl
import pytest
from viewers import fetched, flagged, served, told

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.viewer.table import HEAD
from prefmill.viewer.view import viewing
from prefmill.viewer.words import difference

HOSTILE = "<script>alert(1)</script> \u202eabc\u200f \x1b[31mred nul\x00end &amp; \U0001f600"


def rows_of(count):
    draw = random.Random(3)
    scores = [0.0, 1.5, -2.0, math.nan, None, 1e300]
    return pl.DataFrame(
        {
            "prompt": [f"p{draw.randint(0, 40)}" for _ in range(count)],
            "completion": [f"Answer {draw.randint(0, 99)}" for _ in range(count)],
            "score": [draw.choice(scores) for _ in range(count)],
            "number": [draw.randint(-5, 5) for _ in range(count)],
            'odd "name"': [draw.choice(["a", None, "B'", "ä", ""]) for _ in range(count)],
        },
        schema_overrides={"score": pl.Float64},
    )


@pytest.fixture(scope="module")
def feedback(tmp_path_factory):
    """The page of 2,500 rows in two files, and these rows."""
    folder = tmp_path_factory.mktemp("view")
    rows = rows_of(2500)
    rows.head(900).write_parquet(folder / "a.parquet", row_group_size=100)
    rows.tail(1600).write_parquet(folder / "b.parquet", row_group_size=700)
    with served([folder / "a.parquet", folder / "b.parquet"], folder / "flags.jsonl") as server:
        yield server, rows.with_row_index("at")


def test_only_who_knows_the_token_and_names_this_machine_is_answered(feedback):
    server, _ = feedback
    assert socket.gethostbyname(server.server_address[0]) == "127.0.0.1"
    place = urlsplit(server.url)
    base = f"{place.scheme}://{place.netloc}/"
    for path in ("", "about", "wrong/about", f"{server.token[:-1]}/about", "%2e%2e/about"):
        assert fetched(base + path)[0] == 403
    for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1"):
        assert fetched(server.url, headers={"Host": host})[0] == 403
    assert (
        fetched(f"{server.url}about", headers={"Host": f"localhost:{server.server_port}"})[0] == 200
    )
    assert len(server.token) >= 32


def test_every_answer_forbids_what_is_not_its_own(feedback):
    server, _ = feedback
    for name, kind in (("", "text/html"), ("view.js", "text/javascript"), ("view.css", "text/css")):
        status, headers, content = fetched(server.url + name)
        assert (status, headers["Content-Type"]) == (200, f"{kind}; charset=utf-8")
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert headers["Cache-Control"] == "no-store"
        assert b"http://" not in content
        assert b"https://" not in content


def test_what_there_is_not_is_said_and_changes_need_a_post(feedback):
    server, _ = feedback
    asked = (("nothing", 404), ("row", 404), ("../secret", 404), ("flag", 405))
    assert [fetched(server.url + path)[0] for path, _ in asked] == [code for _, code in asked]
    bad = {"filters": [["nowhere", "=", "1"]]}, {"sort": "x; DROP TABLE y"}, {"filters": "no"}
    for words in (
        *bad,
        {"filters": [["score", "OR 1=1", "1"]]},
        {"filters": [["score", "=", "x"]]},
    ):
        status, _, content = fetched(f"{server.url}rows?q={json.dumps(words).replace(' ', '%20')}")
        assert status == 400, content
        assert json.loads(content)["error"].startswith("view: ")
    assert fetched(f"{server.url}row?q={json.dumps({'row': 9999})}".replace(" ", ""))[0] == 400
    assert fetched(f"{server.url}flag", {"row": 0, "on": "x" * 200_000})[0] == 413


COMPARED = {
    "=": lambda cell, value: cell == value,
    "!=": lambda cell, value: cell != value,
    "<": lambda cell, value: cell < value,
    "<=": lambda cell, value: cell <= value,
    ">": lambda cell, value: cell > value,
    ">=": lambda cell, value: cell >= value,
}


def oracle(rows, filters, search, sort, down):
    """The rows that are asked for, by Polars."""
    for name, operator, value in filters:
        cell = pl.col(name)
        number = rows.schema[name].is_numeric()
        if operator in ("empty", "filled"):
            keep = cell.cast(pl.String).fill_null("") == ""
            keep = keep if operator == "empty" else ~keep
        elif operator in ("contains", "lacks"):
            keep = cell.str.to_lowercase().str.contains(value.lower(), literal=True)
            keep = keep if operator == "contains" else ~keep
        else:
            keep = COMPARED[operator](cell, float(value) if number else value)
        rows = rows.filter(keep)
    if search:
        found = [
            pl.col(name).cast(pl.String).str.to_lowercase().str.contains(search, literal=True)
            for name in rows.columns[1:]
        ]
        rows = rows.filter(pl.any_horizontal(found))
    if sort:
        rows = rows.sort(sort, descending=down, nulls_last=True, maintain_order=True)
    return rows["at"].to_list()


ASKED = [
    ([], "", "", False),
    ([], "", "score", False),
    ([], "", "score", True),
    ([], "", "number", True),
    ([], "", 'odd "name"', True),
    ([["score", ">=", "0"]], "", "", False),
    ([["number", "<", "2"], ["completion", "contains", "ANSWER 1"]], "", "prompt", False),
    ([['odd "name"', "=", "B'"]], "", "", False),
    ([['odd "name"', "lacks", "b"]], "", "completion", True),
    ([['odd "name"', "empty", ""], ["score", "filled", ""]], "", "", False),
    ([["number", "!=", "-5"]], "answer 7", "number", False),
    ([["number", ">", "1.5"], ["number", "<=", "99999999999999999999"]], "", "", False),
    ([["completion", ">", "Answer 5"]], "", "", False),
    ([["prompt", "=", "not there"]], "", "score", False),
    ([["completion", "contains", "answer ."]], "", "", False),
    ([['odd "name"', "contains", "Ä"]], "9", "", False),
]


@pytest.mark.parametrize(("filters", "search", "sort", "down"), ASKED)
def test_pages_are_those_of_an_oracle(feedback, filters, search, sort, down):
    server, rows = feedback
    words = {"filters": filters, "search": search, "sort": sort, "down": down}
    expected = oracle(rows, filters, search, sort, down)
    assert told(server, "count", **words) == len(expected)
    for first in (0, 37, 990, HEAD + 300, 2490, 9000):  # inside the head, over its end, beyond all
        page = told(server, "rows", **words, first=first, count=40)
        assert [row for row, _ in page] == expected[first : first + 40]
    page = told(server, "rows", **words, first=0, count=5)
    names = rows.columns[1:]
    for row, cells in page:
        shown = {k: "nan" if v != v else v for k, v in rows.row(row, named=True).items()}
        assert dict(zip(names, cells, strict=True)) == {name: shown[name] for name in names}


def test_answers_to_the_prompt_of_a_row_come_by_score(feedback):
    server, rows = feedback
    prompt = rows["prompt"][5]
    others = rows.filter((pl.col("prompt") == prompt) & (pl.col("at") != 5))
    best = others.sort("score", descending=True, nulls_last=True, maintain_order=True)
    found = told(server, "siblings", row=5)
    assert [each["row"] for each in found] == best["at"].to_list()[:100]
    sides = told(server, "row", row=5, other=found[0]["row"])["sides"]
    assert "".join(text for _, text in sides[1]["pieces"]) == found[0]["text"]


def test_texts_are_whole_spelled_out_and_cut_only_for_reading(tmp_path):
    word = "w" * 1_000_000
    rows = {"prompt": [HOSTILE, "q"], "chosen": [word, "a b"], "rejected": [f"{HOSTILE} a", word]}
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs.parquet")
    with served(tmp_path / "pairs.parquet", tmp_path / "flags.jsonl") as server:
        row = told(server, "row", row=0)
        spelled = (
            "<script>alert(1)</script> \\u202eabc\\u200f \\x1b[31mred nul\\x00end &amp; \U0001f600"
        )
        assert row["cells"]["prompt"] == spelled
        assert row["more"] == {"chosen": 980_000}
        assert row["sides"][0]["pieces"] == [["beyond", "w" * 20_000]]
        assert told(server, "text", row=0, column=1) == word
        assert [cells[1] for _, cells in told(server, "rows")] == ["w" * 160, "a b"]
        assert told(server, "count", search="<SCRIPT>") == 1


def test_messages_are_turns_and_other_records_trees(tmp_path):
    line = {
        "prompt": [{"role": "user", "content": "hi"}],
        "chosen": [{"role": "assistant", "content": "yes\u202e"}],
        "rejected": [{"role": "assistant", "content": "no"}],
        "reply": {"text": "a", "replies": [{"text": "b"}]},
    }
    (tmp_path / "chat.jsonl").write_text(json.dumps(line))
    with served(tmp_path / "chat.jsonl", tmp_path / "flags.jsonl") as server:
        row = told(server, "row", row=0)
        ((_, cells),) = told(server, "rows")
    assert row["cells"]["prompt"] == {"turns": [["user", "hi"]]}
    assert row["cells"]["reply"] == line["reply"]
    assert row["sides"][0]["pieces"] == [["only", "yes\\u202e"]]
    assert cells[0] == "hi"


def test_flags_are_written_at_once_and_leave_the_pairs_out(tmp_path):
    rows = {"prompt": list("pqr"), "chosen": ["a"] * 3, "rejected": ["b"] * 3}
    pl.DataFrame(rows).write_parquet(tmp_path / "pairs.parquet")
    flags = tmp_path / "flags.jsonl"
    with served(tmp_path / "pairs.parquet", flags) as server:
        assert flagged(server, 2) == [2]
        assert flagged(server, 1) == [1, 2]
        assert flagged(server, 2, on=False) == [1]
        (line,) = map(json.loads, flags.read_text().splitlines())
        assert (line["row"], line["prompt"]) == (1, "q")
    with flags.open("a") as file:
        print(json.dumps({"text_id": "0" * 32, "row": 0}), file=file)
    with served(tmp_path / "pairs.parquet", flags) as server:  # flags come back, others stay
        assert told(server, "about")["flags"] == [1]
        flagged(server, 0)
    assert [json.loads(line)["row"] for line in flags.read_text().splitlines()] == [0, 0, 1]
    plan = pm.Pairs(chosen_min=None, rejected_below=None)
    report = pm.run(plan, tmp_path / "pairs.parquet", tmp_path / "out.parquet", exclude=flags)
    assert pl.read_parquet(tmp_path / "out.parquet")["prompt"].to_list() == ["r"]
    assert report.dropped == {"excluded": 4}
    assert "1 of the 3 ids" in report.notes[-1]


def test_what_is_in_the_way_is_said_before_a_page_is_served(tmp_path, feedback):
    pl.DataFrame({"text": ["a"]}).write_parquet(tmp_path / "rows.parquet")
    (tmp_path / "flags.jsonl").write_text("no json")
    with (
        pytest.raises(BadInput, match="no file of flags"),
        served(tmp_path / "rows.parquet", tmp_path / "flags.jsonl"),
    ):
        pass
    taken = feedback[0].server_port
    with (
        pytest.raises(BadArgument, match="cannot be had"),
        viewing(tmp_path / "rows.parquet", flags=tmp_path / "other.jsonl", port=taken),
    ):
        pass


@pytest.mark.parametrize(
    ("left", "right"),
    [("", ""), ("a b c", "a x c"), ("日本語", "日木語"), ("same", "same"), ("a\n\nb", "a b")],
)
def test_pieces_join_to_the_texts_and_the_same_ones_are_the_same(left, right):
    one, two = difference(left, right)
    assert ("".join(text for _, text in one), "".join(text for _, text in two)) == (left, right)
    same = [[text for word, text in side if word == "same"] for side in (one, two)]
    assert "".join(same[0]) == "".join(same[1])


def test_a_difference_of_very_long_texts_ends():
    left, right = (" ".join(str(n * step) for n in range(40_000)) for step in (3, 7))
    one, two = difference(left, right)
    assert [side[-1][0] for side in (one, two)] == ["beyond", "beyond"]
    assert "".join(text for _, text in one) == left
