"""Labels of steps equal the oracle on every engine: Polars, files, SQL."""

from __future__ import annotations

from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from laws import common
from oracle_steps import Words
from step_hosts import expect, frame_of

from prefmill.duckdb import install

TEXTS = st.none() | st.sampled_from(["a", "b", "", "p\nq"])
PROMPTS = st.none() | st.sampled_from(["p", "q"])
AFTER = st.sampled_from([None, "drop", "false"])


@pytest.fixture(scope="module")
def con():
    with duckdb.connect(config={"threads": 2}) as connection:
        install(connection)
        yield connection


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("steps")


def side_by_side(ratings: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Records of steps with a rating for each, mostly."""

    def record(drawn: tuple[Any, list[tuple[Any, Any]], int]) -> dict[str, Any]:
        prompt, pairs, how = drawn
        steps, marks = [text for text, _ in pairs], [mark for _, mark in pairs]
        if how == 0:
            return {"prompt": prompt, "steps": None, "rating": None}
        if how == 1:
            return {"prompt": prompt, "steps": steps, "rating": None}
        return {"prompt": prompt, "steps": steps, "rating": marks}

    pairs = st.lists(st.tuples(TEXTS, ratings), max_size=4)
    return st.tuples(PROMPTS, pairs, st.integers(0, 8)).map(record)


NUMBERS = st.none() | st.sampled_from([-1.0, 0.0, 1.0])
WORDS = st.none() | st.sampled_from(["good", " Bad", "bad", "+", "-", "1", "0.0", "true", "?"])


@common
@given(
    records=st.lists(side_by_side(NUMBERS), max_size=5),
    after=AFTER | st.just("keep"),
    values=st.sampled_from([{}, {"0": 1}, {"-1": 0, "1": 1}, {"0": None}]),
    threshold=st.sampled_from([None, 0.0, 0.5]),
)
def test_numbers(con, folder, records, after, values, threshold):
    schema = {"prompt": pl.String, "steps": pl.List(pl.String), "rating": pl.List(pl.Float64)}
    words = Words(after_error=after, values=values, threshold=threshold)
    expect(frame_of(records, schema), words, con, folder)


@common
@given(
    records=st.lists(side_by_side(WORDS), max_size=5),
    after=AFTER,
    values=st.sampled_from([{}, {"good": 1, "BAD": 0}, {"1": 0, "?": 1, "true": None, "+": 0}]),
)
def test_words(con, folder, records, after, values):
    schema = {"prompt": pl.String, "steps": pl.List(pl.String), "rating": pl.List(pl.String)}
    expect(frame_of(records, schema), Words(after_error=after, values=values), con, folder)


@common
@given(records=st.lists(side_by_side(st.none() | st.booleans()), max_size=5), after=AFTER)
def test_booleans(con, folder, records, after):
    schema = {"prompt": pl.String, "steps": pl.List(pl.String), "rating": pl.List(pl.Boolean)}
    expect(frame_of(records, schema), Words(after_error=after), con, folder)


PLACES = st.none() | st.sampled_from(["-1", "0", "1", "2", "3", "1.0", "1.5", "N/A", " n/a", "ok"])


@common
@given(
    records=st.lists(
        st.fixed_dictionaries(
            {
                "prompt": PROMPTS,
                "steps": st.none() | st.lists(TEXTS, max_size=3),
                "first_error": PLACES,
            }
        ),
        max_size=5,
    ),
    after=AFTER,
    index=st.sampled_from([None, 0, 1]),
    no_error=st.sampled_from([(), ("null",), ("0", "OK")]),
    as_numbers=st.booleans(),
)
def test_first_errors(con, folder, records, after, index, no_error, as_numbers):
    schema = {"prompt": pl.String, "steps": pl.List(pl.String), "first_error": pl.String}
    frame = frame_of(records, schema)
    if as_numbers:
        frame = frame.with_columns(pl.col("first_error").cast(pl.Float64, strict=False))
    words = Words(rated=False, after_error=after, first_index=index, no_error=no_error)
    expect(frame, words, con, folder)


@st.composite
def candidates(draw: st.DrawFn, ratings: st.SearchStrategy[Any]) -> dict[str, Any]:
    """A record with candidates for each step."""
    steps, rates, chosen, written = [], [], [], []
    for _ in range(draw(st.integers(0, 3))):
        texts = draw(st.none() | st.lists(TEXTS, max_size=3))
        steps.append(texts)
        rates.append(None if texts is None else [draw(ratings) for _ in texts])
        # Mostly a candidate, or a text: where neither leads on, a record has no further steps.
        choice = draw(st.integers(-2, 3 + len(texts or [])))
        chosen.append(choice - 1 if choice <= len(texts or []) else None)
        written.append(draw(st.sampled_from(["w", "w", None])))
    return {
        "prompt": draw(PROMPTS),
        "steps": draw(st.sampled_from([steps, steps, steps, None])),
        "rating": rates,
        "chosen": chosen,
        "written": written,
    }


@common
@given(
    records=st.lists(candidates(NUMBERS), max_size=3),
    values=st.sampled_from([{"0": 1}, {"-1": 0}, {}]),
    threshold=st.sampled_from([None, 2.0]),
    written=st.booleans(),
)
def test_candidates(con, folder, records, values, threshold, written):
    texts = pl.List(pl.List(pl.String))
    schema = {
        "prompt": pl.String,
        "steps": texts,
        "rating": pl.List(pl.List(pl.Float64)),
        "chosen": pl.List(pl.Int64),
        "written": pl.List(pl.String),
    }
    frame = frame_of(records, schema)
    if not written:
        frame = frame.drop("written")
    frame = frame.with_columns(rating=pl.when(pl.col("steps").is_not_null()).then("rating"))
    expect(frame, Words(values=values, threshold=threshold), con, folder)


PIECES = st.sampled_from(["a", " b\n", "", " ", "STEP 1: c", "é👧"])


@st.composite
def texts(draw: st.DrawFn, separator: str, marked: str) -> dict[str, Any]:
    """A record whose steps are one text, and marks of the kind `marked`."""
    pieces = draw(st.lists(PIECES, max_size=4))
    text = (
        separator.join(["Q? Step 1: x", *pieces]) if draw(st.booleans()) else separator.join(pieces)
    )
    count = text.count(separator)
    marks = [draw(st.sampled_from("+-")) for _ in range(count)]
    if marked == "aligned":
        rating: Any = "".join(
            piece + mark for piece, mark in zip(text.split(separator), [*marks, ""], strict=True)
        )
    elif marked == "alone":
        full = [piece for piece in text.split(separator) if piece.strip()]
        rating = " ".join(draw(st.sampled_from("+-")) for _ in full)
    return {
        "prompt": draw(PROMPTS),
        "steps": draw(st.sampled_from([text, text, None])),
        "rating": draw(st.sampled_from([rating, rating, rating, None])),
    }


@common
@given(
    separator=st.sampled_from(["ки", "\n\n", "+"]),
    begins=st.sampled_from([None, "step 1:"]),
    marked=st.sampled_from(["aligned", "alone"]),
    prompted=st.booleans(),
    data=st.data(),
)
def test_texts(con, folder, separator, begins, marked, prompted, data):
    records = data.draw(st.lists(texts(separator, marked), max_size=4))
    frame = frame_of(records, {"prompt": pl.String, "steps": pl.String, "rating": pl.String})
    if begins and not prompted:
        frame = frame.drop("prompt")
    expect(frame, Words(separator=separator, steps_from=begins), con, folder)
