r"""Answers in completions: where they stand, and what number they are.

    "... so 6 + 6 = 12. The answer is \boxed{12}."  ──extracted──▶ "12"  ──number_of──▶ 12

Patterns of this file take time that grows with the text alone, whatever it holds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from fractions import Fraction

#: ways that need no further word, and those that do
WAYS = ("auto", "boxed", "hash", "phrase", "last-number", "whole")
WAYS_WITH = ("tag", "regex")

# A box begins, a backslash hides what follows (but for a box), a brace opens, a brace closes.
_BRACES = re.compile(
    r"(?P<box>\\(?:boxed|fbox)\s*\{)|\\(?!\\(?:boxed|fbox)\s*\{).|(?P<open>\{)|(?P<close>\})",
    re.DOTALL,
)
_HASH = re.compile(r"####[ \t]*([^\n]*)")
_PHRASE = re.compile(r"answer[ \t]*(?:is|:|=)[ \t]*:?[ \t]*([^\n]*)", re.IGNORECASE)
_NUMBER = re.compile(
    r"(?<![\w.])[-+−]?(?:\d{1,3}(?:(?:,|\{,\}|\\,)\d{3})+|\d+)(?:\.\d+)?(?:[eE][-+]?\d+)?"
    r"(?!\d)|(?<![\w.])[-+−]?\.\d+"
)
_AROUND = " \t\n\r*_`\"'“”‘’"
_MOST_DIGITS = 400


def extracted(text: str, how: str, otherwise: str = "whole") -> str | None:
    r"""The answer in `text`; None where there is none.

    `how` is one of `WAYS`, `tag:NAME` or `regex:PATTERN` (its last match; the group `answer`, else
    the first group, else all of it). `auto` takes the last `\boxed{}`, else what follows the last
    `####`, else a last `<answer>`, else what follows the last "answer is", else `otherwise`.

    >>> extracted(r"so \boxed{\frac{1}{2}}, not \boxed{", "boxed")
    '\\frac{1}{2}'
    >>> extracted("6 + 6 = 12\n#### 12", "auto"), extracted("It is 7.", "auto", "last-number")
    ('12', '7')
    >>> extracted("The answer is **(B)**.", "auto")
    '(B)'
    """
    way, _, word = how.partition(":")
    if way == "tag":
        return _tagged(text, word)
    if way == "regex":
        return _matched(text, word)
    if how != "auto":
        return _BY[how](text)
    for find in (_boxed, _hashed, lambda text: _tagged(text, "answer"), _phrased):
        found = find(text)
        if found and (otherwise != "last-number" or number_of(found) is not None):
            return found
    return _BY[otherwise](text)


def _bare(text: str) -> str | None:
    """`text` without marks around it; None where nothing is left."""
    bare = text.strip(_AROUND)
    if bare.endswith(".") and not bare.endswith(".."):
        bare = bare[:-1].rstrip(_AROUND)
    return bare or None


def _boxed(text: str) -> str | None:
    """What the last box holds that is closed and not empty."""
    opened: list[tuple[int, bool]] = []
    last, inside = -1, ""
    for brace in _BRACES.finditer(text):
        if brace.lastgroup == "close":
            begin, is_box = opened.pop() if opened else (-1, False)
            if is_box and last < begin < brace.start():
                last, inside = begin, text[begin : brace.start()]
        elif brace.lastgroup:
            opened.append((brace.end(), brace.lastgroup == "box"))
    return inside.strip() or None


def _hashed(text: str) -> str | None:
    found = _HASH.findall(text)
    return _bare(found[-1]) if found else None


def _phrased(text: str) -> str | None:
    found = _PHRASE.findall(text)
    return _bare(found[-1]) if found else None


def _tagged(text: str, name: str) -> str | None:
    """What stands in the last element of this name."""
    begin = text.rfind(f"<{name}>")
    if begin < 0:
        return None
    begin += len(name) + 2
    end = text.find(f"</{name}>", begin)
    return _bare(text[begin : end if end >= 0 else None])


def _matched(text: str, pattern: str) -> str | None:
    matches = list(re.finditer(pattern, text))
    if not matches:
        return None
    last = matches[-1]
    groups = last.groupdict()
    found = groups["answer"] if "answer" in groups else last[1] if last.re.groups else last[0]
    return None if found is None else found.strip() or None


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return found[-1] if found else None


_BY: Mapping[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "hash": _hashed,
    "phrase": _phrased,
    "last-number": _last_number,
    "whole": _bare,
}

# Numbers

_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(-?[\d.,]+)\s*\}\s*\{\s*(-?[\d.,]+)\s*\}")
_POWER = re.compile(r"\s*(?:\\times|\\cdot|×|\*|x)\s*10\s*\^\s*\{?\s*([-+]?\d{1,4})\s*\}?")
_SLASHED = re.compile(r"(?<![\w./])([-+]?)(?:(\d{1,9})\s+)?(\d+)\s*/\s*(\d+)(?![\w./])")
_NOISE = re.compile(r"\\text\s*\{[^{}]*\}|\\(?:left|right|!|;|,|\s)|[$€£¥%]|\\%|\\\$")


def number_of(answer: str) -> Fraction | None:
    r"""The number that an answer is, exactly; None where it is none, or several.

    Separators of thousands, currencies, a percent sign and units after the number do not count;
    fractions and powers of ten do. After an `=` only what follows the last one is read.

    >>> [str(number_of(text)) for text in ("$1,234.50", "3/4", r"\frac{3}{4}", "1 1/2", "1.5e3")]
    ['2469/2', '3/4', '3/4', '3/2', '1500']
    >>> number_of("72 clips"), number_of("x = 5"), number_of("50%"), number_of("3 or 4")
    (Fraction(72, 1), Fraction(5, 1), Fraction(50, 1), None)
    """
    if len(answer) > 1000:
        return None
    text = answer.rpartition("=")[2].replace("−", "-").replace("{,}", ",")
    text = re.sub(r"(?<=\d)\\,(?=\d{3})", ",", text)
    text = re.sub(r"(?<=[-+])\s*[$€£¥]\s*(?=\d)", "", text)  # -$5
    sign, text = _sign_before(_FRACTION.sub(r" \1/\2 ", _NOISE.sub("", text)))
    text = _POWER.sub(r"e\1", text)
    if slashed := list(_SLASHED.finditer(text)):
        found = slashed[0]
        rest = text[: found.start()] + text[found.end() :]
        if len(slashed) > 1 or _NUMBER.search(rest):
            return None
        value = _of_parts(found)
        return None if value is None else sign * value
    numbers = _NUMBER.findall(text)
    if len(numbers) != 1:
        return None
    value = _plain(numbers[0])
    return None if value is None else sign * value


def _sign_before(text: str) -> tuple[int, str]:
    """The minus of `- 5` and of `-\\frac{1}{2}`, which stands apart from its number."""
    bare = text.strip()
    if bare.startswith("-") and bare[1:2].isspace():
        return -1, bare[1:]
    return 1, bare


def _of_parts(found: re.Match[str]) -> Fraction | None:
    sign, whole, top, bottom = found.groups()
    if max(len(top), len(bottom)) > _MOST_DIGITS or not int(bottom):
        return None
    value = Fraction(int(top), int(bottom)) + int(whole or 0)
    return -value if sign == "-" else value


def _plain(text: str) -> Fraction | None:
    text = text.replace(",", "").replace("\\", "")
    digits, _, power = text.lower().partition("e")
    if len(digits) > _MOST_DIGITS or len(power) > 5 or abs(int(power or 0)) > _MOST_DIGITS:
        return None
    return Fraction(text)


def spelled(number: Fraction) -> str:
    """One spelling of a number, so that equal answers are equal texts.

    >>> spelled(Fraction(2469, 2)), spelled(Fraction(1, 3)), spelled(Fraction(12))
    ('1234.5', '1/3', '12')
    """
    bottom = number.denominator
    for prime in (2, 5):
        while bottom % prime == 0:
            bottom //= prime
    if bottom != 1:
        return f"{number.numerator}/{number.denominator}"
    places = 0
    while number.denominator != 1 and places < _MOST_DIGITS:
        if (number * 10**places).denominator == 1:
            break
        places += 1
    whole = abs(number.numerator * 10**places // number.denominator)
    sign = "-" if number < 0 else ""
    if not places:
        return f"{sign}{whole}"
    digits = str(whole).rjust(places + 1, "0")
    return f"{sign}{digits[:-places]}.{digits[-places:]}"
