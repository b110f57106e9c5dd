"""Strengths by maximum likelihood: Bradley-Terry, Davidson, Plackett-Luce.

    comparisons ──▶ terms (gradient, information) ──Newton──▶ strengths ──sandwich──▶ intervals

The information has a dense block for each part. Parts of one size are solved at once, so that many
small parts, the prompts of a file, cost no loop.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Protocol

import numpy as np

from prefmill.errors import BadInput
from prefmill.rules.blocks import Blocks, reached
from prefmill.rules.intervals import Floats
from prefmill.rules.votes import Comparisons, Ints, Judged, in_rank_order, summed

_STEPS = 200
_CELLS = 4_000_000  # of rankings at a time: ranks squared times lists


@dataclass(frozen=True)
class Terms:
    """Of the log-likelihood at some strengths: its gradient, its information in blocks, and the
    variance of the gradient where units count as they depend.

    The last four are of the tie parameter: its gradient, information, that with each strength, and
    how much more its gradient varies.
    """

    gradient: Floats
    information: Floats
    variance: Floats
    tie_gradient: float = 0.0
    tie_information: float = 0.0
    tie_cross: Floats | None = None
    tie_factor: float = 1.0


@dataclass(frozen=True)
class Strengths:
    """The strength of each side, centred in its part, and its interval (NaN for a lone side).

    `open_parts` are those without a finite maximum of their own, `ties` is Davidson's parameter (0
    in other models), `steps` are those of Newton.
    """

    score: Floats
    low: Floats
    high: Floats
    part: Ints
    open_parts: int
    steps: int
    ties: float


class Likelihood(Protocol):
    """What a model of votes says of strengths.

    `with_ties`: a tie is an outcome of its own, and there are some.
    """

    blocks: Blocks
    with_ties: bool

    def terms(self, strength: Floats, ties: float) -> Terms:
        """At these strengths; `ties` is the logarithm of Davidson's parameter."""

    def beaten(self) -> tuple[Ints, Ints]:
        """Slots that won against others, or tied, and these."""


class PairLikelihood:
    """Bradley-Terry (Davidson with `with_ties`), from counts of every two sides that met."""

    def __init__(self, comparisons: Comparisons, sides: int, *, with_ties: bool) -> None:
        self.blocks = Blocks(sides, comparisons.one, comparisons.two)
        one, two = self.blocks.slot[comparisons.one], self.blocks.slot[comparisons.two]
        turned = one > two
        low, high = np.where(turned, two, one), np.where(turned, one, two)
        points = np.where(turned, 1 - comparisons.outcome, comparisons.outcome)
        pairs, place = np.unique(low * max(sides, 1) + high, return_inverse=True)
        self.one, self.two = np.divmod(pairs, max(sides, 1))
        self.count = np.bincount(place, minlength=len(pairs)).astype(np.float64)
        self.points = summed(place, points, len(pairs))
        self.tied = summed(place, points == 0.5, len(pairs))
        weight = _dependence(comparisons, sides)
        self.weighed = summed(place, weight, len(pairs))
        ties = self.tied.sum()
        self.with_ties = bool(with_ties and ties > 0)
        if self.with_ties and ties == len(points):
            raise BadInput(
                f"votes: davidson: nothing was decided; got {len(points):,} ties of"
                f" {len(points):,} comparisons.",
                hint="--method bradley-terry takes a tie as half a win of each.",
            )

    def beaten(self) -> tuple[Ints, Ints]:
        """Who won against whom, or tied."""
        wins, losses = self.points > 0, self.points < self.count
        winners = np.concatenate([self.one[wins], self.two[losses]])
        return winners, np.concatenate([self.two[wins], self.one[losses]])

    def terms(self, strength: Floats, ties: float) -> Terms:
        """In the logits gap/2, -gap/2 and `ties` of the three outcomes."""
        half = (strength[self.one] - strength[self.two]) / 2
        top = np.maximum(np.abs(half), ties)
        wins, losses, tied = np.exp(half - top), np.exp(-half - top), np.exp(ties - top)
        total = wins + losses + tied
        wins, losses, tied = wins / total, losses / total, tied / total
        slope = self.points - self.count * (wins + tied / 2)
        # Of the point, 1, 0.5 or 0: the sum over two outcomes of their chances and gap squared.
        spread = wins * losses + tied * (wins + losses) / 4
        cross = self.count * tied * (losses - wins) / 2
        tie_spread = tied * (1 - tied)
        tie_information = float((self.count * tie_spread).sum())
        weighed = float((self.weighed * tie_spread).sum())
        return Terms(
            gradient=self._both(slope),
            information=self._in_blocks(self.count * spread),
            variance=self._in_blocks(self.weighed * spread),
            tie_gradient=float((self.tied - self.count * tied).sum()),
            tie_information=tie_information,
            tie_cross=self._both(cross) if self.with_ties else None,
            tie_factor=weighed / tie_information if tie_information else 1.0,
        )

    def _both(self, values: Floats) -> Floats:
        sides = len(self.blocks.size)
        return summed(self.one, values, sides) - summed(self.two, values, sides)

    def _in_blocks(self, values: Floats) -> Floats:
        out, cell = np.zeros(self.blocks.cells), self.blocks.cell
        # A pair is there once, and so is its place off the diagonal.
        out[cell(self.one, self.two)] = out[cell(self.two, self.one)] = -values
        for side in (self.one, self.two):
            out += summed(cell(side, side), values, len(out))
        return out


def _dependence(comparisons: Comparisons, sides: int) -> Floats:
    """How often each comparison counts in the variance: comparisons of a side in one unit may say
    the same, so each stands for as many as there are, of the side that has more.
    """
    units = max(int(comparisons.unit.max(initial=-1)) + 1, 1)
    side = np.concatenate([comparisons.one, comparisons.two])
    unit = np.concatenate([comparisons.unit, comparisons.unit])
    _, place, count = np.unique(side * units + unit, return_inverse=True, return_counts=True)
    one, two = np.split(count[place], 2)
    weight: Floats = np.maximum(one, two).astype(np.float64)
    return weight


class RankingLikelihood:
    """Plackett-Luce: of each ballot the best is chosen of all, the next of the rest, and so on.

    Equal scores are chosen each from the same rest (Breslow 1974); the m last ones count as m - 1
    choices, so that a tie of two is half a win of each, as in Bradley-Terry.
    """

    with_ties = False

    def __init__(self, rows: Judged) -> None:
        order = in_rank_order(rows)
        ballot, value, side = rows.ballot[order], rows.value[order], rows.side[order]
        next_to = ballot[1:] == ballot[:-1]
        better, worse = side[:-1][next_to], side[1:][next_to]
        self.blocks = Blocks(rows.sides, better, worse)
        slot = self.blocks.slot[side]
        tied = (value[:-1] == value[1:])[next_to]
        self._wins = (slot[:-1][next_to], slot[1:][next_to])
        self._ties = (self._wins[1][tied], self._wins[0][tied])
        sizes = np.bincount(rows.ballot, minlength=rows.ballots)
        starts = np.cumsum(sizes) - sizes
        # Ballots of a unit may say the same.
        unit_of = rows.unit[order][starts] if len(order) else np.zeros(0, dtype=np.int64)
        factor = np.bincount(unit_of, minlength=1)[unit_of].astype(np.float64)
        self.lists: list[_Lists] = []
        for size in np.unique(sizes[sizes > 1]):
            chosen = np.flatnonzero(sizes == size)
            step = max(1, _CELLS // int(size) ** 2)
            for first in range(0, len(chosen), step):
                ballots = chosen[first : first + step]
                members = starts[ballots][:, None] + np.arange(size)
                self.lists.append(_Lists.of(slot[members], value[members], factor[ballots]))

    def beaten(self) -> tuple[Ints, Ints]:
        """Neighbours in rank, ties both ways: who won against whom follows."""
        winners = np.concatenate([self._wins[0], self._ties[0]])
        return winners, np.concatenate([self._wins[1], self._ties[1]])

    def terms(self, strength: Floats, ties: float) -> Terms:
        """Summed over all lists."""
        gradient = np.zeros(len(strength))
        information, variance = np.zeros(self.blocks.cells), np.zeros(self.blocks.cells)
        for lists in self.lists:
            slope, square = lists.terms(strength)
            gradient += summed(lists.slot.ravel(), slope.ravel(), len(strength))
            size = lists.slot.shape[1]
            one = np.repeat(lists.slot, size, axis=1).ravel()
            two = np.tile(lists.slot, (1, size)).ravel()
            cells = self.blocks.cell(one, two)
            weighed = square * lists.factor[:, None, None]
            information += summed(cells, square.ravel(), len(information))
            variance += summed(cells, weighed.ravel(), len(variance))
        return Terms(gradient, information, variance)


@dataclass(frozen=True)
class _Lists:
    """Ranked lists of one length: slots, the best first; the first and last rank (exclusive) that
    ties with each; and how many choices each counts as.
    """

    slot: Ints
    first: Ints
    last: Ints
    weight: Floats
    factor: Floats

    @classmethod
    def of(cls, slot: Ints, value: Floats, factor: Floats) -> _Lists:
        """From slots and scores, the best first."""
        size = slot.shape[1]
        rank = np.arange(size)
        new = np.ones(slot.shape, dtype=bool)
        new[:, 1:] = value[:, 1:] != value[:, :-1]
        first = np.maximum.accumulate(np.where(new, rank, 0), axis=1)
        ends = np.ones(slot.shape, dtype=bool)
        ends[:, :-1] = new[:, 1:]
        last = np.minimum.accumulate(np.where(ends, rank + 1, size)[:, ::-1], axis=1)[:, ::-1]
        tied = last - first
        weight = np.where(last == size, (tied - 1) / tied, 1.0)
        return cls(slot, first, last, weight, factor)

    def terms(self, strength: Floats) -> tuple[Floats, Floats]:
        """The gradient of each place, and the information of every two."""
        values = strength[self.slot]
        worth = np.exp(values - values.max(axis=1, keepdims=True))
        rest = np.cumsum(worth[:, ::-1], axis=1)[:, ::-1]
        # An answer far below the best ones may be 0 next to them, yet never divides.
        rest = np.maximum(np.take_along_axis(rest, self.first, axis=1), np.finfo(float).tiny)
        once = np.cumsum(self.weight / rest, axis=1)
        twice = np.cumsum(self.weight / rest**2, axis=1)
        until = self.last - 1
        once = np.take_along_axis(once, until, axis=1)
        twice = np.take_along_axis(twice, until, axis=1)
        rank = np.arange(self.slot.shape[1])
        shared = twice[:, np.minimum(rank[:, None], rank)]
        square = -worth[:, :, None] * worth[:, None, :] * shared
        square[:, rank, rank] += worth * once
        return self.weight - worth * once, square


def strengths(model: Likelihood, level: float, prior: float | None) -> Strengths:
    """The strengths of largest likelihood and their Wald intervals, against the mean of their part.

    `prior`: so many comparisons, half of them won, that each side has with one of strength 0; None:
    1 in the parts without a finite maximum, else 0. There is one if every side has won against
    every other of its part, or tied, directly or by way of others (Ford 1957). Raises `BadInput`
    where `prior` is 0 and there is none.
    """
    blocks = model.blocks
    padding, open_parts = _padding(model, prior)
    strength, ties, steps = _climb(model, padding)
    terms = _with_prior(model, strength, ties, padding)
    errors = blocks.deviations(terms.information, terms.variance, padding)
    if terms.tie_cross is not None:
        moved = blocks.solve(terms.information, terms.tie_cross[:, None], padding)[:, 0]
        information = terms.tie_information - float(terms.tie_cross @ moved)
        if information > 0:
            more = blocks.centred(moved) ** 2 * terms.tie_factor / information
            errors = np.sqrt(errors**2 + more)
    z = NormalDist().inv_cdf((1 + level) / 2)
    score = np.where(blocks.size > 1, blocks.centred(strength), np.nan)[blocks.slot]
    half = (z * errors)[blocks.slot]
    return Strengths(
        score=score,
        low=score - half,
        high=score + half,
        part=blocks.part,
        open_parts=open_parts,
        steps=steps,
        ties=float(np.exp(ties)),
    )


def _padding(model: Likelihood, prior: float | None) -> tuple[Floats, int]:
    """The prior of each slot, and how many parts have no finite maximum."""
    blocks = model.blocks
    first = np.unique(blocks.start)
    winners, losers = model.beaten()
    count = len(blocks.size)
    both = reached(count, winners, losers, first) & reached(count, losers, winners, first)
    endless = np.unique(blocks.part_of_slot[~both])
    if prior is None:
        return np.isin(blocks.part_of_slot, endless).astype(np.float64), len(endless)
    if prior == 0 and len(endless):
        raise BadInput(
            f"votes: in {len(endless):,} part(s) a side won, or lost, everything, so that its"
            " score has no finite value; got prior 0, expected more.",
            hint="leave --prior out: it then stands in such parts only.",
        )
    return np.full(count, float(prior)), len(endless)


def _with_prior(model: Likelihood, strength: Floats, ties: float, padding: Floats) -> Terms:
    terms = model.terms(strength, ties)
    if not padding.any():
        return terms
    wins = 1 / (1 + np.exp(-strength))
    slots = np.arange(len(strength))
    diagonal = np.zeros(model.blocks.cells)
    diagonal[model.blocks.cell(slots, slots)] = padding * wins * (1 - wins)
    return replace(
        terms,
        gradient=terms.gradient + padding * (0.5 - wins),
        information=terms.information + diagonal,
        variance=terms.variance + diagonal,
    )


def _climb(model: Likelihood, padding: Floats) -> tuple[Floats, float, int]:
    """Newton's steps from 0 to the maximum: strengths, the logarithm of the tie parameter, and how
    many steps there were.

    A step is cut so that the likelihood cannot fall (Sun & Tran-Dinh 2019, for logits): to
    ln(1 + r) / r of itself, where r is how far it moves two strengths apart.
    """
    blocks = model.blocks
    strength, last = np.zeros(len(blocks.size)), np.inf
    ties = 0.0 if model.with_ties else -np.inf
    for taken in range(1, _STEPS + 1):
        step, tie_step = _newton(blocks, _with_prior(model, strength, ties, padding), padding)
        apart = np.maximum(blocks.largest(step) + blocks.largest(-step), np.abs(step))
        if model.with_ties:  # one parameter binds all parts
            apart = np.full_like(apart, apart.max(initial=0.0) + abs(tie_step))
        cut = np.where(apart > 1e-8, np.log1p(apart) / np.maximum(apart, 1e-8), 1.0)
        strength = strength + cut * step
        if model.with_ties:
            ties += float(cut[0]) * tie_step
        size = max(float(np.abs(step).max(initial=0.0)), abs(tie_step))
        # Rounding ends the way of an ill-conditioned part a little above the bound.
        if size < 1e-11 or (size < 1e-7 and size > last / 2):
            return strength, ties, taken
        last = size
    raise BadInput(
        f"votes: no largest likelihood was reached; got a step of {last:.2g} after {_STEPS} steps.",
        hint="--prior 1 bounds the scores.",
    )


def _newton(blocks: Blocks, terms: Terms, padding: Floats) -> tuple[Floats, float]:
    """Newton's step of the strengths, and of the logarithm of the tie parameter."""
    if terms.tie_cross is None:
        return blocks.solve(terms.information, terms.gradient[:, None], padding)[:, 0], 0.0
    sides = np.stack([terms.gradient, terms.tie_cross], axis=1)
    step, moved = blocks.solve(terms.information, sides, padding).T
    information = terms.tie_information - float(terms.tie_cross @ moved)
    tie_step = (terms.tie_gradient - float(terms.tie_cross @ step)) / information
    return step - moved * tie_step, tie_step
