"""Texts of benchmarks that stand in the data: words in a row that both have.

    benchmark texts ──words──▶ runs of 13 ──▶ hashes; the texts of the data, some at a time, against
    them; what meets is compared word by word, and the whole run that both have is shown

The rule is that of GPT-3 (Brown et al. 2020, arXiv:2005.14165, appendix C): 13 words in a row,
without case and punctuation. A benchmark text of 8 to 12 words has to be there whole, and of a
shorter one nothing is said.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.connection import connect, quote
from prefmill.reports.found import Against, Span
from prefmill.reports.tables import text_sql
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import opened_source

#: Words in a row that say that a text is there, and the shortest text that is looked for.
WORDS, FEWEST = 13, 8
_BATCH = 2000
_EXAMPLES, _LONG = 10, 400
_WORD = re.compile(r"\w+")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
Hashes = npt.NDArray[np.uint64]


def words_of(text: str) -> list[str]:
    """The words of a text, as they are compared.

    >>> words_of("It's 3 o'clock: TEA!")
    ['it', 's', '3', 'o', 'clock', 'tea']
    """
    return [match[0].casefold() for match in _WORD.finditer(text)]


class Benchmark:
    """The runs of words of a benchmark file, by their hashes."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.texts: list[tuple[int, list[str]]] = []  # the row of each text, and its words
        self.short = 0
        with (
            opened_source("report", self.path) as (source, home),
            connect(temp_dir=home, reads=source.reads, remote=source.remote) as con,
        ):
            listed = ", ".join(f"{quote(name)}::VARCHAR" for name in source.columns.names)
            self.rows = self._read(con.execute(f"SELECT {listed} FROM {source.relation}"))
        self.sizes = sorted({min(WORDS, len(words)) for _, words in self.texts})
        self.runs: dict[int, list[tuple[int, int]]] = defaultdict(list)
        flat, starts = _flat([words for _, words in self.texts])
        for size in self.sizes:
            hashes = _runs(flat, size)
            for number, (_, words) in enumerate(self.texts):
                if min(WORDS, len(words)) != size:
                    continue
                first = starts[number]
                for at, key in enumerate(hashes[first : first + len(words) - size + 1].tolist()):
                    self.runs[key].append((number, at))
        self.known = np.array(sorted(self.runs), dtype=np.uint64)

    def _read(self, rows: Any) -> int:
        row = 0
        while batch := rows.fetchmany(_BATCH):
            for record in batch:
                for cell in record:
                    words = words_of(cell) if cell else []
                    if len(words) >= FEWEST:
                        self.texts.append((row, words))
                    elif len(words) > 1:
                        self.short += 1
                row += 1
        return row

    def may(self, flat: Hashes) -> npt.NDArray[np.int64]:
        """Where among words in a row a run has the hash of one of the benchmark's."""
        found = [np.zeros(0, dtype=np.int64)]
        for size in self.sizes:
            hashes = _runs(flat, size)
            places = np.searchsorted(self.known, hashes)
            places[places == len(self.known)] = 0
            found.append(np.flatnonzero(self.known[places] == hashes))
        return np.concatenate(found)

    def span_in(self, text: str) -> tuple[int, str, int] | None:
        """The row, the words in a row that `text` has of it, and how many; None where none are."""
        places = list(_WORD.finditer(text))
        words = [match[0].casefold() for match in places]
        flat, _ = _flat([words])
        for size in self.sizes:
            for at, key in enumerate(_runs(flat, size).tolist()):
                for number, start in self.runs.get(key, ()):
                    row, other = self.texts[number]
                    if other[start : start + size] != words[at : at + size]:
                        continue
                    end = size
                    both = min(len(words) - at, len(other) - start)
                    while end < both and words[at + end] == other[start + end]:
                        end += 1
                    return row, text[places[at].start() : places[at + end - 1].end()], end
        return None


def _flat(texts: Sequence[Sequence[str]]) -> tuple[Hashes, npt.NDArray[np.int64]]:
    """The hashes of the words of all texts in a row, and where each text begins."""
    words = pl.Series([word for text in texts for word in text], dtype=pl.String)
    starts = np.cumsum([0, *map(len, texts)])[:-1]
    return words.hash(seed=0).to_numpy().astype(np.uint64), starts.astype(np.int64)


def _runs(flat: Hashes, size: int) -> Hashes:
    """A hash of each run of `size` words."""
    runs = max(0, len(flat) - size + 1)
    total = np.zeros(runs, dtype=np.uint64)
    for place in range(size):
        total = total * _FACTOR + flat[place : place + runs]
    # Runs of different sizes are never the same.
    return total ^ np.uint64(size)


def against(job: Job, benchmarks: Sequence[Benchmark]) -> list[Against]:
    """What prompts and answers have of each benchmark."""
    met: dict[int, dict[str, int]] = {n: {"prompt": 0, "answer": 0} for n in range(len(benchmarks))}
    spans: dict[int, list[Span]] = defaultdict(list)
    for side, column in (("prompt", "_prompt"), ("answer", "_completion")):
        for positions, texts in _texts(job, side, column):
            flat, starts = _flat([words_of(text) for text in texts])
            for number, benchmark in enumerate(benchmarks):
                # A run may go from one text into the next: which have one is told by words.
                places = np.searchsorted(starts, benchmark.may(flat), side="right") - 1
                for place in np.unique(places).tolist():
                    found = benchmark.span_in(texts[place])
                    if found is None:
                        continue
                    met[number][side] += 1
                    if len(spans[number]) < _EXAMPLES:
                        row, span, size = found
                        at = positions[place] // job.source.width
                        spans[number].append(Span(side, at, row, size, span[:_LONG]))
    return [
        Against(
            file=benchmark.path,
            rows=benchmark.rows,
            texts=len(benchmark.texts),
            short=benchmark.short,
            prompts=met[number]["prompt"],
            answers=met[number]["answer"],
            spans=spans[number],
        )
        for number, benchmark in enumerate(benchmarks)
    ]


def _texts(job: Job, key: str, column: str) -> Iterator[tuple[list[int], list[str]]]:
    """The different texts of a column, some at a time, with the first row that has each."""
    query = (
        f"SELECT f.pos, {text_sql(job, column)} AS text FROM (SELECT min(pos) AS pos FROM facts"
        f" WHERE {key} IS NOT NULL GROUP BY {key}) f JOIN texts ON texts._pos = f.pos"
        " ORDER BY f.pos"
    )
    for batch in job.con.cursor().sql(query).to_arrow_reader(_BATCH):
        frame = pl.DataFrame(batch)
        yield frame["pos"].to_list(), frame["text"].to_list()
