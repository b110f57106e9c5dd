"""A default in units of a scale is never applied in silence to a scale that cannot reach it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import datasets
import duckdb
import polars as pl
import pytest
from engines import our_errors
from typer.testing import CliRunner

import prefmill as pm
import prefmill.datasets as pmd
import prefmill.duckdb
from prefmill.cli.main import app
from prefmill.datasets.cards import card
from prefmill.errors import BadArgument, BadInput, PlanError, PrefmillError, ThresholdsUnfit


def feedback(scores: list, name: str = "score") -> pl.DataFrame:
    """Two answers to each prompt."""
    count = len(scores)
    prompts = [f"p{i // 2}" for i in range(count)]
    return pl.DataFrame(
        {"prompt": prompts, "completion": [f"a{i}" for i in range(count)], name: scores}
    )


def by_lazy(plan, frame, tmp_path):
    return plan.lazy(frame.lazy()).collect()


def by_run(engine: str) -> Callable:
    def run(plan, frame, tmp_path):
        tmp_path.mkdir(exist_ok=True)
        frame.write_parquet(tmp_path / "in.parquet")
        out = tmp_path / "out.parquet"
        pm.run(plan, tmp_path / "in.parquet", out, engine=engine, overwrite=True)
        return pl.read_parquet(tmp_path / "out.parquet")

    return run


def by_macro(plan, frame, tmp_path):
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("feedback", frame)
    macro = {"unpaired": "unpaired", "pairs": "preference_pairs"}[plan.kind]
    roles = {role: role for role in ("prompt", "completion", "score")}
    told = ", ".join(f"{name} := {value}" for name, value in (roles | plan.quantiles).items())
    with our_errors():
        return con.sql(f"FROM {macro}(feedback, {told})").pl()


def by_query(plan, frame, tmp_path):
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("feedback", frame)
    with our_errors():
        return con.sql(plan.sql("feedback")).pl()


def by_command(plan, frame, tmp_path):
    """The command, with the plan as TOML."""
    tmp_path.mkdir(exist_ok=True)
    frame.write_csv(tmp_path / "in.csv")
    (tmp_path / "plan.toml").write_text(plan.to_toml())
    out = str(tmp_path / "out.parquet")
    files = [str(tmp_path / "in.csv"), "-o", out, "--plan", str(tmp_path / "plan.toml")]
    done = CliRunner().invoke(app, [plan.command, *files])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    return pl.read_parquet(out)


def by_dataset(plan, frame, tmp_path):
    return pl.DataFrame(pmd.apply(plan, datasets.Dataset(frame.to_arrow())).to_list())


def by_stream(clustered: bool) -> Callable:
    def run(plan, frame, tmp_path):
        stream = datasets.Dataset(frame.to_arrow()).to_iterable_dataset()
        return pl.DataFrame(list(pmd.apply(plan, stream, clustered=clustered)))

    return run


HOSTS = {
    "lazy": by_lazy,
    "run-duckdb": by_run("duckdb"),
    "run-polars": by_run("polars"),
    "command": by_command,
    "macro": by_macro,
    "query": by_query,
    "dataset": by_dataset,
    "stream": by_stream(False),
    "clustered": by_stream(True),
}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("scores", "good"),
    [
        ([True, False, True, True], {"a0", "a2", "a3"}),
        ([0, 1, 1, 0], {"a1", "a2"}),
        ([-1, 1, -1, -1], {"a1"}),
        (["True", "false", "TRUE", "False"], {"a0", "a2"}),
        ([0.0, 100.0, 100.0, 0.0], {"a1", "a2"}),
        ([1.0, 0.0, 1.0, 0.0], {"a0", "a2"}),
        ([5, 1, 2, 4], {"a0", "a3"}),
    ],
    ids=["booleans", "0/1", "-1/1", "words", "0/100", "1.0/0.0", "1..5"],
)
def test_thumbs_are_labels(host, scores, good, tmp_path):
    made = HOSTS[host](pm.Unpaired(), feedback(scores), tmp_path)
    assert set(made.filter(pl.col("label"))["completion"]) == good
    assert made.height == 4


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("plan", [pm.Unpaired(), pm.Pairs()], ids=["labels", "pairs"])
@pytest.mark.parametrize(
    "scores",
    [
        [0.1, 0.9, 0.4, 1.0],
        [1, 2, 3, 2],
        [4.0, 5.0, 4.5, 5.0],
        [-7.5, -0.5, -3.0, 2.0],
        [-1, 0, 1, 1],
        [0.0, 0.5, 0.5, 0.0],
        [0.5, 1.0, 0.5, 1.0],
        [0.0, 0.5, 1.0, 0.75],
    ],
    ids=["0..1", "1..3", "good", "logits", "-1/0/1", "lost/tie", "tie/won", "more than verdicts"],
)
def test_a_scale_that_the_default_does_not_divide_is_refused(host, plan, scores, tmp_path):
    with pytest.raises(PrefmillError, match="largest score seen"):
        HOSTS[host](plan, feedback(scores), tmp_path)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("score", [True, False, 1, 0, 5], ids=str)
def test_labels_of_one_kind_are_refused(host, score, tmp_path):
    with pytest.raises(PrefmillError, match=r"largest score seen.*same label|Hint: name both"):
        HOSTS[host](pm.Unpaired(), feedback([score] * 4), tmp_path)


@pytest.mark.parametrize("host", HOSTS)
def test_a_tie_of_verdicts_is_neither_good_nor_bad(host, tmp_path):
    frame = feedback([1.0, 0.0, 0.5, 0.5, 0.0, 1.0])
    labels = HOSTS[host](pm.Unpaired(), frame, tmp_path)
    assert dict(zip(labels["completion"], labels["label"], strict=True)) == {
        "a0": True,
        "a1": False,
        "a4": False,
        "a5": True,
    }
    pairs = HOSTS[host](pm.Pairs(), feedback([1.0, 0.0, 1.0, 0.5, 0.5, 0.0]), tmp_path / "again")
    assert pairs.rows() == [("p0", "a0", "a1", 1, 0)]


@pytest.mark.parametrize("host", [name for name in HOSTS if name != "clustered"])
def test_quantiles_are_scores_of_all_candidates(host, tmp_path):
    frame = feedback([-3.5, -1.25, 0.5, 7.5, 2.0, 2.0, 0.1, 9.0, -8.0, 1.0])
    # in order: -8, -3.5, -1.25, 0.1, 0.5, 1, 2, 2, 7.5, 9: the 7th is 2, the 3rd is -1.25
    plan = pm.Unpaired(chosen_quantile=0.7, rejected_quantile=0.3)
    labels = HOSTS[host](plan, frame, tmp_path)
    assert dict(zip(labels["completion"], labels["label"], strict=True)) == {
        "a0": False,
        "a8": False,
        **dict.fromkeys(("a3", "a4", "a5", "a7"), True),
    }
    pairs = HOSTS[host](pm.Pairs(chosen_quantile=0.6), frame, tmp_path / "again")
    assert pairs["chosen"].to_list() == ["a3", "a7", "a9"]


def test_a_clustered_stream_refuses_quantiles():
    stream = datasets.Dataset(feedback([1, 2]).to_arrow()).to_iterable_dataset()
    with pytest.raises(BadArgument, match=r"chosen_quantile 0\.7 looks at all rows"):
        pmd.apply(pm.Pairs(chosen_quantile=0.7), stream, clustered=True)


@pytest.mark.parametrize("how", ["duckdb", "polars"])
def test_the_report_has_the_scores_that_quantiles_are(how, tmp_path):
    feedback([0.25, 0.5, 0.125, 0.75]).write_parquet(tmp_path / "in.parquet")
    plan = pm.Pairs(chosen_quantile=0.7, rejected_quantile=0.3)
    report = pm.run(plan, tmp_path / "in.parquet", None, engine=how)
    assert report.thresholds == {"chosen_min": 0.5, "rejected_below": 0.25}
    assert report.plan_hash == plan.hash() != pm.Pairs().hash()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"chosen_quantile": 1}, "must be a number above 0 and below 1, or None; got 1"),
        ({"rejected_quantile": True}, "must be a number above 0 and below 1, or None; got True"),
        (
            {"chosen_min": 4, "chosen_quantile": 0.5},
            "chosen_min and chosen_quantile are one bound; got 4 and 0.5, expected one of them",
        ),
        (
            {"rejected_below": None, "rejected_quantile": 0.5},
            "rejected_below and rejected_quantile are one bound; got None and 0.5",
        ),
    ],
)
@pytest.mark.parametrize("kind", [pm.Pairs, pm.Unpaired])
def test_quantiles_that_cannot_be_meant(kind, fields, words):
    with pytest.raises(PlanError, match=re.escape(words)):
        kind(**fields)


def test_labels_refuse_quantiles_that_cross():
    with pytest.raises(PlanError, match=r"must not exceed chosen_quantile; got 0\.7 > 0\.3"):
        pm.Unpaired(chosen_quantile=0.3, rejected_quantile=0.7)


def test_older_plans_keep_their_hash():
    assert pm.Pairs().hash() == "b146053a41aae14c"
    assert pm.Unpaired(chosen_min=4, rejected_below=3).hash() == "78675cb4bc778af8"


def test_a_share_is_not_rounded_up_by_a_float(tmp_path):
    # 0.07 * 100 is 7.000000000000001 as floats
    frame = feedback([float(i) for i in range(100)])
    for host in ("lazy", "run-duckdb", "macro"):
        labels = HOSTS[host](pm.Unpaired(chosen_quantile=0.07), frame, tmp_path)
        assert labels.filter(~pl.col("label")).height == 6


def test_the_refusal_names_the_options_and_writes_nothing(tmp_path):
    feedback([0.1, 0.9, 0.4, 1.0]).write_parquet(tmp_path / "in.parquet")
    for command, also in (("unpair", ""), ("pairs", "`none` for both")):
        done = CliRunner().invoke(
            app, [command, str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.jsonl")]
        )
        assert isinstance(done.exception, ThresholdsUnfit)
        assert "--chosen-min NUMBER --rejected-below NUMBER" in str(done.exception)
        assert also in str(done.exception)
        assert not (tmp_path / "out.jsonl").exists()


def test_thresholds_that_are_given_are_obeyed_and_one_sided_labels_are_told(tmp_path):
    feedback([True, False, True, True]).write_parquet(tmp_path / "in.parquet")
    options = ["--chosen-min", "4", "--rejected-below", "4"]
    done = CliRunner().invoke(
        app, ["unpair", str(tmp_path / "in.parquet"), "-o", str(tmp_path / "out.jsonl"), *options]
    )
    assert done.exit_code == 0
    assert "labels: 0 true, 4 false" in done.stderr
    assert "every label is false" in done.stderr


@pytest.mark.parametrize("how", ["duckdb", "polars"])
def test_every_report_counts_each_label(how, tmp_path):
    frame = feedback([5, 1, 4, 2, 3, 5])
    frame.write_parquet(tmp_path / "in.parquet")
    expected = {"true": 3, "false": 3}
    assert pm.run(pm.Unpaired(), tmp_path / "in.parquet", None, engine=how).labels == expected
    assert pm.pair_report(frame, pm.Unpaired()).labels == expected
    assert pmd.report(pm.Unpaired(), datasets.Dataset(frame.to_arrow())).labels == expected
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("feedback", frame)
    assert prefmill.duckdb.report(pm.Unpaired(), con, "feedback").labels == expected
    assert pm.pair_report(frame).labels is None


@pytest.mark.parametrize(
    "values",
    [[True, False, True], ["true", "false", "True"], [1, 0, 1]],
    ids=["bool", "text", "int"],
)
def test_the_label_of_kto_files_is_the_score(values, tmp_path):
    rows = {"prompt": ["p", "q", "r"], "completion": ["a", "b", "c"], "label": values}
    pl.DataFrame(rows).write_parquet(tmp_path / "kto.parquet")
    done = pm.run(pm.Unpaired(), tmp_path / "kto.parquet", tmp_path / "out.parquet")
    assert done.roles.score == "label"
    assert pl.read_parquet(tmp_path / "out.parquet")["label"].to_list() == [True, False, True]


def test_a_wider_scale_is_told(tmp_path):
    feedback([7, 2, 9, 1, 10, 3]).write_parquet(tmp_path / "in.parquet")
    (note,) = pm.run(pm.Unpaired(), tmp_path / "in.parquet", None).notes
    assert "these run from 1 to 10" in note


def test_rejection_sampling_says_the_scale_of_its_beta(tmp_path):
    feedback([0.001, 0.002, 0.0015, 0.001]).write_parquet(tmp_path / "in.parquet")
    (note,) = pm.run(pm.BestOf(pick="rso"), tmp_path / "in.parquet", None).notes
    assert note == "rso: beta 0.5 is in units of the score, and scores run from 0.001 to 0.002"


def test_a_card_counts_each_label():
    frame = feedback([5, 1, 4, 2, 3, 5])
    text = card(pm.Unpaired(), pm.pair_report(frame, pm.Unpaired()))
    assert "| label true | 3 |" in text
    assert "| label false | 3 |" in text


def test_normalized_scores_are_a_scale_of_their_own(tmp_path):
    frame = feedback([1, 5, 3, 4]).with_columns(annotator=pl.lit("x"))
    frame.write_parquet(tmp_path / "in.parquet")
    with pytest.raises(ThresholdsUnfit):
        pm.run(pm.Pairs(normalize="zscore"), tmp_path / "in.parquet", None)
    free = pm.Pairs(normalize="zscore", chosen_min=None, rejected_below=None)
    assert pm.run(free, tmp_path / "in.parquet", None).pairs_out == 2


@pytest.mark.parametrize(
    "scores", [[0.0, 1.0] * 6200 + [2.0, 1.0], [0.0, 0.5, 1.0, 1.0] * 3100 + [0.75, 1.0]]
)
def test_a_clustered_stream_refuses_another_score_after_labels(scores):
    stream = datasets.Dataset(feedback(scores).to_arrow()).to_iterable_dataset()
    with pytest.raises(BadInput, match="taken for labels"):
        list(pmd.apply(pm.Unpaired(), stream, clustered=True))


@pytest.mark.parametrize("zero", ["-0", "-0.0", -0.0])
def test_minus_zero_is_zero(zero, tmp_path):
    frame = feedback([zero, str(5) if isinstance(zero, str) else 5.0])
    for host in ("lazy", "run-duckdb", "macro", "query"):
        scores = HOSTS[host](pm.Unpaired(), frame, tmp_path)["score"].to_list()
        assert json.dumps(scores) == "[0.0, 5.0]", host
