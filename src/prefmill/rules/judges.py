"""Judges of unequal care: what they agree on, and how far each can be relied on.

    votes of a task (two answers), a label each ──expectation and maximisation──▶ the chance of
    every label, and each judge's reliability

Dawid & Skene 1979, Appl. Stat. 28:20; MACE: Hovy et al. 2013, NAACL. Why it is ours: decision 033.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from prefmill.rules.intervals import Floats
from prefmill.rules.votes import Comparisons, Ints, Judged, summed

Consensus = Literal["dawid-skene", "mace"]
_STEPS, _CLOSE = 200, 1e-5
_SMOOTH = 0.01  # pseudo-votes of MACE, shared by all labels, as in its authors' program


@dataclass(frozen=True)
class Agreed:
    """What the judges agree on, a comparison for each task; its outcome is a share.

    `reliability` of each annotator: for `dawid-skene` the chance that it gives the true label, for
    `mace` that it does not guess. `votes` are those of each annotator. `moved` is how far a chance
    still moved in the last step.
    """

    comparisons: Comparisons
    reliability: Floats
    votes: Ints
    moved: float


def agreed(comparisons: Comparisons, rows: Judged, method: Consensus) -> Agreed:
    """One comparison for every two answers that met, from all votes on them.

    Labels are what occurs of won, tied, lost, as the answer sees it that comes first in the input.
    Both methods start from the shares of votes, and stop when no chance moves by 1e-5, or after
    200 steps.
    """
    one, two = comparisons.rows
    if not len(one):
        return Agreed(comparisons, np.zeros(0), np.zeros(0, dtype=np.int64), 0.0)
    left, right = rows.answer[one], rows.answer[two]
    turned = left > right
    points = np.where(turned, 1 - comparisons.outcome, comparisons.outcome)
    key = np.where(turned, right, left) * max(int(rows.answer.max(initial=-1)) + 1, 1)
    key += np.where(turned, left, right)
    _, first, task = np.unique(key, return_index=True, return_inverse=True)
    values, label = np.unique(points, return_inverse=True)
    votes = _Votes(task, rows.annotator[one], label, len(values))
    fit = {"dawid-skene": _dawid_skene, "mace": _mace}[method]
    chances, reliability, moved = fit(votes)
    share = chances @ values
    outcome = np.where(turned[first], 1 - share, share)
    # In the order of the input, each under the number of its first vote.
    order = np.argsort(first, kind="stable")
    kept = first[order]
    merged = Comparisons(
        comparisons.one[kept],
        comparisons.two[kept],
        outcome[order],
        comparisons.unit[kept],
        (one[kept], two[kept]),
    )
    return Agreed(merged, reliability, np.bincount(votes.judge), moved)


class _Votes:
    """A task, a judge and a label for each vote, and sums over them."""

    def __init__(self, task: Ints, judge: Ints, label: Ints, labels: int) -> None:
        self.task, self.judge, self.label, self.labels = task, judge, label, labels
        self.tasks = int(task.max(initial=-1)) + 1
        self.judges = int(judge.max(initial=-1)) + 1
        self.of_judge = np.bincount(judge, minlength=self.judges).astype(np.float64)

    def shares(self) -> Floats:
        """The share of votes of each label, by task."""
        counts = self.by_task(np.eye(self.labels)[self.label])
        shares: Floats = counts / counts.sum(axis=1, keepdims=True)
        return shares

    def by_task(self, values: Floats) -> Floats:
        """Sums of rows of `values`, a row for each vote, by task."""
        columns = [summed(self.task, column, self.tasks) for column in values.T]
        stacked: Floats = np.stack(columns, axis=1)
        return stacked

    def by_judge(self, values: Floats) -> Floats:
        """Sums of `values` by judge and label: (judges, labels)."""
        place = self.judge * self.labels + self.label
        sums = summed(place, values, self.judges * self.labels)
        return sums.reshape(self.judges, self.labels)


def _dawid_skene(votes: _Votes) -> tuple[Floats, Floats, float]:
    """Every judge has a chance of each label for each true one. Ours are of largest likelihood."""
    chances, moved = votes.shares(), 0.0
    for _ in range(_STEPS):
        prior = chances.mean(axis=0)
        # (judges, true labels, labels given)
        given = np.stack([votes.by_judge(c[votes.task]) for c in chances.T], axis=1)
        given /= np.maximum(given.sum(axis=2, keepdims=True), np.finfo(float).tiny)
        logs = np.log(np.maximum(given, np.finfo(float).tiny))
        known = votes.by_task(logs[votes.judge, :, votes.label])
        known += np.log(np.maximum(prior, np.finfo(float).tiny))
        chances, moved = _moved(chances, known)
        if moved < _CLOSE:
            break
    reliability = np.einsum("k,jkk->j", prior, given)
    return chances, reliability, moved


def _mace(votes: _Votes) -> tuple[Floats, Floats, float]:
    """Every judge knows the true label, or guesses by habits of its own. True labels are uniform,
    so that a rare one is not explained away.
    """
    chances, moved, smooth = votes.shares(), 0.0, _SMOOTH / max(votes.labels, 1)
    careful = np.full(votes.judges, 0.5)
    habits = np.full((votes.judges, votes.labels), 1 / votes.labels)
    for _ in range(_STEPS):
        # How likely the judge knew, where the vote is the true label; else it guessed.
        guess = (1 - careful[votes.judge]) * habits[votes.judge, votes.label]
        right = careful[votes.judge] + guess
        knew = chances[votes.task, votes.label] * careful[votes.judge] / right
        known = votes.by_judge(knew).sum(axis=1)
        careful = (known + smooth) / (votes.of_judge + 2 * smooth)
        guessed = votes.by_judge(1 - knew) + smooth
        habits = guessed / guessed.sum(axis=1, keepdims=True)
        guess = (1 - careful[votes.judge]) * habits[votes.judge, votes.label]
        logs = np.repeat(np.log(guess)[:, None], votes.labels, axis=1)
        logs[np.arange(len(guess)), votes.label] = np.log(careful[votes.judge] + guess)
        chances, moved = _moved(chances, votes.by_task(logs))
        if moved < _CLOSE:
            break
    return chances, careful, moved


def _moved(chances: Floats, logs: Floats) -> tuple[Floats, float]:
    """Chances from logarithms, row by row, and how far the one that moved most is from before."""
    new = np.exp(logs - logs.max(axis=1, keepdims=True))
    new /= new.sum(axis=1, keepdims=True)
    return new, float(np.abs(new - chances).max(initial=0.0))
