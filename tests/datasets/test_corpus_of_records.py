"""Rows that records become, by `prefmill.datasets.rows`: the corpus of shapes against its oracle,
whole, as a stream, and as a stream of unknown types.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import pyarrow as pa
import pytest
import shapes
from corpus import ENTRIES
from entry import Entry
from shape_files import write
from shape_paths import word

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")

import prefmill.datasets as pmd  # noqa: E402
from prefmill.shown import amount  # noqa: E402

#: What no table in memory holds: a list that is text by turns. And what is a matter of files.
LEFT_OUT = ("lm-eval samples, older", "A file for each model")
HELD = [entry for entry in ENTRIES if entry.name not in LEFT_OUT]


def whole(records: list[dict]) -> datasets.Dataset:
    return datasets.Dataset(pa.Table.from_pylist(records))


def stream(records: list[dict]) -> datasets.IterableDataset:
    return whole(records).to_iterable_dataset(num_shards=3)


def bare(records: list[dict]) -> datasets.IterableDataset:
    """A stream that does not know its features."""
    made = datasets.IterableDataset.from_generator(lambda: iter(records))
    assert made.features is None
    return made


def told(row: dict, named: list[str]) -> tuple:
    """What an oracle's row and ours have in common: messages without the keys that they lack."""
    texts = [row["prompt"], row["completion"]]
    for place, value in enumerate(texts):
        if isinstance(value, list):
            turns = shapes.conversation(value) or []
            said = [{key: text for key, text in turn.items() if text is not None} for turn in turns]
            texts[place] = said
    score = row["score"]
    return *texts, None if score is None else word(score), *(row[name] for name in named)


@pytest.mark.parametrize("form", [whole, stream, bare], ids=lambda form: form.__name__)
@pytest.mark.parametrize("entry", HELD, ids=lambda entry: entry.name.replace(" ", "_"))
def test_rows_are_those_of_the_oracle(entry: Entry, form, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # joined files are named from here
    write(entry, tmp_path)
    expected = shapes.long_rows(entry.records, entry.words, joined=entry.files)
    with warnings.catch_warnings(record=True) as notes:
        warnings.simplefilter("always", UserWarning)
        made = list(pmd.rows(form(entry.records), **entry.words))
    named = [role for role in ("source", "id", "system") if role in entry.words]
    named += ["annotator"] if "annotator" in expected.roles else []
    assert [told(row, named) for row in made] == [told(row, named) for row in expected.rows]
    if expected.roles.get("group") == ["_record"]:
        assert [row["record"] for row in made] == [row["_record"] for row in expected.rows]
    notes = [str(note.message) for note in notes if "records ->" in str(note.message)]
    asked = ("filtered", "disagreement")
    lost = [name for name in entry.dropped if name not in asked]
    assert bool(notes) == bool(lost or entry.votes)
    for name, count in entry.dropped.items():
        assert not notes or f"{amount(count, 'record')} dropped: {name}" in notes[0]


KNOWN = [entry for entry in HELD if entry.means and not entry.line]


@pytest.mark.filterwarnings("ignore:datasets. .* records -> .* rows:UserWarning")
@pytest.mark.parametrize("form", [whole, stream, bare], ids=lambda form: form.__name__)
@pytest.mark.parametrize("entry", KNOWN, ids=lambda entry: entry.name.replace(" ", "_"))
def test_shapes_are_recognised(entry: Entry, form) -> None:
    """By names, types, and values of the first records; the names of models may come besides."""

    def texts(made) -> list[tuple]:
        return [(row["prompt"], row["completion"], row["score"]) for row in made]

    records = form(entry.records)
    found, named = pmd.rows(records), pmd.rows(records, **entry.words)
    assert texts(found) == texts(named)
    assert ("record" in found.features) == ("record" in named.features)


def test_some_are_recognised() -> None:
    assert len(KNOWN) >= 15
