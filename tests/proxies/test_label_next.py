"""Which pairs to label next: spread over answers, then what labels so far leave open."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections import Counter

import numpy as np
import polars as pl
import pytest
from good_words import WORDS, answer
from word_encoder import word_encoder

import prefmill as pm
from prefmill.errors import BadArgument, BadInput
from prefmill.proxies.choice import PENALTY, spread, variances
from prefmill.proxies.fit import chance, weights_of

pytestmark = pytest.mark.score


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return word_encoder(tmp_path_factory.mktemp("models") / "encoder", WORDS)


def pool_of(draw, prompts, answers=4):
    """Answers whose quality is known, by their text."""
    rows, quality = [], {}
    for number in range(prompts):
        for _ in range(answers):
            good = draw.random()
            text = answer(draw, good)
            quality[text] = good
            rows.append({"prompt": f"question {number}", "completion": text, "model": "m"})
    return rows, quality


def met_of(frame):
    """How often each answer is in a pair."""
    return Counter([*frame["answer_a"].to_list(), *frame["answer_b"].to_list()])


def test_without_labels_pairs_are_spread_over_answers(tmp_path):
    rows, _ = pool_of(random.Random(0), 30)
    path = tmp_path / "next.jsonl"
    report = pm.label_next(pl.DataFrame(rows), path, n=60, roles={"source": "model"})
    frame = pl.read_ndjson(path, infer_schema_length=None)
    assert (report.rows_out, report.pairs, report.labels) == (60, 180, 0)
    # 60 pairs hold 120 answers: each of them once.
    assert met_of(frame) == dict.fromkeys([row["completion"] for row in rows], 1)
    assert frame["winner"].null_count() == 60
    assert frame["source_a"].unique().to_list() == ["m"]
    own = {row["completion"]: row["prompt"] for row in rows}
    for row in frame.iter_rows(named=True):
        assert own[row["answer_a"]] == own[row["answer_b"]] == row["prompt"]


def test_all_pairs_come_out_once(tmp_path):
    rows, _ = pool_of(random.Random(0), 5)
    report = pm.label_next(pl.DataFrame(rows), tmp_path / "next.parquet", n=1000)
    frame = pl.read_parquet(tmp_path / "next.parquet")
    pairs = {frozenset(pair) for pair in frame.select("answer_a", "answer_b").rows()}
    assert report.rows_out == len(pairs) == 30


def test_labels_are_learned_from_and_not_asked_again(encoder, tmp_path):
    rows, quality = pool_of(random.Random(1), 60)
    pool = pl.DataFrame(rows)
    pm.label_next(pool, tmp_path / "first.parquet", n=120)
    first = pl.read_parquet(tmp_path / "first.parquet")
    better = [quality[a] > quality[b] for a, b in first.select("answer_a", "answer_b").rows()]
    labels = first.with_columns(winner=pl.Series(["a" if each else "b" for each in better]))
    labels.write_ndjson(tmp_path / "labelled.jsonl")
    report = pm.label_next(
        pool, tmp_path / "more.parquet", n=100, labelled=tmp_path / "labelled.jsonl", model=encoder
    )
    more = pl.read_parquet(tmp_path / "more.parquet")
    assert (report.labels, report.labelled_before, report.pairs) == (120, 120, 240)

    def pairs(frame):
        return {frozenset(pair) for pair in frame.select("answer_a", "answer_b").rows()}

    assert not pairs(first) & pairs(more)
    # The proxy knows which answers are better, whichever side they stand on.
    gaps = [quality[a] - quality[b] for a, b in more.select("answer_a", "answer_b").rows()]
    assert np.corrcoef(gaps, more["chance"].to_numpy())[0, 1] > 0.5
    sides = np.mean(
        [quality[row["answer_a"]] > quality[row["answer_b"]] for row in more.rows(named=True)]
    )
    assert 0.3 < sides < 0.7


def test_the_order_of_rows_does_not_matter(tmp_path):
    rows, _ = pool_of(random.Random(2), 20)
    turned = random.Random(9).sample(rows, len(rows))
    for name, each in (("one", rows), ("two", turned)):
        pm.label_next(pl.DataFrame(each), tmp_path / f"{name}.parquet", n=40, most=60)
    one, two = (pl.read_parquet(tmp_path / f"{name}.parquet") for name in ("one", "two"))
    assert set(one["prompt"]) == set(two["prompt"])


def test_a_pair_whose_answers_met_waits():
    sides = np.array([[0, 1], [0, 2], [3, 4]])
    assert spread(sides, np.array([0.0, 0.1, 0.2]), 3, [0] * 5) == [0, 2, 1]


def test_a_margin_is_as_open_as_the_likelihood_is_flat():
    """Against what it is defined by: the bend of the penalised likelihood, by differences."""
    draws = np.random.default_rng(4)
    known, pairs = draws.normal(size=(40, 3)), draws.normal(size=(25, 3))
    weights = weights_of(known, PENALTY)

    def height(at):
        return np.log(chance(known @ at)).sum() - PENALTY / 2 * at @ at

    step, signs = 1e-3 * np.eye(3), [(a, b) for a in (1, -1) for b in (1, -1)]
    bend = np.array(
        [
            [sum(a * b * height(weights + a * one + b * other) for a, b in signs) for one in step]
            for other in step
        ]
    )
    flat = np.linalg.inv(-bend / 4e-6)
    found = variances(pairs, known, weights)
    assert np.allclose(found, [row @ flat @ row for row in pairs], rtol=1e-3)
    turned = [draws.choice([-1.0, 1.0], (len(rows), 1)) * rows for rows in (pairs, known)]
    assert np.allclose(variances(*turned, weights), found)


def test_what_labels_leave_open_comes_first(encoder, tmp_path):
    """Labels are of good and bad words alone; pairs of other words are asked for first."""
    rows, labels = [], []
    for number in range(30):
        pair = ("helpful kind", "rude lazy")
        labels.append({"prompt": f"old {number}", "chosen": pair[0], "rejected": pair[1]})
        if number % 2:
            pair = ("river road", "city lamp")
        rows += [{"prompt": f"new {number}", "completion": each} for each in pair]
    path = tmp_path / "next.parquet"
    pm.label_next(pl.DataFrame(rows), path, n=15, labelled=pl.DataFrame(labels), model=encoder)
    asked = pl.read_parquet(path)["prompt"].str.slice(4).cast(pl.Int64)
    assert (asked % 2).to_list() == [1] * 15


def test_what_cannot_be_meant_is_refused(tmp_path):
    lone = pl.DataFrame({"prompt": ["p", "q"], "completion": ["a", "b"]})
    with pytest.raises(BadInput, match="no prompt has two different answers"):
        pm.label_next(lone, tmp_path / "next.parquet")
    with pytest.raises(BadArgument, match="n is no whole number"):
        pm.label_next(lone, tmp_path / "next.parquet", n=0)


def test_what_is_filled_in_becomes_pairs(tmp_path):
    rows, quality = pool_of(random.Random(3), 10)
    path = tmp_path / "pool.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    def prefmill(*words):
        line = [sys.executable, "-m", "prefmill", *words]
        return subprocess.run(
            list(map(str, line)), capture_output=True, text=True, check=False, cwd=tmp_path
        )

    done = prefmill("next", path, "-n", "20", "-o", "-", "--quiet")
    assert done.returncode == 0, done.stderr
    asked = [json.loads(line) for line in done.stdout.splitlines()]
    for row in asked:
        row["winner"] = "a" if quality[row["answer_a"]] > quality[row["answer_b"]] else "b"
    (tmp_path / "labelled.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in asked))
    made = prefmill("pairs", "labelled.jsonl", "-o", "pairs.parquet", "--strategy", "all")
    assert made.returncode == 0, made.stderr
    pairs = pl.read_parquet(tmp_path / "pairs.parquet")
    assert pairs.height == 20
    assert all(quality[c] > quality[r] for c, r in pairs.select("chosen", "rejected").rows())
