"""Labels of steps over datasets and lazy frames: the rows of `prefmill.step_labels`."""

from __future__ import annotations

import datasets
import polars as pl
import pytest

import prefmill as pm
import prefmill.datasets as pmd
import prefmill.polars as pmp
from prefmill.errors import BadArgument, BadInput, ColumnMissing

RECORDS = {
    "question": ["q", "r", None],
    "steps": [["a", "b", "c"], ["d"], ["e"]],
    "mistake_index": [1, None, None],
}
WANTED = [
    {"prompt": "q", "completions": ["a", "b"], "labels": [True, False]},
    {"prompt": "r", "completions": ["d"], "labels": [True]},
]


def test_a_dataset():
    ds = datasets.Dataset.from_dict(RECORDS)
    made = pmd.step_labels(ds)
    assert list(made) == WANTED
    assert list(pmd.step_labels(ds.select([1, 0]))) == WANTED[::-1]
    splits = pmd.step_labels(datasets.DatasetDict({"a": ds, "b": ds.select([1])}))
    assert {name: len(split) for name, split in splits.items()} == {"a": 2, "b": 1}
    empty = pmd.step_labels(ds.select([2]))
    assert (len(empty), empty.features) == (0, made.features)
    with pytest.raises(BadArgument, match="cannot run over a list"):
        pmd.step_labels([RECORDS])


def test_a_stream_is_read_when_it_is_read():
    ds = datasets.Dataset.from_dict(RECORDS).to_iterable_dataset()
    made = pmd.step_labels(ds)
    assert list(made) == WANTED
    assert list(made) == WANTED
    three = {"prompt": ["p"], "steps": [["a", "b", "c"]], "ratings": [[1, 0, -1]]}
    stream = pmd.step_labels(datasets.Dataset.from_dict(three).to_iterable_dataset())
    with pytest.raises(BadInput, match="where 0 is right"):
        list(stream)


def test_a_lazy_frame():
    frame = pl.LazyFrame(RECORDS)
    made = pmp.step_labels(frame)
    assert made.collect_schema() == pm.step_labels(frame).schema
    assert made.collect().to_dicts() == WANTED
    assert frame.collect().pref.step_labels(after_error="false").rows() == [
        ("q", ["a", "b", "c"], [True, False, False]),
        ("r", ["d"], [True]),
    ]
    with pytest.raises(ColumnMissing, match="no column 'stepz'"):  # before anything is collected
        frame.pref.step_labels(steps="stepz", first_error="mistake_index")
