"""A score of each side from judged rows, by the method that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from prefmill.errors import BadArgument, either
from prefmill.rules.intervals import Floats
from prefmill.rules.judges import Agreed, Consensus, agreed
from prefmill.rules.strengths import PairLikelihood, RankingLikelihood, Strengths, strengths
from prefmill.rules.votes import (
    Ints,
    Judged,
    compared,
    components,
    elo,
    elo_ends,
    met,
    summed,
    win_rates,
)

Method = Literal[
    "bradley-terry", "davidson", "plackett-luce", "elo", "win-rate", "dawid-skene", "mace"
]
Over = Literal["prompt", "source"]
#: A smaller prior bounds nothing that floats can tell.
LEAST_PRIOR = 1e-6
FITS = ("bradley-terry", "davidson", "plackett-luce")
JUDGED = get_args(Consensus)


@dataclass(frozen=True)
class Settings:
    """What a fit is told."""

    method: Method
    over: Over
    prior: float | None
    k_factor: float
    resamples: int
    level: float
    seed: int


def checked(
    method: Method,
    over: Over,
    prior: float | None,
    k_factor: float | None,
    resamples: int | None,
    level: float,
    seed: int,
) -> Settings:
    """The settings; raises `BadArgument` for one that cannot be meant, or that is not used."""
    for name, word, known in (("method", method, Method), ("over", over, Over)):
        if word not in get_args(known):
            raise BadArgument(f"votes: no {name} {word!r}; expected {either(get_args(known))}.")
    used = {"prior": FITS, "k_factor": ("elo",), "resamples": ("elo",)}
    given: dict[str, float | None] = {"prior": prior, "k_factor": k_factor, "resamples": resamples}
    for name, methods in used.items():
        value = given[name]
        if value is None:
            continue
        if method not in methods:
            raise BadArgument(
                f"votes: {name} has no meaning for {method}; expected one of {methods}."
            )
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not 0 <= value < float("inf") or (name == "k_factor" and not value):
            raise BadArgument(f"votes: {name} is no number that can be meant; got {value!r}.")
        if name == "prior" and 0 < value < LEAST_PRIOR:
            raise BadArgument(
                f"votes: prior is too small; got {value!r}, expected 0 or {LEAST_PRIOR:g} or more."
            )
    for name, whole in (("seed", seed), ("resamples", 0 if resamples is None else resamples)):
        if type(whole) is not int or whole < 0:
            raise BadArgument(f"votes: {name} is no whole number >= 0; got {whole!r}.")
    if not 0 < level < 1:
        raise BadArgument(f"votes: level is not between 0 and 1; got {level!r}.")
    return Settings(
        method=method,
        over=over,
        prior=prior,
        k_factor=32.0 if k_factor is None else float(k_factor),
        resamples=100 if resamples is None else resamples,
        level=level,
        seed=seed,
    )


@dataclass(frozen=True)
class Fitted:
    """A score of each side, and what else came out."""

    score: Floats
    low: Floats
    high: Floats
    votes: Ints
    part: Ints
    ties: int
    strengths: Strengths | None = None
    agreed: Agreed | None = None


def fit(rows: Judged, settings: Settings) -> Fitted:
    """A score of each side, NaN for one that met no other."""
    sides, method, level = rows.sides, settings.method, settings.level
    others, _, _ = met(rows)
    counts = summed(rows.side, others, sides).astype(np.int64)
    if method == "plackett-luce":
        found = strengths(RankingLikelihood(rows), level, settings.prior)
        scores = (found.score, found.low, found.high)
        return Fitted(*scores, counts, found.part, _tied(rows), strengths=found)
    pairs = compared(rows)
    ties = int((pairs.outcome == 0.5).sum())
    if method in FITS:
        model = PairLikelihood(pairs, sides, with_ties=method == "davidson")
        found = strengths(model, level, settings.prior)
        scores = (found.score, found.low, found.high)
        return Fitted(*scores, counts, found.part, ties, strengths=found)
    part = components(sides, pairs.one, pairs.two)
    if method == "elo":
        score = np.where(counts > 0, elo(pairs, sides, settings.k_factor), np.nan)
        ends = elo_ends(pairs, sides, settings.k_factor, settings.resamples, level, settings.seed)
        low, high = (np.where(counts > 0, end, np.nan) for end in ends)
        return Fitted(score, low, high, counts, part, ties)
    agreement = None
    if method in JUDGED:
        agreement = agreed(pairs, rows, method)  # type: ignore[arg-type]
        pairs = agreement.comparisons
    score, low, high, _ = win_rates(pairs, sides, level)
    return Fitted(score, low, high, counts, part, ties, agreed=agreement)


def _tied(rows: Judged) -> int:
    """How many comparisons of two sides are ties, without spelling them out."""
    tied = np.unique(rows.value, return_inverse=True)[1]
    levels = int(tied.max(initial=-1)) + 1
    ballot = np.unique(rows.ballot * levels + tied, return_inverse=True)[1]
    return met(Judged(rows.side, rows.answer, ballot, rows.unit, rows.annotator, rows.value))[1]
