"""The file of `worth` in a run: exactly its pairs go, on every engine, into files and tables."""

from __future__ import annotations

import random

import polars as pl
import pytest
from good_words import WORDS, pairs_of
from word_encoder import word_encoder

import prefmill as pm
from prefmill.readers import open_source
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.executor import Inline

pytestmark = pytest.mark.score

TEXTS = ["prompt", "chosen", "rejected"]
IN_BUCKETS = {"engine": "ray", "executor": Inline(), "cut": Cut(4, 3, 1 << 20, 64)}


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """Pairs, two of each prompt, of which one in eight is flipped; the file, and what it lists."""
    folder = tmp_path_factory.mktemp("exclude")
    rows = pl.DataFrame(pairs_of(random.Random(6), 240, flipped=0.12))
    # A pair that is there twice has one id: both go.
    rows = pl.concat([rows, rows.filter("planted").head(5)])
    rows.write_parquet(folder / "pairs.parquet")
    encoder = word_encoder(folder / "encoder", WORDS)
    pm.worth(folder / "pairs.parquet", folder / "wrong.parquet", model=encoder)
    return rows, folder, pl.read_parquet(folder / "wrong.parquet")


@pytest.mark.parametrize(
    ("output", "options"),
    [
        ("clean.parquet", {"engine": "duckdb"}),
        ("clean.jsonl", {"engine": "polars"}),
        pytest.param("clean.parquet", IN_BUCKETS, marks=pytest.mark.torture),
        ("duckdb:{}/lake.duckdb#clean", {}),
        ("delta:{}/clean", {}),
    ],
    ids=["duckdb", "polars", "buckets", "duckdb table", "delta table"],
)
def test_exactly_the_listed_pairs_go(tmp_path, listed, output, options):
    rows, folder, wrong = listed
    gone = rows.join(wrong, on=TEXTS, how="semi")
    assert wrong.height >= 10
    assert gone.height > wrong.unique(TEXTS).height  # the pairs that are there twice
    target = output.format(tmp_path) if ":" in output else tmp_path / output
    report = pm.run(
        pm.Pairs(), folder / "pairs.parquet", target, exclude=folder / "wrong.parquet", **options
    )
    source = open_source([str(target)], temp_dir=tmp_path / "reading")
    made = pl.read_parquet(source.files[0]).select(TEXTS)
    kept = rows.join(wrong, on=TEXTS, how="anti").select(TEXTS)
    assert made.sort(TEXTS).equals(kept.sort(TEXTS))
    assert report.pairs_out == rows.height - gone.height
    assert report.notes[0].startswith(f"exclude: {gone.height} pairs were left out that ")
    assert not any("are of no pair" in note for note in report.notes)
