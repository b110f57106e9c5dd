"""Forty-odd awkward tables for `test_surfaces.py`: each is made by code, and says what plan runs
over it.

A case has one table, or several for several files. `refused` are words of the error that every host
raises. `cannot` names the hosts that raise where the others answer, with words of their error.
`differs` names the hosts whose messages keep the fields `from` and `value`. Each says why in a
comment.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import polars as pl
import pyarrow as pa

import prefmill as pm

OPEN = {"chosen_min": None, "rejected_below": None}
ALL = pm.Pairs(strategy="all", **OPEN)
CHAT = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))


@dataclass(frozen=True)
class Case:
    """One awkward input and the plan over it."""

    name: str
    tables: tuple[pa.Table, ...]
    plan: Any = ALL
    roles: Mapping[str, Any] = field(default_factory=dict)
    hive: str = ""
    refused: str = ""
    cannot: Mapping[str, str] = field(default_factory=dict)
    differs: tuple[str, ...] = ()

    @property
    def table(self) -> pa.Table:
        """All rows as one table, columns united by name."""
        return pa.concat_tables(self.tables, promote_options="permissive")


CASES: list[Case] = []


def case(name: str, *tables: pa.Table, **more: Any) -> None:
    CASES.append(Case(name, tables, **more))


def rows(scores: Any, kind: pa.DataType | None = None, **columns: Any) -> pa.Table:
    """Two prompts in turn, answers a, b, c, ..., and these scores."""
    n = len(scores)
    texts = {
        "prompt": pa.array([f"prompt {i % 2}" for i in range(n)]),
        "completion": pa.array([f"answer {i}" for i in range(n)]),
        "score": pa.array(scores, kind),
    }
    return pa.table(texts | {name: as_array(values) for name, values in columns.items()})


def as_array(values: Any) -> pa.Array:
    return values if isinstance(values, pa.Array) else pa.array(values)


def texts(prompts: Any, completions: Any, scores: Any = None, **columns: Any) -> pa.Table:
    """These prompts and completions, with scores 1, 2, 3, ..."""
    prompts, completions = as_array(prompts), as_array(completions)
    scores = as_array(list(range(1, len(prompts) + 1)) if scores is None else scores)
    more = {name: as_array(values) for name, values in columns.items()}
    return pa.table({"prompt": prompts, "completion": completions, "score": scores} | more)


def messages(*contents: str | None, role: str = "user") -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for content in contents]


def dictionary(values: list[str], order: list[str], index: pa.DataType) -> pa.Array:
    at = pa.array([order.index(value) for value in values], index)
    return pa.DictionaryArray.from_arrays(at, pa.array(order))


# Scores of every type

case("small signed scores", rows([1, -5, 3, 127, -128, 0], pa.int8()))
case("small unsigned scores", rows([1, 5, 3, 255, 0, 0], pa.uint8()))
case("scores beyond 2^53", rows([2**53, 2**53 + 1, 2**53 + 2, 2**62, 5, -(2**63)], pa.int64()))
case("unsigned scores beyond 2^63", rows([2**63, 2**64 - 1, 2**63 + 4096, 1, 0, 7], pa.uint64()))
case("single precision", rows([0.1, 0.2, 0.30000001, 1e-40, 16777216, -0.0], pa.float32()))
case(
    "half precision",
    rows([0.1, 0.2, 65504, 6e-8, 1.5, -0.0], pa.float16()),
    # DuckDB reads this type in Parquet, not in Arrow.
    cannot={"sql over arrow": "Unsupported Internal Arrow Type"},
)
case(
    "decimals",
    rows(
        [Decimal(x) for x in ("1.10", "0.30", "-2.00", "99.99", "0.00", "1.11")],
        pa.decimal128(10, 2),
    ),
)
case(
    "wide decimals",
    rows(
        [Decimal(x) for x in ("1.1", "12345678901234567890.5", "0.3", "2", "1", "7")],
        pa.decimal128(38, 10),
    ),
)
case("booleans", rows([True, False, False, True, None, True]))
case(
    "booleans under thresholds",
    rows([True, False, False, True, None, True]),
    plan=pm.Pairs(chosen_min=1, rejected_below=1),
)
SPELLED = [" 4.5 ", "1e2", "nan", "-inf", "four", "", "0x10"]
SPELLED += [".5", "5.", "+3", "1_000", "Infinity", "1e999", "٣"]
case("scores as text", rows(SPELLED))
case(
    "scores as large text and a dictionary",
    rows(dictionary(["5", "1", "x", "2", "10", "9"], ["x", "10", "9", "5", "2", "1"], pa.int8())),
)
case("null, NaN, infinite, zeros", rows([None, math.nan, math.inf, -math.inf, 0.0, -0.0, 1.0, 2.0]))
case("nothing but null scores", rows([None, None, None], pa.float64()))
case("scores without a type", rows([None, None], pa.null()))
case("lower is better", rows([3, 1, 2, 2, 1, 9]), roles={"score": "-score"})
case(
    "negated text",
    rows(["3", "x", "2", "-2", "1", None]),
    roles={"score": "-score"},
)

# Texts

case("null texts", texts(["p", None, "p", "p", "q", "q"], ["a", "b", None, "c", "d", "d"]))
case("empty texts", texts(["", "", "p", "p", "", ""], ["", "a", "", "b", "a", " "]))
case(
    "what looks the same",
    texts(
        ["é", "e\u0301", "é", "e\u0301", "É", "é "],
        ["\U0001f469\u200d\U0001f680", "שלום", "a\u200bb", "ab", "x\u2028y", "\ufeffz"],
    ),
)
case(
    "white space and case",
    texts(
        ["p", "P", "p ", "p\n", "p\r\n", "p", "P", "p "],
        ["a\n", "a\r\n", "a\t", "\n", "x", "a", "y", "z"],
    ),
)
case(
    "a NUL inside", texts(["p\x00q", "p\x00r", "p\x00q", "p\x00r"], ["a\x00b", "a", "a\x00c", "b"])
)
case(
    "long texts", texts(["p" * 70_000] * 3 + ["q"] * 3, ["a" * n for n in (1, 99_000, 3, 20, 5, 6)])
)
case(
    "large strings",
    texts(
        pa.array(["p", "p", "q", "q"], pa.large_string()), pa.array(list("abcd"), pa.large_string())
    ),
)
case(
    "string views",
    texts(
        pa.array(["p", "p", "q", "q"], pa.string_view()), pa.array(list("abcd"), pa.string_view())
    ),
)
case(
    "dictionaries",
    texts(
        dictionary(["p", "q", "p", "q"], ["q", "p"], pa.int8()),
        dictionary(["a", "b", "c", "d"], ["d", "c", "b", "a"], pa.uint16()),
    ),
)
case("equal answers", texts(["p"] * 5, ["a", "a", "b", "a", "b"], [1, 2, 2, 3, 1]))
case(
    "no rows", texts(pa.array([], pa.string()), pa.array([], pa.string()), pa.array([], pa.int64()))
)
case("one row", texts(["p"], ["a"], [5]))

# Messages

ASKED = [messages("hi"), messages("ho"), messages("hi"), messages("ho")]
SAID = [messages(text, role="assistant") for text in "abcd"]
case("messages and text", texts(pa.array(ASKED, CHAT), list("abcd")))
case("text and messages", texts(["p", "q", "p", "q"], pa.array(SAID, CHAT)))
case("messages", texts(pa.array(ASKED, CHAT), pa.array(SAID, CHAT)))
SHAREGPT = pa.list_(pa.struct({"from": pa.string(), "value": pa.string()}))
case(
    "ShareGPT",
    texts(
        pa.array([[{"from": "human", "value": m[0]["content"]}] for m in ASKED], SHAREGPT),
        pa.array([[{"from": "gpt", "value": m[0]["content"]}] for m in SAID], SHAREGPT),
    ),
)
WIDE = pa.struct(
    {
        "content": pa.string(),
        "role": pa.string(),
        "name": pa.string(),
        "tool_calls": pa.list_(
            pa.struct(
                {
                    "id": pa.string(),
                    "function": pa.struct({"name": pa.string(), "arguments": pa.string()}),
                }
            )
        ),
    }
)
CALL = [{"id": "1", "function": {"name": "f", "arguments": '{"a": 1}'}}]
case(
    "optional keys and tool calls",
    texts(
        pa.array(
            [
                [{"role": "user", "content": "hi", "name": None, "tool_calls": None}],
                [{"role": "user", "content": "hi", "name": "ann", "tool_calls": None}],
                [{"role": "user", "content": "hi", "name": None, "tool_calls": None}],
                [{"role": "user", "content": "hi", "name": "ann", "tool_calls": None}],
            ],
            pa.list_(WIDE),
        ),
        pa.array(
            [
                [
                    {
                        "role": "assistant",
                        "content": text,
                        "name": None,
                        "tool_calls": CALL if i else None,
                    }
                ]
                for i, text in enumerate(["a", "b", None, "d"])
            ],
            pa.list_(WIDE),
        ),
    ),
)
case(
    "null contents and empty conversations",
    texts(
        pa.array([messages(None), messages(""), messages(None), messages(""), [], []], CHAT),
        list("abcdef"),
    ),
)
PARTS = pa.list_(
    pa.struct(
        {
            "role": pa.string(),
            "content": pa.list_(pa.struct({"type": pa.string(), "text": pa.string()})),
        }
    )
)
case(
    "contents in parts",
    texts(
        pa.array(
            [[{"role": "user", "content": [{"type": "text", "text": t}]}] for t in "pqpq"], PARTS
        ),
        list("abcd"),
    ),
)
case(
    "messages in large lists",
    texts(
        pa.array(ASKED, pa.large_list(CHAT.value_type)),
        pa.array(SAID, pa.large_list(CHAT.value_type)),
    ),
)

# Several files

case(
    "other column order",
    texts(["p", "q"], ["a", "b"], [1, 2]),
    texts(["p", "q"], ["c", "d"], [3, 0]).select(["score", "prompt", "completion"]),
)
case(
    "other types",
    texts(["p", "q"], ["a", "b"], pa.array([1, 2], pa.int16())),
    texts(pa.array(["p", "q"], pa.large_string()), ["c", "d"], [3.5, 0.25]),
)
case(
    "a column more",
    texts(["p", "q"], ["a", "b"], [1, 2]),
    texts(["p", "q"], ["c", "d"], [3, 0], source=["x", "y"]),
)
case(
    "fields of messages in another order",
    texts(pa.array(ASKED[:2], CHAT), ["a", "b"], [1, 2]),
    texts(
        pa.array(ASKED[:2], pa.list_(pa.struct({"content": pa.string(), "role": pa.string()}))),
        ["c", "d"],
        [3, 0],
    ),
)
case(
    "an empty file between",
    texts(["p"], ["a"], [1]),
    texts(["p"], ["a"], [1])[:0],
    texts(["p"], ["b"], [2]),
)
case(
    "hive partitions",
    rows([1, 2, 3, 4], origin=["m1"] * 4),
    rows([5, 0, 3, 2], origin=["org%2Fm2"] * 4),
    hive="origin",
    roles={"group": "origin"},
)

# Groups, ids, annotators

IDS = [9007199254740993, 9007199254740992, 9007199254740993, 5, 9007199254740992, 7]
TIED = rows([1, 1, 1, 1, 1, 0])
by_id = pm.Pairs(strategy="all", tie_break="id", **OPEN)
case("ids beyond 2^53", TIED.append_column("id", pa.array(IDS)), plan=by_id)
case(
    "ids of 64 bits without a sign",
    TIED.append_column("id", pa.array([2**64 - n for n in (1, 2, 3, 4, 5, 6)], pa.uint64())),
    plan=by_id,
)
case(
    "ids in a dictionary",
    TIED.append_column("id", dictionary(list("cbafed"), list("fedcba"), pa.int8())),
    plan=by_id,
)
case(
    "ids in an enum",
    pl.DataFrame(TIED.append_column("id", pa.array(list("cbafed"))))
    .with_columns(pl.col("id").cast(pl.Enum(list("fedcba"))))
    .to_arrow(),
    plan=by_id,
)
case(
    "ShareGPT with further fields",
    texts(
        pa.array(
            [[{"from": "human", "value": m[0]["content"], "weight": 1}] for m in ASKED],
            pa.list_(pa.struct({"from": pa.string(), "value": pa.string(), "weight": pa.int64()})),
        ),
        list("abcd"),
    ),
    # A query cannot drop a field whose name it does not know (docs/semantics.md, Conversations).
    differs=("sql", "sql over arrow", "shell"),
)
case(
    "ids by bytes",
    TIED.append_column("id", pa.array(["z", "Z", "é", "\U0001f600", None, "10"])),
    plan=by_id,
)
case(
    "groups of a number and a text",
    rows([1, 2, 3, 4, 5, None], n=[1, 1, 1, 12, 12, 1], t=["2", "2", "23", "", None, "23"]),
    roles={"group": ["n", "t"]},
)
case(
    "groups of dates and booleans",
    rows([1, 2, 3, 4], day=[dt.date(2024, 1, 1)] * 3 + [None], flag=[True, True, False, False]),
    roles={"group": ["day", "flag"]},
)
case(
    "annotators on one scale",
    rows([1, 5, 2, 4, 3, 3], annotator=["x", "y", "x", "y", None, "x"]),
    plan=pm.Pairs(normalize="zscore", aggregate="mean", **OPEN),
)
case(
    "weighted columns",
    rows(
        [1, 2, 3, 4],
        helpful=[Decimal("1.10"), None, Decimal("2.20"), Decimal("0.10")],
        honest=["1", "2", "x", "0.5"],
    ),
    plan=pm.Pairs(weights={"helpful": 0.7, "honest": 0.3}, **OPEN),
)
case(
    "aspects",
    texts(
        ["p"] * 6,
        ["a", "a", "b", "b", "b", "c"],
        [1, 2, 3, 4, 5, 5],
        aspect=["x", "y", "x", "y", "z", "x"],
    ),
    plan=pm.Pairs(weights={"x": 1, "y": 0.5}, aggregate="mean", **OPEN),
    roles={"aspect": "aspect"},
)
case(
    "seeds and caps",
    texts([f"p{i % 3}" for i in range(24)], [f"a{i}" for i in range(24)]),
    plan=pm.Pairs(strategy="all", max_pairs_per_prompt=3, seed=7, **OPEN),
)
case(
    "draws over messages",
    texts(pa.array([messages("hi", "há")] * 6, CHAT), list("abcdef")),
    plan=pm.Pairs(strategy="best_random", seed=3, **OPEN),
)
case(
    "one prompt of a thousand answers",
    texts(
        ["p", "q"] * 500, [f"a{i}" for i in range(1000)], [(i * 7919) % 101 for i in range(1000)]
    ),
    plan=pm.Pairs(strategy="adjacent", top_k=40, **OPEN),
)

# Names, and columns that nobody uses

case(
    "awkward names",
    pa.table(
        {'quo"te': ["p", "p"], "select": ["a", "b"], "^x.*$": [1, 2], "a b": [0, 0], "*": [0, 0]}
    ),
    roles={"prompt": 'quo"te', "completion": "select", "score": "^x.*$"},
)
case(
    "names like ours",
    rows(
        [1, 2, 3, 4],
        _pos=[0] * 4,
        _grp=["x"] * 4,
        _prompt=["y"] * 4,
        slot=[1] * 4,
        rank=[1] * 4,
        _first=[1] * 4,
    ),
)
case(
    "columns beside",
    rows(
        [1, 2, 3, 4],
        blob=pa.array([b"\xff"] * 4, pa.binary()),
        took=pa.array([1, 2, None, 4], pa.duration("s")),
        at=pa.array([dt.datetime(2024, 1, 1, tzinfo=dt.UTC)] * 4, pa.timestamp("us", "UTC")),
        nested=pa.array(
            [[{"a": [None]}], [], None, [{"a": None}]],
            pa.list_(pa.struct({"a": pa.list_(pa.int8())})),
        ),
        fixed=pa.array([[1, 2]] * 4, pa.list_(pa.float32(), 2)),
        nothing=pa.nulls(4),
    ),
)

# What holds no prompt, answer or score is refused

case("prompts of whole numbers", texts([1, 1, 2, 2], list("abcd")), refused="prompt")
case("answers of numbers", texts(list("ppqq"), [0.5, 1.5, 2.5, 3.5]), refused="completion")
case("prompts in bytes", texts(pa.array([b"p"] * 4), list("abcd")), refused="prompt")
case("prompts of lists of texts", texts(pa.array([["p"]] * 4), list("abcd")), refused="prompt")
case(
    "answers of one message",
    texts(["p"] * 2, [{"role": "assistant", "content": t} for t in "ab"]),
    refused="completion",
)
case("messages without a role", texts(["p"] * 2, [[{"text": t}] for t in "ab"]), refused="role")
case("scores of dates", texts(["p"] * 2, list("ab"), [dt.date(2024, 1, 1)] * 2), refused="score")
case("scores in lists", texts(["p"] * 2, list("ab"), [[1], [2]]), refused="score")
case(
    "groups of timestamps",
    rows([1, 2], at=[dt.datetime(2024, 1, 1)] * 2),
    roles={"group": "at"},
    refused="group",
)
case(
    "groups of decimals",
    rows([1, 2], at=[Decimal("1.5")] * 2),
    roles={"group": "at"},
    refused="group",
)
case("ids of floats", rows([1, 2], id=[0.5, 1.5]), plan=by_id, refused="id")

# Labels and picks: fewer, the reading is the same

LABELS = pm.Unpaired(chosen_min=3, rejected_below=2)
BEST = pm.BestOf(k=2)
for name, plan in (("labels", LABELS), ("picks", BEST)):
    case(f"{name}: decimals", CASES[6].table, plan=plan)
    case(f"{name}: text scores", CASES[10].table, plan=plan)
    case(f"{name}: null texts", texts(["p", None, "p", "q"], ["a", "b", None, "c"]), plan=plan)
    case(f"{name}: messages and text", texts(pa.array(ASKED, CHAT), list("abcd")), plan=plan)
    case(
        f"{name}: dictionaries",
        texts(dictionary(list("pqpq"), ["q", "p"], pa.int8()), list("abcd")),
        plan=plan,
    )
