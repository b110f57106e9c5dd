"""Pools with repeated answers, votes, unusable scores and several files: ids and counts add up.

What appeared, vanished and flipped is what the two outputs themselves say, by their ids.
"""

from __future__ import annotations

import random

import polars as pl
import pytest

import prefmill as pm

ANNOTATORS = ("x", "y")


def pool(chance: random.Random) -> list[dict]:
    return [
        {
            "prompt": f"p{chance.randint(0, 3)}",
            "completion": chance.choice("abcd"),
            "score": chance.choice((1.0, 2.0, 3.0, 4.0, 5.0, None)),
            "annotator": chance.choice(ANNOTATORS),
            "id": number,
        }
        for number in range(chance.randint(6, 24))
    ]


def other(rows: list[dict], chance: random.Random) -> list[dict]:
    out = [dict(row) for row in rows if chance.random() > 0.2]
    for row in out:
        if chance.random() < 0.3:
            row["score"] = chance.choice((1.0, 5.0, None))
    more = [{**row, "id": row["id"] + 100} for row in pool(chance)[:4]]
    out = out + more if chance.random() < 0.5 else more + out
    if chance.random() < 0.3:
        chance.shuffle(out)
    return out


PLANS = (
    pm.Pairs(strategy="all", chosen_min=None, rejected_below=None),
    pm.Pairs(strategy="best_random", aggregate="mean"),
    pm.Pairs(strategy="all", normalize="zscore", chosen_min=0, rejected_below=0),
    pm.Pairs(strategy="best_rest", tie_break="id", aggregate="max"),
    pm.Unpaired(aggregate="majority"),
    pm.BestOf(k=2, scope="pool"),
    pm.BestOf(k=1, length_control=True),
    pm.Advantage(),
)


@pytest.mark.parametrize("number", range(len(PLANS)))
def test_ids_are_those_of_the_outputs(tmp_path, number):
    chance = random.Random(number)
    plan, rows = PLANS[number], pool(chance)
    for name, some in (("a", rows), ("b", other(rows, chance))):
        frame = pl.DataFrame(some, schema_overrides={"score": pl.Float64})
        half = frame.height // 2
        inputs = [tmp_path / f"{name}{part}.parquet" for part in (1, 2)]
        frame.head(half).write_parquet(inputs[0])
        frame.tail(frame.height - half).write_parquet(inputs[1])
        pm.run(
            plan,
            inputs,
            tmp_path / f"{name}.parquet",
            roles={"annotator": "annotator", "id": "id"},
            pair_id=True,
            allow_empty=True,
        )
    report = pm.diff(tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "diff.csv")
    a, b = (set(pl.read_parquet(tmp_path / f"{name}.parquet")["pair_id"]) for name in "ab")
    differences = pl.read_csv(tmp_path / "diff.csv", schema_overrides={"pair_id": pl.String})
    ids = {kind: set(some["pair_id"]) for (kind,), some in differences.group_by("kind")}
    none: set[str] = set()
    assert len(differences) == report.differences == differences["pair_id"].n_unique()
    assert ids.get("vanished", none) <= a - b
    flipped = ids.get("flipped", none)
    if isinstance(plan, pm.Pairs):
        assert ids.get("appeared", none) | flipped == b - a
        assert len(a - b) == report.vanished + report.flipped
    else:
        assert ids.get("appeared", none) == b - a
        assert ids.get("vanished", none) == a - b
        assert flipped | ids.get("changed", none) <= a & b
    assert differences["details"].null_count() == 0
