"""Identifiers and texts become SQL in one place, and names that would be SQL are names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import duckdb
import polars as pl
import pytest
from command import prefmill
from hypothesis import given
from hypothesis import strategies as st

import prefmill as package
import prefmill as pm
from prefmill.connection import literal, quote

SOURCE = Path(package.__file__).parent
#: What stands between quotation marks, one after another.
_QUOTED = re.compile("'[^']*'|\"[^\"]*\"")
_ESCAPE = """.replace("'", "''")"""
_SQL = re.compile(r"\b(SELECT|FROM|WHERE|COPY|CREATE|ATTACH|JOIN|AS [A-Z]+\b|GROUP BY|VARCHAR)\b")
_ESCAPES = ('"\'", "\'\'"', "'\"', '\"\"'")


def templates(tree: ast.AST) -> list[tuple[int, str]]:
    """The texts with values in them, a NUL for each value; by line."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            parts = [part.value if isinstance(part, ast.Constant) else "\0" for part in node.values]
            found.append((node.lineno, "".join(map(str, parts))))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append((node.lineno, re.sub(r"\{\w*\}|%s", "\0", node.value)))
    return found


def by_hand(code: str) -> list[int]:
    """The lines where a value is put between quotation marks of SQL."""
    texts = templates(ast.parse(code))
    return [
        line
        for line, text in texts
        if _SQL.search(text) and any("\0" in each for each in _QUOTED.findall(text))
    ]


@pytest.mark.parametrize(
    "code",
    [
        "f\"SELECT '{x}'\"",
        "f'SELECT \"{x}\" FROM t'",
        "\"SELECT * FROM '{}'\".format(x)",
        "\"COPY t TO '%s'\" % x",
        "f\"FROM read_csv('a/{x}.csv')\"",
    ],
)
def test_the_look_finds_what_it_is_for(code: str) -> None:
    assert by_hand(code) == [1]
    assert by_hand('f"SELECT {quote(x)} FROM {literal(y)}"') == []


def test_sql_is_quoted_in_one_place() -> None:
    found = [
        f"{path.relative_to(SOURCE)}:{line}"
        for path in SOURCE.rglob("*.py")
        for line in by_hand(path.read_text("utf-8"))
    ]
    assert found == []


def test_quotes_of_texts_are_doubled_in_one_place() -> None:
    places = [
        path.relative_to(SOURCE).as_posix()
        for path in SOURCE.rglob("*.py")
        if _ESCAPE in path.read_text("utf-8")
    ]
    assert places == ["connection.py"]


NASTY = st.text(st.sampled_from("a\"';-- \n\\{}%$é\u202e😀"), min_size=1, max_size=12)


@given(NASTY, NASTY)
def test_whatever_is_quoted_is_what_it_was(name: str, text: str) -> None:
    with duckdb.connect() as con:
        made = con.sql(f"SELECT {literal(text)} AS {quote(name)}")
        assert (made.columns, made.fetchall()) == ([name], [(text,)])


NAMES = [
    'a"b',
    "c'd",
    "e;--",
    "g{h}",
    "{}",
    "%s",
    "line\nend",
    "$1",
    "ü😀",
    "\\",
    "'; DROP TABLE x",
]


@pytest.fixture
def rated(tmp_path: Path) -> Path:
    """A file of a hostile name: hostile columns with hostile texts."""
    ours = {"p\"'{0}": ["q';--", "q';--"], 'c{}"': ["x\"'", "y\0;"], "s'": [5, 1]}
    path = tmp_path / "r'a\"t;{e} d.parquet"
    pl.DataFrame(ours | {name: [name, name[::-1]] for name in NAMES}).write_parquet(path)
    return path


ROLES: dict[str, str] = {"prompt": "p\"'{0}", "completion": 'c{}"', "score": "s'"}


@pytest.mark.parametrize("on", ["duckdb", "polars", "incremental"])
def test_hostile_names_are_names(on: str, rated: Path, tmp_path: Path) -> None:
    target = tmp_path / "out" / "p'a\"irs;{}.parquet"
    how = {"incremental": True} if on == "incremental" else {"engine": on}
    pm.run(pm.Pairs(), rated, target, roles=ROLES, keep=NAMES, **how)
    (row,) = pl.read_parquet(target).to_dicts()
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("q';--", "x\"'", "y\0;")
    for name in NAMES:
        assert (row[f"chosen_{name}"], row[f"rejected_{name}"]) == (name, name[::-1])
    if on == "incremental":
        (change,) = (tmp_path / "out").glob("*changes*")
        assert pl.read_parquet(change)["change"].to_list() == ["added"]


def test_hostile_names_in_the_command_of_queries(rated: Path, tmp_path: Path) -> None:
    done = prefmill("sql", "FROM t", f"t={rated}", "-o", tmp_path / "o'{u}t;.parquet")
    assert done.returncode == 0, done.stderr
    assert pl.read_parquet(tmp_path / "o'{u}t;.parquet").equals(pl.read_parquet(rated, glob=False))


@pytest.mark.parametrize("on", ["duckdb", "polars"])
def test_a_name_with_a_nul_is_refused(on: str, tmp_path: Path) -> None:
    table = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1], "a\0b": [1, 2]}
    pl.DataFrame(table).write_parquet(tmp_path / "in.parquet")
    with pytest.raises(pm.PrefmillError, match="NUL"):
        pm.run(
            pm.Pairs(), tmp_path / "in.parquet", tmp_path / "o.parquet", engine=on, keep=["a\0b"]
        )
