"""Macros take any subset of roles, find the others by the field's names, and keep columns; in
DuckDB 2 and in the shell of 1.5.
"""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import duckdb
import pytest
from duckdb_shell import shell

from prefmill.duckdb import install
from prefmill.table.roles import ALIASES

ROOT = Path(__file__).parents[2]
TABLES = """
CREATE TABLE usual AS FROM (VALUES
    ('q', 'a', 5, 'm1', 7, 'r1'), ('q', 'b', 1, 'm2', 8, 'r1'), ('q', 'b', 2, 'm2', 9, 'r2'))
  AS t(Question, answer, rating, model, id, rater);
CREATE TABLE two AS SELECT *, 'x' AS response FROM usual;
CREATE TABLE none AS SELECT question, answer, id FROM usual;
CREATE TABLE empty AS FROM none LIMIT 0;
CREATE TABLE nulls AS SELECT 'p' AS prompt, 'a' AS completion, NULL AS score;
CREATE TABLE chats AS
  SELECT [{'role': 'user', 'content': question}] AS chat, 'other' AS prompt,
         answer AS completion, rating AS score
  FROM usual;
"""


def in_python(query: str) -> list[dict[str, object]]:
    with duckdb.connect() as con:
        install(con)
        con.execute(TABLES)
        relation = con.sql(query)
        return [dict(zip(relation.columns, row, strict=True)) for row in relation.fetchall()]


def in_the_shell(query: str) -> list[dict[str, object]]:
    done = subprocess.run(
        [shell(), "-bail", "-batch", "-json"],
        input=f".read sql/prefmill.sql\n{TABLES}{query};",
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=120,
    )
    if done.returncode:
        raise duckdb.Error(done.stderr)
    return json.loads(done.stdout) if done.stdout.strip() else []


HOSTS = pytest.mark.parametrize(
    "rows",
    [
        in_python,
        pytest.param(
            in_the_shell,
            marks=pytest.mark.skipif(
                shell() is None, reason="no duckdb shell: pip install duckdb-cli"
            ),
        ),
    ],
    ids=["duckdb 2", "shell 1.5"],
)


@HOSTS
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("preference_pairs(usual)", [("q", "a", "b", 5.0, 1.0)]),
        ("preference_pairs(usual, completion := answer || '!')", [("q", "a!", "b!", 5.0, 1.0)]),
        (
            "preference_pairs(usual, prompt := upper(question), score := -rating, chosen_min := -1,"
            " rejected_below := -4)",
            [("Q", "b", "a", -1.0, -5.0)],
        ),
        ("preference_pairs(usual, question, answer, rating)", [("q", "a", "b", 5.0, 1.0)]),
        ("best_of(usual, score := rating * 2)", [("q", "a", 10.0, 1)]),
        ("best_of(two, completion := answer)", [("q", "a", 5.0, 1)]),
        (
            "unpaired(usual, completion := id::VARCHAR)",
            [("q", "7", True, 5.0), ("q", "8", False, 1.0), ("q", "9", False, 2.0)],
        ),
        ("rank_candidates(usual, score := -rating) WHERE rank = 1", [("q", "b", -1.0, 1, 3, 0.0)]),
        ("advantages(usual, completion := model) WHERE score = 5", [("q", "m1", 5.0, 2.333333333)]),
        (
            "win_rates(usual, source := model) SELECT source, wins, losses",
            [("m1", 2, 0), ("m2", 0, 2)],
        ),
        (
            "agreement(usual, annotator := rater) SELECT annotator, other, units WHERE other IS "
            "NOT NULL",
            [("r1", "r2", 1)],
        ),
        ("pool_stats(usual, prompt := 'all of ' || question) SELECT prompt, n", [("all of q", 3)]),
        ("best_of_curve(usual, score := rating + 1) SELECT best WHERE n = 3", [(6.0,)]),
        ("pair_report(usual, score := rating) SELECT rows_in, pairs_out", [(3, 1)]),
        ("best_of(nulls)", []),
        ("best_of(chats, prompt := chat) SELECT prompt[1].content, score", [("q", 5.0)]),
    ],
)
def test_any_subset_of_roles(rows, query, expected):
    assert [tuple(row.values()) for row in rows(f"FROM {query}")] == expected


@HOSTS
@pytest.mark.parametrize(
    ("query", "words"),
    [
        (
            "best_of(two)",
            "several columns could be the role 'completion'; got [answer, response]."
            " Hint: name the one that is meant: completion := COLUMN.",
        ),
        (
            "best_of(none)",
            "best_of: no column for the role 'score'; got [Question, answer, id]. Hint: name the "
            "column: score := COLUMN.",
        ),
        (
            "pair_report(empty)",
            "pair_report: no column for the role 'score'; got [Question, answer, id]",
        ),
        (
            "preference_pairs(none, completion := answer)",
            "preference_pairs: no column for the role 'score'",
        ),
        ("win_rates(usual)", "win_rates: no column for the role 'source'"),
        ("agreement(usual)", "agreement: no column for the role 'annotator'"),
        (
            "best_of(usual, prompt := 'question')",
            "best_of: a role is the text 'question' in every row",
        ),
        (
            "best_of(usual, keep := ['nosuch', 'id'])",
            "best_of: keep names no column of the table; got [nosuch], expected some of",
        ),
        (
            "rank_candidates(chats, keep := ['score'])",
            "rank_candidates: the answer has a column 'score' of its own; got it in keep",
        ),
        ("best_of(usual, prompt := questio)", '"questio" not found'),
    ],
)
def test_what_cannot_be_meant_is_refused(rows, query, words):
    with pytest.raises(duckdb.Error, match=re.escape(words)):
        rows(f"FROM {query}")


@HOSTS
@pytest.mark.parametrize(
    ("query", "expected"),
    [
        (
            "preference_pairs(usual, keep := ['id', 'model'])",
            {
                "prompt": "q",
                "chosen": "a",
                "rejected": "b",
                "chosen_score": 5,
                "rejected_score": 1,
                "chosen_model": "m1",
                "chosen_id": 7,
                "rejected_model": "m2",
                "rejected_id": 8,
            },
        ),
        (
            "best_of(usual, keep := ['rating'])",
            {"prompt": "q", "completion": "a", "score": 5, "rank": 1, "rating": 5},
        ),
        (
            "unpaired(usual, keep := ['id']) LIMIT 1",
            {"prompt": "q", "completion": "a", "label": True, "score": 5, "id": 7},
        ),
        (
            "advantages(usual, keep := ['id']) LIMIT 1",
            {"prompt": "q", "completion": "a", "score": 5, "advantage": 2.333333333, "id": 7},
        ),
        (
            "rank_candidates(usual, keep := ['id']) WHERE rank = 2",
            {"prompt": "q", "completion": "b", "score": 2, "rank": 2, "n": 3, "gap": 3, "id": 9},
        ),
    ],
    ids=lambda value: value.split("(")[0] if isinstance(value, str) else "",
)
def test_columns_are_kept(rows, query, expected):
    assert rows(f"FROM {query}") == [expected]


def test_the_names_are_those_of_every_other_host():
    """SQL cannot read `schema.ALIASES`; its own lists are held to it here."""
    rows = ROOT / "sql" / "rows"
    text = (rows / "pref_numbered.sql").read_text()
    refusal = " ".join((rows / "pref_roles_refusal.sql").read_text().split())
    for role, (own, *others) in ALIASES.items():
        column = {"score": "_score0"}.get(role, f"_{role}")
        (listed,) = re.findall(rf"'own': _t\.{own},([^}}]*)'none': NULL}}", text)
        assert re.findall(r"_t\.(\w+)", listed) == others
        assert f"AS {column}" in text
        assert f"'{role}', [{', '.join(map(repr, others))}]" in refusal
