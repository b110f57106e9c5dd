"""Raw records in data sets: what is told of them, what is refused, what the cache knows."""

from __future__ import annotations

import multiprocessing
import os
import warnings

import pyarrow as pa
import pytest
from test_records import PLANS, SHAPES, dataset, lists, records_of, rows

import prefmill as pm

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")

datasets.disable_progress_bars()

import prefmill.datasets as pmd  # noqa: E402
from prefmill.datasets import streams  # noqa: E402
from prefmill.datasets.cards import card  # noqa: E402

JUDGED, WORDS = SHAPES["judged"]
DROPS = "60 records -> 72 rows, 12 records dropped: null_verdict, 12 records dropped: unknown"


def stream(make, count: int = 60) -> datasets.IterableDataset:
    return dataset(make, count).to_iterable_dataset(num_shards=3)


# The account


@pytest.mark.parametrize("clustered", [False, True])
def test_records_without_rows_are_told_in_every_form(clustered) -> None:
    plan = PLANS[0]
    with pytest.warns(UserWarning, match=DROPS):
        wanted = rows(pmd.apply(plan, dataset(JUDGED), **WORDS))
    made = pmd.apply(plan, stream(JUDGED), clustered=clustered, **WORDS)
    with pytest.warns(UserWarning, match=DROPS):
        assert rows(made) == wanted
    with pytest.warns(UserWarning, match=DROPS):
        long = pmd.rows(dataset(JUDGED), **WORDS)
    with pytest.warns(UserWarning, match=DROPS):
        assert rows(pmd.rows(stream(JUDGED), **WORDS)) == rows(long)


def test_what_nobody_wants_is_no_news() -> None:
    words = {**WORDS, "where": "winner=B"}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pmd.rows(dataset(JUDGED), **words)) == 24
        assert len(list(pmd.rows(stream(JUDGED), **words))) == 24
        report = pmd.report(pm.Pairs(), dataset(JUDGED), **words)
    assert report.records["dropped"] == {"filtered": 48}


def test_votes_without_a_verdict_are_told() -> None:
    records = [
        {"prompt": "p", "answer_x": f"a{i}", "answer_y": f"b{i}", "j1": "x", "j2": "xy?"[i]}
        for i in range(3)
    ]
    ds = datasets.Dataset(pa.Table.from_pylist(records))
    words = {"completion": "answer_x,answer_y", "winner": "j1,j2"}
    for form in (ds, ds.to_iterable_dataset()):
        with pytest.warns(UserWarning, match="3 records -> 10 rows, 1 vote without a verdict"):
            long = list(pmd.rows(form, **words))
        assert [row["annotator"] for row in long[-2:]] == ["j1", "j1"]


@pytest.mark.filterwarnings("ignore:datasets. .* records -> .* rows:UserWarning")
def test_the_number_of_the_record_is_a_column_where_records_are_groups() -> None:
    long = pmd.rows(dataset(JUDGED), **WORDS)
    assert long.column_names == ["prompt", "completion", "score", "winner", "turn", "record"]
    assert long["record"][:4] == [0, 0, 1, 1]
    apart = pmd.pairs(long, group="record", chosen_min=None, rejected_below=None)
    assert rows(apart) == rows(pmd.pairs(dataset(JUDGED), **WORDS))
    taken = dataset(JUDGED).rename_column("turn", "record")
    for form in (taken, taken.to_iterable_dataset()):
        with pytest.raises(pm.PrefmillError, match="a column 'record'"):
            pmd.rows(form, **WORDS)
        assert rows(pmd.pairs(form, **WORDS)) == rows(apart)


def test_rows_of_a_table_in_long_form_have_the_names_of_roles() -> None:
    ds = datasets.Dataset.from_dict({"question": ["p"], "answer": ["a"], "rank": [2], "n": [1]})
    wanted = {"prompt": "p", "completion": "a", "score": -2.0, "n": 1}
    assert list(pmd.rows(ds, score="-rank")) == [wanted]
    assert list(pmd.rows(ds.to_iterable_dataset(), score="-rank")) == [wanted]
    assert pmd.rows(ds).column_names == ["prompt", "completion", "rank", "n"], "without a score"


def test_a_card_says_how_records_were_read() -> None:
    plan = pm.Pairs(rows=pm.Rows(**WORDS))
    text = card(plan, pmd.report(plan, dataset(JUDGED)))
    assert "[rows]\ncompletion" in text
    line = "read as `--prompt prompt --completion response_a,response_b --winner winner`"
    assert f"{line}; {DROPS}_verdict\n" in text
    plain = datasets.Dataset.from_dict({"prompt": ["p"], "completion": ["a"], "score": [1]})
    assert "raw record" not in card(pm.Pairs(), pmd.report(pm.Pairs(), plain))


# Refusals


def test_lists_of_different_lengths_are_told_by_the_number_of_their_record(monkeypatch) -> None:
    monkeypatch.setattr(streams, "_READ_ROWS", 4)
    records = [{"prompt": "p", "answers": ["a", "b"], "scores": [1, 2]} for _ in range(10)]
    records[6]["scores"] = [1, 2, 3]
    ds = datasets.Dataset(pa.Table.from_pylist(records))
    for form in (ds, ds.to_iterable_dataset()):
        for work in (pmd.pairs, pmd.rows):
            with pytest.raises(pm.PrefmillError, match="the lists of row 6 have different lengths"):
                list(work(form, each="answers,scores"))


def test_what_has_no_meaning_here() -> None:
    for form in (dataset(JUDGED), stream(JUDGED)):
        with pytest.raises(pm.PrefmillError, match="file_as needs files"):
            pmd.pairs(form, file_as="model", **WORDS)
        with pytest.raises(pm.PrefmillError, match="no column 'respons_a'"):
            pmd.rows(form, completion="respons_a,response_b", winner="winner")
        with pytest.raises(pm.PrefmillError, match="no column for the role 'completion'"):
            pmd.pairs(form.select_columns(["prompt", "turn"]))
    with pytest.raises(pm.PrefmillError, match="cannot run over a list"):
        pmd.rows([])


@pytest.mark.parametrize(
    ("texts", "known"), [(['{"score":1}', '{"score":2}'], True), (['{"score":1}', "[2]"], False)]
)
def test_paths_into_json(texts, known) -> None:
    """A table as a whole is decoded; where its values have no type together they stay text."""
    marked = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts))
    columns = {"prompt": ["p", "p"], "completion": ["a", "b"], "meta": marked}
    ds = datasets.Dataset(pa.table(columns))
    with pytest.raises(pm.PrefmillError, match="leads into JSON text, whose types"):
        pmd.rows(ds.to_iterable_dataset(), score="meta.score")
    if known:
        assert pmd.rows(ds, score="meta.score")["score"][:] == [1, 2]
        return
    with pytest.raises(pm.PrefmillError, match="leads into JSON text, whose types"):
        pmd.rows(ds, score="meta.score")


# The cache, and processes


@pytest.mark.filterwarnings("ignore:datasets. .* records -> .* rows:UserWarning")
def test_the_cache_knows_the_words(tmp_path) -> None:
    dataset(JUDGED).save_to_disk(tmp_path / "data")
    ds = datasets.load_from_disk(tmp_path / "data")
    made = pmd.pairs(ds, **WORDS)
    files = {tuple(file.values()) for file in made.cache_files}
    assert len(files) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing is told, for nothing runs
        again = pmd.pairs(ds, **WORDS)
        assert again._fingerprint == made._fingerprint
    others = [
        pmd.pairs(ds, **WORDS, where="turn=1"),
        pmd.pairs(ds, **WORDS, group="prompt"),
        pmd.pairs(ds, **{**WORDS, "completion": "response_b,response_a"}),
        pmd.pairs(ds, **WORDS, keep=["turn"]),
        pmd.rows(ds, **WORDS),
        pmd.rows(ds, **WORDS, where="turn=1"),
    ]
    assert len({one._fingerprint for one in (made, *others)}) == 7
    assert rows(pmd.pairs(ds, **WORDS, where="turn=1")) == rows(others[0])


def test_the_cache_knows_what_is_joined(tmp_path) -> None:
    table = pa.Table.from_pylist([{"q": 1, "answers": ["a", "b"], "scores": [5, 1]}])
    datasets.Dataset(table).save_to_disk(tmp_path / "data")
    ds = datasets.load_from_disk(tmp_path / "data")
    told = []
    for text in ("one", "two", "one"):
        (tmp_path / "questions.jsonl").write_text(f'{{"q": 1, "prompt": "{text}"}}\n')
        made = pmd.pairs(ds, join=f"{tmp_path}/questions.jsonl:q", each="answers,scores")
        told.append((made["prompt"][0], made._fingerprint))
    assert [text for text, _ in told] == ["one", "two", "one"]
    assert told[0] == told[2] != told[1]


def _put(work, queue) -> None:
    try:
        queue.put(work())
    except Exception as error:
        queue.put(str(error))


def forked(work) -> object:
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    worker = context.Process(target=_put, args=(work, queue))
    worker.start()
    try:
        return queue.get(timeout=240)
    finally:
        worker.kill()
        worker.join()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:datasets. .* records -> .* rows:UserWarning")
def test_a_forked_process_reads_rows_of_records() -> None:
    long, pairs = pmd.rows(stream(JUDGED), **WORDS), pmd.pairs(stream(JUDGED), **WORDS)
    assert forked(lambda: rows(long)) == rows(long)
    assert forked(lambda: rows(pairs)) == rows(pairs)
    whole = dataset(lists)
    assert "forked" in forked(lambda: pmd.rows(whole, completion="answers.text"))


def test_a_stream_of_records_of_unknown_types_can_be_read_again() -> None:
    make, words = SHAPES["ranked"]
    source = datasets.IterableDataset.from_generator(lambda: iter(records_of(make)))
    made = pmd.rows(source, **words)
    assert rows(made) == rows(made) == rows(pmd.rows(dataset(make), **words))
    assert [row["completion"] for row in made.skip(3).take(2)] == ["o10", "o11"]
