"""Pairs and their scores: what becomes of a pair that its scores contradict, counted everywhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from command import prefmill as command

import prefmill as pm
from prefmill.errors import BadArgument

#: chosen and rejected score of each pair
SCORES = [(1, 2), (5, 1), (3, 3), (None, 4), (0, 9), (2, None)]
#: words -> pairs out of (chosen, rejected), and the account of records
EXPECTED: dict[str, tuple[dict[str, Any], list[tuple[str, str]], dict[str, Any]]] = {
    "nothing": ({}, [("r0", "c0"), ("c1", "r1"), ("r4", "c4")], {"flipped": 2}),
    "flip": ({"disagree": "flip"}, [("r0", "c0"), ("c1", "r1"), ("r4", "c4")], {"flipped": 2}),
    "drop": ({"disagree": "drop"}, [("c1", "r1")], {"dropped": {"disagreement": 3}}),
    "keep": ({"disagree": "keep"}, [(f"c{n}", f"r{n}") for n in range(6)], {"kept": 2}),
    "lower": (
        {"score": "-chosen_score,-rejected_score"},
        [("c0", "r0"), ("r1", "c1"), ("c4", "r4")],
        {"flipped": 1},
    ),
    "lower and drop": (
        {"score": "-chosen_score,-rejected_score", "disagree": "drop"},
        [("c0", "r0"), ("c4", "r4")],
        {"dropped": {"disagreement": 2}},
    ),
    "values": (
        {"values": "9=0,2=null"},
        [("c1", "r1")],
        {"flipped": 0},
    ),
}


def pairs(kind: pl.DataType) -> pl.DataFrame:
    rows = [(f"p{n}", f"c{n}", f"r{n}", *scores) for n, scores in enumerate(SCORES)]
    names = ["prompt", "chosen", "rejected", "chosen_score", "rejected_score"]
    return pl.DataFrame(rows, schema=names, orient="row").cast(
        {"chosen_score": kind, "rejected_score": kind}
    )


@pytest.mark.parametrize("kind", [pl.Int64(), pl.Float64(), pl.String()])
@pytest.mark.parametrize("name", EXPECTED)
def test_flipped_dropped_or_kept_and_counted(name: str, kind: pl.DataType, tmp_path: Path) -> None:
    words, wanted, account = EXPECTED[name]
    frame = pairs(kind)
    frame.write_parquet(tmp_path / "pairs.parquet")
    out = tmp_path / "out.parquet"
    done = pm.run(pm.Pairs(), tmp_path / "pairs.parquet", out, roles=words)
    assert pl.read_parquet(out).select("chosen", "rejected").rows() == wanted
    lazy = pm.Pairs().lazy(frame, **words).collect()
    assert lazy.select("chosen", "rejected").rows() == wanted
    report = pm.pair_report(frame, pm.Pairs(), **words)
    for records in (done.records, report.records):
        assert records is not None
        assert {key: records[key] for key in account} == account
        assert {"flipped", "kept"} & set(records) == {"flipped", "kept"} & set(account)


def test_the_command_says_it(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in pairs(pl.Int64()).to_dicts()))
    done = command("pairs", file, "-o", tmp_path / "out.jsonl")
    assert "2 pairs flipped: the rejected answer scores higher" in done.stderr
    kept = command("pairs", file, "-o", tmp_path / "kept.jsonl", "--disagree", "keep")
    assert "2 pairs kept: the rejected answer scores higher" in kept.stderr


def test_answers_that_nobody_chose_contradict_nothing() -> None:
    """Two answers with two scores are no pair yet."""
    frame = pairs(pl.Int64()).rename({"chosen": "a", "rejected": "b"})
    words: Any = {"completion": "a,b", "score": "chosen_score,rejected_score"}
    records = pm.pair_report(frame, pm.Pairs(), **words).records
    assert records is not None
    assert "flipped" not in records


def test_pairs_without_scores_have_nothing_to_disagree_with() -> None:
    with pytest.raises(BadArgument, match="disagree is for pairs with a score of each answer"):
        pm.Pairs().lazy(pairs(pl.Int64()).select("prompt", "chosen", "rejected"), disagree="drop")
