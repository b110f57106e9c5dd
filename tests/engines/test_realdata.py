"""Real files, quirks included: what the engines make of them is what the oracle makes of them. No
row of theirs stands here.
"""

from __future__ import annotations

import csv
import functools
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import oracle
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill
from prefmill import Pairs, Roles, Unpaired
from prefmill.plans import Plan

_NAMED = os.environ.get("PREFMILL_REALDATA")
if not _NAMED or not Path(_NAMED).is_dir():
    reason = (
        "PREFMILL_REALDATA is not set"
        if not _NAMED
        else f"PREFMILL_REALDATA={_NAMED!r} is not a folder"
    )
    pytest.skip(f"real files are absent: {reason}", allow_module_level=True)

pytestmark = pytest.mark.realdata
DATA = Path(_NAMED)
ENGINES = ("duckdb", "polars")


def assert_adds_up(report: prefmill.RunReport, rows: int) -> None:
    assert (
        report.rows_in
        == rows
        == report.rows_used + report.rows_not_selected + sum(report.dropped.values())
    ), oracle.counts(report)


def command(*args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "prefmill", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
    )


# The tutorial's own file: Mac Roman


@pytest.mark.parametrize("by", ENGINES)
def test_seed_feedback_gives_the_tutorials_rows(by, tmp_path):
    out = tmp_path / "pairs.csv"
    report = prefmill.run(
        Pairs(),
        DATA / "seed_feedback.csv",
        out,
        encoding="mac_roman",
        format="instruction",
        engine=by,
    )
    with (
        out.open(newline="", encoding="utf-8") as mine,
        (DATA / "seed_expected.csv").open(newline="", encoding="utf-8") as theirs,
    ):
        (head, *rows), (their_head, *their_rows) = csv.reader(mine), csv.reader(theirs)
    assert head == their_head
    assert sorted(rows) == sorted(their_rows)
    assert_adds_up(report, 6)


def test_seed_feedback_without_its_encoding_is_refused_with_offset_and_codec(tmp_path):
    source, out = DATA / "seed_feedback.csv", tmp_path / "pairs.csv"
    with pytest.raises(UnicodeDecodeError) as bad:
        source.read_bytes().decode("utf-8")
    done = command("pairs", source, "-o", out)
    assert done.returncode == 1, done.stderr
    assert f"{bad.value.start:,}" in done.stderr or str(bad.value.start) in done.stderr, (
        f"byte {bad.value.start} is not named: {done.stderr}"
    )
    assert "mac_roman" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


# 42,078 judgements, extremely skewed, against the oracle

HALF = {"chosen_min": 0.5, "rejected_below": 0.1}
NONE = {"chosen_min": None, "rejected_below": None}
PLANS: dict[str, Plan] = {
    f"{strategy}-{name}": Pairs(strategy=strategy, **limits)
    for strategy in ("best_worst", "best_random", "best_rest", "adjacent", "all", "threshold")
    for name, limits in (("any", NONE), ("half", HALF))
    if not (strategy == "threshold" and limits is NONE)  # a plan that cannot be made
} | {
    "best_random-seed": Pairs(strategy="best_random", seed=20_240_229, **NONE),
    "capped": Pairs(strategy="all", max_pairs_per_prompt=5, seed=7, **NONE),
    "mean": Pairs(strategy="best_worst", aggregate="mean", **NONE),
    "mean-adjacent": Pairs(strategy="adjacent", aggregate="mean", min_margin=0.001, **NONE),
    "top-bottom": Pairs(strategy="all", top_k=2, bottom_k=3, **NONE),
    "labels": Unpaired(**HALF),
}
MANY = (
    "all-any",
    "all-half",
    "threshold-half",
)  # too many texts to write: completions are told apart by their MD5 there


@functools.cache
def weighted() -> pa.Table:
    return pq.read_table(
        DATA / "alpaca_eval/weighted_part1.parquet", columns=["prompt", "completion", "score"]
    )


@pytest.fixture(scope="module")
def digested(tmp_path_factory) -> Path:
    """The file with the MD5 of each completion in its place: equal where, and only where, the texts
    are.
    """
    table = weighted()
    digests = [
        None if text is None else hashlib.md5(text.encode()).hexdigest()
        for text in table["completion"].to_pylist()
    ]
    path = tmp_path_factory.mktemp("weighted") / "digested.parquet"
    pq.write_table(table.set_column(1, "completion", pa.array(digests)), path)
    return path


@pytest.mark.parametrize("name", PLANS)
def test_weighted_equals_the_oracle(name, digested, tmp_path):
    plan = PLANS[name]
    source = digested if name in MANY else DATA / "alpaca_eval/weighted_part1.parquet"
    rows = pq.read_table(source, columns=["prompt", "completion", "score"]).to_pylist()
    wanted = (oracle.pairs if isinstance(plan, Pairs) else oracle.unpaired)(rows, plan, Roles())
    columns = list(zip(*wanted.pairs, strict=True))
    assert wanted.report["rows_in"] == 42_078
    assert wanted.pairs, "a plan that gives nothing tests nothing"
    for engine in ENGINES:
        out = tmp_path / f"{engine}.parquet"
        report = prefmill.run(plan, source, out, engine=engine)
        got = pq.read_table(out)
        assert oracle.counts(report) == wanted.report, engine
        assert len(got) == len(wanted.pairs), engine
        for column, values in zip(got.column_names, columns, strict=True):
            expected = pa.chunked_array([pa.array(values, got.schema.field(column).type)])
            if not got[column].equals(expected):
                first = next(
                    i
                    for i, pair in enumerate(zip(got[column].to_pylist(), values, strict=True))
                    if pair[0] != pair[1]
                )
                raise AssertionError(
                    f"{name} on {engine}: column {column} differs first in row {first} of "
                    f"{len(got)}"
                )
        out.unlink()


# Message lists, ranks where lower is better, nulls


@functools.cache
def lines(name: str) -> list[dict]:
    with (DATA / name).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


@pytest.mark.parametrize("by", ENGINES)
def test_oasst_message_lists_and_ranks(by, tmp_path):
    rows = lines("oasst/assistant_rows.jsonl")
    plan, out = Pairs(strategy="all", **NONE), tmp_path / "pairs.jsonl"
    roles = {"completion": "answer", "score": "-rank"}
    report = prefmill.run(plan, DATA / "oasst/assistant_rows.jsonl", out, roles=roles, engine=by)
    wanted = oracle.pairs(rows, plan, Roles(completion="answer", score="rank", negate=True))
    assert oracle.counts(report) == wanted.report
    assert_adds_up(report, 687)
    assert report.dropped["null_score"] == 46
    pairs = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(pairs) == len(wanted.pairs) > 0
    for pair, (prompt, chosen, rejected, high, low) in zip(pairs, wanted.pairs, strict=True):
        turns = [(turn["role"], turn["content"]) for turn in pair["prompt"]]
        assert [content for _, content in turns] == [turn["content"] for turn in prompt]
        assert [role for role, _ in turns] in (
            [turn["role"] for turn in prompt],
            ["user" if turn["role"] == "prompter" else turn["role"] for turn in prompt],
        )
        assert [turn["role"] for turn in chosen + rejected] == ["assistant", "assistant"]
        assert pair["chosen"] == chosen
        assert pair["rejected"] == rejected
        assert (pair["chosen_score"], pair["rejected_score"]) == (high, low)
        assert low < high <= 0


# What `check` says


def check(*args: object) -> tuple[int, dict, str]:
    done = command("check", *args, "--json")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout) if done.stdout else {}, done.stderr


def test_check_discrete_preferences():
    roles = ("--prompt", "prompt", "--completion", "answer_2", "--score", "preference")
    code, found, said = check(DATA / "alpaca_eval/gpt4_discrete.jsonl.gz", *roles)
    assert code == 1, said  # 17 rows cannot be used
    assert found["rows"] == 11_270
    assert found["unusable"] == {"null_score": 17}
    assert found["prompts"] == 805


def test_check_three_ratings_in_one_column_is_refused():
    code, found, said = check(
        DATA / "prometheus/vicuna_eval.jsonl", "--completion", "answer", "--score", "scores"
    )
    assert code in (1, 2), found
    assert "scores" in said


def test_check_without_a_score_column_names_the_columns():
    code, found, said = check(
        DATA / "prometheus/vicuna_eval.jsonl",
        "--prompt",
        "prompt",
        "--completion",
        "answer",
        "--score",
        "rating",
    )
    assert code == 2, found
    assert "no column 'rating' for the role 'score'" in said


def test_check_pandalm_humans():
    """Votes as scores: 0 is a tie, so the file is no sensible input, but it is a readable one (six
    answers are booleans).
    """
    roles = ("--prompt", "instruction", "--score", "annotator1")
    code, found, said = check(
        DATA / "pandalm/testset_v1.jsonl", *roles, "--completion", "response1"
    )
    assert code in (0, 1), said
    assert found["rows"] == 999
    assert found["prompts"] == len(
        {row["instruction"] for row in lines("pandalm/testset_v1.jsonl")}
    )
    missing = check(DATA / "pandalm/testset_v1.jsonl")
    assert missing[0] == 2
    # What 0 means nobody can know: two lines to choose from, each with the whole prompt.
    assert missing[2].count("--prompt instruction,input") == 2
    assert "--ties 0" in missing[2]


# OASST: trees of messages


def oasst_messages() -> list[tuple[str, str | None, float | None, str]]:
    """(id, parent_id, reward, text) of every message; the reward is the rank, negated (0 is the
    best of its siblings).
    """
    rows: list[tuple[str, str | None, float | None, str]] = []

    def walk(message: dict, parent: str | None) -> None:
        rank = message.get("rank")
        rows.append(
            (message["message_id"], parent, None if rank is None else -float(rank), message["text"])
        )
        for reply in message["replies"]:
            walk(reply, message["message_id"])

    for line in (DATA / "oasst" / "en_100_tree.jsonl").read_text(encoding="utf-8").splitlines():
        walk(json.loads(line)["prompt"], None)
    return rows


def test_values_of_message_trees_on_both_engines():
    import duckdb
    import polars as pl

    from prefmill.duckdb import install

    rows = oasst_messages()
    tree = pl.DataFrame(
        rows,
        schema={"id": pl.String, "parent_id": pl.String, "reward": pl.Float64, "text": pl.String},
        orient="row",
    )
    replies: dict[str, list[str]] = {}
    for name, parent, _, _ in rows:
        if parent is not None:
            replies.setdefault(parent, []).append(name)
    reward = {name: value or 0.0 for name, _, value, _ in rows}

    def v(name: str, best: bool) -> float:
        q = [reward[reply] + 0.9 * v(reply, best) for reply in replies.get(name, [])]
        return (max(q) if best else sum(q) / len(q)) if q else 0.0

    with duckdb.connect() as con:
        install(con)
        con.register("tree", tree.to_arrow())
        for policy in ("uniform", "optimal"):
            plan = prefmill.Values(gamma=0.9, policy=policy)
            found = prefmill.values(tree.sample(fraction=1, shuffle=True, seed=1), plan)
            assert found.height == len(rows) > 1000
            for name, value in found.select("id", "v").rows():
                assert abs(value - v(name, policy == "optimal")) <= 1e-9
            assert (
                con.sql(plan.sql("tree", parent_id="parent_id", reward="reward")).fetchall()
                == found.rows()
            )
        steps = con.sql(
            "FROM step_values(tree, id, parent_id, success := reward, success_min := 0)"
        ).fetchall()
    told = tree.with_columns(success=pl.col("reward"))
    assert steps == prefmill.step_values(told, success_min=0).rows()
    rollouts = prefmill.stepwise(told, success_min=0)
    leaves = [
        name
        for name, parent, value, _ in rows
        if name not in replies and parent is not None and value is not None
    ]
    assert rollouts.height == len(leaves)
    assert (rollouts["completions"].list.len() == rollouts["labels"].list.len()).all()
