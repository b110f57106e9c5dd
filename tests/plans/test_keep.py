"""`keep` on every host: the same columns, under the same names, with the values of the same
rows.
"""

from __future__ import annotations

import datasets
import duckdb
import polars as pl
import pytest

import prefmill as pm
import prefmill.datasets as pmd
import prefmill.duckdb
import prefmill.polars
from prefmill.errors import BadArgument

ROWS = [
    # question, answer, rating, model, tags, when
    ("p", "a", 5, "m1", ["x"], 1),
    ("p", "b", 1, "m2", [], 2),
    ("p", "b", 2, None, ["y", "z"], 3),
    ("q", "c", 4, "m1", None, 4),
    ("q", "d", 3, "m3", ["x"], 5),
    ("r", "e", 5, "m3", ["x"], 6),
    ("r", "f", 5, "m1", ["x"], 7),
]
FEEDBACK = pl.DataFrame(
    ROWS, schema=["question", "answer", "rating", "model", "tags", "when"], orient="row"
)
KEEP = ["tags", "model", "when"]
PLANS = {
    "pairs": pm.Pairs(strategy="all", chosen_min=None, rejected_below=None),
    "merged pairs": pm.Pairs(
        strategy="all", chosen_min=None, rejected_below=None, aggregate="mean"
    ),
    "labels": pm.Unpaired(chosen_min=4, rejected_below=4),
    "best": pm.BestOf(k=2),
    "controlled": pm.BestOf(k=1, length_control=True),
    "advantages": pm.Advantage(method="rloo"),
}


def of_lazy(plan, keep):
    return plan.lazy(FEEDBACK.lazy(), keep=keep).collect()


def of_streaming_engine(plan, keep):
    return plan.lazy(FEEDBACK.lazy(), keep=keep).collect(engine="streaming")


def of_sql(plan, keep):
    roles = {"prompt": "question", "completion": "answer", "score": "rating"}
    with duckdb.connect() as con:
        prefmill.duckdb.install(con)
        con.register("feedback", FEEDBACK.to_arrow())
        return con.sql(plan.sql("feedback", keep=keep, **roles)).pl()


def of_dataset(plan, keep):
    return pmd.apply(plan, datasets.Dataset.from_polars(FEEDBACK), keep=keep).to_polars()


def of_stream(plan, keep):
    rows = datasets.Dataset.from_polars(FEEDBACK).to_iterable_dataset(num_shards=2)
    return pl.DataFrame(list(pmd.apply(plan, rows, keep=keep)), infer_schema_length=None)


HOSTS = {
    "streaming engine": of_streaming_engine,
    "sql": of_sql,
    "dataset": of_dataset,
    "stream": of_stream,
}


def plain(frame: pl.DataFrame) -> list[dict]:
    return frame.to_dicts()


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_every_host_keeps_the_same(host, plan):
    assert plain(host(plan, KEEP)) == plain(of_lazy(plan, KEEP))


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_a_kept_column_is_that_of_its_row(plan):
    kept = of_lazy(plan, KEEP)
    bare = of_lazy(plan, [])
    assert kept.select(bare.columns).equals(bare)
    rows = {row["when"]: row for row in FEEDBACK.to_dicts()}
    for row in kept.to_dicts():
        sides = (
            {"chosen_": "chosen", "rejected_": "rejected"}
            if plan.kind == "pairs"
            else {"": "completion"}
        )
        for prefix, side in sides.items():
            origin = rows[row[f"{prefix}when"]]
            assert (row["prompt"], row[side]) == (origin["question"], origin["answer"])
            assert [row[f"{prefix}{name}"] for name in KEEP] == [origin[name] for name in KEEP]


@pytest.mark.parametrize("ranked_by", ["duckdb", "polars"])
def test_files_keep_the_same(ranked_by, tmp_path):
    FEEDBACK.write_parquet(tmp_path / "rows.parquet")
    for name in ("pairs", "merged pairs", "labels"):
        pm.run(
            PLANS[name],
            tmp_path / "rows.parquet",
            tmp_path / f"{name}.parquet",
            keep=KEEP,
            engine=ranked_by,
        )
        assert plain(pl.read_parquet(tmp_path / f"{name}.parquet")) == plain(
            of_lazy(PLANS[name], KEEP)
        )
    pm.run(
        PLANS["best"], tmp_path / "rows.parquet", tmp_path / "best.parquet", engine=ranked_by
    )  # whole rows
    best = pl.read_parquet(tmp_path / "best.parquet")
    assert best.columns == [*FEEDBACK.columns, "rank"]
    assert best["when"].to_list() == of_lazy(PLANS["best"], KEEP)["when"].to_list()


def test_methods_take_it_and_ours_are_at_their_place():
    assert FEEDBACK.pref.pairs(keep=["model"]).columns[-2:] == ["chosen_model", "rejected_model"]
    assert FEEDBACK.lazy().pref.best_of(keep=["rating"]).collect().columns == [
        "prompt",
        "completion",
        "score",
        "rank",
        "rating",
    ]
    assert FEEDBACK.pref.unpaired(keep=["model"])["model"].to_list() == [
        "m1",
        "m1",
        "m3",
        "m2",
        "m3",
        "m1",
        None,
    ]
    stream = pmd.pairs(
        datasets.Dataset.from_polars(FEEDBACK).to_iterable_dataset(), keep=["model"], clustered=True
    )
    assert [row["chosen_model"] for row in stream] == ["m1", "m1"]
    assert stream.features["rejected_model"] == datasets.Value("string")


def test_another_keep_is_another_entry_of_the_cache(tmp_path):
    datasets.Dataset.from_polars(FEEDBACK).save_to_disk(tmp_path / "rows")
    rows = datasets.load_from_disk(str(tmp_path / "rows"))
    assert pmd.pairs(rows).column_names == [
        "prompt",
        "chosen",
        "rejected",
        "chosen_score",
        "rejected_score",
    ]
    assert pmd.pairs(rows, keep=["when"]).column_names[-2:] == ["chosen_when", "rejected_when"]
    assert pmd.pairs(rows, keep=["model"])["chosen_model"][:] == ["m1", "m1"]


@pytest.mark.parametrize("host", [of_lazy, of_dataset, of_stream])
def test_what_cannot_be_kept_is_refused(host):
    with pytest.raises(BadArgument, match=r"keep names no column of the input; got \['modell'\]"):
        host(PLANS["pairs"], ["modell"])
    with pytest.raises(BadArgument, match="keep is a list of columns; got the text 'model'"):
        host(PLANS["pairs"], "model")


@pytest.mark.parametrize("host", [of_lazy, of_sql, of_dataset, of_stream])
def test_a_name_that_the_output_has_is_refused(host):
    global FEEDBACK
    before = FEEDBACK
    FEEDBACK = FEEDBACK.with_columns(rank=1, label=pl.lit("x"))
    try:
        for name, taken in (("best", "rank"), ("labels", "label")):
            with pytest.raises(
                BadArgument, match=rf"keep \['{taken}'\] would write '{taken}' twice"
            ):
                host(PLANS[name], [taken])
        assert host(PLANS["pairs"], ["rank"])["chosen_rank"].to_list() == [1, 1, 1]
    finally:
        FEEDBACK = before
