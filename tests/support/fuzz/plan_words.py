"""Texts near good ones for all that reads words of people and of models: plans, paths, options."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import mutations

WORDS = (
    *(
        "none",
        "null",
        "auto",
        "nan",
        "inf",
        "-1",
        "1e999",
        "=",
        ",",
        "[0]",
        "[:-1]",
        "[-9999999999]",
    ),
    *(
        ".",
        "..",
        '"',
        '""',
        "a.b",
        "messages[-1].content",
        "data",
        "\0",
        "\n",
        "\u202e",
        "'",
        ";",
        "--",
    ),
    *(
        "prompt",
        "completion",
        "score",
        "A>B",
        "|",
        "x" * 300,
        "[[",
        "]",
        "{",
        "}",
        "é",
        "1",
        "0",
        ":",
    ),
)
PLANS = (
    '[pairs]\nchosen_min = 4\nstrategy = "all"\nmin_margin = 0.5\nmax_pairs_per_prompt = 3\n',
    '[best_of]\nk = 2\npick = "median"\nmin_score = "none"\n',
    '[unpaired]\nchosen_min = "auto"\nweights = { helpful = 0.7, honest = 0.3 }\n',
    '[advantage]\nkind = "grpo"\n\n[rows]\nprompt = "a.b"\ncompletion = ["a", "b"]\n',
    '[values]\ngamma = 0.9\n\n[rows]\nwinner = "w"\nwins = "A>B,B>A"\nvalues = { good = 1 }\n',
)
ANSWERS = (
    "The score is 7/10.", "[[A]]", "[[5]]", "Rating: 4.5 out of 5", '{"score": 3, "why": "x"}',
    "A is better than B. Verdict: **B**", "1. 3\n2. 4\n3. 5", "Score 1: 8, Score 2: 9", "yes",
)  # fmt: skip


def near(text: str, draw: random.Random) -> str:
    return mutations.spliced(text, draw, WORDS, '[]{}=,."\n:0123456789 ')


def words(draw: random.Random) -> str:
    return "".join(draw.choice(WORDS) for _ in range(draw.choice([1, 2, 3, 5])))


def _plan(draw: random.Random) -> None:
    from prefmill.plans.kinds import read_plan

    plan = read_plan(near(draw.choice(PLANS), draw))
    assert type(plan).from_toml(plan.to_toml()) == plan
    assert type(plan).from_toml(plan.to_toml()).hash() == plan.hash()


def _rows(draw: random.Random) -> None:
    """Words over a table: both engines give the same rows, or all of them an error."""
    import polars as pl

    from prefmill.shapes import frames, sql
    from prefmill.shapes.making import shape_of
    from prefmill.shapes.words import Rows

    frame = pl.DataFrame(
        {
            "prompt": ["p", "q"],
            "a": [["x", "y"], ["z"]],
            "messages": [[{"role": "user", "content": "u"}], [{"role": "user", "content": "v"}]],
            "meta": [{"b": 1, "c": "d"}, {"b": None, "c": "e"}],
            "w": ["A>B", "tie"],
            "x.y": ["dots", ""],
            'q"q': ["1", "2"],
        }
    )
    paths = (
        *("prompt", "a", "a[0]", "a[-1]", "a[0:1]", "messages", "messages[-1].content", "meta.c"),
        *("meta.b", "w", "x.y", '"x.y"', 'q"q', "messages.content", "-meta.b"),
    )
    names = ("prompt", "completion", "score", "winner", "wins", "values", "where", "group", "each")
    given: dict[str, Any] = {}
    for name in draw.sample(names, draw.choice([1, 2, 3, 4])):
        text = draw.choice(paths)
        given[name] = text if draw.random() < 0.6 else near(text, draw)
        if name in ("values", "where") and draw.random() < 0.7:
            given[name] = f"{draw.choice(paths)}={words(draw)}"
    shape = shape_of(Rows(**given), frame.schema)
    made = frames.rows(shape, frames.records(shape, frame.lazy())).collect()
    import duckdb

    with duckdb.connect() as con:
        con.register("given", frame.to_arrow())
        other = con.sql(sql.rows(shape, sql.records(shape, "given"))).pl()
    assert made.height == other.height, f"{given}: {made.height} rows, and {other.height}"
    for role in ("prompt", "completion"):
        left, right = (str(each[role].to_list()) for each in (made, other))
        assert left == right, f"{given}: {role} {left} and {right}"


def _answer(draw: random.Random) -> None:
    from prefmill.scoring.judging import answers

    text = near(draw.choice(ANSWERS), draw)
    answers.parse_answer(text, cut_off=draw.random() < 0.5)


def _options(draw: random.Random) -> None:
    from prefmill.cli import texts

    read = draw.choice(
        [
            lambda text: texts.numbers_in("--weights", text),
            lambda text: texts.number_in("k", text),
            lambda text: texts.threshold_in("chosen-min", text, auto=True),
            texts.size_in_bytes,
            lambda text: texts.json_in("extra", text),
        ]
    )
    read(near(draw.choice(["a=1,b=2", "4.5", "2GB", '{"top_k": 40}']), draw))


#: By what reads them. Each returns, or raises an error of ours.
READERS: dict[str, Callable[[random.Random], None]] = {
    "plan": _plan,
    "rows": _rows,
    "answer": _answer,
    "options": _options,
}
