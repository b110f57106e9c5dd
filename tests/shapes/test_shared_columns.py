"""A column of a record is kept once, under its own name, where both sides of a pair are of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

import prefmill as pm
import prefmill.duckdb
from prefmill.errors import BadArgument

PAIRS = pl.DataFrame(
    {
        "prompt": ["p", "q"],
        "chosen": ["a", "b"],
        "rejected": ["c", "d"],
        "margin": [0.5, 2.0],
        "chosen_model": ["x", "y"],
    }
)
WORDS: Any = {"completion": "chosen,rejected", "keep": ["margin", "chosen_model"]}


def of_lazy(folder: Path) -> pl.DataFrame:
    return pm.Pairs().lazy(PAIRS, **WORDS).collect()


def of_files(folder: Path) -> pl.DataFrame:
    PAIRS.write_ndjson(folder / "pairs.jsonl")
    keep, out = WORDS["keep"], folder / "out.parquet"
    pm.run(pm.Pairs(), folder / "pairs.jsonl", out, keep=keep)
    return pl.read_parquet(out)


def of_sql(folder: Path) -> pl.DataFrame:
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("pairs", PAIRS.to_arrow())
    return con.sql(pm.Pairs().sql("pairs", schema=PAIRS.schema, **WORDS)).pl()


def of_dataset(folder: Path) -> pl.DataFrame:
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
    import prefmill.datasets as pmd

    return pmd.pairs(datasets.Dataset.from_polars(PAIRS), **WORDS).to_polars()


def of_stream(folder: Path) -> pl.DataFrame:
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
    import prefmill.datasets as pmd

    rows = datasets.Dataset.from_polars(PAIRS).to_iterable_dataset()
    return pl.DataFrame(list(pmd.pairs(rows, **WORDS)))


@pytest.mark.parametrize("host", [of_lazy, of_files, of_sql, of_dataset, of_stream])
def test_both_sides_have_it(host: Any, tmp_path: Path) -> None:
    out = host(tmp_path)
    assert out.columns[-2:] == ["margin", "chosen_model"]
    assert out.select("prompt", "margin", "chosen_model").rows() == [
        ("p", 0.5, "x"),
        ("q", 2.0, "y"),
    ]


def test_labels_of_pairs_keep_it_too(tmp_path: Path) -> None:
    """A kept column of the chosen side alone is no side's column."""
    PAIRS.write_parquet(tmp_path / "pairs.parquet")
    out = tmp_path / "out.parquet"
    pm.run(pm.Pairs(), tmp_path / "pairs.parquet", out, keep=WORDS["keep"], format="kto")
    labels = pl.read_parquet(out)
    assert labels.columns[-2:] == ["margin", "chosen_model"]
    assert labels["margin"].to_list() == [0.5, 2.0, 0.5, 2.0]


def test_rows_of_several_records_have_a_column_each() -> None:
    words = {**WORDS, "keep": ["margin"]}
    pairs = pm.Pairs(strategy="all").lazy(PAIRS, group="prompt", **words).collect()
    assert pairs.columns[-2:] == ["chosen_margin", "rejected_margin"]


def test_a_name_that_the_output_has_is_refused() -> None:
    scored = PAIRS.with_columns(chosen_score=pl.lit(1))
    with pytest.raises(BadArgument, match="would write 'chosen_score' twice"):
        pm.Pairs().lazy(scored, completion="chosen,rejected", keep=["chosen_score"])
