"""Polars: signatures, namespaces, what is pushed down and shared (snapshots of `explain`), both
engines, SQL contexts.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import subprocess
import sys
import warnings

import polars as pl
import pytest
from feedback import feedback
from polars.testing import assert_frame_equal

import prefmill as pm
import prefmill.datasets
import prefmill.polars
from prefmill.plans import FEEDBACK_KINDS
from prefmill.table.roles import RoleNames

FUNCTIONS = {**FEEDBACK_KINDS, "pair_report": pm.Pairs}

# Signatures and namespaces


def parameters(function: object) -> dict[str, object]:
    """Keyword arguments and their defaults."""
    found = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(("name", "kind"), FUNCTIONS.items())
def test_signatures_are_those_of_the_plan_and_the_roles(name, kind):
    # A policy has a meaning for advantages only, and a vote for best-of-K.
    others = {"advantages": {"conclusion"}, "best_of": {"weight", "logprob"}}
    others = others.get(name, {"weight", "logprob", "conclusion"})
    roles = RoleNames.__annotations__.keys() - others
    wanted = {f.name: f.default for f in dataclasses.fields(kind)} | dict.fromkeys(roles)
    del wanted["expect"]  # they publish nothing
    if name != "pair_report":
        wanted["keep"] = ()
    function = getattr(prefmill.polars, name)
    assert parameters(function) == wanted
    for namespace in (prefmill.polars.LazyPref, prefmill.polars.FramePref):
        method = getattr(namespace, name)
        assert parameters(method) == wanted
        assert {
            k: p.annotation for k, p in inspect.signature(method).parameters.items() if k in wanted
        } == {
            k: p.annotation
            for k, p in inspect.signature(function).parameters.items()
            if k in wanted
        }
    if name != "pair_report":
        more = {"clustered": False, "format": None, "chat": False} | (
            {"margin_scale": None} if name == "pairs" else {}
        )
        assert parameters(getattr(prefmill.datasets, name)) == wanted | more


def test_the_namespaces_are_registered_once():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        importlib.reload(importlib.import_module("prefmill.polars"))
    code = (
        "import prefmill, polars as pl; assert not hasattr(pl.LazyFrame, 'pref'); "
        "prefmill.Pairs().lazy; import prefmill.polars, prefmill.datasets; "
        "pl.LazyFrame.pref.pairs"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_somebody_elses_namespace_of_that_name_is_not_replaced_in_silence():
    code = (
        "import polars as pl; pl.api.register_expr_namespace('pref')(type('Theirs', (), {})); "
        "import prefmill.polars"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "UserWarning" in done.stderr


FEEDBACK = feedback(4, prompts=60)

HOW = {
    "pairs": {"strategy": "all", "max_pairs_per_prompt": 3, "chosen_min": 3},
    "unpaired": {"rejected_below": 3, "aggregate": "mean"},
    "best_of": {"k": 2, "pick": "median"},
    "advantages": {"method": "rloo", "aggregate": "mean"},
}


@pytest.mark.parametrize(("name", "how"), HOW.items())
def test_functions_and_methods_are_the_plan(name, how):
    asked = FEEDBACK.rename({"completion": "text", "score": "stars"})
    roles = {"completion": "text", "score": "stars"}
    wanted = FUNCTIONS[name](**how).lazy(asked, **roles).collect()
    assert wanted.height > 20
    function = getattr(prefmill.polars, name)
    lazy = function(asked.lazy(), **how, **roles)
    assert isinstance(lazy, pl.LazyFrame)
    assert isinstance(function(asked, **how, **roles), pl.LazyFrame)
    eager = getattr(asked.pref, name)(**how, **roles)
    assert isinstance(eager, pl.DataFrame)
    for got in (
        lazy.collect(),
        eager,
        getattr(asked.lazy().pref, name)(**how, **roles).collect(),
        asked.lazy().pipe(function, **how, **roles).collect(),
    ):
        assert_frame_equal(got, wanted)


def test_the_report_is_that_of_the_plan():
    wanted = pm.pair_report(FEEDBACK, pm.Pairs(chosen_min=5))
    assert prefmill.polars.pair_report(FEEDBACK, chosen_min=5) == wanted
    assert (
        FEEDBACK.pref.pair_report(chosen_min=5)
        == FEEDBACK.lazy().pref.pair_report(chosen_min=5)
        == wanted
    )


def test_errors_come_before_anything_runs():
    frame = pl.LazyFrame({"prompt": ["p"], "completion": ["a"], "score": [1]}).map_batches(
        lambda _: pytest.fail("collected")
    )
    with pytest.raises(pm.PrefmillError, match="min_margin"):
        frame.pref.pairs(min_margin=-1)
    with pytest.raises(pm.PrefmillError, match="no column 'rating'"):
        frame.pref.best_of(score="rating")
    with pytest.raises(TypeError, match="nonsense"):
        frame.pref.unpaired(nonsense=1)
    frame.pref.pairs(), frame.pref.unpaired(), frame.pref.best_of()


# rank_in


def test_rank_in_is_the_rank_of_best_of():
    scores = pl.Series("score", [1.5, 2, 2, None, float("nan"), float("inf"), -0.0, 0, 3, 3] * 40)
    pool = FEEDBACK.head(400).with_columns(
        scores, completion=pl.int_range(pl.len()).cast(pl.String)
    )
    pool = pool.with_columns(prompt=pl.when(pl.int_range(pl.len()) % 17 > 0).then("prompt"))
    wanted = pool.pref.best_of(k=1000).select("completion", "rank")
    got = (
        pool.with_columns(rank=pl.col("score").pref.rank_in("prompt"))
        .drop_nulls("rank")
        .select("completion", "rank")
    )
    assert got.height > 200
    assert_frame_equal(got, wanted, check_row_order=False)
    for engine in ("in-memory", "streaming"):
        lazy = (
            pool.lazy()
            .select("completion", pl.col("score").pref.rank_in(pl.col("prompt")))
            .drop_nulls()
            .collect(engine=engine)
        )
        assert_frame_equal(lazy, wanted, check_row_order=False)


def test_rank_in_over_several_columns_and_over_messages():
    pool = pl.DataFrame(
        {"a": [1, 1, 2, 2], "b": ["x", "x", "x", "y"], "score": [True, False, True, True]}
    )
    assert pool.select(pl.col("score").pref.rank_in("a", "b"))["rank"].to_list() == [1, 2, 1, 1]
    chats = pl.DataFrame(
        {"prompt": [[{"role": "user", "content": c}] for c in "ppq"], "score": [1, 2, 3]}
    )
    assert chats.select(pl.col("score").pref.rank_in("prompt"))["rank"].to_list() == [2, 1, 1]
    with pytest.raises(pm.PrefmillError, match="no column to group by"):
        pl.col("score").pref.rank_in()
