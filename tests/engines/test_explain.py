"""What Polars makes of our plans: snapshots, one pass over the input, sinks."""

from __future__ import annotations

import os
import re
from pathlib import Path

import polars as pl
import pytest
from feedback import PLANS, feedback
from polars.io.plugins import register_io_source
from polars.testing import assert_frame_equal

import prefmill as pm
import prefmill.datasets
import prefmill.polars

SNAPSHOTS = Path(__file__).parents[1] / "snapshots"

FEEDBACK = feedback(4, prompts=60)

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


@pytest.mark.newest
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
            "SELECT count(*) AS n, avg(chosen_score - rejected_score) AS margin FROM pairs WHERE "
            "prompt <> 'prompt 7'"
        )
        assert isinstance(many, pl.LazyFrame)
        n, margin = many.collect().row(0)
    pairs = lazy.filter(pl.col("prompt") != "prompt 7").collect()
    assert n == pairs.height > 20
    assert margin == pytest.approx((pairs["chosen_score"] - pairs["rejected_score"]).mean())
