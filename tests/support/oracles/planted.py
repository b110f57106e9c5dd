"""Judges with a bias that is planted: what they say of answers that are made up."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from prefmill.rules.audits.answers import Answers
from prefmill.rules.audits.texts import FORMATS
from prefmill.rules.audits.twice import Shown


@dataclass(frozen=True)
class Judge:
    """What a judge adds to the quality of an answer (whose spread is 1).

    `first` is a chance: so often it names the answer shown first, whatever the answers are.
    """

    noise: float = 0.5
    longer: float = 0.0  # for twice the length
    bold: float = 0.0
    own: float = 0.0
    first: float = 0.0


FAIR = Judge()


def world(
    seed: int,
    *,
    prompts: int = 200,
    answers: int = 4,
    human: float | None = None,
    quality_of_length: float = 0.0,
    sources: bool = False,
    ragged: bool = False,
) -> tuple[Answers, np.ndarray]:
    """Answers without scores, and their quality. Long ones have more formats. A human adds `human`
    of noise to the quality.
    """
    draw = np.random.default_rng(seed)
    sizes = np.full(prompts, answers)
    if ragged:
        sizes = draw.integers(1, 2 * answers, prompts)
    prompt = np.repeat(np.arange(prompts), sizes)
    rows = len(prompt)
    log = draw.normal(9, 0.8, rows)
    quality = draw.normal(0, 1, rows) + quality_of_length * (log - 9)
    # Prompts differ in difficulty: no comparison across them means anything.
    quality += draw.normal(0, 2, prompts)[prompt]
    formats = {}
    for place, name in enumerate(FORMATS):
        rate = (0.4, 0.15, 0.4, 0.2, 0.05)[place]
        formats[name] = draw.random(rows) < rate * np.clip(1 + (log - 9), 0.1, 2)
    reference = np.full(rows, np.nan)
    if human is not None:
        reference = quality + draw.normal(0, human, rows)
    source = draw.integers(0, 4, rows) if sources else np.full(rows, -1)
    made = Answers(
        prompt=prompt,
        ballot=prompt,
        answer=np.arange(rows),
        judge=np.zeros(rows, dtype=np.int64),
        score=np.zeros(rows),
        reference=reference,
        length=np.rint(2**log).astype(np.int64),
        formats=formats,
        source=source,
        own=source == 0 if sources else None,
        ordered=False,
    )
    return made, quality


def scored(judge: Judge, answers: Answers, quality: np.ndarray, seed: int) -> Answers:
    """The answers with what the judge says of each."""
    draw = np.random.default_rng([seed, 1])
    score = quality + draw.normal(0, judge.noise, len(quality))
    score += judge.longer * (np.log2(answers.length) - 9)
    score += judge.bold * answers.formats["bold"]
    if answers.own is not None:
        score += judge.own * answers.own
    return replace(answers, score=score)


def battles(seed: int, *, prompts: int = 120, per: int = 2, first: float = 0.0) -> Answers:
    """Verdicts on two answers of sources of unequal strength, their order drawn by chance."""
    draw = np.random.default_rng([seed, 7])
    matches = prompts * per
    sources = np.array([draw.choice(4, 2, replace=False) for _ in range(matches)])
    quality = np.array([0.0, 0.5, 1.0, 2.0])[sources] + draw.normal(0, 1, (matches, 2))
    wins = (quality[:, 0] > quality[:, 1]) | (draw.random(matches) < first)
    rows = 2 * matches
    return Answers(
        prompt=np.repeat(np.repeat(np.arange(prompts), per), 2),
        ballot=np.repeat(np.arange(matches), 2),
        answer=np.arange(rows),
        judge=np.zeros(rows, dtype=np.int64),
        score=np.stack([wins, ~wins], axis=1).astype(np.float64).ravel(),
        reference=np.full(rows, np.nan),
        length=np.rint(2 ** draw.normal(9, 0.8, rows)).astype(np.int64),
        formats={name: draw.random(rows) < 0.3 for name in FORMATS},
        source=sources.ravel(),
        own=None,
        ordered=True,
    )


def in_both_orders(judge: Judge, seed: int, *, prompts: int = 200, pairs: int = 1) -> Shown:
    """Verdicts on pairs, asked in both orders."""
    draw = np.random.default_rng([seed, 2])
    prompt = np.repeat(np.arange(prompts), pairs)
    gap = draw.normal(0, 2**0.5, len(prompt))

    def verdict(sign):
        heard = sign * gap + draw.normal(0, judge.noise * 2**0.5, len(gap))
        taken = draw.random(len(gap)) < judge.first
        return np.where(taken, 0.5, np.sign(heard) / 2)

    return Shown(prompt, verdict(1), verdict(-1))


NOBODY = Shown(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))


def leaning(answers: Answers, what: np.ndarray, points: float, seed: int) -> Answers:
    """Ballots of two in which the answer with more of `what` wins by `points` over one half."""
    draw = np.random.default_rng([seed, 3])
    one, two = np.arange(0, len(what), 2), np.arange(1, len(what), 2)
    assert (answers.ballot[one] == answers.ballot[two]).all()
    chance = 0.5 + points * np.sign(what[one].astype(float) - what[two])
    wins = draw.random(len(one)) < chance
    score = np.empty(len(what))
    score[one], score[two] = wins, ~wins
    return replace(answers, score=score)
