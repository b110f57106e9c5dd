"""Pairs written in every layout are read as the same pairs again."""

from __future__ import annotations

import random
from itertools import product
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import ColumnMissing
from prefmill.writers.formats import formats_for

TEXTS = ["prompt", "chosen", "rejected"]
SCORES = ["chosen_score", "rejected_score"]
#: Layouts without scores: they are 1 and 0 when such a file is read.
WITHOUT_SCORES = ("instruction", "llama-factory")
#: Scores of a file of pairs need not lie on both sides of 4.
UNBOUND = pm.Pairs(chosen_min=None, rejected_below=None)
WORDS = ["ja", "nein", "", " spaces ", "two\nlines", "comma, dot.", "Ärger 🙂", '"quoted"', "a\tb"]


def turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def pairs(kind: str, seed: int = 0, count: int = 60) -> pl.DataFrame:
    """Pairs in random order whose prompts come again, of texts or of messages."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        question = f"{draw.choice(WORDS)}{draw.randint(0, 20)}"
        better, worse = draw.sample([f"{word}{number % 7}" for word in WORDS], 2)
        row: dict[str, Any] = {"prompt": question, "chosen": better, "rejected": worse}
        if kind == "messages":
            earlier = [turn("user", "hi"), turn("assistant", "ho")] * draw.randint(0, 2)
            system = [turn("system", "be brief")] * draw.randint(0, 1)
            row["prompt"] = [*system, *earlier, turn("user", question)]
            row |= {side: [turn("assistant", row[side])] for side in ("chosen", "rejected")}
        if kind == "system":
            row["system"] = draw.choice(["be kind", None])
        low = draw.randint(0, 5)
        scores = {"chosen_score": low + draw.randint(1, 4) + 0.5, "rejected_score": float(low)}
        rows.append({**row, **scores, "margin": draw.random(), "tools": draw.choice(["[]", None])})
    return pl.DataFrame(rows)


def written(source: Path, target: Path, **options: Any) -> pl.DataFrame:
    pm.run(pm.Pairs(), source, target, **options)
    return pl.read_parquet(target)


def says_all(layout: str, chat: bool, kind: str) -> bool:
    """Whether a file says all that its pairs said; those that do not have tests below."""
    talks = chat or kind != "texts"
    if layout == "instruction":  # which holds text only
        return not talks
    return layout != "kto" and (layout != "trl-implicit" or talks)


KINDS = ("texts", "messages", "system")
CASES = [each for each in product(formats_for("pairs"), (False, True), KINDS) if says_all(*each)]


@pytest.mark.parametrize(("layout", "chat", "kind"), CASES)
def test_every_layout_is_read_as_it_was_written(
    layout: str, chat: bool, kind: str, tmp_path: Path
) -> None:
    pairs(kind).write_parquet(tmp_path / "pairs.parquet")
    same: dict[str, Any] = {"chat": chat, "keep": ["margin"]}
    known = written(tmp_path / "pairs.parquet", tmp_path / "known.parquet", **same)
    assert known.columns == [*TEXTS, *SCORES, "tools", "margin"]
    assert known.height == 60
    laid = tmp_path / "laid.parquet"
    written(tmp_path / "pairs.parquet", laid, format=layout, **same)
    again = written(laid, tmp_path / "again.parquet", **same)
    if layout in WITHOUT_SCORES:
        assert set(again.select(SCORES).rows()) == {(1.0, 0.0)}
        known, again = known.drop(SCORES), again.drop(SCORES)
    assert again.columns == known.columns
    assert again.rows() == known.rows()


def test_implicit_texts_do_not_say_where_the_prompt_ends(tmp_path: Path) -> None:
    pairs("texts").write_parquet(tmp_path / "pairs.parquet")
    laid = tmp_path / "laid.parquet"
    written(tmp_path / "pairs.parquet", laid, format="trl-implicit")
    with pytest.raises(ColumnMissing, match="no column for the role 'prompt'"):
        pm.run(pm.Pairs(), laid, tmp_path / "again.parquet")


def distinct(frame: pl.DataFrame) -> pl.DataFrame:
    """The first pair of every prompt."""
    return frame.unique("prompt", keep="first", maintain_order=True)


@pytest.mark.parametrize("kind", ["texts", "messages"])
def test_labels_and_back(kind: str, tmp_path: Path) -> None:
    """A row for each answer: their pairs are those of one prompt, so prompts are not repeated."""
    frame = distinct(pairs(kind))
    frame.drop("margin", "tools").write_parquet(tmp_path / "pairs.parquet")
    known = written(tmp_path / "pairs.parquet", tmp_path / "known.parquet")
    written(tmp_path / "pairs.parquet", tmp_path / "kto.parquet", format="kto")
    pm.run(UNBOUND, tmp_path / "kto.parquet", tmp_path / "again.parquet")
    assert pl.read_parquet(tmp_path / "again.parquet").equals(known)
    bare = frame.select(TEXTS)
    bare.write_parquet(tmp_path / "bare.parquet")
    done = pm.run(pm.Unpaired(), tmp_path / "bare.parquet", tmp_path / "labels.parquet")
    assert done.labels == {"true": frame.height, "false": frame.height}
    labels = pl.read_parquet(tmp_path / "labels.parquet")
    assert labels.filter("label")["completion"].to_list() == known["chosen"].to_list()
    assert labels.filter(~pl.col("label"))["completion"].to_list() == known["rejected"].to_list()
    again = written(tmp_path / "labels.parquet", tmp_path / "again2.parquet")
    assert again.select(TEXTS).equals(known.select(TEXTS))


@pytest.mark.parametrize("kind", ["texts", "messages"])
def test_a_pool_and_back(kind: str, tmp_path: Path) -> None:
    frame = distinct(pairs(kind)).drop("margin", "tools")
    frame.write_parquet(tmp_path / "pairs.parquet")
    known = written(tmp_path / "pairs.parquet", tmp_path / "known.parquet")
    best = pm.BestOf(k=2)
    pm.run(best, tmp_path / "pairs.parquet", tmp_path / "pool.parquet")
    pool = pl.read_parquet(tmp_path / "pool.parquet")
    assert pool.columns == ["prompt", "completion", "score", "rank"]
    assert pool.height == 2 * frame.height
    again = tmp_path / "again.parquet"
    pm.run(UNBOUND, tmp_path / "pool.parquet", again)
    assert pl.read_parquet(again).equals(known)


def test_splits_have_no_prompt_in_common(tmp_path: Path) -> None:
    """Also where the prompt is the beginning of two conversations."""
    for layout in ("trl", "trl-implicit", "llama-factory"):
        pairs("messages", count=300).write_parquet(tmp_path / "pairs.parquet")
        laid = tmp_path / f"{layout}.parquet"
        written(tmp_path / "pairs.parquet", laid, format=layout)
        shares = {"train": 0.7, "test": 0.3}
        target = tmp_path / f"split-{layout}.parquet"
        done = pm.run(pm.Pairs(), laid, target, split=shares)
        parts = {name: pl.read_parquet(path) for name, path in done.output.items()}
        prompts = {name: {str(row) for row in part["prompt"]} for name, part in parts.items()}
        assert all(prompts.values())
        assert not prompts["train"] & prompts["test"]
        assert sum(part.height for part in parts.values()) == 300
