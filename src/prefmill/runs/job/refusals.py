"""What a job refuses before it makes anything of it, on one machine or on a cluster."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prefmill.engines.steps import Step
from prefmill.errors import BadArgument, BadScore
from prefmill.rules.explosion import EXPLOSION_HINT, refuse_hot_prompt

_WORD = 40  # characters of a text that is no score, in a message
_MOST_PROPOSALS = 1_000_000_000


def word_told(word: str) -> str:
    """A text that is no score, as Python writes it, cut to size."""
    return repr(word if len(word) <= _WORD else f"{word[:_WORD]}…")


def unusable(position: int, reason: str, bad_scores: Sequence[str]) -> BadScore:
    """The error of a row that cannot be used, where the plan has `on_invalid` raise.

    `bad_scores` are texts that are no score, the first one first.
    """
    if reason == "bad_score":
        reason = " ".join([reason, *bad_scores[:1]])
    return BadScore(
        f"run: row {position} cannot be used; got {reason}, and on_invalid is raise.",
        hint="on_invalid='drop' counts such rows.",
    )


def refuse_explosion(step: Step, proposals: int, largest: int) -> None:
    """Raise `BadArgument` where more pairs are proposed than anybody can want.

    `largest` are the answers of the largest prompt: it proposes the most.
    """
    bounds: Any = step.args
    # First what one prompt proposes: its hint says more.
    refuse_hot_prompt("run", largest or 0, bounds["top_k"], bounds["bottom_k"])
    if proposals > _MOST_PROPOSALS:
        raise BadArgument(
            f"run: {step.name} would propose {proposals:,} pairs"
            f" (largest prompt: {largest:,} answers);"
            f" expected at most {_MOST_PROPOSALS:,}.",
            hint=EXPLOSION_HINT,
        )
