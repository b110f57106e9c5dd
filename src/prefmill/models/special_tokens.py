"""The tokens that a tokenizer puts around texts, and between two: separators and the BOS token."""

from __future__ import annotations

from collections import Counter
from typing import Any

from prefmill.errors import BadRow, refuse


def separates_pairs(tokenizer: Any) -> bool:
    """Whether a pair has a separator between its texts.

    A second BOS, as Llama's tokenizer puts there, is none.
    """
    second = tokenizer("b", add_special_tokens=False)["input_ids"]
    # What is left when both texts and what stands around one are taken away.
    more = Counter(tokenizer("a", "b")["input_ids"])
    more -= Counter(tokenizer("a")["input_ids"])
    more -= Counter(second)
    return any(token != tokenizer.bos_token_id for token in more)


def pair_ids(
    tokenizer: Any, prompts: list[str], completions: list[str], limit: int | None = None
) -> tuple[list[list[int]], list[list[int]] | None]:
    """The ids of pairs of texts, cut to `limit`, and the type of each token."""
    if not prompts:
        return [], None
    cut = {"truncation": "longest_first", "max_length": limit} if limit else {}
    encoding = tokenizer(prompts, completions, verbose=False, return_token_type_ids=True, **cut)
    return encoding["input_ids"], encoding.get("token_type_ids")


def refuse_two_bos(tokenizer: Any, ids: list[list[int]], template: str) -> None:
    """Refuse a second BOS at the front, which costs accuracy in silence."""
    bos = tokenizer.bos_token_id
    what = (
        f"begins with two BOS tokens ({tokenizer.bos_token!r}) by template {template!r};"
        " expected one."
    )
    hint = "take bos_token out of the prompt's text, or out of the template."
    bad = [i for i, row in enumerate(ids) if row[:2] == [bos, bos]]
    refuse([BadRow("score", what, row=i, reason="double_bos", hint=hint) for i in bad])
