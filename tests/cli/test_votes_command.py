"""`prefmill votes`: battles, several judges and ranked lists, through the command."""

from __future__ import annotations

import itertools
import json
import os
from collections import Counter, defaultdict
from pathlib import Path

import polars as pl
import pytest
import votes_oracle as oracle
from command import prefmill

import prefmill as pm

BATTLES = [
    ("p", "x", "y", "m1", "m2", "model_a", "ann"),
    ("p", "y", "x", "m2", "m1", "tie", "bob"),
    ("p", "z", "x", "m3", "m1", "model_b", "bob"),
    ("q", "x", "z", "m1", "m3", "model_a", "ann"),
    ("q", "z", "x", "m3", "m1", "nobody", "ann"),
    ("q", "y", "z", "m2", "m3", "", "ann"),
]
NAMES = ("prompt", "answer_a", "answer_b", "model_a", "model_b", "winner", "judge")
WORDS = (
    *("--completion", "answer_a,answer_b", "--winner", "winner", "--annotator", "judge"),
    *("--source", "model_a,model_b"),
)


def as_rows(battles) -> list[dict]:
    """The rows that the oracle takes."""
    rows = []
    for group, (prompt, a, b, one, two, winner, judge) in enumerate(battles):
        if winner not in ("model_a", "model_b", "tie"):
            continue
        points = {"model_a": 1.0, "tie": 0.5, "model_b": 0.0}[winner]
        shared = {"prompt": prompt, "group": group, "annotator": judge}
        rows.append({**shared, "completion": a, "source": one, "score": points})
        rows.append({**shared, "completion": b, "source": two, "score": 1 - points})
    return rows


@pytest.fixture
def battles(tmp_path) -> Path:
    path = tmp_path / "battles.jsonl"
    lines = [json.dumps(dict(zip(NAMES, values, strict=True))) for values in BATTLES]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("over", ["prompt", "source"])
def test_battles_are_rated(over, battles, tmp_path):
    target = tmp_path / "rated.parquet"
    done = prefmill("votes", battles, "-o", target, *WORDS, "--over", over, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["records"]["dropped"] == {"null_verdict": 1, "unknown_verdict": 1}
    assert (report["comparisons"], report["ties"], report["rows_in"]) == (4, 1, 8)
    assert "read as: --prompt prompt --completion answer_a,answer_b" in done.stderr
    keys = ["source"] if over == "source" else ["prompt", "completion"]
    out = pl.read_parquet(target)
    got = dict(zip(out.select(keys).rows(), out["score"], strict=True))
    expected = oracle.bradley_terry(as_rows(BATTLES), over)
    assert got == pytest.approx({name: numbers[0] for name, numbers in expected.items()})
    if over == "prompt":
        first = {row["prompt"] + row["completion"]: row["source"] for row in as_rows(BATTLES)}
        named = out.select(pl.concat_str("prompt", "completion"), "source").rows()
        assert dict(named) == first


def test_battles_are_known_by_their_names(battles, tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    assert prefmill("votes", battles, "-o", one, *WORDS, "--over", "source").returncode == 0
    done = prefmill("votes", battles, "-o", two, "--over", "source", "--annotator", "judge")
    assert done.returncode == 0, done.stderr
    assert one.read_text() == two.read_text()


@pytest.mark.parametrize("kind", ["polars", "csv", "datasets"])
def test_every_input_gives_the_same_scores(kind, battles, tmp_path):
    words = {"completion": "answer_a,answer_b", "winner": "winner", "annotator": "judge"}
    words["source"] = "model_a,model_b"
    frame = pl.read_ndjson(battles)
    data = frame
    if kind == "csv":
        data = tmp_path / "battles.csv"
        frame.write_csv(data)
    elif kind == "datasets":
        data = pytest.importorskip("datasets").Dataset.from_polars(frame)
    one, two = tmp_path / "one.parquet", tmp_path / "two.parquet"
    pm.votes(battles, one, roles=words)
    pm.votes(data, two, roles=words)
    assert pl.read_parquet(one).equals(pl.read_parquet(two))


def test_several_judges_in_columns_are_votes_of_annotators(tmp_path):
    path, target = tmp_path / "judged.jsonl", tmp_path / "rated.parquet"
    said = [("a", "a", "b"), ("b", "b", "b"), ("a", "a", None), ("a", "tie", "b")]
    lines = [
        {"prompt": f"p{n}", "response_a": "x", "response_b": "y"}
        | {f"winner{place}": word for place, word in enumerate(words, 1)}
        for n, words in enumerate(said)
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    report = pm.votes(
        path,
        target,
        method="dawid-skene",
        roles={"completion": "response_a,response_b", "winner": "winner1,winner2,winner3"},
    )
    assert {name: votes for name, (votes, _) in report.annotators.items()} == {
        "winner1": 4,
        "winner2": 4,
        "winner3": 3,
    }
    assert report.comparisons == 11
    score = dict(pl.read_parquet(target).filter(completion="x").select("prompt", "score").rows())
    assert score["p0"] > 0.5 > score["p1"]
    assert score["p2"] > 0.5


def test_ranked_lists_meet_inside_their_list_only(tmp_path):
    path, target = tmp_path / "lists.jsonl", tmp_path / "rated.parquet"
    lists = [["x", "y", "z"], ["y", "x"], ["z", "x"]]
    lines = [
        {"prompt": "p", "answers": [{"text": t, "rank": r} for r, t in enumerate(ranked, 1)]}
        for ranked in lists
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    done = prefmill(
        *("votes", path, "-o", target, "--completion", "answers.text"),
        *("--score=-answers.rank", "--method", "plackett-luce"),
    )
    assert done.returncode == 0, done.stderr
    rows = [
        {"prompt": "p", "completion": text, "group": group, "score": -rank}
        for group, ranked in enumerate(lists)
        for rank, text in enumerate(ranked)
    ]
    out = pl.read_parquet(target)
    expected = oracle.plackett_luce(rows)
    got = zip(out["completion"], out.select("score", "low", "high", "votes").rows(), strict=True)
    for text, numbers in got:
        assert numbers == pytest.approx(expected["p", text], abs=2e-5)


def test_ends_of_the_command(battles, tmp_path):
    assert "no output named" in prefmill("votes", battles, *WORDS).stderr
    done = prefmill("votes", battles, *WORDS, "-o", "-", "--over", "source", "-q")
    assert [json.loads(line)["source"] for line in done.stdout.splitlines()] == ["m1", "m2", "m3"]
    assert done.stderr == ""
    empty, target = tmp_path / "empty.jsonl", tmp_path / "empty.parquet"
    empty.write_text('{"prompt": "p", "completion": null, "score": 1}\n')
    done = prefmill("votes", empty, "-o", target)
    assert (done.returncode, target.exists()) == (1, False)
    assert "nothing was written" in done.stderr
    assert prefmill("votes", empty, "-o", target, "--allow-empty").returncode == 0
    assert pl.read_parquet(target).columns[:3] == ["prompt", "completion", "score"]
    done = prefmill("votes", battles, *WORDS, "-o", target)
    assert done.returncode == 2
    assert "--overwrite" in done.stderr
    done = prefmill("votes", battles, *WORDS, "-o", target, "--method", "borda", "--overwrite")
    assert done.returncode == 2
    assert "no method 'borda'" in done.stderr


@pytest.mark.realdata
@pytest.mark.skipif(not os.environ.get("PREFMILL_REALDATA"), reason="PREFMILL_REALDATA is not set")
def test_three_judges_of_five_models(tmp_path):
    """PandaLM: 999 records of three judges, whose win rates are counted by hand."""
    path = Path(os.environ["PREFMILL_REALDATA"]) / "pandalm" / "testset_v1.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    judges = ("annotator1", "annotator2", "annotator3")
    points: dict[str, float] = defaultdict(float)
    met: Counter = Counter()
    for record, judge in itertools.product(records, judges):
        one, two = record["cmp_key"].split("_")
        record["model_1"], record["model_2"] = one, two
        points[one] += {0: 0.5, 1: 1.0, 2: 0.0}[record[judge]]
        points[two] += {0: 0.5, 1: 0.0, 2: 1.0}[record[judge]]
        met.update((one, two))
    words = {"completion": "response1,response2", "winner": ",".join(judges), "wins": "1,2"}
    words |= {"ties": "0", "source": "model_1,model_2", "prompt": "instruction,input"}
    board = tmp_path / "board.parquet"
    report = pm.votes(pl.DataFrame(records), board, method="win-rate", over="source", roles=words)
    out = pl.read_parquet(board)
    assert report.comparisons == 3 * 999
    assert dict(out.select("source", "votes").rows()) == met
    rates = {name: share / met[name] for name, share in points.items()}
    assert dict(out.select("source", "score").rows()) == pytest.approx(rates, abs=1e-9)
    pm.votes(pl.DataFrame(records), board, over="source", roles=words, overwrite=True)
    assert pl.read_parquet(board)["source"].to_list() == out["source"].to_list()
