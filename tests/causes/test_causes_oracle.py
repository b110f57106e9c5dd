"""Causes against the oracle: the changes are applied to A one after the other, in plain Python.

The oracle knows the rows by their texts, and what every plan gives of them. So it says of each
difference which change was the last to make it, and the run has to say the same.
"""

from __future__ import annotations

import random
from dataclasses import replace

import oracle
import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import PlanError
from prefmill.plans import Advantage, BestOf, Pairs, Unpaired
from prefmill.table.roles import Roles

ROLES = Roles()
THRESHOLDS = ("chosen_min", "rejected_below", "min_score")


def pool(chance: random.Random) -> list[dict]:
    rows = [
        {"prompt": f"p{p}", "completion": f"{p}-{a}", "score": float(chance.randint(1, 5))}
        for p in range(chance.randint(2, 6))
        for a in range(chance.randint(1, 5))
    ]
    chance.shuffle(rows)
    return rows


def changed(rows: list[dict], chance: random.Random) -> list[dict]:
    """Rows go, come, change their score, and some change their place."""
    out = [dict(row) for row in rows if chance.random() > 0.15]
    for row in out:
        if chance.random() < 0.25:
            row["score"] = float(chance.randint(1, 5))
    for n in range(chance.randint(0, 4)):
        new = {"prompt": f"p{chance.randint(0, 7)}", "completion": f"new-{n}"}
        place = chance.randint(0, len(out))
        out.insert(place, {**new, "score": float(chance.randint(1, 5))})
    if chance.random() < 0.3:
        chance.shuffle(out)
    return out


def plans(chance: random.Random) -> tuple:
    """Two plans of one kind."""
    kind = chance.choice(("pairs", "pairs", "unpaired", "best", "advantage"))
    out = []
    for _ in range(2):
        seed = chance.choice((0, 0, 1))
        bounds = {
            "chosen_min": chance.choice((2, 3, 4)),
            "rejected_below": chance.choice((2, 3, 4)),
        }
        if kind == "pairs":
            strategies = ("best_worst", "best_random", "best_rest", "adjacent", "all", "threshold")
            if chance.random() < 0.3:
                bounds = {"chosen_quantile": chance.choice((0.5, 0.7)), "rejected_quantile": 0.5}
            plan = Pairs(
                strategy=chance.choice(strategies),
                min_margin=chance.choice((0, 0, 2)),
                max_pairs_per_prompt=chance.choice((None, 2)),
                seed=seed,
                **bounds,
            )
        elif kind == "unpaired":
            bounds["rejected_below"] = min(bounds.values())
            plan = Unpaired(seed=seed, **bounds)
        elif kind == "best":
            pick = chance.choice(("best", "random", "median", "worst"))
            low = chance.choice((None, 2, 3))
            scope = chance.choice(("prompt", "prompt", "pool"))
            k = chance.choice((1, 2))
            plan = BestOf(pick=pick, k=k, scope=scope, min_score=low, seed=seed)
        else:
            plan = Advantage(method=chance.choice(("grpo", "centered", "rank")))
        out.append(plan)
    return tuple(out) if chance.random() < 0.7 else (out[0], out[0])


def settled(rows: list[dict], plan):
    if not isinstance(plan, Pairs | Unpaired):
        return plan
    found = oracle.candidates(rows, plan, ROLES)[0]
    numbers = oracle.with_thresholds(plan, [each.score for each in found])
    return replace(numbers, chosen_quantile=None, rejected_quantile=None)


def told_by_oracle(rows: list[dict], plan) -> dict:
    """What comes out: the state of each pair of answers, or of each answer."""
    if isinstance(plan, Pairs):
        out = oracle.pairs(rows, plan, ROLES).pairs
        return {frozenset(row[1:3]): row[1] for row in out}
    if isinstance(plan, Unpaired):
        return {row[1]: row[2] for row in oracle.unpaired(rows, plan, ROLES).pairs}
    if isinstance(plan, BestOf):
        return {row[1]: 0 for row in oracle.best_of(rows, plan, ROLES).pairs}
    return {row[1]: row[3] for row in oracle.advantages(rows, plan, ROLES).pairs}


def way(a: list[dict], b: list[dict], plan_a, plan_b) -> list[tuple[str, dict]]:
    """Each change and what it leaves, from A to B."""
    plan, last = settled(a, plan_a), settled(b, plan_b)
    in_a = {row["completion"]: row for row in a}
    in_b = {row["completion"]: row for row in b}
    left = [row for row in a if row["completion"] in in_b]
    moved = [in_a[row["completion"]] for row in b if row["completion"] in in_a]
    came = [in_a.get(row["completion"], row) for row in b]
    out = [("", told_by_oracle(a, plan))]
    for cause, rows in (
        ("row left", left),
        ("order changed", moved),
        ("row came", came),
        ("score changed", b),
    ):
        out.append((cause, told_by_oracle(rows, plan)))
    names = [name for name in vars(plan) if name not in (*THRESHOLDS, "seed", "rows", "expect")]
    together, first = {}, ""
    for name in [*names, *THRESHOLDS, "seed"]:
        if name not in vars(plan) or getattr(plan, name) == getattr(last, name):
            continue
        cause = "threshold changed" if name in THRESHOLDS else "plan changed"
        together[name], first = getattr(last, name), first or cause
        try:
            plan = replace(plan, **together)
        except PlanError:  # without a meaning alone: with the next one
            continue
        out.append(("draw" if name == "seed" else first, told_by_oracle(b, plan)))
        together, first = {}, ""
    return out


def expected(steps: list[tuple[str, dict]]) -> dict:
    """(cause, kind) of every difference, by the answers that it is of."""
    first, last = steps[0][1], steps[-1][1]
    out = {}
    for key in first.keys() | last.keys():
        before, after = first.get(key), last.get(key)
        if before == after and (key in first) == (key in last):
            continue
        number = max(
            n
            for n in range(1, len(steps))
            if (key in steps[n - 1][1], steps[n - 1][1].get(key)) != (key in last, after)
        )
        kind = "appeared" if key not in first else "vanished" if key not in last else "flipped"
        if kind == "flipped" and isinstance(after, float):
            kind = "changed"
        out[key] = (steps[number][0], kind)
    return out


SEEDS = [
    *range(10),
    *(pytest.param(seed, marks=pytest.mark.torture) for seed in range(10, 120)),
]


@pytest.mark.parametrize("seed", SEEDS)
def test_every_difference_has_the_cause_that_the_oracle_finds(tmp_path, seed):
    chance = random.Random(seed)
    plan_a, plan_b = plans(chance)
    a = pool(chance)
    b = changed(a, chance)
    for name, rows, plan in (("a", a, plan_a), ("b", b, plan_b)):
        pl.DataFrame(rows, schema=dict.fromkeys(rows[0] if rows else a[0])).cast(
            {"score": pl.Float64}
        ).write_parquet(tmp_path / f"rows_{name}.parquet")
        pm.run(
            plan,
            tmp_path / f"rows_{name}.parquet",
            tmp_path / f"{name}.parquet",
            pair_id=True,
            allow_empty=True,
        )
    report = pm.diff(tmp_path / "a.parquet", tmp_path / "b.parquet", tmp_path / "diff.parquet")
    outputs = {name: pl.read_parquet(tmp_path / f"{name}.parquet") for name in "ab"}
    texts = ["chosen", "rejected"] if isinstance(plan_a, Pairs) else ["completion"]
    keys = {}
    for frame in outputs.values():
        for row in frame.to_dicts():
            answers = [row[name] for name in texts]
            keys[row["pair_id"]] = frozenset(answers) if len(answers) == 2 else answers[0]
    found = {
        keys[row["pair_id"]]: (row["cause"], row["kind"])
        for row in pl.read_parquet(tmp_path / "diff.parquet").to_dicts()
    }
    assert found == expected(way(a, b, plan_a, plan_b))
    # and the counts add up
    assert [report.rows_a, report.rows_b] == [frame.height for frame in outputs.values()]
    gone = report.vanished + report.flipped + report.changed
    assert report.rows_a == report.stayed + gone
    assert report.rows_b == report.rows_a - report.vanished + report.appeared
    assert sum(sum(kinds.values()) for kinds in report.causes.values()) == len(found)
    ids = {name: set(frame["pair_id"]) for name, frame in outputs.items()}
    written = pl.read_parquet(tmp_path / "diff.parquet")
    for kind, side in (("appeared", "b"), ("vanished", "a"), ("flipped", "b"), ("changed", "b")):
        assert set(written.filter(kind=kind)["pair_id"]) <= ids[side]
