"""Processes, and values on both engines and over files."""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import duckdb
import polars as pl
import pytest

import prefmill as pm
from prefmill.duckdb import install
from prefmill.errors import PrefmillError
from prefmill.plans import Values


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        yield connection


def on(engine: str, con, frame: pl.DataFrame, plan: Values, **columns: str) -> pl.DataFrame:
    """The values of `frame`, on one engine; errors of all are `PrefmillError`s here."""
    if engine == "polars":
        return pm.values(frame, plan, **columns)
    if engine == "files":
        return over_files(frame, plan, **columns)
    here = {
        name: name
        for name in ("probability", "reward")
        if name in frame.columns and "parent_id" not in columns
    }
    con.register("frame", frame.to_arrow())
    try:
        found = con.sql(plan.sql("frame", **(here | columns))).pl()
        return found.sort("state", "action") if "state" in found.columns else found
    except duckdb.Error as error:
        if "prefmill: " in str(error):
            raise PrefmillError(str(error)) from None
        raise
    finally:
        con.unregister("frame")


def over_files(frame: pl.DataFrame, plan: Values, **columns: str) -> pl.DataFrame:
    """The values of `frame`, from a file to a file."""
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "in.parquet"), Path(folder, "out.parquet")
        frame.write_parquet(source)
        pm.run(plan, source, target, roles=columns)
        return pl.read_parquet(target)


ENGINES = pytest.mark.parametrize("on_engine", ["polars", "duckdb", "files"])

SCHEMA = {
    "state": pl.String,
    "action": pl.String,
    "next_state": pl.String,
    "probability": pl.Float64,
    "reward": pl.Float64,
}


def process(seed: int, states: int, actions: int = 3, ends: float = 0.1) -> pl.DataFrame:
    """A random process with cycles: from every action to two states, and with probability `ends` to
    the end.
    """
    draw = random.Random(seed)
    rows = []
    for s in range(states):
        weights = [draw.random() + 0.1 for _ in range(actions)]
        for a in range(actions):
            share = draw.random()
            after = [draw.randrange(states), draw.randrange(states), None]
            chances = [(1 - ends) * share, (1 - ends) * (1 - share), ends]
            pi, score = weights[a] / sum(weights), draw.uniform(-2, 2)
            rows += [
                (f"s{s}", f"a{a}", None if t is None else f"s{t}", p, draw.gauss(0, 1), pi, score)
                for t, p in zip(after, chances, strict=True)
            ]
    return pl.DataFrame(
        rows, schema=SCHEMA | {"policy_probability": pl.Float64, "score": pl.Float64}, orient="row"
    )
