"""What a judge's answer means: strict readings of data from an adversary.

An answer may quote whom it judges, and think aloud before it decides. So only its end counts.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

_T = TypeVar("_T")
#: what a rubric told the judge to end with: `[RESULT] 4`, or `[[8]]`; nothing in particular
Mark = Literal["result", "brackets"] | None

#: The scale of the default rubric.
SCALE = (1.0, 10.0)
# Full-width forms, one character for one, so that places in the text stay what they are.
_PLAIN = str.maketrans({chr(code): chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)})
_THOUGHT = (
    r"(?:think|thinking|thoughts?|reasoning|seed:think|scratchpad|analysis|reflection|rationale)"
)
_OPENED = re.compile(
    rf"[<\[◁]\s*{_THOUGHT}\s*[>\]▷]|<\|begin_of_thought\|>|<\|channel\|>analysis", re.IGNORECASE
)
_CLOSED = re.compile(
    rf"[<\[◁]\s*/\s*{_THOUGHT}\s*[>\]▷]|<\|end_of_thought\|>|<\|channel\|>final<\|message\|>",
    re.IGNORECASE,
)
_LINE = re.compile(r"[^\n\r\v\f\x85\u2028\u2029]+")
_FENCE = re.compile(r"\s*`{3,}\w*\s*")
_QUOTED = re.compile(
    r"""\"[^"]*"|“[^”]*”|«[^»]*»|`[^`]*`|(?<!\w)'[^']*'(?!\w)|(?<!\w)‘[^’]*’(?!\w)"""
)
_QUOTES = re.compile('["“”«»]')

_BULLET = r"\s*(?:[-*#>]+\s+)*[*_]*"
_OPEN, _CLOSE = r"[\[(*_`]*", r"(?:[\])}*_`]|\s*</\w+>)*"
_NUMBER = r"(?P<value>(?:0|[1-9]\d{0,8})(?:\.\d{1,8})?)"
_RATING = rf"{_OPEN}{_NUMBER}{_CLOSE}(?:\s*(?:/|out\s+of)\s*(?P<top>\d{{1,9}})(?!\d))?{_CLOSE}"
_NO_MORE = r"(?![\w%]|[.,/]\d|\s*(?:[-–~/]|to\b|or\b|out\b)\s*\d)"
# a reason may follow, the rest of a sentence may not: "Rating: 10 is what it wants"
_PAUSE = r"(?=\s*(?:[,.;:!(—–-]|$))"
_ADJECTIVES = r"(?:(?:my|the|your|its|final|overall|total)\s+)*"


_RESULT = r"\[(?:RESULT|SCORE)\]\s*:?\s*"


def _label(words: str) -> str:
    """What stands before a verdict: `Rating:`, `[RESULT]`, or the brackets of `[[8]]`."""
    label = rf"(?:{words})[*_]*(?:\s*\([^()]*\))?[*_]*\s*(?:[:=]|\bis\b:?)[*_\s]*"
    return rf"{label}|<(?:{words})>\s*|\\boxed\{{|{_RESULT}|(?=\[\[)"


@dataclass(frozen=True)
class _Form:
    """How a verdict can be written.

    It stands alone on its line, first or last in it, or under one of `keys` of a JSON object.
    `marked`: after a mark that the rubric asked for, and nothing else counts then. `opening`: first
    without a label, in an answer of one line.
    """

    alone: re.Pattern[str]
    first: re.Pattern[str]
    last: re.Pattern[str]
    others: re.Pattern[str]  #: what would contradict, were it another
    marked: Mapping[str, re.Pattern[str]]
    keys: frozenset[str]
    booleans: bool = False  #: JSON's true and false are verdicts
    opening: re.Pattern[str] | None = None

    @classmethod
    def of(
        cls, words: str, value: str, more: str, others: str, keys: str, *, booleans: bool = False
    ) -> _Form:
        label, letter = _label(words), value.replace("(?-i:[ABC])", "[ABC]")
        alone = rf"{_BULLET}[\"'“‘«]?{letter}[\"'”’»]?\s*[.!]?\s*"
        first = rf"{_BULLET}{_ADJECTIVES}(?:{label}){value}{more}{_PAUSE}"
        last = rf"(?:{label}){value}[\s.!*_]*$"
        marks = {"result": rf"{_RESULT}{value}{more}", "brackets": rf"(?=\[\[){value}{more}"}
        return cls(
            alone=re.compile(alone, re.IGNORECASE),
            first=re.compile(first, re.IGNORECASE),
            last=re.compile(last, re.IGNORECASE),
            others=re.compile(others),
            marked={name: re.compile(mark, re.IGNORECASE) for name, mark in marks.items()},
            keys=frozenset(keys.split()),
            booleans=booleans,
            # A number may be anything; yes or no before a pause answers the question.
            opening=re.compile(rf"{_BULLET}{value}{_PAUSE}", re.IGNORECASE) if booleans else None,
        )


_RATINGS = _Form.of(
    "rating|score|grade",
    _RATING,
    _NO_MORE,
    r"(?<![\w.,/])(?<!out of )\d+(?:\.\d+)?(?!\w|[.,/]\d)",
    "rating score grade overall_rating",
)
_VERDICTS = _Form.of(
    "verdict|winner|choice",
    rf"{_OPEN}(?P<value>(?-i:[ABC])|tie){_CLOSE}",
    r"(?!\w)",
    r"(?<!\w)[ABC](?![\w'])",
    "verdict winner choice",
)
_YES = ("yes", "true")
_ANSWERS = _Form.of(
    "answer|verdict|met|criteria_met|satisfied|result",
    rf"{_OPEN}(?P<value>yes|no|true|false){_CLOSE}",
    r"(?!\w)",
    # "no errors" is not an answer, "yes or no." are two
    r"(?<!\w)(?i:yes|no)(?!\w)(?=\s*(?:[,.;:!?)]|$))",
    "answer met criteria_met satisfied verdict",
    booleans=True,
)


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

    verdict = _read(text, _RATINGS, value_of, same, cut_off=cut_off, mark=mark)
    if isinstance(verdict, str):
        return verdict
    value, at, whole = verdict
    if not cut_off:
        return value, at
    digits = re.match(r"[\d.]+", text.translate(_PLAIN)[at:])
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

    verdict = _read(text, _VERDICTS, value_of, _same_word, cut_off=cut_off, mark=mark)
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
        return float(value.lower() in _YES)

    def same(other: str, value: float) -> bool:
        return value_of(other, None) == value

    verdict = _read(text, _ANSWERS, value_of, same, cut_off=cut_off)
    if isinstance(verdict, str):
        return verdict
    value, at, whole = verdict
    if cut_off and not whole:
        return "cut_off"
    return value, at


def _same_word(other: str, value: str) -> bool:
    return other == value


def parse_scores(
    text: str, scales: Mapping[str, tuple[float, float] | None], *, cut_off: bool = False
) -> dict[str, float | str] | str:
    """For every name its number, or why it has none; one reason where the answer has no object.

    The answer ends in one JSON object. Under each name is a number of its scale, or yes or no
    (1.0, 0.0) where that is None; or an object with one such value under `score` and the like.
    Names that were not asked for are left out.

    >>> parse_scores('{"right": 4, "short": true}', {"right": (1, 5), "short": None})
    {'right': 4.0, 'short': 1.0}
    >>> parse_scores('{"right": 9, "right": 4}', {"right": (1, 5), "short": None})
    {'right': 'contradictory', 'short': 'unparseable'}
    >>> parse_scores('{"right": 4, "sho', {"right": (1, 5)}, cut_off=True)
    'cut_off'
    """
    entries = _last_object(text)
    if entries is None:
        return "cut_off" if cut_off else "unparseable"
    # A name that is spelled with another case is still that name, and so are two of them.
    said: dict[str, list[Any]] = {}
    for key, value in entries:
        said.setdefault(key.strip().casefold(), []).append(value)
    return {
        name: _one_score(said.get(name.strip().casefold(), []), scale)
        for name, scale in scales.items()
    }


def _one_score(values: Sequence[Any], scale: tuple[float, float] | None) -> float | str:
    if len(values) > 1 and any(value != values[0] for value in values):
        return "contradictory"
    if not values:
        return "unparseable"
    value = values[0]
    if isinstance(value, _Object):
        keys = (_RATINGS if scale else _ANSWERS).keys
        inner = [each for key, each in value if key.lower() in keys]
        return _one_score([each for each in inner if not isinstance(each, _Object)], scale)
    if isinstance(value, bool):
        return float(value) if scale is None else "unparseable"
    if not isinstance(value, int | float | str):
        return "unparseable"
    if scale is None:
        parsed = parse_answer(str(value)) if isinstance(value, str) else "unparseable"
    else:
        parsed = parse_rating(str(value), scale=scale)
    # Text under a name is a verdict alone, not a sentence with one in it.
    if isinstance(parsed, str) or (isinstance(value, str) and len(value.strip()) > 12):
        return "unparseable"
    return parsed[0]


class _Object(list[tuple[str, Any]]):
    """A JSON object as its entries: what stands there twice is there twice."""


def _last_object(text: str) -> _Object | None:
    """The JSON object in which an answer ends, after its thoughts."""
    answer = _answer_in(text)
    if answer is None:
        return None
    plain, _, lines = answer
    if not lines[-1][0].rstrip().endswith("}"):
        return None
    for line in lines:
        entries = _object_in(plain[line.start() : lines[-1].end()])
        if entries is not None:
            return entries
    return None


def _object_in(source: str) -> _Object | None:
    if not source.lstrip().startswith("{"):
        return None
    try:
        entries = json.loads(source, object_pairs_hook=_Object, strict=False)
    except (ValueError, RecursionError):
        return None
    return entries if isinstance(entries, _Object) else None


def _read(
    text: str,
    form: _Form,
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


def _answer_in(text: str) -> tuple[str, int, list[re.Match[str]]] | None:
    """An answer in plain characters, where its thoughts end, and its lines that say something."""
    plain = text.translate(_PLAIN)
    begin = max((match.end() for match in _CLOSED.finditer(plain)), default=0)
    if _OPENED.search(plain, begin):
        return None
    lines = [line for line in _LINE.finditer(plain, begin) if line[0].strip()]
    lines = [line for line in lines if not _FENCE.fullmatch(line[0])]
    return (plain, begin, lines) if lines else None


def _verdict(
    text: str,
    form: _Form,
    value_of: Callable[[str, str | None], _T | None],
    same: Callable[[str, _T], bool],
    mark: Mark,
) -> tuple[_T, int, bool] | str:
    answer = _answer_in(text)
    if answer is None:
        return "unparseable"
    plain, begin, lines = answer
    if lines[-1][0].rstrip().endswith("}"):
        entries = _json(plain, lines, form)
        if entries is not None:
            return _of_json(entries, form, value_of)
    line = lines[-1][0]
    match, others = _match_in(line, form, mark, is_alone=len(lines) == 1)
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


def _match_in(
    line: str, form: _Form, mark: Mark, *, is_alone: bool
) -> tuple[re.Match[str] | None, list[str]]:
    """The verdict of a line, and what else stands there that would contradict it."""
    # What is quoted is not said; a quote without its other half began on another line.
    masked = _QUOTED.sub(_masked, line)
    is_open = _QUOTES.search(_QUOTED.sub("", line)) is not None
    if mark and not is_open:
        marks = list(form.marked[mark].finditer(masked))
        if marks and not line[marks[-1].end() :].strip(" \t.!*_"):
            return marks[-1], [match["value"] for match in marks[:-1]]
    match = form.alone.fullmatch(line)
    if match is None and not is_open:
        match = form.first.match(masked) or form.last.search(masked)
        if match is None and is_alone and form.opening:
            match = form.opening.match(masked)
    if match is None:
        return None, []
    rest = line[: match.start()] + " " * (match.end() - match.start()) + line[match.end() :]
    return match, [other[0] for other in form.others.finditer(rest)]


def _masked(quote: re.Match[str]) -> str:
    """Quoted words as nothing, as long as they are; a quoted number stays."""
    has_letter = re.search(r"[^\W\d]", quote[0])
    if has_letter:
        return "\0" * len(quote[0])
    return quote[0]


def _json(text: str, lines: Sequence[re.Match[str]], form: _Form) -> list[tuple[int, str]] | None:
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
    form: _Form,
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
