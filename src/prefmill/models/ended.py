"""Rows that end in a token of the model's own, which is the one that it scores.

InternLM2's reward models add it in their `get_score`; their configuration names it.
"""

from __future__ import annotations

from typing import Any

from prefmill.models.encoder import Encoder


class EndedEncoder(Encoder):
    """An `Encoder` whose rows all end in the token `last`; one that ends so stays as it is."""

    def __init__(self, tokenizer: Any, *, last: int, **options: Any) -> None:
        self.last = last
        super().__init__(tokenizer, **options)

    @property
    def fingerprint(self) -> dict[str, str]:
        """As of every encoder, and the token."""
        return {**super().fingerprint, "last_token": str(self.last)}

    def _tokenize(self, texts: list[str], *, special: bool) -> list[list[int]]:
        rows = super()._tokenize(texts, special=special)
        return [row if row[-1:] == [self.last] else [*row, self.last] for row in rows]


def encoder_of(config: Any, tokenizer: Any, **options: Any) -> Encoder:
    """The encoder of a reward model, by its configuration's `reward_token_id`."""
    last = getattr(config, "reward_token_id", None)
    if isinstance(last, int) and not isinstance(last, bool) and options.get("template") != "pair":
        return EndedEncoder(tokenizer, last=last, **options)
    return Encoder(tokenizer, **options)
