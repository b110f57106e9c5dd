"""The same input gives the same rows, whatever the engine, threads, memory, row groups, hash seed,
or (with ids) the order of rows.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import polars as pl
import pytest
from feedback import PLANS, feedback

import prefmill as pm


def rows(path, columns: list[str] | None = None) -> list[tuple]:
    return pl.read_parquet(path, columns=columns).rows()


#: Each engine, number of threads and memory over one of the inputs; the parts over all of them.
PARTS = range(4)


@pytest.mark.parametrize(
    ("plan", "part"),
    [
        # Daily one part of each plan, in turn.
        pytest.param(
            plan,
            part,
            id=f"{plan.kind}-{plan.hash()[:6]}-{part}",
            marks=() if (number + part) % len(PARTS) == 0 else pytest.mark.torture,
        )
        for number, plan in enumerate(PLANS)
        for part in PARTS
    ],
)
def test_engine_threads_memory_and_row_groups(plan, part, tmp_path, monkeypatch):
    from prefmill.runs.job import gathering

    data = feedback(1)
    data.write_parquet(tmp_path / "one.parquet")
    data.write_parquet(tmp_path / "many.parquet", row_group_size=97)
    half = data.height // 2
    data[:half].write_parquet(tmp_path / "a.parquet")
    data[half:].write_parquet(tmp_path / "b.parquet", row_group_size=500)
    data.write_ndjson(tmp_path / "rows.jsonl")
    inputs = ["one.parquet", "many.parquet", ["a.parquet", "b.parquet"], "rows.jsonl"]
    lazy = plan.lazy(data).collect()
    # picks and advantages are whole rows in files, with the scores as they came in
    shared = (
        ["prompt", "completion", *lazy.columns[3:]]
        if plan.kind in ("best_of", "advantages")
        else lazy.columns
    )
    expected = lazy.select(shared).rows()
    assert len(expected) > 200
    ways = itertools.product(["duckdb", "polars"], [1, 4], [None, 600_000_000])
    for i, (engine, threads, memory) in enumerate(ways):
        names = inputs[(part + i + i // 4) % len(inputs)]
        # Small parts and batches, so that this small table is spilled and cut as a large one would
        # be.
        monkeypatch.setattr(gathering, "_FRAME_ROWS", [33, 50_000][i % 2])
        monkeypatch.setattr(gathering, "_PART_BYTES", 20_000 if memory else 1 << 31)
        paths = [tmp_path / n for n in ([names] if isinstance(names, str) else names)]
        out = tmp_path / f"out{i}.parquet"
        report = pm.run(plan, paths, out, engine=engine, threads=threads, memory_bytes=memory)
        assert rows(out, shared) == expected, (names, engine, threads, memory)
        assert report.rows_in == data.height
        assert rows(out) == rows(tmp_path / "out0.parquet")


@pytest.mark.parametrize("by", ["duckdb", "polars"])
def test_with_ids_the_order_of_rows_does_not_matter(by, tmp_path):
    for plan in (
        pm.Pairs(tie_break="id"),
        pm.Pairs(strategy="best_random", tie_break="id"),
        pm.Pairs(strategy="all", tie_break="id", top_k=2),
        pm.BestOf(k=3, tie_break="id"),
        pm.BestOf(k=30, pick="random", scope="pool", tie_break="id"),
    ):
        results = []
        for shuffle in range(3):
            feedback(2).sample(fraction=1, shuffle=True, seed=shuffle).write_parquet(
                tmp_path / "in.parquet"
            )
            pm.run(
                plan, tmp_path / "in.parquet", tmp_path / "out.parquet", engine=by, overwrite=True
            )
            results.append(sorted(rows(tmp_path / "out.parquet")))
        assert results[0] == results[1] == results[2]


def test_hash_seed_of_python(tmp_path):
    feedback(3).write_parquet(tmp_path / "in.parquet")
    outputs = set()
    for hash_seed in ("0", "1", "77"):
        out = tmp_path / f"{hash_seed}.jsonl"
        command = [
            sys.executable,
            "-m",
            "prefmill",
            "pairs",
            str(tmp_path / "in.parquet"),
            "-o",
            str(out),
            "--strategy",
            "best_random",
            "--engine",
            "polars",
            "--quiet",
            "--split",
            "a=0.5,b=0.5",
        ]
        subprocess.run(command, check=True, env={**os.environ, "PYTHONHASHSEED": hash_seed})
        outputs.add(
            (tmp_path / f"{hash_seed}-a.jsonl").read_bytes()
            + b"|"
            + (tmp_path / f"{hash_seed}-b.jsonl").read_bytes()
        )
    assert len(outputs) == 1


def test_a_connection_handed_to_us_keeps_its_settings():
    import duckdb

    from prefmill.duckdb import install, report

    con = duckdb.connect()
    con.execute("SET threads = 1")
    con.execute(
        "CREATE TABLE feedback AS SELECT 'p' AS prompt, 'a' || i AS completion, i AS score FROM "
        "range(10) t(i)"
    )
    before = con.execute("SELECT name, value FROM duckdb_settings() ORDER BY name").fetchall()
    install(con)
    assert con.execute(pm.Pairs().sql("feedback")).fetchall() == [("p", "a9", "a0", 9.0, 0.0)]
    assert report(pm.Pairs(), con, "feedback").pairs_out == 1
    assert (
        con.execute("SELECT name, value FROM duckdb_settings() ORDER BY name").fetchall() == before
    )
    assert con.execute(
        "SELECT count(*) FROM duckdb_functions() WHERE function_name LIKE 'pref%' AND "
        "database_name = 'memory'"
    ).fetchall() == [(0,)]
