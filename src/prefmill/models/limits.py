"""The most tokens of a row: what a model takes, and what becomes of rows that are longer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from prefmill.errors import BadRow, refuse

OnTooLong = Literal["error", "null", "truncate"]

# Encoders that number positions from pad_token_id + 1, so that as many fewer are left for tokens.
_BEHIND_PAD = frozenset(
    {
        "camembert",
        "data2vec-text",
        "ibert",
        "longformer",
        "mpnet",
        "roberta",
        "roberta-prelayernorm",
        "xlm-roberta",
        "xlm-roberta-xl",
        "xmod",
    }
)


def longest(config: Any, tokenizer: Any) -> int | None:
    """The most tokens that the model takes; None: no limit is known.

    It is the smaller of its positions and its tokenizer's own limit.
    """
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None) or getattr(text, "n_positions", None)
    rope = getattr(text, "rope_parameters", None) or {}
    if positions and text.model_type in _BEHIND_PAD:
        positions -= (text.pad_token_id or 0) + 1
    # There it is the length from which frequencies are stretched.
    if positions and rope.get("rope_type") == "dynamic":
        positions = int(positions * rope.get("factor", 1))
    limits = [positions, tokenizer.model_max_length]
    known = [int(n) for n in limits if n and n < 10**7]
    return min(known, default=None)


def refuse_empty(ids: Sequence[Sequence[int]]) -> None:
    """Refuse rows without tokens."""
    empty = [i for i, row in enumerate(ids) if not row]
    what = "has no tokens at all; got an empty prompt and completion, expected text."
    refuse([BadRow("score", what, row=i, reason="no_tokens") for i in empty])


def too_long(row: int, tokens: int, limit: int) -> BadRow:
    """The error for a row over the limit."""
    what = f"is too long; got {tokens:,} tokens, expected at most {limit:,}."
    hint = "--on-too-long null or truncate, or a larger --max-length if the model allows it."
    return BadRow("score", what, row=row, reason="too_long", hint=hint)
