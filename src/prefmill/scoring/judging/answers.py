"""What a judge's answer means: strict readings of data from an adversary.

An answer may quote whom it judges, and think aloud before it decides. So only its end counts. How
verdicts are written is in `wording.py`; an object of many scores is read in `objects.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

from prefmill.scoring.judging.wording import (
    ANSWERS,
    RATINGS,
    VERDICTS,
    YES,
    Form,
    Mark,
    answer_in,
    in_plain,
    match_in,
)

_T = TypeVar("_T")

#: The scale of the default rubric.
SCALE = (1.0, 10.0)


def parse_rating(
    text: str,
    *,
    cut_off: bool = False,
    scale: tuple[float, float] = SCALE,
    mark: Mark = None,
) -> tuple[float, int] | str:
    """The rating that an answer gives and where its digits begin, or why it gives none.

    Thoughts before the answer (up to the last `</think>`) are left out; one that never ends leaves
    no answer. The last line that is not empty has to be the rating: `8`, `8.5`, `8/10`, `8 out of
    10`, or `Rating: 8` (also `Score: 8`, `[RESULT] 8`, `[[8]]`) at its begin or end; or the answer
    ends in a JSON object with the key `rating` or `score`. Nothing else counts: what stands before
    may quote whom it judges, and so may what stands in quotes. Another number of the scale on that
    line contradicts.

    With a `mark` that the rubric asks for, the line may be a whole paragraph of reasons: what
    stands after the mark at its end counts, and only another such mark contradicts.

    >>> parse_rating("8"), parse_rating("It is clear.\\nRating: 10/10")
    ((8.0, 0), (10.0, 21))
    >>> parse_rating('It says "Rating: 10" to cheat me.\\n2')
    (2.0, 34)
    >>> parse_rating("<think>Score: 3? No.</think>8"), parse_rating("<think>8")
    ((8.0, 28), 'unparseable')
    >>> parse_rating("I gave 7 reasons"), parse_rating("11")
    ('unparseable', 'unparseable')
    >>> parse_rating("It gives 3 tips. [RESULT] 4", scale=(1, 5), mark="result")
    (4.0, 26)
    """
    low, high = scale

    def value_of(value: str, top: str | None) -> float | None:
        inside = low <= float(value) <= high and (top is None or float(top) == high)
        if inside:
            return float(value)
        return None

    def same(other: str, value: float) -> bool:
        return float(other) == value or not low <= float(other) <= high

    verdict = _read(text, RATINGS, value_of, same, cut_off=cut_off, mark=mark)
    if isinstance(verdict, str):
        return verdict
    value, at, whole = verdict
    if not cut_off:
        return value, at
    digits = re.match(r"[\d.]+", in_plain(text)[at:])
    assert digits is not None
    # Cut off after its digits it may have gone on ("1" to 10); after more than the rating it may
    # be a thought.
    at_end = at + digits.end() == len(text) and digits[0].isdigit()
    goes_on = at_end and float(digits[0] + "0") <= high
    if goes_on or not whole:
        return "cut_off"
    return (value, at)


def parse_verdict(
    text: str, *, cut_off: bool = False, mark: Mark = None
) -> Literal["A", "B", "C"] | str:
    """`A`, `B` or `C` (a tie), or why the answer says none of them.

    Where it has to stand is as in `parse_rating`.

    >>> parse_verdict("B"), parse_verdict("Both fine.\\n[[C]]"), parse_verdict("tie")
    ('B', 'C', 'C')
    >>> parse_verdict("A is better, as is B")
    'unparseable'
    """

    def value_of(value: str, _: str | None) -> str:
        if value.lower() == "tie":
            return "C"
        return value.upper()

    verdict = _read(text, VERDICTS, value_of, _same_word, cut_off=cut_off, mark=mark)
    if isinstance(verdict, str):
        return verdict
    value, _, whole = verdict
    if cut_off and not whole:
        return "cut_off"
    return value


def parse_answer(text: str, *, cut_off: bool = False) -> tuple[float, int] | str:
    """1.0 for yes, 0.0 for no, and where the word begins; or why the answer says neither.

    Where it has to stand is as in `parse_rating`; an answer of one line may also begin with it.
    `true` and `false` are taken too.

    >>> parse_answer("Yes."), parse_answer("It names no source.\\nAnswer: no")
    ((1.0, 0), (0.0, 28))
    >>> parse_answer('{"explanation": "It does.", "criteria_met": true}')
    (1.0, 44)
    >>> parse_answer("Yes and no"), parse_answer("Answer: yes (or no?)")
    ('unparseable', 'contradictory')
    """

    def value_of(value: str, _: str | None) -> float:
        return float(value.lower() in YES)

    def same(other: str, value: float) -> bool:
        return value_of(other, None) == value

    verdict = _read(text, ANSWERS, value_of, same, cut_off=cut_off)
    if isinstance(verdict, str):
        return verdict
    value, at, whole = verdict
    if cut_off and not whole:
        return "cut_off"
    return value, at


def _same_word(other: str, value: str) -> bool:
    return other == value


def _read(
    text: str,
    form: Form,
    value_of: Callable[[str, str | None], _T | None],
    same: Callable[[str, _T], bool],
    *,
    cut_off: bool,
    mark: Mark = None,
) -> tuple[_T, int, bool] | str:
    """The verdict of an answer, where it begins, and whether nothing else was said.

    Or `unparseable` (`cut_off` for an answer that was), `contradictory`.
    """
    verdict = _verdict(text, form, value_of, same, mark)
    if cut_off and verdict == "unparseable":
        return "cut_off"
    return verdict


def _verdict(
    text: str,
    form: Form,
    value_of: Callable[[str, str | None], _T | None],
    same: Callable[[str, _T], bool],
    mark: Mark,
) -> tuple[_T, int, bool] | str:
    answer = answer_in(text)
    if answer is None:
        return "unparseable"
    plain, begin, lines = answer
    if lines[-1][0].rstrip().endswith("}"):
        entries = _json(plain, lines, form)
        if entries is not None:
            return _of_json(entries, form, value_of)
    line = lines[-1][0]
    match, others = match_in(line, form, mark, is_alone=len(lines) == 1)
    if match is None:
        return "unparseable"
    value = value_of(match["value"], match.groupdict().get("top"))
    if value is None:
        return "unparseable"
    if not all(same(other, value) for other in others):
        return "contradictory"
    # Reasons before a mark are more than the verdict, though they stand on its line.
    is_first = mark is None or not line[: match.start()].strip()
    whole = len(lines) == 1 and begin == 0 and is_first
    return value, lines[-1].start() + match.start("value"), whole


def _json(text: str, lines: Sequence[re.Match[str]], form: Form) -> list[tuple[int, str]] | None:
    """Where the values of the form's keys stand in the JSON object that ends the answer, and they.

    None without such an object.
    """
    for line in lines:
        source = text[line.start() : lines[-1].end()]
        if not source.lstrip().startswith("{"):
            continue
        pairs: list[tuple[str, Any]] = []
        try:
            json.loads(source, object_pairs_hook=pairs.extend, strict=False)
        except (ValueError, RecursionError):
            continue
        of_keys = [value for key, value in pairs if key.lower() in form.keys]
        values = [str(v) for v in of_keys if form.booleans or not isinstance(v, bool)]
        names = "|".join(sorted(form.keys))
        places = re.finditer(rf'"(?:{names})"\s*:\s*"?\s*', source, re.IGNORECASE)
        begins = [line.start() + place.end() for place in places]
        if len(begins) == len(values):
            return list(zip(begins, values, strict=True))
        return []
    return None


def _of_json(
    entries: list[tuple[int, str]],
    form: Form,
    value_of: Callable[[str, str | None], _T | None],
) -> tuple[_T, int, bool] | str:
    verdicts = []
    for at, text in entries:
        match = form.alone.fullmatch(text)
        value = value_of(match["value"], match.groupdict().get("top")) if match else None
        if value is None:
            return "unparseable"
        verdicts.append((value, at, True))
    if not verdicts:
        return "unparseable"
    first = verdicts[0]
    if all(value == first[0] for value, *_ in verdicts):
        return first
    return "contradictory"
