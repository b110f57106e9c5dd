"""What a verdict's words mean where nobody says it: by the names of the answers' columns."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

import polars as pl

from prefmill.errors import BadArgument
from prefmill.shapes.cells import Cell
from prefmill.shapes.conditions import Is, Same, Some
from prefmill.shapes.paths import Path
from prefmill.shapes.words import Rows, folded

#: Words of a tie.
TIES = (
    "tie",
    "ties",
    "tied",
    "draw",
    "equal",
    "same",
    "both",
    "neither",
    "both good",
    "both_good",
    "both bad",
    "both_bad",
    "bothbad",
    "tie (bothbad)",
)
_NOUNS = ("model", "response", "answer", "output", "completion", "assistant", "text", "option")
_NUMBERS = {"a": "first", "1": "first", "b": "second", "2": "second"}


#: A word of a name, or what stands between words.
_WORD = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])|[0-9]+|[^A-Za-z0-9]+")


def own_parts(names: Sequence[str]) -> list[str]:
    """What each name has for itself: the words that all begin and end with are cut off.

    >>> own_parts(["response_A", "response_B"]), own_parts(["left.text", "right.text"])
    (['A', 'B'], ['left', 'right'])
    """
    words = [_WORD.findall(name) for name in names]
    start = _alike(words)
    end = _alike([each[start:][::-1] for each in words])
    return ["".join(each[start : len(each) - end]).strip("_-. ") for each in words]


def _alike(words: Sequence[Sequence[str]]) -> int:
    """How many words names begin with alike."""
    alike = itertools.takewhile(lambda each: len(set(each)) == 1, zip(*words, strict=False))
    return sum(1 for _ in alike)


def words_of(names: Sequence[str]) -> list[tuple[str, ...]]:
    """The words by which each of the answers, of these names, wins."""
    parts = own_parts(names)
    words = []
    for name, part in zip(names, parts, strict=True):
        mine = [name, part, *(f"{noun}_{part}" for noun in _NOUNS)]
        mine += [f"{noun} {part}" for noun in _NOUNS] + [f"{noun}{part}" for noun in _NOUNS]
        if ordinal := _NUMBERS.get(folded(part)):
            mine.append(ordinal)
        if len(names) == 2:
            other = next(each for each in parts if each != part)
            mine += [f"{part}>{other}", f"{part}>>{other}", f"{other}<{part}", f"{other}<<{part}"]
        words.append(tuple(dict.fromkeys(filter(None, map(folded, mine)))))
    return words


def ties_of(names: Sequence[str], rows: Rows) -> tuple[str, ...]:
    """The words of a tie between answers of these names."""
    parts = own_parts(names)
    return (*TIES, "=".join(parts), "~".join(parts), *(rows.ties or ()))


def is_one_hot(winners: Sequence[Path], names: Sequence[str], rows: Rows) -> bool:
    """Whether verdict columns are one for each answer, named as these are.

    >>> import polars as pl
    >>> schema = pl.Schema({"winner_model_a": pl.Int64, "winner_model_b": pl.Int64})
    >>> paths = [Path(name, name, (), schema[name]) for name in schema]
    >>> is_one_hot(paths, ["response_a", "response_b"], Rows())
    True
    """
    if rows.wins or not _named_alike(winners, names):
        return False
    return not any(part.isdigit() for part in own_parts(names))


def refuse_numbered(winners: Sequence[Path], names: Sequence[str], rows: Rows, where: str) -> None:
    """Refuse columns that may be one for each answer as well as one for each judge.

    `winner1,winner2` next to `response1,response2` can be meant in both ways, and one of them is
    wrong data.
    """
    if rows.wins or not _named_alike(winners, names) or is_one_hot(winners, names, rows):
        return
    texts = [path.text for path in winners]
    raise BadArgument(
        f"{where}: {texts} may be judges, or a column for each of the answers {list(names)}; got"
        " no wins.",
        hint=f"judges: --wins {','.join(own_parts(names))}; columns of 0 and 1: rename them.",
    )


def _named_alike(winners: Sequence[Path], names: Sequence[str]) -> bool:
    count = len(names)
    if count < 2 or len(winners) < count:
        return False
    mine = own_parts([path.text for path in winners[:count]])
    return list(map(folded, mine)) == list(map(folded, own_parts(names)))


def one_hot(cells: Sequence[Cell], winners: Sequence[Path], count: int) -> Verdict:
    """The answer whose column is true; a further column that is true is a tie."""
    true = [Is(cell, path.dtype, ("1", "true")) for cell, path in zip(cells, winners, strict=True)]
    return Verdict(tuple((each,) for each in true[:count]), tuple(true[count:]))


def by_words(
    cell: Cell, winner: Path, names: Sequence[str], rows: Rows, sources: Sequence[Cell]
) -> Verdict:
    """The answer that the verdict's word names."""
    words = rows.wins or words_of(names)
    if len(words) != len(names):
        raise BadArgument(
            f"rows: wins has words for {len(words)} answers; got {len(names)} answers, {names}.",
            hint="name a word for each answer: --wins 'A>B,B>A'.",
        )
    wins: list[tuple[Cell, ...]] = [(Is(cell, winner.dtype, mine),) for mine in words]
    if len(sources) == len(names) and not rows.wins:
        for place, source in enumerate(sources):
            others = (*sources[:place], *sources[place + 1 :])
            wins[place] = (*wins[place], Same(cell, source, others))
    return Verdict(tuple(wins), (Is(cell, winner.dtype, ties_of(names, rows)),))


@dataclass(frozen=True)
class Verdict:
    """The number of the answer that wins, -1 for a tie, null where nobody can tell."""

    wins: tuple[tuple[Cell, ...], ...]  #: for each answer what makes it win
    ties: tuple[Cell, ...]

    def sql(self) -> str:
        """By how many answers win."""
        won = [Some(tests).sql() for tests in self.wins]
        count = " + ".join(f"({each})::INT" for each in won)
        which = " ".join(f"WHEN {each} THEN {place}" for place, each in enumerate(won))
        tie = Some(self.ties).sql()
        return (
            f"CASE WHEN {count} > 1 OR ({count} = 1 AND {tie}) THEN NULL"
            f" {which} WHEN {tie} THEN -1 END"
        )

    def polars(self) -> pl.Expr:
        """By how many answers win."""
        won = [Some(tests).polars() for tests in self.wins]
        tie = Some(self.ties).polars()
        count = pl.sum_horizontal(*(each.cast(pl.Int64) for each in won))
        unclear = (count > 1) | ((count == 1) & tie)
        which = pl.when(unclear).then(pl.lit(None, pl.Int64))
        for place, each in enumerate(won):
            which = which.when(each).then(pl.lit(place, pl.Int64))  # type: ignore[assignment]
        return which.when(tie).then(pl.lit(-1, pl.Int64)).otherwise(pl.lit(None, pl.Int64))


@dataclass(frozen=True)
class Scored:
    """The score of an answer by a verdict: 1 if it won, 0.5 of a tie, else 0."""

    verdict: Cell
    place: int

    def sql(self) -> str:
        """A number."""
        value = self.verdict.sql()
        return f"CASE {value} WHEN {self.place} THEN 1.0 WHEN -1 THEN 0.5 ELSE 0.0 END::DOUBLE"

    def polars(self) -> pl.Expr:
        """A number."""
        value = self.verdict.polars()
        return pl.when(value == self.place).then(1.0).when(value == -1).then(0.5).otherwise(0.0)
