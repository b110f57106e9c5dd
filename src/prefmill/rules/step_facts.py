"""What the data of a whole input decides: the scale of ratings, the position of the first step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import polars as pl

from prefmill.errors import BadInput
from prefmill.rules.step_cells import says_no_error
from prefmill.table.numbers import number
from prefmill.table.step_words import StepWords

#: Ratings that are labels by themselves: the larger one is true.
_LABELS = ({0.0, 1.0}, {-1.0, 1.0})
_SIGNS = {-1.0, 0.0, 1.0}
#: More different numbers than this decide nothing else.
_MOST = 8


@dataclass(frozen=True)
class Facts:
    """What was seen in some paths, or in all.

    `numbers` are different ratings. Of positions of the first error: whether one is 0, whether one
    is the number of its steps, whether some say that there is none, and whether some are numbers.
    """

    numbers: frozenset[float] = frozenset()
    at_zero: bool = False
    at_size: bool = False
    without: bool = False
    positions: bool = False

    def __or__(self, other: Facts) -> Facts:
        """What was seen in both."""
        numbers = sorted(self.numbers | other.numbers)
        return Facts(
            frozenset(numbers[:_MOST]),
            self.at_zero or other.at_zero,
            self.at_size or other.at_size,
            self.without or other.without,
            self.positions or other.positions,
        )


def facts_of(paths: pl.DataFrame, words: StepWords) -> Facts:
    """What the output of `listed` says."""
    if words.rating is not None:
        marks = paths["_marks"].explode(empty_as_null=False, keep_nulls=False).drop_nulls()
        marks = marks.filter(marks.is_finite())
        return Facts(frozenset(marks.unique().sort().head(_MOST).to_list()))
    kind = paths.schema["_first_error"]
    position = number(pl.col("_first_error"), kind)
    none = says_no_error(pl.col("_first_error"), kind, words.no_error)
    size = pl.col("_steps").list.len()
    real = ~none & position.is_not_null() & (size > 0)
    seen = paths.select(
        at_zero=(real & (position == 0)).any(),
        at_size=(real & (position == size)).any(),
        without=none.any(),
        positions=real.any(),
    )
    return Facts(**seen.row(0, named=True))


def settled(words: StepWords, facts: Facts) -> tuple[StepWords, str | None]:
    """`words` with what `facts` decides, and a note about it; raises `BadInput` where they do not
    decide.
    """
    if words.rating is not None:
        if words.threshold is None:
            _check_scale(facts.numbers)
        return words, None
    if words.first_index is not None or not facts.positions:
        return words, None
    if facts.at_zero and facts.without and not facts.at_size:
        note = "a first error is at 0, so steps count from 0 (--first-index 0)."
        return replace(words, first_index=0), note
    if facts.at_size and not facts.at_zero:
        note = "a first error is at the number of steps, so they count from 1 (--first-index 1)."
        return replace(words, first_index=1), note
    raise BadInput(
        f"steps: {words.first_error} is the place of the first error, and the data does not say"
        " whether steps count from 0 or from 1.",
        hint=_two_indexes(facts),
    )


def _two_indexes(facts: Facts) -> str:
    if not facts.at_zero:
        return "--first-index 0 where the first step is 0, or --first-index 1 where it is 1."
    return (
        "--first-index 0 where the first step is 0,"
        " or --first-index 1 --no-error 0 where it is 1, and 0 says that no step is wrong."
    )


def _check_scale(numbers: frozenset[float]) -> None:
    if any(numbers <= labels for labels in _LABELS):
        return
    told = ", ".join(format(value, "g") for value in sorted(numbers))
    if len(numbers) >= _MOST:
        told += ", ..."
    hint = "--threshold NUMBER (a rating of at least that is true), or --values WORD=1,WORD=0."
    if numbers <= _SIGNS:
        hint = (
            '--values "1=1,0=1,-1=0" where 0 is right (neutral),'
            ' or --values "1=1,0=0,-1=0" where it is not.'
        )
    raise BadInput(
        f"steps: ratings are true or false where they are 1 and 0, or 1 and -1; got {told}.",
        hint=hint,
    )
