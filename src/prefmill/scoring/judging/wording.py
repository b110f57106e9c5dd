"""How verdicts are written: the forms in which an answer may state one, and where it may stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

#: what a rubric told the judge to end with: `[RESULT] 4`, or `[[8]]`; nothing in particular
Mark = Literal["result", "brackets"] | None

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
class Form:
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
    ) -> Form:
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


RATINGS = Form.of(
    "rating|score|grade",
    _RATING,
    _NO_MORE,
    r"(?<![\w.,/])(?<!out of )\d+(?:\.\d+)?(?!\w|[.,/]\d)",
    "rating score grade overall_rating",
)
VERDICTS = Form.of(
    "verdict|winner|choice",
    rf"{_OPEN}(?P<value>(?-i:[ABC])|tie){_CLOSE}",
    r"(?!\w)",
    r"(?<!\w)[ABC](?![\w'])",
    "verdict winner choice",
)
YES = ("yes", "true")
ANSWERS = Form.of(
    "answer|verdict|met|criteria_met|satisfied|result",
    rf"{_OPEN}(?P<value>yes|no|true|false){_CLOSE}",
    r"(?!\w)",
    # "no errors" is not an answer, "yes or no." are two
    r"(?<!\w)(?i:yes|no)(?!\w)(?=\s*(?:[,.;:!?)]|$))",
    "answer met criteria_met satisfied verdict",
    booleans=True,
)


def in_plain(text: str) -> str:
    """Full-width characters as plain ones, each at its place."""
    return text.translate(_PLAIN)


def answer_in(text: str) -> tuple[str, int, list[re.Match[str]]] | None:
    """An answer in plain characters, where its thoughts end, and its lines that say something."""
    plain = in_plain(text)
    begin = max((match.end() for match in _CLOSED.finditer(plain)), default=0)
    if _OPENED.search(plain, begin):
        return None
    lines = [line for line in _LINE.finditer(plain, begin) if line[0].strip()]
    lines = [line for line in lines if not _FENCE.fullmatch(line[0])]
    return (plain, begin, lines) if lines else None


def match_in(
    line: str, form: Form, mark: Mark, *, is_alone: bool
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
