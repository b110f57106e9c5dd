"""The door to Spark: every plan gives the rows, order and report of a local run.

Errors of workers are Spark's, and have the text of ours.
"""

from __future__ import annotations

import os
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from case_tables import CASES, expected, table_of
from engines import assert_same, rows_of
from parts import ROW, WIDE, is_wide, numbered

import prefmill as pm
import prefmill.polars
import prefmill.spark
from prefmill.errors import BadArgument, MissingPackage, ThresholdsUnfit
from prefmill.plans import FEEDBACK_KINDS as KINDS

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.filterwarnings("ignore:PySpark does not yet fully support pandas"),
]
#: A job of real Spark takes a second.
FEW = 12 if os.environ.get("PREFMILL_SPARK") else 1


def dataframe(spark: Any, table: pa.Table) -> Any:
    from pyspark.sql.pandas.types import from_arrow_schema

    return spark.createDataFrame(table, schema=from_arrow_schema(table.schema))


def on_spark(spark: Any, table: pa.Table, plan: Any, names: dict, **more: Any) -> Any:
    """The rows in the order of a local run, and the report; `table` has the column `ROW`."""
    df = dataframe(spark, table)
    options = {"position": ROW, "buckets": 4, **names}
    out = prefmill.spark.run(plan, df, ordered=True, **more, **options)
    return out.toArrow(), prefmill.spark.report(plan, df, **options)


@pytest.mark.parametrize("case", CASES[::FEW])
def test_case_on_spark(spark: Any, case: dict) -> None:
    kind = case.get("kind", "pairs")

    def run():
        plan = KINDS[kind].from_mapping(case.get("plan", {}))
        rows, report = on_spark(spark, numbered(table_of(case)), plan, case.get("roles", {}))
        return rows_of(rows, plan), report

    if "error" in case:
        with pytest.raises(Exception, match=f"(?s){case['error']}|{WIDE}"):
            run()
    elif is_wide(case):
        with pytest.raises(BadArgument, match=WIDE):
            run()
    else:
        assert_same(case["name"], "spark", run(), expected(case, kind))


def pool(rows: int = 3000) -> pa.Table:
    """Rated answers with all that columns come to have: ties, repeats, nulls, messages, tools."""
    number = range(rows)
    return numbered(
        pa.table(
            {
                "prompt": [
                    None if n % 97 == 5 else [{"role": "user", "content": f"q{n * 7919 % 611}"}]
                    for n in number
                ],
                "completion": [f"answer {n * 31 % 3}" for n in number],
                "score": [None if n % 89 == 3 else float(n * 17 % 11) / 2 for n in number],
                "model": [f"m{n % 3}" for n in number],
                "tools": [f"t{n * 7919 % 611}" for n in number],
                "conclusion": [str(n % 2) for n in number],
                "a.b": pa.array(number, pa.int16()),
            }
        )
    )


PLANS = [
    *(
        pm.Pairs(strategy=strategy, chosen_min=None, rejected_below=None, min_margin=0.5)
        for strategy in ("best_worst", "best_random", "best_rest", "adjacent", "all")
    ),
    pm.Pairs(strategy="all", max_pairs_per_prompt=3, top_k=3, bottom_k=2),
    pm.Pairs(strategy="threshold", chosen_quantile=0.7, rejected_quantile=0.3),
    pm.Pairs(aggregate="mean", min_votes=2),
    pm.Unpaired(),
    pm.Unpaired(chosen_quantile=0.55, aggregate="median"),
    *(pm.BestOf(k=2, pick=pick) for pick in ("best", "median", "worst", "random", "rso")),
    pm.BestOf(k=3, pick="majority", min_score=1.0),
    *(pm.Advantage(method=method) for method in ("centered", "grpo", "rloo", "rank")),
]


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.kind}-{plan.hash()}")
def test_a_pool_on_spark(spark: Any, plan: Any) -> None:
    table = pool()
    keep = ["model", "a.b"]
    rows, report = on_spark(spark, table, plan, {}, keep=keep)
    frame = pl.DataFrame(pl.from_arrow(table))
    local = plan.lazy(frame, keep=keep).collect()
    assert pl.DataFrame(pl.from_arrow(rows)).rows() == local.rows()
    assert rows.column_names == local.columns
    assert local.height > 100
    assert report == prefmill.polars.report(plan, frame)


def test_records_become_rows_on_spark(spark: Any) -> None:
    records = pa.table(
        {
            "question": ["p", "q", "p"],
            "answers": [["a", "b"], ["c", "d"], ["e"]],
            "scores": [[5, 1], [2, 4], [3]],
        }
    )
    names = {"each": "answers,scores"}
    rows, report = on_spark(spark, numbered(records), pm.Pairs(), names)
    assert (
        rows.to_pylist()
        == prefmill.polars.pairs(pl.DataFrame(records), **names).collect().to_dicts()
    )
    assert report == prefmill.polars.pair_report(pl.DataFrame(records), **names)
    assert report.records["in"] == 3


def test_functions_have_the_fields_of_plans(spark: Any) -> None:
    df = dataframe(spark, pool(1500))
    made = prefmill.spark.pairs(
        df, strategy="all", chosen_min=4, rejected_below=2, position=ROW, buckets=2
    )
    assert made.columns == [
        "prompt",
        "chosen",
        "rejected",
        "chosen_score",
        "rejected_score",
        "tools",
    ]
    picked = prefmill.spark.best_of(df, k=2, tie_break="id", id=ROW, buckets=2)
    assert picked.count() == len(prefmill.polars.best_of(pl.DataFrame(pool(1500)), k=2).collect())
    labels = prefmill.spark.unpaired(df, chosen_min=3, rejected_below=2, buckets=2)
    assert {row.label for row in labels.select("label").distinct().collect()} == {True, False}
    assert prefmill.spark.advantages(df).columns[-1] == "advantage"


def test_nothing_runs_before_it_is_used(spark: Any) -> None:
    """Unless thresholds wait for the scores."""

    def broken(batches: Any) -> Any:
        raise RuntimeError("the input was read")

    df = dataframe(spark, pool(30).drop_columns(["a.b"]))
    df = df.mapInArrow(broken, df.schema)
    options = {"position": ROW, "buckets": 2}
    made = prefmill.spark.pairs(df, chosen_min=4, rejected_below=4, **options)
    with pytest.raises(Exception, match="the input was read"):
        made.collect()
    with pytest.raises(Exception, match="the input was read"):
        prefmill.spark.pairs(df, **options)


def test_what_is_written_and_read_again(spark: Any, tmp_path: Any) -> None:
    import pyarrow.parquet as pq

    plan = pm.Pairs(strategy="all", min_margin=1)
    pq.write_table(pool(2000), tmp_path / "pool.parquet")
    df = spark.read.parquet(str(tmp_path / "pool.parquet"))
    made = prefmill.spark.run(plan, df, position=ROW, buckets=3)
    made.write.parquet(str(tmp_path / "pairs"))
    local = plan.lazy(pl.DataFrame(pool(2000))).collect()
    got = pl.read_parquet(tmp_path / "pairs" / "*.parquet")
    assert sorted(map(str, got.rows())) == sorted(map(str, local.rows()))


def test_a_default_number_of_buckets(spark: Any) -> None:
    df = dataframe(spark, pool(60))
    assert prefmill.spark.run(pm.Unpaired(), df).count() > 0


def test_hot_and_hostile_names(spark: Any) -> None:
    table = pa.table(
        {
            "a.prompt": ["p", "p", "p"],
            "an `answer`": ["x", "y", "z"],
            "*": [5, 1, 3],
            ROW: [0, 1, 2],
        }
    )
    names = {"prompt": "a.prompt", "completion": "an `answer`", "score": "*"}
    rows, report = on_spark(spark, table, pm.Pairs(), names)
    assert rows.to_pylist() == [
        {
            "prompt": "p",
            "chosen": "x",
            "rejected": "y",
            "chosen_score": 5.0,
            "rejected_score": 1.0,
        }
    ]
    assert report.rows_in == 3


def test_times_come_along(spark: Any) -> None:
    df = dataframe(spark, pool(1500))
    df = df.selectExpr("*", "TIMESTAMP '2020-01-02 03:04:05' AS at", "DATE '2020-01-02' AS day")
    plan = pm.Unpaired(chosen_min=4, rejected_below=2)
    made = prefmill.spark.run(plan, df, keep=["at", "day"], buckets=2)
    for name in ("at", "day"):
        assert made.schema[name].dataType == df.schema[name].dataType
    kept = made.select("at", "day").distinct().collect()
    assert kept == df.select("at", "day").distinct().collect()


def test_what_is_refused(spark: Any) -> None:
    df = dataframe(spark, pool(30))
    with pytest.raises(BadArgument, match=r"(?s)spark: the later one of equal.*position='COL"):
        prefmill.spark.run(pm.Pairs(), df)
    with pytest.raises(BadArgument, match="expected a DataFrame of Spark"):
        prefmill.spark.run(pm.Pairs(), "feedback.parquet", position=ROW)
    with pytest.raises(ThresholdsUnfit, match="smallest score seen"):
        prefmill.spark.run(
            pm.Pairs(), df.selectExpr("*", "score / 100 AS small"), position=ROW, score="small"
        )


def test_errors_of_workers_have_our_text(spark: Any) -> None:
    df = dataframe(spark, pool(200))
    plan = pm.Pairs(chosen_min=4, rejected_below=2, on_invalid="raise")
    with pytest.raises(Exception, match=r"row \d+ cannot be used; got null_(score|prompt)"):
        prefmill.spark.run(plan, df, position=ROW, buckets=2).collect()
    with pytest.raises(Exception, match="is the same in several rows"):
        prefmill.spark.run(pm.BestOf(), df.selectExpr("*", "1 AS one"), position="one").collect()


def test_a_package_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyspark.sql.pandas", None)
    with pytest.raises(MissingPackage, match=r"(?s)'pyspark' is not installed.*\[spark\]"):
        prefmill.spark.run(pm.Pairs(), object())
