"""Judged answers as numbers, and who of them meets whom."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from prefmill.rules.audits.effects import Bools
from prefmill.rules.intervals import Floats
from prefmill.rules.votes import Ints
from prefmill.table.chance import mix32_array

#: More comparisons tell little more: then each answer meets some others of its prompt only.
MOST_PAIRINGS = 2_000_000
#: Ratios of lengths, as powers of 2, between which pairs are told apart.
_STEPS = (0.0, 0.1, 0.25, 0.5, 1.0, 2.0, np.inf)
_FARTHEST = 4.0
_BY_STEP = tuple(f"length step {number}" for number in range(len(_STEPS) - 1))
#: Of so many prompts steps can be told apart.
_STEPS_NEED = 200


@dataclass(frozen=True)
class Answers:
    """Judged rows, in the order of the input. What names something is a number from 0, without
    gaps; -1 is none.

    prompt     what is independent of the rest
    ballot     rows whose scores compare: of one prompt (or record), judge and run
    answer     equal texts of a prompt are one answer
    judge      who said it
    score      what it said
    reference  what a human (or another judge) said; NaN: nothing
    length     in characters
    formats    whether a text has something, by name
    source     what made the answer
    own        whether the judge made it; None: not known of any
    ordered    ballots are of two, and the row that comes first was shown first
    """

    prompt: Ints
    ballot: Ints
    answer: Ints
    judge: Ints
    score: Floats
    reference: Floats
    length: Ints
    formats: Mapping[str, Bools]
    source: Ints
    own: Bools | None
    ordered: bool

    @property
    def prompts(self) -> int:
        """How many there are."""
        return int(self.prompt.max(initial=-1)) + 1


@dataclass(frozen=True)
class Pairings:
    """Two answers each that one judge scored. Where answers are `ordered`, `one` was shown first.

    Weights: each answer of a ballot counts the same, however many others it meets.
    """

    one: Ints
    two: Ints
    weight: Floats


def pairings(answers: Answers, *, most: int = MOST_PAIRINGS, seed: int = 0) -> Pairings:
    """Every two answers of a ballot that differ as texts.

    Of more than `most` the answers of a ballot sit in a circle, in an order drawn by `seed`, and
    each meets its nearest on both sides.
    """
    sizes = np.bincount(answers.ballot)
    rows = np.arange(len(answers.ballot), dtype=np.uint64)
    drawn = rows if answers.ordered else mix32_array(rows ^ np.uint64(seed & 0xFFFFFFFF))
    seats = np.lexsort((drawn, answers.ballot))
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int64)
    size = sizes[answers.ballot[seats]]
    place = np.arange(len(seats)) - begins[answers.ballot[seats]]
    ones, twos, met, apart = [], [], 0, 1
    while True:
        # At half the circle each two meet once, seen from one of them.
        has = (2 * apart < size) | ((2 * apart == size) & (place < apart))
        if not has.any() or (met and met + int(has.sum()) > most):
            break
        sits = np.flatnonzero(has)
        other = begins[answers.ballot[seats[sits]]] + (place[sits] + apart) % size[sits]
        ones.append(seats[sits])
        twos.append(seats[other])
        met += len(sits)
        apart += 1
    nothing = np.zeros(0, dtype=np.int64)
    one, two = np.concatenate([nothing, *ones]), np.concatenate([nothing, *twos])
    differ = answers.answer[one] != answers.answer[two]
    one, two = one[differ], two[differ]
    others = np.minimum(sizes[answers.ballot[one]] - 1, 2 * max(apart - 1, 1))
    return Pairings(one, two, 1 / np.maximum(others, 1))


def lengths(prompts: int) -> tuple[str, ...]:
    """Controls for length: how much longer an answer is, along a line and in steps.

    With few prompts there is one step, which is whether it is longer.
    """
    return ("length amount", *(_BY_STEP if prompts >= _STEPS_NEED else ("longer",)))


def outcome(value: Floats, pairs: Pairings) -> Floats:
    """0.5 where the first of two has more, -0.5 where it has less, 0 for a tie, NaN unknown."""
    halves: Floats = np.sign(value[pairs.one] - value[pairs.two]) / 2
    return halves


class Differences:
    """A design (`effects.Design`): what the first of two answers has, and the other has not.

    Columns: `first` (it was shown first), `longer`, those of `lengths`, each format, `own`, and
    one for each source where they are few.
    """

    def __init__(self, answers: Answers, pairs: Pairings, *, sources: int = 0) -> None:
        self.answers, self.pairs, self.sources = answers, pairs, sources
        self._log = np.log2(np.maximum(answers.length, 1))
        own = [] if answers.own is None else ["own"]
        self.by_source = [f"source {number}" for number in range(sources)]
        self.names = [
            "first",
            "longer",
            "length amount",
            *_BY_STEP,
            *answers.formats,
            *own,
            *self.by_source,
        ]

    def part(self, start: int, stop: int) -> Floats:
        """Comparisons `start` to `stop`."""
        one, two = self.pairs.one[start:stop], self.pairs.two[start:stop]
        gap = self._log[one] - self._log[two]
        columns = [np.full(len(one), float(self.answers.ordered)), np.sign(gap)]
        columns.append(np.clip(gap, -_FARTHEST, _FARTHEST))
        step = np.searchsorted(_STEPS, np.abs(gap), side="left") - 1
        columns += [np.sign(gap) * (step == number) for number in range(len(_STEPS) - 1)]
        flags = list(self.answers.formats.values())
        if self.answers.own is not None:
            flags.append(self.answers.own)
        columns += [flag[one].astype(np.float64) - flag[two] for flag in flags]
        source = self.answers.source
        for number in range(self.sources):
            columns.append((source[one] == number).astype(np.float64) - (source[two] == number))
        stacked: Floats = np.stack(columns, axis=1)
        return stacked
