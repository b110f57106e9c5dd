"""Every function takes the same inputs: files, frames of Polars and pandas, Arrow, DuckDB
relations, datasets.
"""

from __future__ import annotations

import datasets
import duckdb
import polars as pl
import pyarrow as pa
import pytest

import prefmill as pm
from prefmill.errors import BadArgument
from prefmill.runs.looks.check import check
from prefmill.runs.run import explain

FEEDBACK = pl.DataFrame(
    {
        "question": ["p", "p", "q", "q", "r"],
        "answer": ["a", "b", "c", "d", "e"],
        "rating": [5, 1, 2, 4, 5],
        "model": ["m1", "m2", "m1", None, "m2"],
    }
)
TREE = pl.DataFrame(
    {
        "id": [1, 2, 3, 4],
        "parent_id": [None, 1, 1, 2],
        "reward": [0.0, 1.0, 3.0, 0.0],
        "success": [None, None, False, True],
        "text": list("abcd"),
    }
)


def as_relation(frame: pl.DataFrame) -> duckdb.DuckDBPyConnection:
    con = duckdb.connect()
    con.register("rows", frame.to_arrow())
    return con.sql("FROM rows")


def as_path(frame: pl.DataFrame, folder) -> str:
    path = folder / "rows.parquet"
    frame.write_parquet(path)
    return str(path)


def as_paths(frame: pl.DataFrame, folder) -> list[str]:
    half = frame.height // 2
    frame[:half].write_parquet(folder / "1.parquet")
    frame[half:].write_parquet(folder / "2.parquet")
    return [str(folder / "1.parquet"), str(folder / "2.parquet")]


FORMS = {
    "path": as_path,
    "paths": as_paths,
    "polars": lambda frame, folder: frame,
    "lazy": lambda frame, folder: frame.lazy(),
    "pandas": lambda frame, folder: frame.to_pandas(use_pyarrow_extension_array=True),
    "table": lambda frame, folder: frame.to_arrow(),
    "reader": lambda frame, folder: frame.to_arrow().to_reader(max_chunksize=2),
    "relation": lambda frame, folder: as_relation(frame),
    "dataset": lambda frame, folder: datasets.Dataset.from_polars(frame),
    "stream": lambda frame, folder: datasets.Dataset.from_polars(frame).to_iterable_dataset(),
}


@pytest.fixture(params=FORMS, ids=FORMS)
def form(request, tmp_path):
    (tmp_path / "in").mkdir()
    return lambda frame: FORMS[request.param](frame, tmp_path / "in")


def test_run_takes_it(form, tmp_path):
    done = pm.run(pm.Pairs(), form(FEEDBACK), tmp_path / "out.parquet", keep=["model"])
    assert (done.rows_in, done.pairs_out) == (5, 2)
    assert pl.read_parquet(tmp_path / "out.parquet").rows() == [
        ("p", "a", "b", 5.0, 1.0, "m1", "m2"),
        ("q", "d", "c", 4.0, 2.0, None, "m1"),
    ]


def test_reports_take_it(form):
    told = pm.pair_report(form(FEEDBACK), pm.Pairs())
    assert (told.rows_in, told.rows_used, told.pairs_out, dict(told.dropped)) == (
        5,
        4,
        2,
        {"single_completion": 1},
    )
    found = check(form(FEEDBACK))
    assert (found.rows, found.prompts, found.roles.completion) == (5, 3, "answer")
    assert "inputs: 5 rows" in explain(pm.BestOf(k=1), form(FEEDBACK))
    curve = pm.curve(form(FEEDBACK), resamples=0)
    assert curve.points.select("n", "prompts", "best").rows() == [(1, 3, 3.666666667), (2, 2, 4.5)]


def test_plans_and_values_take_it(form):
    assert pm.BestOf(k=1).lazy(form(FEEDBACK)).collect().rows() == [
        ("p", "a", 5.0, 1),
        ("q", "d", 4.0, 1),
        ("r", "e", 5.0, 1),
    ]
    assert pm.values(form(TREE))["q"].to_list() == [2.0, 1.0, 3.0, 0.0]
    assert pm.step_values(form(TREE))["value"].to_list() == [0.5, 1.0, 0.0, 1.0]
    assert pm.stepwise(form(TREE)).rows() == [
        ("a", ["c"], [False]),
        ("a", ["b", "d"], [True, True]),
    ]


def test_scoring_takes_it(form, tmp_path):
    pm.score(
        form(FEEDBACK.drop("rating")),
        tmp_path / "scored.parquet",
        scorer=lambda batch: [len(t) for t in batch["completion"].to_pylist()],
    )
    assert pl.read_parquet(tmp_path / "scored.parquet")["score"].to_list() == [1.0] * 5


@pytest.mark.parametrize(
    "wrong", [5, {"prompt": ["p"]}, [FEEDBACK]], ids=["number", "dict", "list of frames"]
)
def test_what_is_none_of_these_is_refused(wrong, tmp_path):
    for call in (
        lambda: pm.run(pm.Pairs(), wrong, tmp_path / "out.parquet"),
        lambda: pm.pair_report(wrong),
        lambda: pm.Pairs().lazy(wrong),
    ):
        with pytest.raises(
            BadArgument, match=f"got a {type(wrong).__name__}|from a {type(wrong).__name__}"
        ):
            call()
    assert not (tmp_path / "out.parquet").exists()


def test_a_dictionary_of_splits_is_refused_by_name(tmp_path):
    splits = datasets.DatasetDict(train=datasets.Dataset.from_polars(FEEDBACK))
    with pytest.raises(BadArgument, match=r"a dataset with splits; got \['train'\]"):
        pm.run(pm.Pairs(), splits, tmp_path / "out.parquet")


def test_types_survive_the_door(tmp_path):
    """Views, dictionaries, message lists: what Arrow has and files have not."""
    messages = [[{"role": "user", "content": "hi"}]] * 2
    table = pa.table(
        {
            "prompt": pa.array(messages),
            "completion": pa.array(["a", "b"], pa.string_view()),
            "score": pa.array(["5", "1"]).dictionary_encode(),
        }
    )
    pm.run(pm.Pairs(), table, tmp_path / "out.jsonl")
    assert pl.read_ndjson(tmp_path / "out.jsonl")["chosen"].to_list() == [
        [{"role": "assistant", "content": "a"}]
    ]
