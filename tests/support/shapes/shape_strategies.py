"""Random records and random words of `[rows]` for the properties of shapes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

TEXT, NUMBER = pa.string(), pa.float64()
MESSAGES = pa.list_(pa.struct({"role": TEXT, "content": TEXT}))
SCHEMA = pa.schema(
    {
        "q": TEXT,
        "extra": TEXT,
        "meta": pa.struct({"rate": pa.int64(), "note": TEXT, "deep": pa.struct({"x": NUMBER})}),
        "xs": pa.list_(TEXT),
        "zs": pa.list_(TEXT),
        "ys": pa.list_(NUMBER),
        "rs": pa.list_(pa.struct({"t": TEXT, "s": pa.int64(), "rank": pa.int64(), "who": TEXT})),
        "text_a": TEXT,
        "text_b": TEXT,
        "text_c": TEXT,
        "score_a": pa.int64(),
        "score_b": pa.int64(),
        "score_c": pa.int64(),
        "label": TEXT,
        "judge_x": TEXT,
        "judge_y": TEXT,
        "better_a": pa.bool_(),
        "better_b": pa.bool_(),
        "better_none": pa.bool_(),
        "model_a": TEXT,
        "model_b": TEXT,
        "talk_a": MESSAGES,
        "talk_b": MESSAGES,
        "before": pa.list_(pa.list_(TEXT)),
        "sys": TEXT,
    }
)

texts = st.sampled_from([None, "", "p", "q", "é"])
numbers = st.sampled_from([None, -1, 0, 1, 2])
halves = st.sampled_from([None, -1.0, 0.0, 0.5, 2.0])
verdicts = st.sampled_from(
    [None, "", " A ", "b", "text_b", "A>B", "B>>A", "tie", "BOTH BAD", "c", "first", "m1", "1", "?"]
)
models = st.sampled_from(["m1", "m2", None])
flags = st.sampled_from([True, False, None])
turns = st.builds(
    lambda role, said: {"role": role, "content": said},
    st.sampled_from(["user", "assistant", "system"]),
    st.sampled_from(["x", "y", "z"]),
)
talks = st.one_of(st.none(), st.lists(turns, max_size=3))
exchanges = st.one_of(
    st.none(), st.lists(st.tuples(st.sampled_from(["u", "v"]), texts).map(list), max_size=2)
)


@st.composite
def lists_alike(draw: st.DrawFn) -> tuple[Any, Any, Any]:
    """Lists side by side: mostly of one length, now and then absent."""
    size = draw(st.sampled_from([None, 0, 1, 2, 3]))
    if size is None:
        return None, None, None
    xs, zs, ys = (
        draw(st.lists(values, min_size=size, max_size=size)) for values in (texts, texts, halves)
    )
    return xs, zs, ys


@st.composite
def records(draw: st.DrawFn) -> dict:
    xs, zs, ys = draw(lists_alike())
    inner = st.fixed_dictionaries({"t": texts, "s": numbers, "rank": numbers, "who": models})
    deep = st.one_of(st.none(), st.fixed_dictionaries({"x": halves}))
    meta = st.fixed_dictionaries({"rate": numbers, "note": texts, "deep": deep})
    return {
        "q": draw(texts),
        "extra": draw(texts),
        "meta": draw(st.one_of(st.none(), meta)),
        "xs": xs,
        "zs": zs,
        "ys": ys,
        "rs": draw(st.one_of(st.none(), st.lists(st.one_of(st.none(), inner), max_size=3))),
        **{f"text_{part}": draw(texts) for part in "abc"},
        **{f"score_{part}": draw(numbers) for part in "abc"},
        "label": draw(verdicts),
        "judge_x": draw(verdicts),
        "judge_y": draw(verdicts),
        **{f"better_{part}": draw(flags) for part in ("a", "b", "none")},
        "model_a": draw(models),
        "model_b": draw(models),
        "talk_a": draw(talks),
        "talk_b": draw(talks),
        "before": draw(exchanges),
        "sys": draw(texts),
    }


#: A record that has everything.
FULL = dict.fromkeys(SCHEMA.names) | {"rs": [{"t": "x", "s": 1, "rank": 1, "who": "m1"}]}
#: What is an answer, and what its score.
ANSWERS: list[dict[str, Any]] = [
    {"each": "xs,ys", "completion": "xs", "score": "ys"},
    {"each": "xs,zs,ys", "completion": "zs", "score": "-ys", "source": "xs"},
    {"completion": "rs.t", "score": "rs.s"},
    {"completion": "rs.t", "score": "-rs.rank", "source": "rs.who"},
    {"each": "rs", "completion": "rs.t", "score": "rs.s", "annotator": "rs.who", "id": "q"},
    {"each": "rs", "completion": "rs.t", "score": "meta.deep.x"},
    {"each": "xs,zs", "completion": "xs,zs", "score": "1,0"},
    {"each": "xs,zs,ys", "completion": "xs,zs", "score": "ys,score_a"},
    {"completion": "xs[0],xs[-1]", "score": "ys[0],ys[1]"},
    {"completion": "text_a", "score": "meta.rate"},
    {"completion": "text_a", "score": "-meta.deep.x", "annotator": "meta.note"},
    {"completion": "talk_a[-1]", "score": "score_a"},
    {"completion": "rs[1].t", "score": "rs[-1].s"},
    {"completion": "text_a,text_b", "score": "score_a,score_b", "source": "model_a,model_b"},
    {"completion": "text_a,text_b,text_c", "score": "score_a,score_b,score_c"},
    {"completion": "text_a,text_b", "score": "-score_a,-score_b"},
    {"completion": "text_a,text_b", "score": "1,0", "annotator": "label"},
    {"completion": "text_a,text_b", "winner": "label"},
    {"completion": "text_a,text_b", "winner": "label", "source": "model_a,model_b"},
    {"completion": "text_a,text_b,text_c", "winner": "label", "ties": "?"},
    {"completion": "text_a,text_b", "winner": "judge_x", "wins": "A>B|first|1,b|c", "ties": "m1"},
    {"completion": "text_a,text_b", "winner": "judge_x,judge_y"},
    {"completion": "text_a,text_b", "winner": "label,judge_x,judge_y", "wins": "A|m1,B|text_b"},
    {"completion": "text_a,text_b", "winner": "better_a,better_b"},
    {"completion": "text_a,text_b", "winner": "better_a,better_b,better_none"},
    {"each": "xs,zs", "completion": "xs,zs", "winner": "label", "wins": "A,B"},
    {"prompt": "common", "completion": "talk_a,talk_b", "winner": "label", "wins": "A,B"},
    {"prompt": "common", "completion": "talk_a,talk_b", "score": "score_a,score_b"},
]
PROMPTS = ["q", "q,extra", "meta.note", "talk_a[:-1]", "talk_b[0].content", "xs[1]", "q,meta.note"]
TEXT_PROMPTS = ["q", "q,extra", "meta.note"]


@dataclass
class ShapeProblem:
    """Records, and words for them."""

    records: list[dict]
    words: dict[str, Any]

    def table(self) -> pa.Table:
        return pa.Table.from_pylist(self.records, SCHEMA)


@st.composite
def shape_problems(draw: st.DrawFn) -> ShapeProblem:
    words = dict(draw(st.sampled_from(ANSWERS)))
    if "prompt" not in words:
        inside = "xs" in words.get("each", "")  # then `xs[1]` would be inside of an element
        words["prompt"] = draw(
            st.sampled_from(PROMPTS).filter(lambda p: p != "xs[1]" or not inside)
        )
    if words["prompt"] in TEXT_PROMPTS and draw(st.booleans()):
        words["history"] = "before"
    if draw(st.integers(0, 3)) == 0:
        words["system"] = "sys"
    if draw(st.integers(0, 3)) == 0:
        words["where"] = draw(
            st.sampled_from([["meta.rate=1"], ["label=tie"], ["q=P", "better_a=true"]])
        )
    if "winner" not in words and not words["score"][0].isdigit() and draw(st.booleans()):
        words["values"] = draw(st.sampled_from(["-1=null", "1=5,0=-2.5", "2=0,0.5=null"]))
    if draw(st.integers(0, 3)) == 0:
        words["group"] = draw(st.sampled_from([["q"], ["extra", "meta.note"], ["label"]]))
    return ShapeProblem(draw(st.lists(records(), max_size=5)), words)
