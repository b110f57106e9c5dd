"""Polars: signatures, namespaces, what is pushed down and shared (snapshots of `explain`), both
engines, SQL contexts.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path

import polars as pl
import pytest
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal
from test_matrix import PLANS, feedback

import prefmill as pm
import prefmill.datasets
import prefmill.polars
from prefmill import polars_pref
from prefmill.table.roles import RoleNames

SNAPSHOTS = Path(__file__).parent / "snapshots"
FUNCTIONS = {
    "pairs": pm.Pairs,
    "unpaired": pm.Unpaired,
    "best_of": pm.BestOf,
    "pair_report": pm.Pairs,
}


# Signatures and namespaces


def parameters(function: object) -> dict[str, object]:
    """Keyword arguments and their defaults."""
    found = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
    return {p.name: p.default for p in found if p.kind is p.KEYWORD_ONLY}


@pytest.mark.parametrize(("name", "kind"), FUNCTIONS.items())
def test_signatures_are_those_of_the_plan_and_the_roles(name, kind):
    roles = RoleNames.__annotations__.keys() - {
        "weight",
        "logprob",
    }  # a policy has a meaning for advantages only
    wanted = {f.name: f.default for f in dataclasses.fields(kind)} | dict.fromkeys(roles)
    if name != "pair_report":
        wanted["keep"] = ()
    function = getattr(prefmill.polars, name)
    assert parameters(function) == wanted
    for namespace in (polars_pref.LazyPref, polars_pref.FramePref):
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
        importlib.reload(polars_pref)
        importlib.reload(importlib.import_module("prefmill.polars"))
    code = "import prefmill, polars as pl; assert not hasattr(pl.LazyFrame, 'pref'); prefmill.Pairs().lazy; import prefmill.polars, prefmill.datasets; pl.LazyFrame.pref.pairs"
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_somebody_elses_namespace_of_that_name_is_not_replaced_in_silence():
    code = "import polars as pl; pl.api.register_expr_namespace('pref')(type('Theirs', (), {})); import prefmill.polars"
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=60
    )
    assert "UserWarning" in done.stderr


FEEDBACK = feedback(4, prompts=60)
HOW = {
    "pairs": {"strategy": "all", "max_pairs_per_prompt": 3, "chosen_min": 3},
    "unpaired": {"rejected_below": 3, "aggregate": "mean"},
    "best_of": {"k": 2, "pick": "median"},
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


# Pushed down, and executed once


def shape(plan: str) -> str:
    """The structure of an `explain`: scans, what is read and selected in them, shared parts, joins,
    filters, groups.
    """
    numbers: dict[str, str] = {}
    lines = []
    for line in plan.splitlines():
        text = line.strip()
        if cache := re.match(r"CACHE\[id: ([^\]]+)\]", text):
            text = f"CACHE {numbers.setdefault(cache[1], str(len(numbers) + 1))}"
        elif "SCAN" in text:
            text = re.sub(r"\[.*\]", "[FILE]", text)
        elif text.startswith("FILTER"):
            text = (
                f"FILTER {text[7:]}"
                if re.fullmatch(r'FILTER col\("\w+"\) == ".*"', text)
                else "FILTER ..."
            )
        elif (group := re.search(r"BY \[.*\]$", text)) and not text.startswith("SORT"):
            text = f"GROUP {group[0]}"
        elif not re.match(
            r"PROJECT|SELECTION|ROW INDEX|SORT|\w+ JOIN:|(LEFT|RIGHT) PLAN|END|EXPLODE|UNIQUE", text
        ):
            continue
        else:
            text = re.sub(r"(SORT|EXPLODE|UNIQUE).*", r"\1", text)
        lines.append(" " * (len(line) - len(line.lstrip())) + text)
    depths = sorted({len(line) - len(line.lstrip()) for line in lines})
    return "".join(
        f"{' ' * depths.index(len(line) - len(line.lstrip()))}{line.lstrip()}\n" for line in lines
    )


QUERIES = {
    "pairs": lambda lf: lf.pref.pairs(),
    "pairs-filtered": lambda lf: (
        lf.filter(pl.col("lang") == "en")
        .pref.pairs()
        .filter(pl.col("prompt") == "p")
        .select("prompt", "chosen")
    ),
    "pairs-all-mean": lambda lf: lf.pref.pairs(strategy="all", aggregate="mean"),
    "unpaired": lambda lf: lf.pref.unpaired(),
    "unpaired-filtered": lambda lf: (
        lf.filter(pl.col("lang") == "en")
        .pref.unpaired()
        .filter(pl.col("prompt") == "p")
        .select("completion")
    ),
    "best_of": lambda lf: lf.pref.best_of(k=2),
    "best_of-filtered": lambda lf: (
        lf.filter(pl.col("lang") == "en")
        .pref.best_of(k=2)
        .filter(pl.col("prompt") == "p")
        .select("completion")
    ),
    "advantages": lambda lf: pm.Advantage(method="grpo").lazy(lf),
    "advantages-filtered": lambda lf: (
        pm.Advantage()
        .lazy(lf.filter(pl.col("lang") == "en"))
        .filter(pl.col("prompt") == "p")
        .select("completion", "advantage")
    ),
    "advantage": lambda lf: lf.select(
        "prompt", pl.col("score").pref.advantage(over="prompt", kind="grpo")
    ).filter(pl.col("prompt") == "p"),
    "rank_in": lambda lf: lf.select("prompt", pl.col("score").pref.rank_in("prompt")).filter(
        pl.col("prompt") == "p"
    ),
}
WIDE = pl.DataFrame(
    {
        "prompt": ["p", "p", "q", "q"],
        "completion": list("abcd"),
        "score": [5, 1, 5, 2],
        "lang": ["en"] * 4,
        "extra": range(4),
        "more": range(4),
    }
)


@pytest.mark.parametrize("name", QUERIES)
def test_explain(name, tmp_path):
    """Snapshots in `snapshots/`; PREFMILL_UPDATE=1 writes them. Each reads one file once, and of it
    no column that is not needed.
    """
    WIDE.write_parquet(tmp_path / "feedback.parquet")
    query = QUERIES[name](pl.scan_parquet(tmp_path / "feedback.parquet"))
    told = shape(query.explain())
    path = SNAPSHOTS / f"polars-{name}.txt"
    if os.environ.get("PREFMILL_UPDATE"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(told)
    assert told == path.read_text(), f"another plan than {path}:\n{told}"
    assert told.count("SCAN") == 1
    read = int(re.search(r"PROJECT (\d+)/6 COLUMNS", told)[1])
    assert read == (2 if name in ("rank_in", "advantage") else 4 if "filtered" in name else 3)
    if "filtered" in name:
        assert 'SELECTION: col("lang") == "en"' in told
        assert told.index("JOIN") < told.index('FILTER col("_prompt") == "p"'), (
            "the filter on the prompt goes below a join"
        )


EVERY = [
    *PLANS,
    pm.Pairs(normalize="zscore", chosen_min=None, rejected_below=None),
    pm.Pairs(strategy="adjacent", aggregate="majority"),
    pm.BestOf(stages="last"),
]
CUTS = {
    "": lambda lf: lf,
    "prompt": lambda lf: lf.filter(pl.col("prompt") == "prompt 7"),
    "head": lambda lf: lf.head(3),
    "count": lambda lf: lf.select(pl.len()),
}


@pytest.mark.parametrize("by", ["in-memory", "streaming"])
@pytest.mark.parametrize("plan", EVERY, ids=lambda plan: f"{plan.kind}-{plan.hash()[:6]}")
def test_the_input_is_executed_once_whatever_follows(plan, by):
    """Rows of a join have no order in Polars, and a model behind a source is slow: ranks and texts
    must come from one execution.
    """
    rows = FEEDBACK.with_columns(annotator=pl.lit("x"), stage=pl.lit(1))
    calls = []

    def source(with_columns, predicate, n_rows, batch_size):
        calls.append(with_columns)
        assert predicate is None
        yield rows if with_columns is None else rows.select(with_columns)

    for name, cut in CUTS.items():
        calls.clear()
        got = cut(plan.lazy(register_io_source(source, schema=rows.schema))).collect(engine=by)
        assert len(calls) == 1, (name, calls)
        assert_frame_equal(got, cut(plan.lazy(rows)).collect(), check_row_order=name != "")


@pytest.mark.parametrize("plan", EVERY, ids=lambda plan: f"{plan.kind}-{plan.hash()[:6]}")
def test_an_input_without_an_order_gives_whole_rows(plan):
    """The input's rows come from a join: in whatever order they came, prompts, answers and scores
    belong together.
    """
    told = FEEDBACK.with_columns(
        completion=pl.col("prompt") + "|" + pl.col("id"), annotator=pl.lit("x"), stage=pl.lit(1)
    )
    rows = (
        told.lazy()
        .select("prompt", "completion", "id")
        .join(told.lazy().select("id", "score", "annotator", "stage"), on="id")
    )
    out = plan.lazy(rows).collect()
    sides = ("chosen", "rejected") if plan.kind == "pairs" else ("completion",)
    for side in sides:
        assert out.select(
            (pl.col(side).str.split("|").list.first() == pl.col("prompt")).all()
        ).item()


@pytest.mark.parametrize("plan", EVERY, ids=lambda plan: f"{plan.kind}-{plan.hash()[:6]}")
def test_both_engines_and_sinks(plan, tmp_path):
    rows = FEEDBACK.with_columns(
        annotator=pl.col("score").cast(pl.String).fill_null("x"), stage=pl.lit(1)
    )
    rows.write_parquet(tmp_path / "in.parquet", row_group_size=100)
    lazy = plan.lazy(pl.scan_parquet(tmp_path / "in.parquet"))
    wanted = plan.lazy(rows).collect(engine="in-memory")
    assert_frame_equal(lazy.collect(engine="in-memory"), wanted)
    assert_frame_equal(lazy.collect(engine="streaming"), wanted)
    lazy.sink_parquet(tmp_path / "out.parquet")
    assert_frame_equal(pl.read_parquet(tmp_path / "out.parquet"), wanted)


def test_sql_context():
    lazy = FEEDBACK.lazy().pref.pairs()
    with pl.SQLContext(pairs=lazy, feedback=FEEDBACK.lazy()) as context:
        many = context.execute(
            "SELECT count(*) AS n, avg(chosen_score - rejected_score) AS margin FROM pairs WHERE prompt <> 'prompt 7'"
        )
        assert isinstance(many, pl.LazyFrame)
        n, margin = many.collect().row(0)
    pairs = lazy.filter(pl.col("prompt") != "prompt 7").collect()
    assert n == pairs.height > 20
    assert margin == pytest.approx((pairs["chosen_score"] - pairs["rejected_score"]).mean())
