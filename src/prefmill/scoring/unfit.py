"""Rows of tokens that no model can score: they are refused before one runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from prefmill.errors import BadRow, refuse
from prefmill.models.tokens import Encoded


def refuse_unknown_tokens(encoded: Encoded, sizes: Sequence[int], tokenizer: Any) -> None:
    """Raise `BadRow` for rows with ids that a model's embedding does not have.

    On a GPU they would end the process. `sizes`: how many ids each model's embedding has, as far
    as they tell.
    """
    rows = encoded.rows
    if not sizes or not len(rows.ids) or int(rows.ids.max()) < min(sizes):
        return
    places = np.flatnonzero(rows.ids >= min(sizes))
    owners = np.searchsorted(rows.offsets, places, side="right") - 1
    owners, first = np.unique(owners, return_index=True)
    hint = "the token was added to the tokenizer alone: resize the model's embedding, and train it."
    bad = []
    for row, token in zip(owners.tolist(), rows.ids[places[first]].tolist(), strict=True):
        name = tokenizer.convert_ids_to_tokens(token)
        what = (
            f"has the token {name!r}, which the model does not;"
            f" got id {token}, expected one below {min(sizes)}."
        )
        place = int(encoded.kept[row])
        bad.append(BadRow("score", what, row=place, reason="unknown_token", hint=hint))
    refuse(bad)


def refuse_without_tokens(encoded: Encoded) -> None:
    """Raise `BadRow` for rows without a completion token that something predicts.

    Their empty sum would be 0, and no other is as high.
    """
    rows = encoded.rows
    none = np.flatnonzero(rows.lengths <= np.maximum(rows.starts, 1)).tolist()
    what = "has no token that could be scored; got an empty completion, and nothing that ends it."
    refuse([BadRow("score", what, row=int(encoded.kept[i]), reason="no_tokens") for i in none])
