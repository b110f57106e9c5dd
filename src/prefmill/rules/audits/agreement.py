"""How far a judge agrees with a reference, and whether more than "the longer one" does."""

from __future__ import annotations

import numpy as np

from prefmill.rules.audits.answers import Answers, Pairings
from prefmill.rules.audits.effects import NOTHING, Effect, of_numbers, of_sums, ratio
from prefmill.rules.audits.verdicts import Finding
from prefmill.rules.intervals import Floats
from prefmill.rules.votes import Ints, summed

_LEVEL = 0.95


def agreement(answers: Answers, pairs: Pairings, judged: Floats, reference: Floats) -> Finding:
    """Accuracy over the comparisons that the reference decides, less that of length alone.

    A tie of the judge, or of the lengths, is half right.
    """
    prompt = answers.prompt[pairs.one]
    longer = np.sign(answers.length[pairs.one] - answers.length[pairs.two]) / 2
    decided = ~np.isnan(reference) & (reference != 0)
    weight = np.where(decided, pairs.weight, 0.0)
    truth = np.where(decided, reference, 0.0)
    # Right is +1, a tie 0, wrong -1: so a half of it over 0.5 is the accuracy.
    right, baseline = 0.5 + 2 * truth * judged, 0.5 + 2 * truth * longer
    numbers: dict[str, float] = {}
    for name, values in (("accuracy", right), ("accuracy of length alone", baseline)):
        numbers |= ends_of(name, ratio(weight * values, weight, prompt))
    both = ~np.isnan(reference)
    kappa = _kappa(prompt[both], judged[both], reference[both], pairs.weight[both])
    numbers |= ends_of("kappa", kappa)
    numbers |= ends_of("tau-b in prompts", _tau(prompt[both], judged[both], reference[both]))
    numbers |= ends_of("Spearman in prompts", _spearman(answers))
    return Finding(
        "agreement",
        "accuracy against the reference, less that of 'the longer one'",
        ratio(weight * (right - baseline), weight, prompt),
        numbers=numbers,
        alone=True,
    )


def ends_of(name: str, effect: Effect) -> dict[str, float]:
    """A coefficient, which is at most 1, and the ends of its interval, by name."""
    low, high = (min(max(end, -1.0), 1.0) for end in effect.ends(_LEVEL))
    return {name: effect.value, f"{name}, low": low, f"{name}, high": high}


def _kappa(prompt: Ints, judged: Floats, reference: Floats, weight: Floats) -> Effect:
    """Cohen's kappa over first, tie, second; both ways round, as no side is special.

    Source: Cohen 1960, Educ. Psychol. Meas. 20:37.
    """
    count = int(prompt.max(initial=-1)) + 1
    if not count:
        return NOTHING
    table = np.zeros((count, 3, 3))
    for sign in (1, -1):
        cell = np.rint(sign * 2 * judged + 1).astype(np.int64) * 3
        cell += np.rint(sign * 2 * reference + 1).astype(np.int64)
        table += summed(prompt * 9 + cell, weight, count * 9).reshape(count, 3, 3)
    table = table[table.sum(axis=(1, 2)) > 0]
    whole = table.sum(axis=0)
    return of_numbers(_kappas(whole - table), float(_kappas(whole[None])[0]), len(prompt))


def _kappas(tables: Floats) -> Floats:
    total = tables.sum(axis=(1, 2))
    total = np.where(total > 0, total, np.nan)
    same = np.einsum("ijj->i", tables) / total
    chance = (tables.sum(axis=1) * tables.sum(axis=2)).sum(axis=1) / total**2
    left = 1 - chance
    kappas: Floats = np.divide(
        same - chance, left, out=np.full(len(left), np.nan), where=np.abs(left) > 1e-12
    )
    return kappas


def _tau(prompt: Ints, judged: Floats, reference: Floats) -> Effect:
    """Kendall's tau-b of each prompt, its mean; prompts where either has ties only have none.

    Source: Kendall 1945, Biometrika 33:239.
    """
    count = int(prompt.max(initial=-1)) + 1
    agree = summed(prompt, 4 * judged * reference, count)
    spread = summed(prompt, (judged != 0).astype(np.float64), count)
    spread = np.sqrt(spread * summed(prompt, (reference != 0).astype(np.float64), count))
    has = spread > 0
    tau = np.divide(agree, spread, out=np.zeros(count), where=has)
    return of_sums(tau, has.astype(np.float64), int(has.sum()))


def _spearman(answers: Answers) -> Effect:
    """Spearman's correlation of each ballot, their mean over prompts."""
    has = ~np.isnan(answers.reference)
    ballot, count = answers.ballot[has], int(answers.ballot.max(initial=-1)) + 1
    one = _centred(ballot, answers.score[has], count)
    other = _centred(ballot, answers.reference[has], count)
    spread = np.sqrt(summed(ballot, one * one, count) * summed(ballot, other * other, count))
    known = spread > 1e-9
    rho = np.divide(summed(ballot, one * other, count), spread, out=np.zeros(count), where=known)
    prompt = np.zeros(count, dtype=np.int64)
    prompt[answers.ballot] = answers.prompt
    return ratio(rho, known.astype(np.float64), prompt)


def _centred(ballot: Ints, values: Floats, count: int) -> Floats:
    """Ranks inside ballots (ties share their mean), less the ballot's mean."""
    order = np.lexsort((values, ballot))
    keys, sorted_values = ballot[order], values[order]
    fresh = np.ones(len(order), dtype=bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (sorted_values[1:] != sorted_values[:-1])
    run = np.cumsum(fresh) - 1
    places = np.arange(len(order), dtype=np.float64)
    shared = summed(run, places, len(order)) / np.maximum(np.bincount(run, minlength=len(order)), 1)
    ranks = np.empty(len(order))
    ranks[order] = shared[run]
    sizes = np.maximum(np.bincount(ballot, minlength=count), 1)
    centred: Floats = ranks - (summed(ballot, ranks, count) / sizes)[ballot]
    return centred
