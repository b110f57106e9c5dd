"""Runs in buckets, cut as small as they go, next to local runs: inputs, plans and outputs of all
kinds.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from buckets import TINY, assert_as_local, in_buckets, same_file, visible
from engines import ALL_PROMPTS
from feedback import feedback
from hostile import NAMES
from hot import at_most

import prefmill as pm
from prefmill.errors import BadArgument, BadScore
from prefmill.runs.cluster.driver import Cut

NONE = {"chosen_min": None, "rejected_below": None}
#: Cuts of thousands of rows: one bucket, many buckets, many parts.
CUTS = [
    replace(TINY, split_rows=700, buckets=7, part_bytes=60_000, row_bytes=100),
    replace(TINY, split_rows=10_000, buckets=1, part_bytes=10_000_000, row_bytes=100),
    replace(TINY, split_rows=999, buckets=16, part_bytes=2_000, row_bytes=100),
]
STRATEGIES = ("best_worst", "best_random", "best_rest", "adjacent", "all", "threshold")
PLANS: dict[str, Any] = {
    **{name: pm.Pairs(strategy=name, chosen_min=4, rejected_below=3) for name in STRATEGIES},
    "auto": pm.Pairs(),
    "capped": pm.Pairs(strategy="all", max_pairs_per_prompt=5, seed=7, **NONE),
    "top": pm.Pairs(strategy="all", top_k=2, bottom_k=2, **NONE),
    "mean": pm.Pairs(strategy="adjacent", aggregate="mean", min_margin=0.25, **NONE),
    "quantiles": pm.Pairs(strategy="threshold", chosen_quantile=0.8, rejected_quantile=0.3),
    "ids": pm.Pairs(tie_break="id", strategy="best_rest"),
    "labels": pm.Unpaired(chosen_min=4, rejected_below=3),
    "labels by quantile": pm.Unpaired(chosen_quantile=0.7, rejected_quantile=0.3),
    "best": pm.BestOf(),
    "best random": pm.BestOf(k=3, pick="random", seed=2),
    "best rso": pm.BestOf(k=4, pick="rso"),
    "median": pm.BestOf(k=2, pick="median", aggregate="mean", min_score=2),
    "grpo": pm.Advantage(),
    "rank": pm.Advantage(method="rank"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.parquet"
    feedback(3).write_parquet(path, row_group_size=512)
    return path


@pytest.mark.parametrize(
    ("name", "cut"),
    [
        # Daily one cut of each plan, in turn.
        pytest.param(
            name,
            cut,
            id=f"{name}-{cut.buckets}",
            marks=() if (number + place) % len(CUTS) == 0 else pytest.mark.torture,
        )
        for number, name in enumerate(PLANS)
        for place, cut in enumerate(CUTS)
    ],
)
def test_thousands_of_rows(name: str, cut: Cut, rows: Path, tmp_path: Path) -> None:
    report = assert_as_local(PLANS[name], rows, tmp_path, cut=cut)
    assert report.pairs_out > 0


# Refusals


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (pm.BestOf(scope="pool", k=3), "scope 'pool'"),
        (pm.BestOf(length_control=True), "length_control"),
        (pm.Pairs(normalize="zscore", aggregate="mean"), "normalize 'zscore'"),
    ],
)
def test_what_needs_all_prompts_is_refused(
    plan: Any, words: str, rows: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadArgument, match=f"{words} {ALL_PROMPTS}"):
        in_buckets(plan, rows, tmp_path / "out.parquet", roles={"annotator": "id"})
    assert visible(tmp_path) == []


def test_an_output_that_is_the_input_is_refused(rows: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(rows.read_bytes())
    with pytest.raises(BadArgument, match="the input would be destroyed"):
        in_buckets(pm.BestOf(), path, path, overwrite=True)
    assert path.read_bytes() == rows.read_bytes()


@pytest.mark.parametrize("place", [0, 7, 11])
@pytest.mark.parametrize("bad", ["n/a", "", None, "nan"])
def test_on_invalid_raise_says_the_same(place: int, bad: str | None, tmp_path: Path) -> None:
    scores: list[str | None] = [str(number % 5) for number in range(12)]
    scores[place] = bad
    scores[11] = "later"
    path = tmp_path / "in.csv"
    frame = pl.DataFrame({"prompt": [f"p{n // 3}" for n in range(12)], "score": scores})
    frame = frame.with_columns(completion=pl.int_range(12).cast(pl.String))
    frame.write_csv(path, null_value="")
    for plan in (pm.Pairs(on_invalid="raise"), pm.BestOf(on_invalid="raise", aggregate="mean")):
        with pytest.raises(BadScore, match=f"row {place} cannot be used"):
            in_buckets(plan, path, tmp_path / "out.parquet")
        assert_as_local(plan, path, tmp_path)


def test_rows_that_do_not_count_are_no_reason_to_raise(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": ["a", "a", "b"], "completion": list("xyz")})
    frame = frame.with_columns(score=pl.Series([1, 2, 3]), stage=pl.Series([1, 2, 2]))
    frame.write_parquet(tmp_path / "in.parquet")
    plan = pm.BestOf(stages="last", on_invalid="raise")
    report = assert_as_local(plan, tmp_path / "in.parquet", tmp_path, roles={"stage": "stage"})
    assert dict(report.dropped) == {"earlier_stage": 1}
    for engine in ("duckdb", "polars"):
        target = tmp_path / f"{engine}.parquet"
        done = pm.run(
            plan, tmp_path / "in.parquet", target, engine=engine, roles={"stage": "stage"}
        )
        assert done.dropped == report.dropped


# Inputs


def small() -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": ["p", "q", "p", "q", "r", "p", "s", "s"],
            "completion": list("abcdefgh"),
            "score": [1.0, 5.0, 4.0, 2.0, 3.0, 5.0, 1.0, 1.0],
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 2, 8])
@pytest.mark.parametrize(
    "plan",
    [
        pm.Pairs(**NONE),
        pm.Unpaired(chosen_min=3, rejected_below=3),
        pm.BestOf(),
        pm.Advantage(),
        pm.Pairs(),
    ],
)
@pytest.mark.parametrize("allow_empty", [False, True])
def test_few_rows(rows: int, plan: Any, allow_empty: bool, tmp_path: Path) -> None:
    small().head(rows).write_parquet(tmp_path / "in.parquet")
    assert_as_local(plan, tmp_path / "in.parquet", tmp_path, allow_empty=allow_empty)


def test_nothing_is_selected(tmp_path: Path) -> None:
    small().write_parquet(tmp_path / "in.parquet")
    for number, plan in enumerate(
        [
            pm.Pairs(chosen_min=99),
            pm.Unpaired(chosen_min=99, rejected_below=-99),
            pm.BestOf(min_score=9),
        ]
    ):
        for allow_empty in (False, True):
            folder = tmp_path / f"{number}{allow_empty}"
            assert_as_local(plan, tmp_path / "in.parquet", folder, allow_empty=allow_empty)


def test_files_with_columns_and_types_of_their_own(tmp_path: Path) -> None:
    frame = small()
    frame.head(3).write_parquet(tmp_path / "a.parquet")
    frame.slice(3, 0).write_parquet(tmp_path / "b.parquet")
    other = frame.slice(3, 3).with_columns(pl.col("score").cast(pl.Int32), more=pl.lit("x"))
    other.select("more", "score", "completion", "prompt").write_parquet(tmp_path / "c.parquet")
    frame.tail(2).with_columns(pl.col("score").cast(pl.String)).write_csv(tmp_path / "d.csv")
    files = [tmp_path / name for name in ("a.parquet", "b.parquet", "c.parquet")]
    assert_as_local(pm.BestOf(k=2), files, tmp_path / "1")
    assert_as_local(pm.Pairs(**NONE), [*files, tmp_path / "d.csv"], tmp_path / "2")
    assert_as_local(pm.Pairs(**NONE), str(tmp_path / "*.parquet"), tmp_path / "3", keep=["more"])


@pytest.mark.parametrize("kind", ["csv", "jsonl", "jsonl.gz", "arrow"])
def test_files_that_are_staged(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"in.{kind}"
    if kind == "csv":
        small().write_csv(path)
    elif kind == "arrow":
        small().write_ipc(path)
    else:
        import gzip

        data = small().write_ndjson().encode()
        path.write_bytes(gzip.compress(data) if kind.endswith("gz") else data)
    assert_as_local(pm.Pairs(**NONE), path, tmp_path)


def test_a_folder_with_hive_columns(tmp_path: Path) -> None:
    for name, part in (("1", small().head(3)), ("02", small().slice(3, 3)), ("x", small().tail(2))):
        folder = tmp_path / "data" / f"round={name}"
        folder.mkdir(parents=True)
        part.write_parquet(folder / "rows.parquet")
    for number, more in enumerate([{}, {"roles": {"group": "round"}}, {"keep": ["round"]}]):
        assert_as_local(pm.Pairs(**NONE), tmp_path / "data", tmp_path / str(number), **more)
    assert_as_local(pm.BestOf(), tmp_path / "data", tmp_path / "best", roles={"group": ["round"]})


def test_messages_groups_and_keys_that_are_null(tmp_path: Path) -> None:
    prompts = [[{"role": "user", "content": text}] for text in small()["prompt"]]
    frame = small().with_columns(
        prompt=pl.Series(prompts),
        g=pl.Series([1, 1, None, 2, 2, 1, 1, None]),
        h=pl.Series(["a", None, "a", "a", "a", "a", "b", "b"]),
    )
    frame.write_parquet(tmp_path / "in.parquet")
    for number, plan in enumerate(
        [pm.Pairs(**NONE), pm.BestOf(k=2), pm.Unpaired(chosen_min=3, rejected_below=3)]
    ):
        for group in ("", "g", ["h"], ["g", "h"]):
            roles = {"group": group} if group else {}
            folder = tmp_path / f"{number}-{group}"
            assert_as_local(plan, tmp_path / "in.parquet", folder, roles=roles)


def test_hostile_columns_together(tmp_path: Path) -> None:
    """Every hostile name at once; the torture takes them one by one."""
    roles = {"prompt": "p", "completion": "c", "score": "s"}
    frame = small().rename({value: key for key, value in zip("pcs", roles, strict=True)})
    frame = frame.with_columns(pl.lit(3).alias(name) for name in NAMES.values())
    assert frame.width == 3 + len(NAMES)
    pl.concat([frame, frame.head(3)]).write_parquet(tmp_path / "in.parquet")
    free = list(NAMES.values())
    for number, plan in enumerate(
        [pm.Pairs(**NONE), pm.BestOf(), pm.Unpaired(chosen_min=3, rejected_below=3)]
    ):
        more = {} if number == 1 else {"keep": free}
        assert_as_local(plan, tmp_path / "in.parquet", tmp_path / f"{number}", roles=roles, **more)
        group = {**roles, "group": free}
        assert_as_local(plan, tmp_path / "in.parquet", tmp_path / f"{number} group", roles=group)


@pytest.mark.torture
@pytest.mark.parametrize("key", NAMES)
def test_hostile_columns(key: str, tmp_path: Path) -> None:
    name = NAMES[key]
    taken = {"prompt", "completion", "score"}
    frame = small().rename({"score": "points"}) if name.lower() in taken else small()
    frame = (
        frame if name.lower() in {*taken, "points"} else frame.with_columns(pl.lit(3).alias(name))
    )
    frame = pl.concat([frame, frame.head(3)])
    frame.write_parquet(tmp_path / "in.parquet")
    names = frame.columns
    roles = {"score": "points" if "points" in names else "score"}
    for number, plan in enumerate(
        [pm.Pairs(**NONE), pm.BestOf(), pm.Unpaired(chosen_min=3, rejected_below=3)]
    ):
        more = {"keep": [name]} if number != 1 and name in names else {}
        inputs = tmp_path / "in.parquet"
        assert_as_local(plan, inputs, tmp_path / str(number), roles=roles, **more)
        group = {**roles, "group": [name]} if name in names else roles
        assert_as_local(plan, inputs, tmp_path / f"{number} group", roles=group)


# Outputs


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl", "out.jsonl.gz", "out.arrow", "out/"])
def test_outputs(name: str, rows: Path, tmp_path: Path) -> None:
    assert_as_local(PLANS["auto"], rows, tmp_path, name, cut=CUTS[0])


@pytest.mark.parametrize(
    ("plan", "more"),
    [
        (pm.Pairs(), {"chat": True}),
        (pm.Pairs(), {"format": "instruction"}),
        (pm.Pairs(), {"format": "trl-implicit", "keep": ["id"]}),
        (pm.Pairs(), {"keep": ["id", "score"]}),
        (pm.Pairs(), {"margin_scale": 2.0}),
        (pm.Unpaired(chosen_min=3, rejected_below=3), {"format": "kto"}),
        (pm.Unpaired(chosen_min=3, rejected_below=3), {"keep": ["id"], "chat": True}),
        (pm.BestOf(), {"format": "messages"}),
        (pm.BestOf(k=2), {"keep": ["id"], "format": "prompt-completion"}),
        (pm.Pairs(), {"format": "openrlhf"}),
        (pm.Pairs(), {"format": "llama-factory", "chat": True}),
        (pm.BestOf(k=2), {"format": "pool"}),
        (pm.Pairs(), {"format": "nonsense"}),
        (pm.Pairs(), {"keep": ["nowhere"]}),
    ],
)
def test_formats(plan: Any, more: dict[str, Any], rows: Path, tmp_path: Path) -> None:
    assert_as_local(plan, rows, tmp_path, cut=CUTS[0], **more)


@pytest.mark.parametrize("name", ["out.parquet", "out.jsonl", "out"])
def test_splits(name: str, rows: Path, tmp_path: Path) -> None:
    split = {"train": 0.8, "test": 0.2}
    plan = pm.Pairs(seed=4)
    report = assert_as_local(plan, rows, tmp_path, name, cut=CUTS[0], split=split)
    assert sum(report.split_rows.values()) == report.pairs_out
    assert_as_local(pm.BestOf(), rows, tmp_path / "best", name, cut=CUTS[2], split=split)


def test_the_same_command_again(rows: Path, tmp_path: Path) -> None:
    """What is done is told again; another plan, or an output that is in the way, is refused."""
    target = tmp_path / "out.parquet"
    first = in_buckets(pm.Pairs(), rows, target, cut=CUTS[0])
    before = target.stat().st_mtime_ns
    again = in_buckets(pm.Pairs(), rows, target, cut=CUTS[1])
    assert (again.pairs_out, target.stat().st_mtime_ns) == (first.pairs_out, before)
    with pytest.raises(pm.PrefmillError):
        in_buckets(pm.Pairs(seed=9, strategy="best_random"), rows, target, cut=CUTS[1])
    other = in_buckets(pm.BestOf(), rows, target, cut=CUTS[1], overwrite=True)
    assert pq.read_metadata(target).num_rows == other.pairs_out != first.pairs_out


def test_types_of_all_columns_stay(tmp_path: Path) -> None:
    kinds = {
        "d": pa.array([Decimal(f"{n}.25") for n in range(8)], pa.decimal128(12, 2)),
        "day": pa.array([date(2026, 1, n + 1) for n in range(8)]),
        "at": pa.array([n * 10**9 for n in range(8)], pa.timestamp("ns", "UTC")),
        "words": pa.array([["a", None]] * 7 + [None]),
        "bytes": pa.array([b"\x00\xff"] * 8),
        "pairs": pa.array([[("k", 1)]] * 8, pa.map_(pa.string(), pa.int32())),
        "kind": pa.array(["x", "y"] * 4).dictionary_encode(),
        "deep": pa.array([{"a": [{"b": n}]} for n in range(8)]),
        "big": pa.array([2**64 - 1] * 8, pa.uint64()),
    }
    table = pa.table({**small().to_dict(as_series=False), **kinds})
    pq.write_table(table, tmp_path / "in.parquet")
    assert_as_local(pm.BestOf(k=2), tmp_path / "in.parquet", tmp_path)


def test_a_cap_draws_of_a_hot_prompt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The pairs that stand where all are made and cut; without a cap the refusal of a local run."""
    told = [(f"p{p}", f"{p} {k}", (k * 7 + p) % 5) for p in range(5) for k in range(4 * p)]
    rows = pl.DataFrame(told, schema=["prompt", "completion", "score"], orient="row")
    plan = pm.Pairs(strategy="all", max_pairs_per_prompt=3, seed=5, **NONE)
    cut = replace(CUTS[1], split_rows=30, buckets=2)
    pm.run(plan, rows, tmp_path / "want.parquet")
    at_most(20, monkeypatch)
    in_buckets(plan, rows, tmp_path / "got.parquet", cut=cut)
    same_file(tmp_path / "got.parquet", tmp_path / "want.parquet")
    with pytest.raises(BadArgument, match=r"a prompt of 16 answers .* at most 20 of"):
        in_buckets(replace(plan, max_pairs_per_prompt=None), rows, tmp_path / "x.parquet", cut=cut)
