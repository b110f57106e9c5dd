"""`repeats = "drop"`: a pair that an earlier record has too is left out, and counted, on every
host; `check` counts repeated and contradictory pairs.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

import prefmill as pm
import prefmill.duckdb
from prefmill.errors import BadArgument
from prefmill.runs.looks.check import check

Row = dict[str, Any]
PAIR: Row = {"completion": "chosen,rejected"}
SIDES = ("chosen", "rejected")


def talk(text: str | None) -> list[dict[str, str | None]]:
    return [{"role": "assistant", "content": text}]


def records(*, messages: bool = False, count: int = 200) -> list[Row]:
    draw = random.Random(5)
    rows = []
    for _ in range(count):
        row: Row = {"prompt": draw.choice(["p", "q", None])}
        row |= {side: draw.choice(["a", "b", "c", None]) for side in SIDES}
        if messages:
            row |= {side: talk(row[side]) for side in SIDES}
        row |= {f"{side}_score": draw.choice([1, 2, 3, None]) for side in SIDES}
        row["label"] = draw.choice(["chosen", "rejected", "tie", "?"])
        rows.append(row)
    return rows


def order(row: Row, words: Row) -> object:
    """Who is preferred, so far as a record says it."""
    if "winner" in words:
        return row["label"]
    if words.get("disagree") == "keep" or words.get("score") == "1,0":
        return None
    better, worse = (row[f"{side}_score"] for side in SIDES)
    if None in (better, worse):
        return "nobody knows"
    return (better > worse) - (better < worse)


def kept(rows: list[Row], words: Row) -> tuple[list[Row], int]:
    """The records that are left, and how many repeat an earlier one of them."""
    seen, left, repeated = [], [], 0
    for row in rows:
        if words.get("where") and row["prompt"] != "p":
            continue
        if "winner" in words and row["label"] == "?":
            continue
        if words.get("disagree") == "drop" and order(row, {}) in (-1, 0):
            continue
        key = (row["prompt"], row["chosen"], row["rejected"], order(row, words))
        repeated += key in seen
        left += [] if key in seen else [row]
        seen.append(key)
    return left, repeated


WORDS: dict[str, Row] = {
    "scores": {},
    "constants": {"score": "1,0"},
    "drop": {"disagree": "drop"},
    "keep": {"disagree": "keep"},
    "where": {"where": "prompt=p"},
    "verdict": {"winner": "label", "wins": "chosen,rejected"},
}


@pytest.mark.parametrize("messages", [False, True])
@pytest.mark.parametrize("name", WORDS)
def test_the_first_of_equal_pairs_stays_on_every_host(
    name: str, messages: bool, tmp_path: Path
) -> None:
    rows, words = records(messages=messages), PAIR | WORDS[name]
    left, repeated = kept(rows, words)
    assert 10 < repeated < len(rows)
    frame, file = pl.DataFrame(rows), tmp_path / "pairs.parquet"
    frame.write_parquet(file)
    # Whatever is left becomes the pairs that it would become alone.
    alone = pl.DataFrame(left, schema=frame.schema)
    wanted = pm.Pairs().lazy(alone, **words).collect().rows()
    assert wanted
    assert pm.Pairs().lazy(frame, repeats="drop", **words).collect().rows() == wanted
    for engine in ("duckdb", "polars"):
        out = tmp_path / f"{engine}.parquet"
        done = pm.run(pm.Pairs(), file, out, engine=engine, roles={**words, "repeats": "drop"})
        assert pl.read_parquet(out).rows() == wanted
        assert done.records is not None
        dropped: Any = done.records["dropped"]
        assert dropped["duplicate_pair"] == repeated
    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.register("t", frame.to_arrow())
    query = pm.Pairs().sql("t", schema=frame.schema, repeats="drop", **words)
    assert con.sql(query).pl().rows() == wanted


@pytest.mark.parametrize("name", WORDS)
@pytest.mark.filterwarnings("ignore:datasets. .* records -> .*unknown_verdict:UserWarning")
def test_datasets_leave_them_out_as_well(name: str) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
    import prefmill.datasets as pmd

    frame, words = pl.DataFrame(records()), PAIR | WORDS[name] | {"repeats": "drop"}
    wanted = pm.Pairs().lazy(frame, **words).collect().rows()
    whole = datasets.Dataset.from_polars(frame)
    assert pmd.pairs(whole, **words).to_polars().rows() == wanted
    with pytest.raises(BadArgument, match="repeats 'drop' looks at all records; got a stream"):
        pmd.pairs(whole.to_iterable_dataset(), **words)


def test_more_answers_than_two_compare_by_their_scores() -> None:
    rows = [("p", "a", "b", "c", *scores) for scores in ((3, 2, 1), (3, 2, 1), (3, 1, 1))]
    names = ["prompt", "x", "y", "z", "score_x", "score_y", "score_z"]
    frame = pl.DataFrame(rows, schema=names, orient="row")
    words: Any = {"completion": "x,y,z", "score": "score_x,score_y,score_z"}
    pairs = pm.Pairs().lazy(frame, repeats="drop", **words).collect()
    assert pairs.height == 2


def test_rows_of_one_answer_are_merged_otherwise() -> None:
    frame = pl.DataFrame({"prompt": ["p"], "completion": ["a"], "score": [1]})
    with pytest.raises(BadArgument, match="repeats is for answers side by side") as caught:
        pm.Pairs().lazy(frame, repeats="drop")
    assert "--aggregate mean" in str(caught.value)


def test_check_counts_repeated_and_contradictory_pairs(tmp_path: Path) -> None:
    rows = [
        ("p", "a", "b"),
        ("p", "a", "b"),  # once more
        ("p", "b", "a"),  # contradicts the first two
        ("q", "b", "a"),  # another prompt
        ("q", "c", "c"),  # prefers nothing
        ("r", None, "a"),
    ]
    file = tmp_path / "pairs.parquet"
    schema = ["prompt", "chosen", "rejected"]
    pl.DataFrame(rows, schema=schema, orient="row").write_parquet(file)
    found = check(file)
    assert (found.repeated_pairs, found.contradictory_pairs) == (1, 3)
    text = "1 are there already (--repeats drop leaves them out), 3 contradict another one"
    assert ("pairs of records", text) in found.lines()
    pool = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    pool.write_parquet(tmp_path / "pool.parquet")
    assert check(tmp_path / "pool.parquet").repeated_pairs is None
