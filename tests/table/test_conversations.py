"""One conversation rule on every host: rows for a trainer are all text or all messages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest

import prefmill as pm
import prefmill.polars  # registers lf.pref
from prefmill.duckdb import install

CHAT = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
SHAREGPT = pl.List(pl.Struct({"from": pl.String, "value": pl.String}))
ASK = [{"role": "user", "content": "p"}]
GOOD, BAD = ([{"role": "assistant", "content": text}] for text in "ab")


def feedback(prompt: object, completions: tuple, kinds: tuple) -> pl.DataFrame:
    rows = {"prompt": [prompt] * 2, "completion": list(completions), "score": [5, 1]}
    return pl.DataFrame(
        rows, schema={"prompt": kinds[0], "completion": kinds[1], "score": pl.Int64}
    )


TABLES = {
    "a prompt of messages, answers of text": feedback(ASK, ("a", "b"), (CHAT, pl.String)),
    "a prompt of text, answers of messages": feedback("p", (GOOD, BAD), (pl.String, CHAT)),
    "a ShareGPT prompt, answers of text": feedback(
        [{"from": "human", "value": "p"}], ("a", "b"), (SHAREGPT, pl.String)
    ),
    "a prompt of text, ShareGPT answers": feedback(
        "p",
        ([{"from": "gpt", "value": "a"}], [{"from": "gpt", "value": "b"}]),
        (pl.String, SHAREGPT),
    ),
    "a prompt of messages, categorical answers": feedback(ASK, ("a", "b"), (CHAT, pl.Categorical)),
    "roles of OASST": feedback(
        [{"role": "prompter", "content": "p"}], ("a", "b"), (CHAT, pl.Enum(["a", "b"]))
    ),
}


def in_sql(frame: pl.DataFrame, plan: pm.Pairs | pm.Unpaired, folder: Path, macro: bool) -> list:
    with duckdb.connect() as con:
        install(con)
        con.register("feedback", frame)
        name = {"pairs": "preference_pairs", "unpaired": "unpaired"}[plan.kind]
        return con.sql(f"FROM {name}('feedback')" if macro else plan.sql("feedback")).fetchall()


def in_files(frame: pl.DataFrame, plan: pm.Pairs | pm.Unpaired, folder: Path, engine: str) -> list:
    frame.write_parquet(folder / "in.parquet")
    pm.run(plan, folder / "in.parquet", folder / "out.parquet", engine=engine)
    return [tuple(row.values()) for row in pq.read_table(folder / "out.parquet").to_pylist()]


def in_datasets(frame: pl.DataFrame, plan: pm.Pairs | pm.Unpaired, streaming: bool) -> list:
    import datasets

    import prefmill.datasets as pmd

    rows = datasets.Dataset.from_polars(frame.cast({pl.Categorical: pl.String, pl.Enum: pl.String}))
    made = pmd.apply(plan, rows.to_iterable_dataset() if streaming else rows)
    return [tuple(row.values()) for row in made]


def sunk(frame: pl.DataFrame, plan: pm.Pairs | pm.Unpaired, folder: Path) -> list:
    plan.lazy(frame.lazy()).sink_parquet(folder / "sunk.parquet")
    return [tuple(row.values()) for row in pq.read_table(folder / "sunk.parquet").to_pylist()]


HOSTS: dict[str, Callable] = {
    "lazy": lambda f, p, _: p.lazy(f.lazy()).collect(engine="in-memory").rows(),
    "streaming": lambda f, p, _: p.lazy(f.lazy()).collect(engine="streaming").rows(),
    "sunk": sunk,
    "plan.sql": lambda f, p, folder: in_sql(f, p, folder, macro=False),
    "macro": lambda f, p, folder: in_sql(f, p, folder, macro=True),
    "run duckdb": lambda f, p, folder: in_files(f, p, folder, "duckdb"),
    "run polars": lambda f, p, folder: in_files(f, p, folder, "polars"),
    "datasets": lambda f, p, _: in_datasets(f, p, streaming=False),
    "datasets streaming": lambda f, p, _: in_datasets(f, p, streaming=True),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("table", TABLES)
def test_pairs_are_messages_throughout(table, host, tmp_path):
    expected = [(ASK, GOOD, BAD, 5.0, 1.0)]
    assert HOSTS[host](TABLES[table], pm.Pairs(), tmp_path) == expected


@pytest.mark.parametrize("host", HOSTS)
def test_labels_are_messages_throughout(host, tmp_path):
    table = TABLES["a prompt of messages, answers of text"]
    expected = [(ASK, GOOD, True, 5.0), (ASK, BAD, False, 1.0)]
    assert HOSTS[host](table, pm.Unpaired(), tmp_path) == expected


def test_text_stays_text_and_the_namespace_follows_the_rule():
    frame = feedback("p", ("a", "b"), (pl.Categorical, pl.String))
    made = frame.lazy().pref.pairs().collect()
    assert made.schema["prompt"] == made.schema["chosen"] == pl.String
    assert made.rows() == [("p", "a", "b", 5.0, 1.0)]
    chat = TABLES["a prompt of messages, answers of text"].lazy().pref.unpaired().collect()
    assert chat["completion"].to_list() == [GOOD, BAD]


def test_further_fields_of_messages_survive():
    """SQL has no way to drop a field that it does not know the name of: it keeps from and value
    too.
    """
    message = {"from": "human", "value": "p", "weight": 3}
    kind = pl.List(pl.Struct({"from": pl.String, "value": pl.String, "weight": pl.Int64}))
    frame = feedback([message], ("a", "b"), (kind, pl.String))
    expected = {"role": "user", "content": "p", "weight": 3}
    assert pm.Pairs().lazy(frame).collect()["prompt"].to_list() == [[expected]]
    for macro in (True, False):
        assert in_sql(frame, pm.Pairs(), Path(), macro)[0][0] == [message | expected]


def test_picks_stay_rows_of_the_pool():
    frame = TABLES["a prompt of messages, answers of text"]
    assert pm.BestOf().lazy(frame).collect()["completion"].to_list() == ["a"]


def test_plain_text_costs_the_query_nothing():
    """All forms but the one that is needed are gone when the query runs."""
    with duckdb.connect() as con:
        install(con)
        con.execute(
            "CREATE TABLE t AS SELECT 'p' AS prompt, 'a' || i AS completion, i AS score FROM "
            "range(9) r(i)"
        )
        ((_, plan),) = con.sql("EXPLAIN FROM preference_pairs('t')").fetchall()
        assert "assistant" not in plan
