"""Prompts that mean nearly the same in other words: their vectors point the same way.

    prompts ──encoder──▶ vectors ──cosine──▶ each prompt and the earlier one that is closest

MinHash (`near.py`) sees the same letters; this sees a question asked again in other words. It is a
proposal to read: nothing tells what a vector means. The measure is that of SemDeDup (Abbas et al.
2023, arXiv:2303.09540), without its clusters, since all pairs of 20,000 prompts take seconds.
Answers are not compared: those to one prompt mean the same by nature.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from prefmill.models.embedding import Embedder, Vectors
from prefmill.reports.found import Alike
from prefmill.reports.parts import short
from prefmill.reports.tables import text_sql
from prefmill.runs.job.job import Job

#: Two prompts are alike from this cosine on. With the default encoder 25 of 30 paraphrases are, and
#: none of the 323,610 pairs of 805 real prompts; of questions about two things of a kind (Hamlet,
#: Macbeth) some are.
ALIKE = 0.8
#: Prompts that are read; of more, so many are drawn.
MOST = 20_000
_TOKENS = 128
_BLOCK = 1024
_EXAMPLES, _SHORT = 5, 120


class Alikes:
    """The encoder that prompts are read by: a folder or a hub id; None: all-MiniLM-L6-v2."""

    def __init__(self, encoder: str | Path | None) -> None:
        self.name = "all-MiniLM-L6-v2" if encoder is None else str(encoder)
        self.embedder = Embedder(encoder, max_tokens=_TOKENS, where="report", option="--encoder")

    def of(self, job: Job) -> Alike:
        """What is alike of the prompts of `facts`. Cost: about 10 ms a prompt of 160 characters."""
        con, table = job.con, "alike_prompts"
        # The keys are hashes of texts, so that the first ones are a draw that order cannot change.
        con.execute(
            f"CREATE TABLE {table} AS SELECT min(pos) AS pos, count(DISTINCT split) AS splits,"
            " min(split) AS split, count(*) OVER () AS texts FROM facts WHERE prompt IS NOT NULL"
            f" GROUP BY prompt ORDER BY prompt LIMIT {MOST}"
        )
        query = (
            f"SELECT pos, texts, split, splits, {text_sql(job, '_prompt')} AS text FROM {table}"
            " JOIN texts ON _pos = pos ORDER BY pos"
        )
        frame = pl.DataFrame(con.sql(query).to_arrow_table())
        texts = frame["text"].to_list()
        vectors = self.embedder.embed(
            texts, lambda share: job.tell("reading what prompts mean", share)
        )
        found = _closest(vectors, _places(frame))
        examples = sorted(found, key=lambda each: (-each.cosine, each.row))[:_EXAMPLES]
        return Alike(
            encoder=self.name,
            texts=int(frame["texts"][0]) if frame.height else 0,
            read=frame.height,
            alike=len(found),
            across=sum(each.across for each in found),
            examples=[
                (each.cosine, short(texts[each.earlier], _SHORT), short(texts[each.row], _SHORT))
                for each in examples
            ],
        )


class _Found(NamedTuple):
    """A row that is alike an earlier one; whether that is in another split."""

    row: int
    earlier: int
    cosine: float
    across: bool


def _places(frame: pl.DataFrame) -> npt.NDArray[np.int64]:
    """A number for the split of each prompt; one of several splits has a number of its own."""
    own = -1 - pl.int_range(pl.len())
    split = pl.col("split").rank("dense").fill_null(0).cast(pl.Int64)
    return (
        frame.select(pl.when(pl.col("splits") > 1).then(own).otherwise(split))
        .to_series()
        .to_numpy()
    )


def _closest(vectors: Vectors, splits: npt.NDArray[np.int64]) -> list[_Found]:
    """Each row that is alike an earlier one, with the closest of another split, or else of all."""
    found: list[_Found] = []
    for start in range(0, len(vectors), _BLOCK):
        end = min(start + _BLOCK, len(vectors))
        rows = np.arange(end - start)
        cosines = vectors[start:end] @ vectors[:end].T
        cosines[np.triu(np.ones(cosines.shape, bool), start)] = -1  # itself, and later ones
        elsewhere = splits[start:end, None] != splits[None, :end]
        apart = np.where(elsewhere, cosines, -1).argmax(axis=1)
        across = elsewhere[rows, apart] & (cosines[rows, apart] >= ALIKE)
        best = np.where(across, apart, cosines.argmax(axis=1))
        for row in np.flatnonzero(cosines[rows, best] >= ALIKE).tolist():
            # Digits beyond are those of the size of a block.
            cosine = round(float(cosines[row, best[row]]), 3)
            found.append(_Found(start + row, int(best[row]), cosine, bool(across[row])))
    return found
