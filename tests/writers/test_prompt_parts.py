"""A prompt that was joined of two columns is two columns again in the layout that has both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm

ALPACA = ["instruction", "input", "chosen", "rejected"]
PARTS = [("do", "this"), ("say", ""), ("say", None), ("a\n\nb", "c"), ("", "only")]
PAIRS = pl.DataFrame(
    [(*parts, f"good {n}", f"bad {n}") for n, parts in enumerate(PARTS)],
    schema=ALPACA,
    orient="row",
)
#: As LLaMA-Factory's own files have it: no nulls.
WANTED = [tuple(value or "" for value in row) for row in PAIRS.rows()]


def laid(frame: pl.DataFrame, folder: Path, **options: Any) -> pl.DataFrame:
    frame.write_parquet(folder / "in.parquet")
    out = folder / "out.parquet"
    plan = pm.Pairs(chosen_min=None, rejected_below=None)
    pm.run(plan, folder / "in.parquet", out, format="llama-factory", overwrite=True, **options)
    return pl.read_parquet(out)


@pytest.mark.parametrize("roles", [{}, {"prompt": "instruction,input"}])
def test_pairs_are_written_back(roles: Any, tmp_path: Path) -> None:
    for ranked_by in ("duckdb", "polars"):
        out = laid(PAIRS, tmp_path, roles=roles, engine=ranked_by)
        assert out.columns == ALPACA
        assert out.rows() == WANTED
    assert laid(out, tmp_path).rows() == WANTED


def test_rows_of_single_answers_are_too(tmp_path: Path) -> None:
    """Of the chosen row, where two records have one prompt in other parts."""
    rows = [("do", "this", "good", 5), ("do", "this", "bad", 1)]
    rows += [("a\n\nb", "c", "worse", 1), ("a", "b\n\nc", "better", 5)]
    names = ["instruction", "input", "output", "score"]
    out = laid(pl.DataFrame(rows, schema=names, orient="row"), tmp_path)
    assert out.rows() == [("do", "this", "good", "bad"), ("a", "b\n\nc", "better", "worse")]


def test_datasets_write_them_back(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
    import prefmill.datasets as pmd

    whole = datasets.Dataset.from_polars(PAIRS)
    for ds in (whole, whole.to_iterable_dataset()):
        made = pmd.pairs(ds, format="llama-factory")
        assert [tuple(row[name] for name in ALPACA) for row in made] == WANTED


def test_other_layouts_have_the_whole_prompt(tmp_path: Path) -> None:
    PAIRS.write_parquet(tmp_path / "in.parquet")
    prompts = ["do\n\nthis", "say", "say", "a\n\nb\n\nc", "only"]
    for name, column in {"trl": "prompt", "instruction": "instruction"}.items():
        out: Any = tmp_path / f"{name}.parquet"
        pm.run(pm.Pairs(), tmp_path / "in.parquet", out, format=name)
        read = pl.read_parquet(out)
        assert read[column].to_list() == prompts
        assert not {"input", "_input", "_instruction"} & set(read.columns)


def test_conversations_and_three_parts_have_the_whole_prompt(tmp_path: Path) -> None:
    talks = laid(PAIRS, tmp_path, chat=True)
    assert talks.columns == ["conversations", "chosen", "rejected"]
    assert talks["conversations"][0].to_list() == [{"from": "human", "value": "do\n\nthis"}]
    three = PAIRS.with_columns(more=pl.lit("x"))
    out = laid(three, tmp_path, roles={"prompt": "instruction,input,more"})
    assert out["instruction"][0] == "do\n\nthis\n\nx"
    assert out["input"][0] == ""
