"""Best against worst on Spark, by hand and by prefmill, over one Parquet file with a row number:

    python benchmarks/handwritten_spark.py hand INPUT OUTPUT
    python benchmarks/handwritten_spark.py python INPUT OUTPUT
    python benchmarks/handwritten_spark.py prefmill INPUT OUTPUT

The Spark is Sail, in this process. By hand it is one aggregation with `max` and `min` of a struct,
the shortest way for who knows Spark well; `python` is a call of a function for each prompt, which a
rule needs that no aggregation says. All write the same pairs: chosen from 4 on, rejected below 4;
of equal scores the later row is better.
"""

from __future__ import annotations

import sys
import time
import warnings
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from spread_tables import PAIR, digest

CHOSEN_MIN = REJECTED_BELOW = 4
BUCKETS = 16
SCHEMA = "prompt string, chosen string, rejected string, chosen_score double, rejected_score double"


def by_hand(df: Any) -> Any:
    """The best and the worst answer of each prompt as structs."""
    from pyspark.sql import functions as f

    answer = f.struct("score", "row", "completion")
    ends = df.groupBy("prompt").agg(f.max(answer).alias("best"), f.min(answer).alias("worst"))
    stands = (
        (f.col("best.score") >= CHOSEN_MIN)
        & (f.col("worst.score") < REJECTED_BELOW)
        & (f.col("best.completion") != f.col("worst.completion"))
    )
    return ends.where(stands).select(
        "prompt",
        f.col("best.completion").alias("chosen"),
        f.col("worst.completion").alias("rejected"),
        f.col("best.score").alias("chosen_score"),
        f.col("worst.score").alias("rejected_score"),
    )


def of_prompt(rows: pa.Table) -> pa.Table:
    """The pair of one prompt, or none."""
    order = pc.sort_indices(rows, sort_keys=[("score", "ascending"), ("row", "ascending")])
    worst, best = (rows.take(order[place : place + 1]) for place in (0, rows.num_rows - 1))
    good, bad = best["score"][0].as_py(), worst["score"][0].as_py()
    differ = best["completion"][0] != worst["completion"][0]
    stands = good >= CHOSEN_MIN and bad < REJECTED_BELOW and differ
    texts = [best["prompt"], best["completion"], worst["completion"]]
    pair = pa.table([*texts, best["score"], worst["score"]], names=list(PAIR))
    return pair if stands else pair.slice(0, 0)


def in_python(df: Any) -> Any:
    """A call for each prompt."""
    return df.groupBy("prompt").applyInArrow(of_prompt, SCHEMA)


def by_prefmill(df: Any) -> Any:
    """The same with a plan."""
    import prefmill.spark

    made = prefmill.spark.pairs(
        df,
        chosen_min=CHOSEN_MIN,
        rejected_below=REJECTED_BELOW,
        position="row",
        buckets=BUCKETS,
    )
    return made.select(*PAIR)


if __name__ == "__main__":
    how, source, target = sys.argv[1:]
    warnings.simplefilter("ignore")  # pyspark-client warns of pandas 3
    started = time.perf_counter()
    from pysail.spark import SparkConnectServer
    from pyspark.sql import SparkSession

    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    address = "sc://{}:{}".format(*server.listening_address)
    spark = SparkSession.builder.remote(address).getOrCreate()
    begun = time.perf_counter()
    ways = {"hand": by_hand, "python": in_python, "prefmill": by_prefmill}
    ways[how](spark.read.parquet(source)).write.parquet(target)
    ended = time.perf_counter()
    spark.stop()
    server.stop()
    count, hashed = digest(target)
    print(f"{how}: {ended - started:.1f} s, {ended - begun:.1f} s of it work; {count} {hashed}")
