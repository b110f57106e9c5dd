"""The parser of pages and the comparison of what they print."""

from __future__ import annotations

import pytest
from pages import Block, blocks, commands, run_page, same


@pytest.mark.parametrize(
    ("page", "wanted"),
    [
        ("", []),
        ("# only words\n", []),
        ("```console\n$ ls\na\n```\n", [Block("console", "$ ls\na\n", 1)]),
        (
            "x\n```python\nprint(1)\n```\n```text\n1\n```\n",
            [Block("python", "print(1)\n", 2, "1\n")],
        ),
        ("```sql\nFROM t\n```\n\n```text\n(1,)\n```\n", [Block("sql", "FROM t\n", 1, "(1,)\n")]),
        (
            "```sql\nFROM t\n```\nwords\n```text\nno answer\n```\n",
            [Block("sql", "FROM t\n", 1), Block("text", "no answer\n", 5)],
        ),
        ("```text\na\n```\n```text\nb\n```\n", [Block("text", "a\n", 1), Block("text", "b\n", 4)]),
        ("```\nplain\n```\n```python\n```\n", [Block("", "plain\n", 1), Block("python", "", 4)]),
        ("````text\n```sql\n```\n````\n", [Block("text", "```sql\n```\n", 1)]),
    ],
)
def test_the_parser_of_blocks(page, wanted):
    assert blocks(page) == wanted


def test_the_parser_refuses_an_open_block():
    with pytest.raises(AssertionError, match="line 2: the block is never closed"):
        blocks("a\n```python\nx\n")


def test_the_parser_of_commands():
    text = "$ one -a\nout 1\n\nout 2\n$ two \\\n> -b\n$ three\nout 3\n"
    assert commands(text) == [
        ("one -a", "out 1\n\nout 2\n"),
        ("two \\\n-b", ""),
        ("three", "out 3\n"),
    ]
    assert commands("") == []
    with pytest.raises(AssertionError, match="output before the first command"):
        commands("stray\n$ one\n")


@pytest.mark.parametrize(
    ("got", "expected", "equal"),
    [
        ("2 pairs (0.31 s, 1,237 MB, duckdb)\n", "2 pairs (9 s, 4 MB, duckdb)", True),
        ("2 pairs (0.31 s, 237 MB, duckdb)", "3 pairs (0.31 s, 237 MB, duckdb)", False),
        ("a\nb\nc\n", "a\n...\nc\n", True),
        ("a\nb\n", "a\n...", True),
        ("a\nb\n", "a\n", False),
        ("a  \nb\n\n", "a\nb", True),
        ("a+b (c)", "a+b (c)", True),
        ("axb", "a.b", False),
        ("", "", True),
    ],
)
def test_the_comparison_of_outputs(got, expected, equal):
    assert same(got, expected) is equal


def test_a_page_without_blocks_runs(folder):
    assert run_page("", folder, set()) == []


def test_a_page_that_is_wrong_is_found_out(folder):
    page = (
        "```console\n$ make nothing\n$ make demo\n$ echo 1\n2\n$ echo 3 >&2; ls\n3\nexamples\n$ "
        "pip install nothing\n```\n"
        "```python\na = 1\nprint(a)\n```\n```text\n2\n```\n```python\nprint(a)\n```\n```text\n1\n"
        "```\n"
        "```python\nraise ValueError('no')\n```\n"
        "```sql\nSELECT 1, 'a'\n```\n```text\n(1, 'b')\n```\n```sql\nSELECT 1, 'a';\n```\n```text\n"
        "(1, 'a')\n```\n"
    )
    wrong = run_page(page, folder, {"demo"})
    assert [text.splitlines()[0] for text in wrong] == [
        "README.md, line 1: `make nothing`: the Makefile has no target 'nothing'",
        "README.md, line 1: $ echo 1 (exit code 0)",
        "README.md, line 11",
        "README.md, line 18: NameError: name 'a' is not defined",
        "README.md, line 24: ValueError: no",
        "README.md, line 27",
    ]
