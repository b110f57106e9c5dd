"""Best against worst on Ray Data, by hand and by prefmill, over one Parquet file with a row number:

    python benchmarks/handwritten_ray.py hand INPUT OUTPUT
    python benchmarks/handwritten_ray.py prefmill INPUT OUTPUT

By hand it is `groupby("prompt").map_groups`, as the documentation of Ray Data leads to. Both write
the same pairs: chosen from 4 on, rejected below 4; of equal scores the later row is better. Prints
seconds with and without the start of Ray, the number of pairs, and their digest.
"""

from __future__ import annotations

import sys
import time

import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from spread_tables import PAIR, digest

CHOSEN_MIN = REJECTED_BELOW = 4
CPUS, STORE_BYTES, BATCH_BYTES = 4, 512 << 20, 64 << 20


def of_prompt(rows: pa.Table) -> pa.Table:
    """The pair of one prompt, or none: a call for each prompt."""
    order = pc.sort_indices(rows, sort_keys=[("score", "ascending"), ("row", "ascending")])
    worst, best = (rows.take(order[place : place + 1]) for place in (0, rows.num_rows - 1))
    pair = pa.table(
        {
            "prompt": best["prompt"],
            "chosen": best["completion"],
            "rejected": worst["completion"],
            "chosen_score": best["score"],
            "rejected_score": worst["score"],
        }
    )
    good, bad = best["score"][0].as_py(), worst["score"][0].as_py()
    differ = best["completion"][0] != worst["completion"][0]
    stands = good >= CHOSEN_MIN and bad < REJECTED_BELOW and differ
    return pair if stands else pair.slice(0, 0)


def by_hand(source: str, target: str) -> None:
    """One group a prompt, in the format that is said to be the fast one."""
    ds = ray.data.read_parquet(source)
    ds.groupby("prompt").map_groups(of_prompt, batch_format="pyarrow").write_parquet(target)


def by_prefmill(source: str, target: str) -> None:
    """The same with a plan."""
    import prefmill.ray

    ds = ray.data.read_parquet(source)
    made = prefmill.ray.pairs(
        ds, chosen_min=CHOSEN_MIN, rejected_below=REJECTED_BELOW, position="row"
    )
    made.select_columns(list(PAIR)).write_parquet(target)


if __name__ == "__main__":
    how, source, target = sys.argv[1:]
    started = time.perf_counter()
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=CPUS, object_store_memory=STORE_BYTES, **options)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.shuffle_input_batch_bytes = BATCH_BYTES
    begun = time.perf_counter()
    {"hand": by_hand, "prefmill": by_prefmill}[how](source, target)
    ended = time.perf_counter()
    ray.shutdown()
    count, hashed = digest(target)
    print(f"{how}: {ended - started:.1f} s, {ended - begun:.1f} s of it work; {count} {hashed}")
