"""Wrong arguments raise our own words, whatever the table holds; never a silent empty result."""

from __future__ import annotations

import duckdb
import pytest
from sql_pool import CALLS, POOL, SCORED, call

from prefmill.duckdb import install


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        connection.register("arrow", POOL)
        connection.execute("CREATE TABLE pool AS FROM arrow")
        connection.execute("CREATE TABLE empty AS FROM pool LIMIT 0")
        yield connection


@pytest.mark.parametrize("table", ["pool", "empty"])
@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            "preference_pairs({}, strategy := 'bset')",
            "preference_pairs: unknown strategy; got bset, expected best_worst, best_random",
        ),
        ("preference_pairs({}, strategy := NULL)", "preference_pairs: unknown strategy; got NULL"),
        (
            "preference_pairs({}, strategy := 'threshold', chosen_min := NULL)",
            "strategy 'threshold' needs both chosen_min and rejected_below",
        ),
        (
            "preference_pairs({}, chosen_min := 'nan'::DOUBLE)",
            "a threshold is no finite number or NULL; got nan and auto",
        ),
        ("preference_pairs({}, min_margin := -1)", "min_margin is no finite number >= 0; got -1"),
        (
            "preference_pairs({}, min_margin := NULL)",
            "min_margin is no finite number >= 0; got NULL",
        ),
        (
            "preference_pairs({}, max_pairs_per_prompt := 0)",
            "max_pairs_per_prompt is no whole number >= 1 or NULL; got 0",
        ),
        ("preference_pairs({}, top_k := 1.5)", "top_k is no whole number >= 1 or NULL; got 1.5"),
        (
            "preference_pairs({}, bottom_k := -2)",
            "bottom_k is no whole number >= 1 or NULL; got -2",
        ),
        (
            "preference_pairs({}, seed := -2)",
            "preference_pairs: seed is no whole number >= 0; got -2",
        ),
        ("pair_report({}, strategy := 'bset')", "pair_report: unknown strategy; got bset"),
        (
            "pair_report({}, top_k := 0)",
            "pair_report: top_k is no whole number >= 1 or NULL; got 0",
        ),
        (
            "unpaired({}, chosen_min := 1, rejected_below := 2)",
            "unpaired: rejected_below must not exceed chosen_min; got 2.0 > 1.0",
        ),
        (
            "unpaired({}, chosen_min := NULL)",
            "labels need both chosen_min and rejected_below, as finite numbers; got NULL and auto",
        ),
        (
            "preference_pairs({}, chosen_quantile := 1)",
            "preference_pairs: a quantile is a number above 0 and below 1, or NULL; got 1 and NULL",
        ),
        (
            "preference_pairs({}, chosen_min := 4, chosen_quantile := 0.5)",
            "chosen_min and chosen_quantile are one bound; got 4 and 0.5, expected one of them",
        ),
        (
            "pair_report({}, rejected_below := NULL, rejected_quantile := 0.5)",
            "rejected_below and rejected_quantile are one bound; got NULL and 0.5",
        ),
        (
            "unpaired({}, chosen_quantile := 0.3, rejected_quantile := 0.7)",
            "unpaired: rejected_quantile must not exceed chosen_quantile; got 0.7 > 0.3",
        ),
        (
            "unpaired({}, rejected_quantile := -0.5)",
            "unpaired: a quantile is a number above 0 and below 1, or NULL; got NULL and -0.5",
        ),
        ("best_of({}, k := 0)", "best_of: k is no whole number >= 1; got 0"),
        ("best_of({}, seed := NULL)", "best_of: seed is no whole number >= 0; got NULL"),
        (
            "win_rates({}, baseline := 'gpt')",
            "win_rates: no usable row is of the baseline; got gpt, expected one of the sources",
        ),
        (
            "agreement({}, level := 'ordinal')",
            "agreement: unknown level; got ordinal, expected interval or nominal",
        ),
        ("agreement({}, level := NULL)", "agreement: unknown level; got NULL"),
    ],
)
def test_arguments(table, call, words, con):
    with pytest.raises(duckdb.InvalidInputException, match=f"prefmill: .*{words}"):
        con.sql(f"FROM {call.format(table)}").fetchall()


def test_an_enum_is_its_text_and_one_of_words_is_no_score(con):
    con.execute(
        "CREATE OR REPLACE TEMP TABLE words AS SELECT * REPLACE (source::ENUM('m1', 'm2', 'it''s', "
        "'m3') AS score) FROM pool"
    )
    for query in ("best_of(words)", "pair_report(words)", "unpaired(words)", "advantages(words)"):
        with pytest.raises(
            duckdb.InvalidInputException,
            match=r"the score has a type that holds no numbers; got ENUM\('m1', 'm2'",
        ):
            con.sql(f"FROM {query}").fetchall()
    con.execute(
        "CREATE OR REPLACE TEMP TABLE spelled AS SELECT 'p' AS prompt, text AS completion, "
        "text::ENUM('1', ' 2e0 ', '1_0', 'good') AS score"
        " FROM unnest(['1', ' 2e0 ', '1_0', 'good']) AS t(text)"
    )
    assert con.sql("SELECT completion, score FROM best_of(spelled, k := 9)").fetchall() == [
        (" 2e0 ", 2.0),
        ("1", 1.0),
    ]
    assert con.sql(
        "SELECT dropped FROM pair_report(spelled, chosen_min := NULL, rejected_below := NULL)"
    ).fetchall() == [({"bad_score": 2},)]


@pytest.mark.parametrize(
    ("shares", "words"),
    [
        ("'train=0.5,test=0.4'", "the shares must sum to 1; got 0.9"),
        ("{'train': 1.5, 'test': -0.5}", r"every share must be above 0; got \[1.5,-0.5\]"),
        ("'train=0.5,test=x'", r"every share must be above 0; got \[0.5,null\]"),
        ("MAP {'tr-in': 1.0}", r"a name is part of a file name; got \[\"tr-in\"\]"),
        ("'a=0.5,a=0.5'", r"a name stands twice; got \[\"a\",\"a\"\]"),
        ("''", "shares name no split"),
        ("NULL", "shares name no split"),
        ("'train'", "a name is part of a file name"),
    ],
)
def test_shares(shares, words, con):
    for prompt in ("prompt", "NULL"):
        with pytest.raises(duckdb.InvalidInputException, match=f"prefmill: split_of: {words}"):
            con.sql(f"SELECT split_of({prompt}, {shares}) FROM pool").fetchall()


def test_a_split_of_no_prompt_and_a_seed_that_is_none(con):
    with pytest.raises(duckdb.InvalidInputException, match="prefmill: split_of: a prompt is NULL"):
        con.sql("SELECT split_of(prompt, 'a=1.0') FROM pool").fetchall()
    for seed in ("-1", "NULL", "1.5", "'x'"):
        with pytest.raises(
            duckdb.InvalidInputException, match="prefmill: split_of: seed is no whole number >= 0"
        ):
            con.sql(f"SELECT split_of('p', 'a=1.0', seed := {seed})").fetchall()


@pytest.mark.parametrize("macro", SCORED)
def test_a_role_whose_column_name_was_quoted(macro, con):
    roles = CALLS[macro][0]
    for wrong in roles:
        given = ", ".join(
            f"{role} := '{role}'" if role == wrong else f"{role} := {role}" for role in roles
        )
        with pytest.raises(
            duckdb.InvalidInputException,
            match=f"prefmill: {macro}: a role is the text '{wrong}' in every row; got a column's "
            f"name in quotes",
        ):
            con.sql(f"FROM {macro}(pool, {given})").fetchall()


@pytest.mark.parametrize("macro", SCORED)
def test_a_role_that_has_no_column(macro, con):
    """We say which role and what there is; of an expression that names no column DuckDB does."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE lacking AS SELECT prompt AS promt, completion, score, source,"
        " annotator FROM pool"
    )
    with pytest.raises(
        duckdb.InvalidInputException,
        match=rf"prefmill: {macro}: no column for the role 'prompt'; got \[promt, completion",
    ):
        con.sql(f"FROM {macro}(lacking)").fetchall()
    roles = ", ".join(f"{role} := {role}" for role in CALLS[macro][0]).replace(
        "score := score", "score := rating"
    )
    with pytest.raises(duckdb.BinderException, match="rating"):
        con.sql(f"FROM {macro}(pool, {roles})").fetchall()


def test_a_prompt_that_is_a_word_is_no_quoted_name(con):
    """Only where all rows say the same, and a column is called so."""
    con.execute(
        "CREATE OR REPLACE TEMP TABLE words AS FROM (VALUES ('score', 'a', 1), ('prompt', 'b', 2)) "
        "t(prompt, completion, score)"
    )
    assert len(con.sql("FROM best_of(words)").fetchall()) == 2
    con.execute(
        "CREATE OR REPLACE TEMP TABLE words AS FROM (VALUES ('same', 'a', 1), ('same', 'b', 2)) "
        "t(prompt, completion, score)"
    )
    assert len(con.sql("FROM best_of(words)").fetchall()) == 1


@pytest.mark.parametrize("macro", CALLS)
def test_an_empty_table_is_empty_without_an_error(macro, con):
    rows = con.sql(f"FROM {macro}(empty)" if macro in SCORED else call(macro, "empty")).fetchall()
    if macro == "pair_report":
        assert rows == [(0, 0, 0, {}, 0, 0, 0)]
    elif macro == "step_label_report":
        assert rows == [(0, 0, {})]
    elif macro == "agreement":
        assert rows == [(None, None, 0, None, None, None)]
    else:
        assert rows == []


@pytest.mark.parametrize("macro", SCORED)
@pytest.mark.parametrize(
    "wrong",
    [
        "DATE '2026-01-01'",
        "[score]",
        "{'a': score}",
        "'x'::BLOB",
        "TIME '10:00'",
        "INTERVAL 1 DAY",
        "MAP {'a': 1}",
    ],
)
def test_a_score_of_a_type_without_numbers(wrong, macro, con):
    roles = ", ".join(f"{role} := {role}" for role in CALLS[macro][0]).replace(
        "score := score", f"score := {wrong}"
    )
    with pytest.raises(
        duckdb.InvalidInputException,
        match=f"prefmill: {macro}: the score has a type that holds no numbers; got ",
    ):
        con.sql(f"FROM {macro}(pool, {roles})").fetchall()


@pytest.mark.parametrize(
    "right",
    [
        "score::FLOAT",
        "score::DECIMAL(9, 2)",
        "score::HUGEINT",
        "score > 3",
        "score::VARCHAR",
        "to_json(score)",
    ],
)
def test_a_score_of_a_type_with_numbers(right, con):
    assert con.sql(
        f"FROM best_of(pool, prompt := prompt, completion := completion, score := {right})"
    ).fetchall()
