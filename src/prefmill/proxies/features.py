"""What a proxy reads of an answer: its vector, its length, and whether it has a list."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl

from prefmill.models.embedding import Embedder
from prefmill.rules.audits.texts import measures
from prefmill.rules.intervals import Floats


def features(
    embedder: Embedder, texts: pl.Series, tell: Callable[[float], None] = lambda share: None
) -> Floats:
    """A row for each answer. A proxy is fitted to differences of two rows.

    Length and lists are what the floors know, so that a proxy can get right what they do. Their
    scale is that of vectors, whose length is 1.
    """
    vectors = embedder.embed(texts.to_list(), tell)
    looks = measures(pl.col("text"))
    found = (
        texts.alias("text")
        .to_frame()
        .select(
            length=looks["length"].cast(pl.Float64).log1p(), lists=looks["lists"].cast(pl.Float64)
        )
    )
    return np.concatenate([vectors.astype(np.float64), found.to_numpy()], axis=1)
