"""Hostile records: the right rows, or an error that names the file and the row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from oracle_rows import number
from reading import jsonl, put

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, ColumnMissing, PrefmillError

FREE = {"chosen_min": None, "rejected_below": None}


def rows_of(path: Path, **words: Any) -> list[tuple]:
    """The rows of a file, as `prefmill rows` writes them."""
    target = path.parent / "out.parquet"
    pm.rows(path, target, rows=pm.Rows(**words), overwrite=True)
    rows = pl.read_parquet(target).select("prompt", "completion", "score").rows()
    return [(*texts, None if score is None else number(score)) for *texts, score in rows]


def refused(path: Path, kind: type[PrefmillError], **words: Any) -> str:
    with pytest.raises(kind) as caught:
        rows_of(path, **words)
    return str(caught.value)


def listed(tmp_path: Path, *records: dict) -> Path:
    return put(tmp_path / "given.jsonl", jsonl(list(records)))


LISTS = {"each": "responses,scores", "completion": "responses", "score": "scores"}
FINE = {"prompt": "p", "responses": ["a", "b"], "scores": [1, 2]}


def test_lists_of_unequal_length(tmp_path: Path) -> None:
    path = listed(tmp_path, FINE, FINE, {"prompt": "q", "responses": ["a", "b"], "scores": [1]})
    said = refused(path, BadInput, **LISTS)
    assert "row 2" in said
    assert "given.jsonl" in said
    with pytest.raises(BadInput, match=r"row 2 .*given\.jsonl"):
        pm.run(pm.Pairs(**FREE), path, tmp_path / "pairs.jsonl", roles=LISTS)


def test_unequal_lists_of_the_second_file(tmp_path: Path) -> None:
    """The row counts in its own file."""
    put(tmp_path / "in/a.jsonl", jsonl([FINE] * 3))
    put(tmp_path / "in/b.jsonl", jsonl([FINE, {**FINE, "scores": [1, 2, 3]}]))
    target = tmp_path / "out.parquet"
    with pytest.raises(BadInput, match=r"row 1 .*b\.jsonl"):
        pm.rows(tmp_path / "in", target, rows=pm.Rows(**LISTS))
    assert not target.exists()


def test_a_list_that_is_null_next_to_one_that_is_not(tmp_path: Path) -> None:
    path = listed(tmp_path, FINE, {"prompt": "q", "responses": ["a"], "scores": None})
    assert "row 1" in refused(path, BadInput, **LISTS)


def test_unequal_lists_of_a_frame(tmp_path: Path) -> None:
    frame = pl.DataFrame([FINE, {**FINE, "scores": [1]}])
    with pytest.raises((BadInput, pl.exceptions.ComputeError), match="different lengths"):
        pm.Pairs(**FREE).lazy(frame.lazy(), **LISTS).collect()


def test_a_list_where_a_record_was(tmp_path: Path) -> None:
    path = listed(
        tmp_path,
        {"data": {"q": "p", "a": "x", "s": 1}},
        {"data": [{"q": "p", "a": "y", "s": 2}]},
        {"data": {"q": "p", "a": "z", "s": 3}},
    )
    said = refused(path, BadInput, prompt="data.q", completion="data.a", score="data.s")
    assert "row 1" in said
    assert "given.jsonl" in said


def test_a_record_where_a_text_was(tmp_path: Path) -> None:
    """An object is no completion: it is said, and no text is made of it."""
    path = listed(
        tmp_path,
        {"prompt": "p", "out": {"text": "x"}, "score": 1},
        {"prompt": "p", "out": {"text": {"is": "y"}}, "score": 2},
    )
    assert "out.text" in refused(path, PrefmillError, completion="out.text")


@pytest.mark.parametrize("word", ["C", "model_c", "A and B", "3", "A>C"])
def test_a_verdict_that_names_a_third_side(tmp_path: Path, word: str) -> None:
    sides = {"prompt": "p", "answer_a": "x", "answer_b": "y"}
    path = listed(tmp_path, {**sides, "verdict": "a"}, {**sides, "verdict": word})
    target = tmp_path / "out.parquet"
    words = {"completion": "answer_a,answer_b", "winner": "verdict"}
    report = pm.run(pm.Pairs(), path, target, roles=words)
    assert report.pairs_out == 1
    assert dict(report.records["dropped"]) == {"unknown_verdict": 1}


def test_a_word_for_two_answers(tmp_path: Path) -> None:
    """Both answers are of one model: its name says nothing."""
    sides = {"prompt": "p", "x_1": "x", "x_2": "y", "by_1": "elm", "by_2": "elm"}
    path = listed(tmp_path, {**sides, "best": "elm"}, {**sides, "by_2": "oak", "best": "OAK"})
    found = rows_of(path, completion="x_1,x_2", winner="best", source="by_1,by_2")
    assert found == [("p", "x", 0.0), ("p", "y", 1.0)]


def test_wins_that_name_one_word_twice(tmp_path: Path) -> None:
    path = listed(tmp_path, {"prompt": "p", "a": "x", "b": "y", "v": "1"})
    refused(path, PrefmillError, completion="a,b", winner="v", wins="1,1")


def test_nulls_inside_lists(tmp_path: Path) -> None:
    path = listed(
        tmp_path,
        {"prompt": "p", "responses": ["a", None, "c"], "scores": [None, 2, 3]},
        {"prompt": None, "responses": [None], "scores": [None]},
    )
    assert rows_of(path, **LISTS) == [
        ("p", "a", None),
        ("p", None, 2),
        ("p", "c", 3),
        (None, None, None),
    ]
    report = pm.run(pm.Pairs(**FREE), path, tmp_path / "x.jsonl", roles=LISTS, allow_empty=True)
    assert dict(report.dropped) == {
        "null_completion": 1,
        "null_prompt": 1,
        "null_score": 1,
        "single_completion": 1,
    }


def test_null_records_inside_lists(tmp_path: Path) -> None:
    path = listed(
        tmp_path, {"prompt": "p", "answers": [{"text": "a", "score": 1}, None, {"text": "b"}]}
    )
    words = {"completion": "answers.text", "score": "answers.score"}
    assert "--each PATH" in refused(path, PrefmillError, **words)
    found = rows_of(path, each="answers", **words)
    assert found == [("p", "a", 1), ("p", None, None), ("p", "b", None)]


def test_empty_lists(tmp_path: Path) -> None:
    empty = {"prompt": "q", "responses": [], "scores": []}
    gone = {"prompt": "q", "responses": None, "scores": None}
    path = listed(tmp_path, empty, FINE, gone)
    report = pm.run(pm.Pairs(**FREE), path, tmp_path / "pairs.jsonl", roles=LISTS)
    assert dict(report.records["dropped"]) == {"no_answers": 2}
    assert report.rows_in == 2


def test_nothing_but_empty_lists(tmp_path: Path) -> None:
    path = listed(tmp_path, *[{"prompt": "q", "responses": [], "scores": []}] * 3)
    report = pm.run(pm.Pairs(**FREE), path, None, roles=LISTS, allow_empty=True)
    assert dict(report.records["dropped"]) == {"no_answers": 3}


def test_keys_that_are_twice_in_a_record(tmp_path: Path) -> None:
    """The first counts, as in every JSON file; also inside of records."""
    line = '{"prompt": "p", "d": {"a": "first", "a": "second", "s": 1}, "prompt": "q"}\n'
    path = put(tmp_path / "given.jsonl", line * 2)
    assert rows_of(path, completion="d.a", score="d.s") == [("p", "first", 1)] * 2


def test_a_key_that_a_joined_file_has_twice(tmp_path: Path) -> None:
    put(tmp_path / "asked.jsonl", jsonl([{"id": 1, "prompt": "p"}, {"id": 1, "prompt": "q"}]))
    path = listed(tmp_path, {"id": 1, "answer": "a", "score": 1})
    said = refused(path, BadInput, join=[f"{tmp_path / 'asked.jsonl'}:id"])
    assert "row 0" in said
    assert "row 1" in said
    assert "asked.jsonl" in said


def test_keys_of_a_join_that_are_null(tmp_path: Path) -> None:
    """A null is no key, on both sides."""
    put(tmp_path / "asked.jsonl", jsonl([{"id": None, "prompt": "p"}, {"id": 2, "prompt": "q"}]))
    path = listed(
        tmp_path, {"id": None, "answer": "a", "score": 1}, {"id": 2, "answer": "b", "score": 2}
    )
    assert rows_of(path, join=[f"{tmp_path / 'asked.jsonl'}:id"]) == [("q", "b", 2)]


def test_a_hundred_thousand_answers_in_one_list(tmp_path: Path) -> None:
    many = 100_000
    record = {
        "prompt": "p",
        "responses": [f"a{i}" for i in range(many)],
        "scores": [(i * 7919) % many for i in range(many)],
    }
    path = put(tmp_path / "given.jsonl", json.dumps(record) + "\n" + json.dumps(FINE) + "\n")
    report = pm.run(pm.BestOf(k=1), path, tmp_path / "best.parquet", roles=LISTS)
    best = pl.read_parquet(tmp_path / "best.parquet")
    assert report.rows_in == many + 2
    assert best["score"].to_list() == [many - 1]


def test_deep_paths(tmp_path: Path) -> None:
    deep: dict = {"text": "x", "score": 3}
    path = "completion"
    for i in range(30):
        deep = {f"level{i}": deep}
        path = f"level{i}.{path}" if i else "level0.text"
    path = listed(tmp_path, {"prompt": "p", **deep}, {"prompt": "p", "level29": None})
    way = ".".join(f"level{i}" for i in range(29, -1, -1))
    assert rows_of(path, completion=f"{way}.text", score=f"{way}.score") == [
        ("p", "x", 3),
        ("p", None, None),
    ]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ({"completion": "d.b"}, ColumnMissing, "'b'"),
        ({"completion": "d.a.x"}, ColumnMissing, "'x'"),
        ({"completion": "x.a"}, ColumnMissing, "'x.a'"),
        ({"completion": "d.a", "each": "d.a"}, BadArgument, "not a list"),
        ({"completion": "d.a", "score": "d.n[0]"}, ColumnMissing, "needs a list"),
        ({"completion": "d.a,prompt", "score": "score"}, PrefmillError, "score"),
        ({"completion": "d.a,prompt", "score": "-score,d.n"}, PrefmillError, "score"),
        ({"completion": "d.a", "winner": "d.n"}, BadArgument, "answers"),
        ({"completion": "d.a", "where": ["d.b=1"]}, ColumnMissing, "'b'"),
        ({"completion": "d.*", "score": "1"}, PrefmillError, "score"),
        ({"completion": "d.a", "history": "d"}, BadArgument, "history"),
        ({"completion": "d.a", "system": "zzz"}, ColumnMissing, "zzz"),
        ({"completion": "d.a", "join": ["none.jsonl:id"]}, PrefmillError, "none.jsonl"),
        ({"prompt": "common", "completion": "d.a"}, BadArgument, "two"),
        ({"completion": "d.a", "disagree": "drop"}, BadArgument, "pairs"),
    ],
    ids=str,
)
def test_words_that_cannot_be_meant(tmp_path: Path, words: dict, kind: type, said: str) -> None:
    path = listed(tmp_path, {"prompt": "p", "d": {"a": "x", "n": 1}, "score": 1})
    assert said in refused(path, kind, **words)


def test_columns_whose_names_look_like_paths(tmp_path: Path) -> None:
    path = listed(
        tmp_path,
        {"a.b": "flat", "a": {"b": "deep"}, "x[0]": "p", "x": ["q"], "s,t": 1, "s": 2, "t": 3},
    )
    assert rows_of(path, prompt="x[0]", completion="a.b", score="s,t") == [("p", "flat", 1)]
    assert rows_of(path, prompt='"x"[0]', completion='"a".b', score="s") == [("q", "deep", 2)]


def test_names_in_other_scripts(tmp_path: Path) -> None:
    path = listed(tmp_path, {"问题": "p", "答案": {"文本 一": "x"}, "Bewertung ✓": "gut"})
    found = rows_of(
        path, prompt="问题", completion="答案.文本 一", score="Bewertung ✓", values="gut=1"
    )
    assert found == [("p", "x", 1.0)]


def test_conversations_that_are_null_or_empty_by_turns(tmp_path: Path) -> None:
    """Nothing in common: the prompt is null, whatever the others are."""
    asked, one, two = ({"role": "user", "content": text} for text in "qab")
    talks = [([asked, one], []), (None, [asked, two]), ([asked, one], [asked, two])]
    records = [{"chosen": chosen, "rejected": rejected} for chosen, rejected in talks]
    words = {"prompt": "common", "completion": "chosen,rejected"}
    frame = pl.DataFrame(records)
    found = pm.Pairs().lazy(frame.lazy(), **words).collect()
    assert found.select("prompt", "chosen", "rejected").rows() == [([asked], [one], [two])]
    report = pm.run(pm.Pairs(), listed(tmp_path, *records), None, roles=words)
    assert report.dropped["null_prompt"] == 4
    assert report.pairs_out == 1
