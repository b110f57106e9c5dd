"""What a judge said twice: of two answers in both orders, of a match again, of an answer again."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prefmill.rules.audits.answers import Answers, Pairings, outcome
from prefmill.rules.audits.effects import ratio
from prefmill.rules.audits.verdicts import Finding
from prefmill.rules.intervals import Floats
from prefmill.rules.tails import sign_tail
from prefmill.rules.votes import Ints


@dataclass(frozen=True)
class Shown:
    """Two answers that one judge saw twice. 0.5: what was shown first won, -0.5: it lost, 0: a tie.

    For `swapped` matches the second time was in the other order, else in the same one.
    """

    prompt: Ints
    once: Floats
    again: Floats


def of_both_orders(swapped: Shown) -> Finding:
    """Both orders were asked, so that what is better cancels out."""
    first = (swapped.once + swapped.again) / 2
    effect = ratio(first, np.ones(len(first)), swapped.prompt)
    always, never = int((first == 0.5).sum()), int((first == -0.5).sum())
    single = effect.prompts == effect.comparisons
    mixed = np.isin(np.abs(first), (0.25,)).any()
    return Finding(
        "position",
        "win rate of the answer shown first, over 50 %, in both orders",
        effect,
        numbers={
            "first wins both": always / max(1, len(first)),
            "second wins both": never / max(1, len(first)),
        },
        # McNemar's test, where it is one: a match for each prompt, and no half flips.
        exact=sign_tail(always, never) if single and not mixed else None,
        variance=float((first**2).mean()) if len(first) else None,
    )


def flips(name: str, shown: Shown) -> Finding:
    """How often the second verdict is the opposite of the first."""
    turn = 1.0 if name == "order flips" else -1.0
    changed = (shown.once != 0) & (shown.once == turn * shown.again)
    decided = (shown.once != 0) | (shown.again != 0)
    what = "share of comparisons whose winner changes with the order"
    if turn < 0:
        what = "share of comparisons whose winner changes when asked again"
    return Finding(
        name,
        what,
        ratio(changed.astype(np.float64), np.ones(len(changed)), shown.prompt),
        kind="share",
        numbers={
            "changes, ties counted": float((shown.once != -turn * shown.again).mean()),
            "ties both times": float((~decided).mean()),
        },
    )


def numbered(one: Ints, other: Ints) -> Ints:
    """Pairs of numbers as one number each, from 0."""
    width = max(int(other.max(initial=-1)) + 1, 1)
    _, numbers = np.unique(one * width + other, return_inverse=True)
    return np.asarray(numbers, dtype=np.int64)


def meetings(answers: Answers, pairs: Pairings) -> tuple[Shown, Shown]:
    """Matches that one judge saw twice: in both orders, and in the same order.

    Of several times the first two count.
    """
    nothing = Shown(np.zeros(0, dtype=np.int64), np.zeros(0), np.zeros(0))
    if not answers.ordered or not len(pairs.one):
        return nothing, nothing
    judged = outcome(answers.score, pairs)
    one, two = answers.answer[pairs.one], answers.answer[pairs.two]
    match = numbered(numbered(np.minimum(one, two), np.maximum(one, two)), answers.judge[pairs.one])
    turned = (one > two).astype(np.int64)
    prompt = answers.prompt[pairs.one]
    order = np.lexsort((pairs.one, turned, match))
    keys, sides = match[order], turned[order]
    fresh = np.ones(len(keys), dtype=bool)
    fresh[1:] = (keys[1:] != keys[:-1]) | (sides[1:] != sides[:-1])
    heads = np.flatnonzero(fresh)
    # A match in both orders has two heads in a row; one that was repeated has no head next to it.
    both = heads[:-1][keys[heads[:-1]] == keys[heads[1:]]] if len(heads) > 1 else heads[:0]
    partner = heads[1:][keys[heads[:-1]] == keys[heads[1:]]] if len(heads) > 1 else heads[:0]
    twice = heads[(heads + 1 < len(keys)) & ~np.append(fresh, True)[heads + 1]]
    return (
        Shown(prompt[order[both]], judged[order[both]], judged[order[partner]]),
        Shown(prompt[order[twice]], judged[order[twice]], judged[order[twice + 1]]),
    )


@dataclass(frozen=True)
class Repeats:
    """Every judgement of what one judge scored twice or more, in order of its runs.

    `unit` is an answer (or a match in one order) and a judge, `prompt` its prompt, from 0.
    """

    prompt: Ints
    unit: Ints
    score: Floats

    @classmethod
    def of(cls, prompt: Ints, unit: Ints, score: Floats) -> Repeats:
        """Of all judgements those of units that have two or more."""
        again = np.bincount(unit)[unit] > 1
        _, units = np.unique(unit[again], return_inverse=True)
        return cls(prompt[again], np.asarray(units, dtype=np.int64), score[again])


def voted_again(answers: Answers, pairs: Pairings) -> Repeats:
    """Matches that one judge saw again in the same order; the score is what the first got."""
    one, two = answers.answer[pairs.one], answers.answer[pairs.two]
    unit = numbered(numbered(one, two), answers.judge[pairs.one])
    judged = outcome(answers.score, pairs)
    order = np.argsort(pairs.one, kind="stable")
    return Repeats.of(answers.prompt[pairs.one][order], unit[order], judged[order])
