"""Labels of steps in SQL: real shapes as queries, and what is refused."""

from __future__ import annotations

import duckdb
import pytest
from step_records import PRM800K, PRM800K_ROWS, SHAPES, write

from prefmill.duckdb import install


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        connection.execute(
            "CREATE TABLE solutions AS SELECT * FROM (VALUES"
            " ('q', ['a', 'b'], [1, 0], ['good', 'bad'], 1),"
            " ('r', ['c'], [1], ['good'], -1)) t(problem, steps, ratings, words, wrong)"
        )
        yield connection


def test_candidates_of_prm800k(con, tmp_path):
    path = write(tmp_path / "prm.jsonl", PRM800K)
    con.execute(f"CREATE OR REPLACE TABLE prm AS FROM read_json('{path}')")
    rows = con.sql(
        """
        WITH paths AS (FROM step_paths(prm, prompt := question.problem,
          steps := list_transform(label.steps,
            lambda s: list_transform(s.completions, lambda c: c.text)),
          rating := list_transform(label.steps,
            lambda s: list_transform(s.completions, lambda c: c.rating)),
          chosen := list_transform(label.steps, lambda s: s.chosen_completion),
          written := list_transform(label.steps, lambda s: s.human_completion.text),
          meanings := MAP {'1': 1, '0': 1, '-1': 0}))
        FROM step_labels(paths, prompt, steps, rating := rating, reason := reason)
        """
    ).fetchall()
    assert rows == PRM800K_ROWS


def test_marks_of_math_shepherd(con, tmp_path):
    records, _, wanted, _ = SHAPES["Math-Shepherd"]
    path = write(tmp_path / "shepherd.jsonl", records)
    con.execute(f"CREATE OR REPLACE TABLE shepherd AS FROM read_json('{path}')")
    rows = con.sql(
        """
        FROM step_labels(shepherd,
          prompt := text_prompt(input, 'ки', 'Step 1:'),
          steps := text_steps(input, 'ки', steps_from := 'Step 1:'),
          rating := text_marks(input, label, 'ки', steps_from := 'Step 1:'))
        """
    ).fetchall()
    assert rows == wanted


def test_the_report_counts_paths(con):
    call = "solutions, problem, steps, rating := words, meanings := MAP {'good': 1}"
    assert con.sql(f"FROM step_label_report({call})").fetchall() == [(2, 1, {"unknown_rating": 1})]
    assert con.sql(f"FROM step_labels({call})").fetchall() == [("r", ["c"], [True])]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("rating := [1, 0, 1]", "row 0: steps and rating are lists of unequal length; got 2 and 3"),
        ("rating := list_transform(steps, lambda s: 0.5)", "got 0.5. Hint: threshold := NUMBER"),
        ("", "name rating, or first_error: one of them"),
        ("rating := ratings, first_error := wrong", "name rating, or first_error: one of them"),
        ("first_error := wrong", "does not say whether steps count from 0 or from 1"),
        ("first_error := wrong - 1", "no_error := ['0'] if 0 says that none is wrong"),
        ("first_error := wrong, first_index := 2", "first_index must be 0 or 1; got 2"),
        ("rating := ratings, after_error := 'stop'", "after_error must be drop or false"),
        ("first_error := wrong, after_error := 'keep'", "after_error must be drop or false"),
    ],
)
def test_what_is_refused(con, arguments, message):
    table = "solutions"
    if "wrong - 1" in arguments:
        table = "zeros"
        con.execute("CREATE OR REPLACE TABLE zeros AS FROM solutions WHERE wrong = 1")
    elif "0.5" not in arguments and "[1, 0, 1]" not in arguments:
        # One record of three steps decides nothing.
        con.execute(
            "CREATE OR REPLACE TABLE open AS SELECT problem, steps || ['z', 'z'] AS steps,"
            " ratings || [1, 1] AS ratings, wrong FROM solutions"
        )
        table = "open"
    query = f"FROM step_labels({table}, problem, steps{', ' if arguments else ''}{arguments})"
    with pytest.raises(duckdb.Error, match="prefmill: step_labels") as raised:
        con.sql(query).fetchall()
    assert message in str(raised.value)


def test_texts_that_are_not_alike(con):
    with pytest.raises(duckdb.Error, match="prefmill: text_marks: the marks are neither"):
        con.sql("SELECT text_marks('a|b|', 'a+b', '|')").fetchall()
    with pytest.raises(duckdb.Error, match="prefmill: step_paths: row 0: a step has 2 candidates"):
        con.sql("FROM step_paths(solutions, problem, [steps], [[1, 0, 1]], [0])").fetchall()
