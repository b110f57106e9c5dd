"""What the words of a verdict column say, as far as its first records tell."""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from prefmill.shapes import names, verdicts
from prefmill.shapes.look import Table, Words
from prefmill.shapes.names import Family
from prefmill.shapes.paths import find
from prefmill.shapes.seen import words_seen
from prefmill.shapes.words import Rows, as_number, folded
from prefmill.table.messages import is_text

_MOST_LEFT_OUT = 2
#: A column with more words than these is no verdict.
_MOST_WORDS = 11


def one_hots(table: Table, family: Family, numbers: Sequence[Family]) -> tuple[str, ...]:
    """Columns of which the one that is true says which answer wins, those of ties at the end."""
    answers = list(family.paths.values())
    for each in numbers:
        if not names.is_verdict(each.common):
            continue
        columns = list(each.paths.values())
        paths = [find(text, table.schema) for text in columns]
        if verdicts.is_one_hot(paths, answers, Rows()):
            ties = [path for path in table.pools(columns)[0] if _is_tie(table, path, each)]
            return (*columns, *ties)
    return ()


def _is_tie(table: Table, path: str, family: Family) -> bool:
    words = set(names.words(path))
    if not table.is_number(path):
        return False
    alike = words <= {*names.TIES, *family.common, "is", "bad", "good"}
    return words == {"no", "preference"} or (bool(words & names.TIES) and alike)


def explained(
    table: Table, answers: Sequence[str], sources: Sequence[str], winner: Sequence[str]
) -> list[Words] | tuple[str, ...] | None:
    """The ways to read a verdict (one for each judge), as words.

    One way: it is clear. A tuple of words: those that name no answer. None: it is no verdict.
    """
    base: Words = {} if table.named.winner is not None else {"winner": _one_or_all(winner)}
    found = [words_seen(table.head, path) for path in winner]
    if any(words is None for words in found):
        return _unseen(table, answers, winner, base)
    seen = list(dict.fromkeys(word for words in found for word in words or ()))
    if not seen:
        return None
    if table.named.wins is not None:
        every = {folded(word) for words in table.named.wins for word in words}
        return [base] if any(_among(word, every) for word in seen) else None
    unknown = _unknown(table, answers, sources, seen)
    numbers = all(as_number(word) is not None for word in seen)
    if numbers and (ways := _of_numbers(answers, winner, [float(word) for word in seen])):
        return [{**base, **words} for words in ways]
    if not unknown:
        return [base]
    if len(unknown) == len(seen) == len(answers) == 2 and _short(unknown):
        one, other = unknown
        return [{**base, "wins": ((one,), (other,))}, {**base, "wins": ((other,), (one,))}]
    if not numbers and _all_win(table, answers, sources, seen):
        return [base]  # what else was said is counted, as unknown_verdict
    return tuple(unknown) if len(unknown) <= _MOST_WORDS else None


def _short(words: Sequence[str]) -> bool:
    return all(word and len(word) < 40 and not set(word) & set(",|") for word in words)


def _one_or_all(winner: Sequence[str]) -> str | tuple[str, ...]:
    return winner[0] if len(winner) == 1 else tuple(winner)


def _unseen(
    table: Table, answers: Sequence[str], winner: Sequence[str], base: Words
) -> list[Words] | tuple[str, ...]:
    """Of values that nobody saw: a text names an answer or is counted, a number may mean any."""
    kinds = [table.paths.get(path, pl.String()) for path in winner]
    if table.named.wins is not None or any(is_text(kind) for kind in kinds):
        return [base]
    if len(winner) == 1 and _is_index(answers, winner):
        return [base]
    if kinds == [pl.Boolean()] and len(answers) == 2:
        return _both(base, "true", "false")
    return ()


def _both(base: Words, one: str, other: str) -> list[Words]:
    """Both ways to read two words."""
    first, second = tuple(one.split("|")), tuple(other.split("|"))
    return [{**base, "wins": (first, second)}, {**base, "wins": (second, first)}]


def _all_win(
    table: Table, answers: Sequence[str], sources: Sequence[str], seen: Sequence[str]
) -> bool:
    """Whether words of each answer were seen."""
    known = [set(words) for words in verdicts.words_of(answers)]
    for place, path in enumerate(sources if len(sources) == len(answers) else ()):
        known[place] |= set(words_seen(table.head, path) or ())
    return all(any(_among(word, mine) for word in seen) for mine in known)


def _unknown(
    table: Table, answers: Sequence[str], sources: Sequence[str], seen: Sequence[str]
) -> list[str]:
    known = {word for words in verdicts.words_of(answers) for word in words}
    known |= {folded(word) for word in verdicts.ties_of(answers, table.named)}
    if len(sources) == len(answers):
        for path in sources:
            known |= set(words_seen(table.head, path) or ())
    return [word for word in seen if word and not _among(word, known)]


def _among(word: str, known: set[str]) -> bool:
    """Whether a word is one of others, a number as a number."""
    number = as_number(word)
    if word in known or number is None:
        return word in known
    return number in {as_number(each) for each in known}


def _is_index(answers: Sequence[str], winner: Sequence[str]) -> bool:
    """Whether a verdict's name says that it holds the number that answers have in their names."""
    parts = verdicts.own_parts(answers)
    said = set(names.words(winner[0])) & names.INDEXES
    return bool(said) and all(part.isdigit() for part in parts)


def _of_numbers(
    answers: Sequence[str], winner: Sequence[str], seen: Sequence[float]
) -> list[Words]:
    """The ways to read numbers: as those in the answers' names, or both ways; [] for neither."""
    parts = verdicts.own_parts(answers)
    own = {float(part) for part in parts} if all(part.isdigit() for part in parts) else set()
    rest = set(seen)
    if own and rest <= own:
        # That 1 is `response_1` is clear where a 2 occurs as well, or the name says so.
        sure = _is_index(answers, winner) or (0.0 not in own and rest == own)
        if sure and len(winner) == 1:
            return [{}]
    if len(answers) != 2:
        return []
    more = sorted(rest - own)
    if own and 0.0 not in own and own < rest and len(more) <= _MOST_LEFT_OUT:
        ties = tuple(f"{number:g}" for number in more)
        return [{"wins": _wins(parts), "ties": ties}, {"wins": _wins(parts)}]
    equal = ("0",) if 0.0 in rest and min(rest) < 0 else ()
    if 0.5 in rest and rest <= {0.0, 0.5, 1.0}:
        equal, rest = ("0.5",), rest - {0.5}
    if 1.5 in rest and rest <= {1.0, 1.5, 2.0}:
        equal, rest = ("1.5",), rest - {1.5}
    words: Words = {"ties": equal} if equal else {}
    if rest <= {0.0, 1.0}:
        return _both(words, "1", "0")
    if rest <= {1.0, 2.0}:
        return _both(words, "1", "2")
    if min(rest) < 0 and rest <= set(map(float, range(-5, 6))):
        top = int(max(abs(number) for number in rest))
        low = "|".join(str(-number) for number in range(top, 0, -1))
        return _both(words, low, "|".join(str(number) for number in range(1, top + 1)))
    return []


def _wins(parts: Sequence[str]) -> tuple[tuple[str], ...]:
    return tuple((part,) for part in parts)
