"""Pairs whose better answer is known: it has more of the good words. Faults can be planted."""

from __future__ import annotations

import random
from typing import Any

GOOD = [
    "accurate",
    "careful",
    "clear",
    "complete",
    "correct",
    "detailed",
    "friendly",
    "helpful",
    "honest",
    "kind",
    "logical",
    "patient",
    "polite",
    "precise",
    "reliable",
    "relevant",
    "safe",
    "thoughtful",
    "true",
    "useful",
]
BAD = [
    "angry",
    "boring",
    "broken",
    "careless",
    "confusing",
    "cruel",
    "dangerous",
    "dishonest",
    "empty",
    "false",
    "harmful",
    "insulting",
    "lazy",
    "misleading",
    "nonsense",
    "rude",
    "sloppy",
    "stupid",
    "vague",
    "wrong",
]
OTHERS = [
    "answer",
    "apple",
    "bridge",
    "chair",
    "city",
    "cloud",
    "door",
    "engine",
    "field",
    "garden",
    "house",
    "island",
    "kitchen",
    "lamp",
    "letter",
    "market",
    "morning",
    "mountain",
    "number",
    "ocean",
    "paper",
    "people",
    "question",
    "river",
    "road",
    "school",
    "story",
    "street",
    "table",
    "window",
]
WORDS = [*GOOD, *BAD, *OTHERS]


def answer(draw: random.Random, good: float) -> str:
    """Three words of five are good or bad ones, `good` of them good."""
    words = []
    for _ in range(draw.randint(10, 30)):
        kind = (GOOD if draw.random() < good else BAD) if draw.random() < 0.6 else OTHERS
        words.append(draw.choice(kind))
    return " ".join(words)


def pairs_of(
    draw: random.Random, count: int, *, flipped: float = 0.0, upside_down: str = ""
) -> list[dict[str, Any]]:
    """Two pairs for each prompt. `planted` says which labels were flipped, and those of the
    annotator `upside_down` are all the wrong way round.
    """
    rows = []
    for number in range(count):
        sides = answer(draw, 0.8), answer(draw, 0.2)
        planted, annotator = draw.random() < flipped, draw.choice("uvwxyz")
        if planted != (annotator == upside_down):
            sides = sides[1], sides[0]
        row: dict[str, Any] = {"prompt": f"question {number // 2}"}
        row |= {"chosen": sides[0], "rejected": sides[1], "annotator": annotator}
        rows.append(row | {"source": draw.choice("abc"), "planted": planted})
    return rows
