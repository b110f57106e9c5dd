"""The oracle of shapes gives what was written by hand, for every entry of the corpus."""

from __future__ import annotations

from collections import Counter

import pytest
import shapes
from corpus import ENTRIES
from entry import Entry


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_first_rows_and_counts(entry: Entry) -> None:
    reading = shapes.long_rows(
        entry.records, entry.words, files=entry.places or None, joined=entry.files
    )
    rows = [(row["prompt"], row["completion"], row["score"]) for row in reading.rows]
    assert rows[: len(entry.first)] == entry.first
    assert len(rows) == entry.rows
    assert reading.dropped == Counter(entry.dropped)
    assert reading.votes == Counter(entry.votes)
    assert reading.records == len(entry.records)


def test_the_corpus_is_wide() -> None:
    assert len(ENTRIES) >= 60
    assert len({entry.name for entry in ENTRIES}) == len(ENTRIES)
    assert all(len(entry.records) >= 5 for entry in ENTRIES)
    kinds = {"jsonl", "json", "csv", "tsv", "parquet", "xlsx", "jsonl.gz", "jsonl.zst"}
    assert {entry.kind for entry in ENTRIES} == kinds
