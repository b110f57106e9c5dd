"""What curves and values mean, in plain Python: written from `docs/semantics.md`; enumeration,
exact fractions, recursion.
"""

from __future__ import annotations

import itertools
import math
import statistics
from fractions import Fraction


def of_all_draws(scores: list[float], n: int) -> tuple[Fraction, Fraction]:
    """The mean of the best, and of the median, over every way to draw n of the scores."""
    draws = [sorted(draw) for draw in itertools.combinations([Fraction(s) for s in scores], n)]
    return sum(draw[-1] for draw in draws) / len(draws), sum(
        Fraction(statistics.median(draw)) for draw in draws
    ) / len(draws)


def curve(
    pools: list[list[float]], k: int | None = None
) -> list[tuple[int, int, float, float, float, float]]:
    """(n, prompts, best, median, mean, kl) for the scores of every prompt."""
    points = []
    for n in range(1, min(k or 128, max(map(len, pools), default=0)) + 1):
        there = [scores for scores in pools if len(scores) >= n]
        drawn = [of_all_draws(scores, n) for scores in there]
        best, middle = (float(sum(values) / len(there)) for values in zip(*drawn, strict=True))
        mean = float(sum(sum(map(Fraction, scores)) / len(scores) for scores in there) / len(there))
        points.append((n, len(there), best, middle, mean, math.log(n) - (n - 1) / n))
    return points


Moves = list[
    tuple[str, str, str | None, Fraction, Fraction]
]  # state, action, next state, probability, reward


def expected(
    moves: Moves, policy: dict[tuple[str, str], Fraction], gamma: Fraction
) -> dict[str, Fraction]:
    """V under a policy: (I - gamma P) V = r, by elimination in fractions."""
    states = sorted({s for s, *_ in moves})
    rows = {s: {t: Fraction(s == t) for t in states} for s in states}
    right = dict.fromkeys(states, Fraction(0))
    for s, a, after, p, r in moves:
        right[s] += policy[s, a] * p * r
        if after in rows:
            rows[s][after] -= gamma * policy[s, a] * p
    for i, s in enumerate(states):
        pivot = next(t for t in states[i:] if rows[t][s] != 0)
        rows[s], rows[pivot], right[s], right[pivot] = rows[pivot], rows[s], right[pivot], right[s]
        for t in states:
            if t != s and rows[t][s] != 0:
                factor = rows[t][s] / rows[s][s]
                rows[t] = {u: rows[t][u] - factor * rows[s][u] for u in states}
                right[t] -= factor * right[s]
    return {s: right[s] / rows[s][s] for s in states}


def action_values(
    moves: Moves, v: dict[str, Fraction], gamma: Fraction
) -> dict[tuple[str, str], Fraction]:
    q: dict[tuple[str, str], Fraction] = {}
    for s, a, after, p, r in moves:
        q[s, a] = q.get((s, a), Fraction(0)) + p * (r + gamma * v.get(after, Fraction(0)))
    return q


def best(moves: Moves, gamma: Fraction) -> dict[str, Fraction]:
    """The largest V over all policies that always do the same thing in a state: one of them is
    optimal.
    """
    choices = {s: sorted({a for t, a, *_ in moves if t == s}) for s, *_ in moves}
    found = []
    for pick in itertools.product(*choices.values()):
        chosen = dict(zip(choices, pick, strict=True))
        found.append(
            expected(
                moves,
                {(s, a): Fraction(chosen[s] == a) for s in choices for a in choices[s]},
                gamma,
            )
        )
    return {s: max(v[s] for v in found) for s in choices}


def tree(
    parents: dict[int, int | None], rewards: dict[int, Fraction], gamma: Fraction
) -> dict[int, tuple[Fraction, Fraction]]:
    """(q, v) of every node, replies equally likely."""

    def v(node: int) -> Fraction:
        replies = [n for n, parent in parents.items() if parent == node]
        return sum((q(n) for n in replies), Fraction(0)) / len(replies) if replies else Fraction(0)

    def q(node: int) -> Fraction:
        return rewards[node] + gamma * v(node)

    return {node: (q(node), v(node)) for node in parents}


def rollouts(
    parents: dict[int, int | None], wins: dict[int, bool | None]
) -> dict[int, tuple[int, int]]:
    """(rollouts, successes) of every step: of the leaves below it, or of itself."""

    def leaves(node: int) -> list[int]:
        replies = [n for n, parent in parents.items() if parent == node]
        return [leaf for n in replies for leaf in leaves(n)] if replies else [node]

    told = {
        node: [wins[leaf] for leaf in leaves(node) if wins[leaf] is not None] for node in parents
    }
    return {node: (len(ends), sum(ends)) for node, ends in told.items()}
