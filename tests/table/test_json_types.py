"""JSON as a type: columns, mixed values, tool calls, bytes next to it."""

from __future__ import annotations

import json
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from typed import ASKED, CALLS, ENGINES, PLAN, lines, pairs_of, read, write

import prefmill as pm
import prefmill.datasets as pmd
from prefmill.errors import BadArgument, BadInput
from prefmill.readers import open_source

datasets = pytest.importorskip("datasets")


def json_texts(texts: list[str | None]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def messages_of_json(contents: list[str]) -> pa.Array:
    """One message a row, whose content is JSON."""
    parts = pa.StructArray.from_arrays(
        [pa.array(["user"] * len(contents)), json_texts(contents)], names=["role", "content"]
    )
    return pa.ListArray.from_arrays(list(range(len(contents) + 1)), parts)


# --- kind 1: extension types


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_json_column_is_its_texts(tmp_path, host, name):
    table = pa.table(
        {"prompt": ["p", "p"], "completion": json_texts(['"a\\nb"', '"\\"c\\""']), "score": [2, 1]}
    )
    (pair,) = pairs_of(write(tmp_path / name, table), tmp_path / "out.jsonl", host)
    assert (pair["chosen"], pair["rejected"]) == ("a\nb", '"c"')


@pytest.mark.parametrize("host", ENGINES)
def test_json_column_is_its_messages(tmp_path, host):
    table = pa.table(
        {
            "prompt": json_texts([json.dumps(ASKED)] * 2),
            "completion": messages_of_json(['"x"', '"y\\n"']),
            "score": [2, 1],
        }
    )
    (pair,) = pairs_of(write(tmp_path / "a.parquet", table), tmp_path / "out.jsonl", host)
    assert pair["prompt"] == ASKED
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("x", "y\n")


def test_json_of_duckdb_is_decoded(tmp_path):
    import duckdb

    query = """SELECT 'p' AS prompt, '"a"'::JSON AS completion, 2 AS score
               UNION ALL SELECT 'p', '"b"'::JSON, 1"""
    duckdb.connect().execute(f"COPY ({query}) TO '{tmp_path}/d.parquet'")
    (pair,) = pairs_of(tmp_path / "d.parquet", tmp_path / "out.jsonl", "duckdb")
    assert (pair["chosen"], pair["rejected"]) == ("a", "b")


def test_json_column_in_a_dataset(tmp_path):
    rows = {"prompt": ["p", "p"], "completion": ["a\nb", "c"], "score": [2, 1]}
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "completion": datasets.Json(),
            "score": datasets.Value("int64"),
        }
    )
    ds = datasets.Dataset.from_dict(rows, features=features)
    assert pmd.pairs(ds, chosen_min=None, rejected_below=None)[0]["chosen"] == "a\nb"
    assert pmd.report(PLAN, ds).pairs_out == 1
    nested = datasets.Dataset(
        pa.table(
            {"prompt": ["p", "p"], "completion": messages_of_json(['"x"', '"y"']), "score": [2, 1]}
        )
    )
    assert pmd.pairs(nested, chosen_min=None, rejected_below=None)[0]["chosen"] == [
        {"role": "user", "content": "x"}
    ]


def test_json_column_in_frames_is_refused(tmp_path):
    table = pa.table(
        {
            "prompt": ["p"],
            "completion": json_texts(['"a"']),
            "nested": messages_of_json(['"x"']),
            "score": [2],
        }
    )
    for name in ("completion", "nested"):
        with pytest.raises(BadArgument, match="JSON text"):
            PLAN.lazy(pl.DataFrame(table).lazy(), completion=name)
    with pytest.raises(BadInput, match=r"stream: the column 'completion' is JSON text"):
        pm.score_stream(table, lambda batch: [0.0] * batch.num_rows)


def test_json_column_is_scored_by_its_value(tmp_path):
    table = pa.table({"prompt": ["p", "p"], "completion": json_texts(['"a\\nb"', '"c"'])})
    said: list[str] = []

    def scorer(batch: pa.RecordBatch) -> list[float]:
        said.extend(batch["completion"].to_pylist())
        return [0.0] * batch.num_rows

    pm.score(table, tmp_path / "out.parquet", scorer=scorer)
    assert said == ["a\nb", "c"]


def test_text_that_is_marked_as_json_and_is_not(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"c": json_texts(['{"a":1}', '{"a'])}))
    with pytest.raises(BadInput, match=r"a\.parquet: the column 'c' is marked as JSON"):
        open_source([str(path)], temp_dir=tmp_path / "stage")


# --- kind 2: types together

SAID = [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        ["text", SAID],
        ["text", [{"type": "text", "text": "t"}]],
        ["text", {"answer": 1}],
        [["a", 1, None], []],
        [{}, {"a": 1}],
        [True, 1],
        [{"a": 1}, {"b": None}],
        [[{"a": 1}, {"b": 2}], None],
        [[{"a": 1}], [{}]],
        [{"deep": [{"x": 1}, {}]}, {"deep": []}],
        [[[1, "a"]], [[{"k": [None]}]]],
        [18446744073709551616, 4.5],
        ["a", [1]],
    ],
    ids=repr,
)
def test_values_of_every_row_stay(tmp_path, values, together):
    """Whatever kinds stand in one column, over one file or two, each row has its own value back."""
    files = [lines(tmp_path / "a.jsonl", *({"v": v} for v in values))]
    if not together:
        files = [lines(tmp_path / f"{n}.jsonl", {"v": v}) for n, v in enumerate(values)]
    _, rows = read(tmp_path, *files)
    assert [row["v"] for row in rows] == values
    assert [type(row["v"]) for row in rows] == [type(v) for v in values]


def test_a_column_of_text_and_scalars_is_text(tmp_path):
    """Numeric text is a score, so text beside numbers is text, as `docs/semantics.md` says."""
    source, rows = read(tmp_path, lines(tmp_path / "a.jsonl", {"s": "5"}, {"s": 4.5}, {"s": True}))
    assert [row["s"] for row in rows] == ["5", "4.5", "true"]
    assert source.columns.field("s").type == pa.string()


@pytest.mark.parametrize(
    "values",
    [["text", SAID], [SAID, "text"], ["x", {"answer": 1}], ["x", [{"type": "text", "text": "t"}]]],
    ids=repr,
)
@pytest.mark.parametrize("role", ["prompt", "completion"])
def test_mixed_kinds_are_no_text(tmp_path, role, values):
    other = {"prompt": "completion", "completion": "prompt"}[role]
    path = lines(
        tmp_path / "a.jsonl", *({role: v, other: "o", "score": n} for n, v in enumerate(values))
    )
    with pytest.raises(
        BadInput,
        match=rf"the column '{role}' cannot be the role '{role}'; got .*line 1.* and .*line 2",
    ):
        pm.run(PLAN, path, None)
    with pytest.raises(BadInput, match="line 2"):
        pm.score(path, tmp_path / "out.parquet", scorer=lambda batch: [0.0] * batch.num_rows)


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("scores", [[True, 0.5], [2, True], [18446744073709551616, 4.5]], ids=repr)
def test_scores_of_several_kinds(tmp_path, host, scores):
    path = lines(
        tmp_path / "a.jsonl", *({"prompt": "p", "completion": str(s), "score": s} for s in scores)
    )
    (pair,) = pairs_of(path, tmp_path / "out.jsonl", host)
    assert (pair["chosen_score"], pair["rejected_score"]) == (float(scores[0]), float(scores[1]))


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet", "out/"])
def test_tool_calls_keep_their_own_keys(tmp_path, host, name):
    rows = [
        {
            "prompt": ASKED,
            "completion": [call],
            "score": n,
            "schema": [{"name": n} if n else {"f": {}}],
        }
        for n, call in enumerate(CALLS)
    ]
    path = lines(tmp_path / "a.jsonl", *rows)
    target = tmp_path / name
    pm.run(PLAN, path, f"{target}/" if name == "out/" else target, engine=host, keep=["schema"])
    if name == "out/":
        made = datasets.load_from_disk(str(target))[0]
    elif name == "out.parquet":
        made = datasets.Dataset.from_parquet(str(target), cache_dir=str(tmp_path / "cache"))[0]
    else:
        made = (
            pl.read_ndjson(target).to_dicts()[0]
            if name.endswith("gz")
            else json.loads(target.read_text())
        )
    if not name.endswith("gz"):  # Polars' reader has one type for all rows again
        assert made["chosen"] == [CALLS[2]]
        assert made["rejected"] == [CALLS[0]]
        assert (made["chosen_schema"], made["rejected_schema"]) == ([{"name": 2}], [{"f": {}}])
    assert made["chosen_score"] == 2.0


def test_tool_calls_reach_the_template_as_they_are():
    from prefmill.table.conversations import messages_of
    from prefmill.table.json_values import JSON_FIELD

    calls = CALLS[1]["tool_calls"]
    stored = {
        "role": "assistant",
        "content": "",
        "name": None,
        "tool_calls": {JSON_FIELD: json.dumps(calls)},
    }
    assert messages_of([stored], "assistant") == [
        {"role": "assistant", "content": "", "tool_calls": calls}
    ]
    # a struct of a Parquet file has every key in every row; one that is null was another row's
    typed = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "a", "arguments": {"city": "Oslo", "n": None}}}],
    }
    assert messages_of([typed], "assistant")[0]["tool_calls"] == [
        {"function": {"name": "a", "arguments": {"city": "Oslo"}}}
    ]


def test_messages_whose_content_is_of_several_kinds(tmp_path):
    parts = [{"type": "text", "text": "t"}, {"type": "image"}]
    rows = [{"m": [{"role": "user", "content": "a"}]}, {"m": [{"role": "user", "content": parts}]}]
    _, found = read(tmp_path, lines(tmp_path / "a.jsonl", *rows))
    assert found == rows


def row(prompt: Any, completion: Any, score: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "score": score}


def test_json_columns_in_sql_are_refused():
    """The text of a JSON value is not the value; a function of DuckDB takes it out."""
    import duckdb

    import prefmill.duckdb

    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.execute(
        """CREATE TABLE t AS SELECT 'p' AS prompt, '"a"'::JSON AS completion, 5 AS score
           UNION ALL SELECT 'p', '"b"'::JSON, 1"""
    )
    con.execute(
        """CREATE TABLE n AS SELECT [{'role': 'user', 'content': '"x"'::JSON}] AS prompt,
                                    'a' AS completion, 5 AS score"""
    )
    for query in (
        "FROM preference_pairs(t)",
        "FROM preference_pairs(n)",
        "FROM best_of(n)",
        PLAN.sql("t"),
        PLAN.sql("n"),
    ):
        with pytest.raises(duckdb.InvalidInputException, match="JSON"):
            con.execute(query).fetchall()
    query = "FROM preference_pairs(t, completion := completion->>'$')"
    assert con.execute(query).fetchall() == [("p", "a", "b", 5.0, 1.0)]  # what the hint says
    con.execute(
        """CREATE TABLE named AS
           SELECT 'p' AS prompt, 'a' AS completion, 5 AS score, {'JSON': 1} AS j"""
    )
    assert con.execute(PLAN.sql("named")).fetchall() == []  # a name is not a type
