"""Raw records in data sets: the same rows as from files, in every form; the account, the cache."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")

datasets.disable_progress_bars()

import prefmill.datasets as pmd  # noqa: E402
from prefmill.datasets import streams  # noqa: E402

STRING, DOUBLE, WHOLE = (datasets.Value(name) for name in ("string", "float64", "int64"))
NAMES = ("ash", "birch", "cedar")


def lists(i: int) -> dict:
    """Answers in a list of records, and a prompt that comes back only side by side."""
    answers = [
        {"text": f"{name} {i} {j}", "rating": (i * 7 + j * 3) % 10 + 0.5, "by": name}
        for j, name in enumerate(NAMES[: i % 4])
    ]
    return {"question": f"q{i // 2}", "answers": answers or None, "topic": "ab"[i % 2]}


def judged(i: int) -> dict:
    """Two answers and a verdict, over few prompts."""
    verdict = ("model_a", "B", "tie", "huh", None)[i % 5]
    answers = {"response_a": f"a{i}", "response_b": f"b{i}"}
    return {"prompt": f"p{i % 3}", **answers, "winner": verdict, "turn": i % 2}


def ranked(i: int) -> dict:
    """Lists side by side, with ranks."""
    return {
        "instruction": f"do {i % 4}",
        "input": "" if i % 3 else f"with {i}",
        "outputs": [f"o{i}{j}" for j in range(3)],
        "rank": [(i + j) % 3 + 1 for j in range(3)],
    }


def ready(i: int) -> dict:
    """Pairs of conversations with scores, some of which contradict them."""
    asked = [{"role": "user", "content": f"q{i}"}]
    sides = {
        side: [*asked, {"role": "assistant", "content": f"{side} {i}"}]
        for side in ("chosen", "rejected")
    }
    return {**sides, "score_chosen": float(i % 5), "score_rejected": 2.0}


SHAPES = {
    "lists": (
        lists,
        {"prompt": "question", "completion": "answers.text", "score": "answers.rating"},
    ),
    "judged": (judged, {"completion": "response_a,response_b", "winner": "winner"}),
    "where": (
        judged,
        {"completion": "response_a,response_b", "winner": "winner", "where": "turn=1"},
    ),
    "ranked": (
        ranked,
        {"prompt": "instruction,input", "each": "outputs,rank", "score": "-rank"},
    ),
    "ready": (
        ready,
        {
            "prompt": "common",
            "completion": "chosen,rejected",
            "score": "score_chosen,score_rejected",
            "disagree": "drop",
        },
    ),
}
OFF = {"chosen_min": None, "rejected_below": None}
PLANS = [
    pm.Pairs(strategy="all", **OFF),
    pm.Unpaired(chosen_min=1, rejected_below=1),
    pm.BestOf(k=2),
    pm.Advantage(method="rloo"),
]
COUNT = 60

pytestmark = pytest.mark.filterwarnings("ignore:datasets. .* records -> .* rows:UserWarning")


@pytest.fixture(autouse=True)
def _small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Records are read seven at a time, so the numbers of records count on over reads."""
    monkeypatch.setattr(streams, "_READ_ROWS", 7)


def records_of(make, count: int = COUNT) -> list[dict]:
    return [make(i) for i in range(count)]


def dataset(make, count: int = COUNT) -> datasets.Dataset:
    return datasets.Dataset(pa.Table.from_pylist(records_of(make, count)))


def rows(made) -> list[tuple]:
    return [tuple(row.values()) for row in made]


def from_files(plan, make, words: dict, folder: Path) -> tuple[list[dict], pm.RunReport]:
    """The rows of a run over the same records in a file, and its report."""
    source = folder / "records.jsonl"
    source.write_text("".join(json.dumps(record) + "\n" for record in records_of(make)))
    report = pm.run(plan, source, folder / "made.parquet", overwrite=True, roles=words)
    return pl.read_parquet(folder / "made.parquet").to_dicts(), report


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.kind)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_form_gives_the_rows_of_files(shape, plan, tmp_path) -> None:
    make, words = SHAPES[shape]
    wanted, told = from_files(plan, make, words, tmp_path)
    assert wanted
    whole = dataset(make)
    made = pmd.apply(plan, whole, **words)
    names = [name for name in made.column_names if name in wanted[0]]
    assert {"prompt", "completion"} <= set(names) or {"chosen", "rejected"} <= set(names)

    def texts(some) -> list[tuple]:
        return [tuple(row[name] for name in names) for row in some]

    assert texts(made) == texts(wanted)
    stream = pmd.apply(plan, whole.to_iterable_dataset(num_shards=3), **words)
    assert stream.features == made.features
    assert rows(stream) == rows(made)
    assert rows(stream) == rows(made), "a second pass"
    report = pmd.report(plan, whole, **words)
    assert dict(report.dropped) == dict(told.dropped)
    for name in ("in", "rows", "dropped", "read_as"):
        assert report.records[name] == told.records[name]
    assert pmd.report(plan, whole.to_iterable_dataset(), **words) == report


@pytest.mark.parametrize("chunk_rows", [1, 5, 1000])
@pytest.mark.parametrize("shape", [name for name in SHAPES if name != "lists"])
def test_clustered_streams_keep_records_whole(shape, chunk_rows) -> None:
    make, words = SHAPES[shape]
    stream = dataset(make).to_iterable_dataset(num_shards=3)
    for plan in (PLANS[0], PLANS[2], PLANS[3]):
        made = pmd.apply(plan, stream, clustered=True, chunk_rows=chunk_rows, **words)
        assert rows(made) == rows(pmd.apply(plan, dataset(make), **words))


def test_prompts_of_lists_side_by_side() -> None:
    make, words = SHAPES["lists"]
    whole = dataset(make)
    stream = whole.to_iterable_dataset()
    made = pmd.apply(PLANS[0], stream, clustered=True, chunk_rows=3, **words)
    assert rows(made) == rows(pmd.apply(PLANS[0], whole, **words))
    mixed = whole.select([0, 2, 4, 1, 3]).to_iterable_dataset()
    with pytest.raises(pm.PrefmillError, match="comes back after other prompts"):
        list(pmd.apply(PLANS[0], mixed, clustered=True, chunk_rows=3, **words))


# Words


def test_words_of_the_plan_of_a_call_and_as_a_whole() -> None:
    make, words = SHAPES["judged"]
    plan, whole = pm.Pairs(rows=pm.Rows(**words)), dataset(make)
    wanted = rows(pmd.pairs(whole, **words))
    assert rows(pmd.apply(plan, whole)) == wanted
    assert rows(pmd.pairs(whole, rows=pm.Rows(**words))) == wanted
    ones = {"where": {"turn": 1}}
    fewer = rows(pmd.apply(plan, whole, **ones))
    assert fewer == rows(pmd.pairs(whole, **{**words, **ones}))
    assert 0 < len(fewer) < len(wanted)
    assert rows(pmd.pairs(whole)) == wanted, "recognised"
    stream = datasets.IterableDataset.from_generator(lambda: iter(records_of(make)))
    assert rows(pmd.pairs(stream)) == wanted, "recognised, of unknown types"


def test_columns_that_come_along() -> None:
    make, words = SHAPES["judged"]
    made = pmd.pairs(dataset(make), keep=["turn"], **words)
    assert made[0]["turn"] == 0, "both sides have the same"
    make, words = SHAPES["lists"]
    for form in (dataset(make), dataset(make).to_iterable_dataset()):
        picks = pmd.best_of(form, keep=["answers.by", "topic"], **words)
        first = next(iter(picks))
        assert (first["answers.by"], first["topic"]) == ("ash", "b")


def test_groups_and_weights_are_paths() -> None:
    make, words = SHAPES["judged"]
    together = pmd.pairs(dataset(make), group="prompt", **OFF, **words)
    apart = pmd.pairs(dataset(make), **words)
    assert len(together) < len(apart)
    make, words = SHAPES["lists"]
    by_topic = pmd.best_of(dataset(make), group="prompt,topic", **words)
    assert rows(by_topic) == rows(
        pmd.best_of(dataset(make).to_iterable_dataset(), group="prompt,topic", **words)
    )
    assert len(by_topic) > len(pmd.best_of(dataset(make), **words))
    words = {"prompt": "question", "completion": "answers.text"}
    summed = pm.BestOf(weights={"answers.rating": 2.0})
    twice = pmd.apply(summed, dataset(make), **words)
    once = pmd.best_of(dataset(make), score="answers.rating", **words)
    assert twice["score"][:] == [2 * score for score in once["score"][:]]
    stream = dataset(make).to_iterable_dataset()
    assert rows(pmd.apply(summed, stream, **words)) == rows(twice)


def test_contexts_of_records() -> None:
    records = [{"system": "Be kind.", "tools": "[]", **judged(i)} for i in range(5)]
    table = pa.Table.from_pylist(records)
    words = SHAPES["judged"][1]
    for form in (datasets.Dataset(table), datasets.Dataset(table).to_iterable_dataset()):
        first = next(iter(pmd.pairs(form, **words)))
        assert first["prompt"][0] == {"role": "system", "content": "Be kind."}
        assert first["tools"] == "[]"


def test_joins(tmp_path) -> None:
    questions = pl.DataFrame({"n": [0, 1, 2, 3], "text": ["A?", "B?", "C?", "D?"]})
    questions.write_csv(tmp_path / "questions.csv")
    records = [{"q": i % 5, "responses": [f"x{i}", f"y{i}"], "scores": [5, 1]} for i in range(10)]
    ds = datasets.Dataset(pa.Table.from_pylist(records))
    words = {
        "join": f"{tmp_path}/questions.csv:q=n",
        "prompt": "text",
        "each": "responses,scores",
    }
    wanted = ["A?", "B?", "C?", "D?"] * 2
    with pytest.warns(UserWarning, match="10 records -> 16 rows, 2 records dropped: unmatched"):
        assert pmd.rows(ds, **words)["prompt"][::2] == wanted
    stream = pmd.pairs(ds.to_iterable_dataset(), **words, clustered=False, strategy="all")
    assert {row["prompt"] for row in stream} == set(wanted)


# Forms of a data set


def test_an_indices_mapping_and_lists_of_fixed_length() -> None:
    fixed = datasets.Features(
        prompt=STRING,
        responses=datasets.List(STRING, length=2),
        scores=datasets.List(DOUBLE, length=2),
    )
    asked = {
        "prompt": ["p", "q", "r"],
        "responses": [["a", "b"], ["c", "d"], ["e", "f"]],
        "scores": [[1.0, 5.0], [5.0, 2.0], [1.0, 1.0]],
    }
    ds = datasets.Dataset.from_dict(asked, features=fixed)
    some = ds.select([2, 1, 0]).filter(lambda row: row["prompt"] != "r")
    wanted = [("q", "c", "d", 5.0, 2.0), ("p", "b", "a", 5.0, 1.0)]
    assert rows(pmd.pairs(some, each="responses,scores")) == wanted
    stream = some.to_iterable_dataset()
    assert rows(pmd.pairs(stream, each="responses,scores")) == wanted
    assert rows(pmd.pairs(stream)) == rows(pmd.pairs(some)) == wanted, "recognised"


def test_splits() -> None:
    make, words = SHAPES["judged"]
    splits = datasets.DatasetDict(train=dataset(make, 20), test=dataset(make, 11))
    streams_of = datasets.IterableDatasetDict(
        {name: split.to_iterable_dataset() for name, split in splits.items()}
    )
    made, streamed = pmd.rows(splits, **words), pmd.rows(streams_of, **words)
    assert (type(made), type(streamed)) == (datasets.DatasetDict, datasets.IterableDatasetDict)
    for name, split in splits.items():
        assert rows(made[name]) == rows(streamed[name]) == rows(pmd.rows(split, **words))
    reports = pmd.report(pm.Pairs(), streams_of, **words)
    assert {name: told.records["in"] for name, told in reports.items()} == {"train": 20, "test": 11}


def test_fractions_after_whole_numbers(monkeypatch) -> None:
    """The first rows of a stream without features say what its types are, but not of scores."""
    monkeypatch.setattr(streams, "_PEEK_ROWS", 4)
    records = [
        {"prompt": f"p{i}", "answers": [{"text": "a", "score": i}, {"text": "b", "score": last}]}
        for i, last in enumerate([1, 2, 3, 4, 0.5, 7.25])
    ]
    stream = datasets.IterableDataset.from_generator(lambda: iter(records))
    made = pmd.rows(stream, completion="answers.text", score="answers.score")
    assert [row["score"] for row in made][-3:] == [0.5, 5.0, 7.25]
    assert made.features["score"] == DOUBLE
    picks = pmd.best_of(stream, completion="answers.text", score="answers.score")
    assert [row["score"] for row in picks] == [1, 2, 3, 4, 4, 7.25]


def test_words_of_thumbs_are_recognised_in_every_form() -> None:
    records = [
        {"question": f"q{i // 2}", "answer": f"a{i}", "feedback": ("Up", "down", " up")[i % 3]}
        for i in range(12)
    ]
    whole = datasets.Dataset(pa.Table.from_pylist(records))
    bare = datasets.IterableDataset.from_generator(lambda: iter(records))
    wanted = rows(pmd.unpaired(whole))
    assert [row[2] for row in wanted].count(False) == 4
    for form in (whole.to_iterable_dataset(), bare):
        assert sorted(rows(pmd.unpaired(form))) == sorted(wanted)
        assert rows(pmd.pairs(form)) == rows(pmd.pairs(whole))
