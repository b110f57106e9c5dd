"""Which words differ between two texts."""

from __future__ import annotations

import re
from difflib import SequenceMatcher

#: Words, the spaces between them, and signs; a character of a script without spaces is a word.
_WORDS = re.compile(r"\s+|[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|\w+|[^\w\s]")
#: Words of each text that are compared, and characters of a word: more would take seconds.
MOST, LONGEST = 3000, 2000
#: What is said of the rest.
SAME, ONLY, BEYOND = "same", "only", "beyond"

Segments = list[tuple[str, str]]


def difference(left: str, right: str) -> tuple[Segments, Segments]:
    """Each text in pieces: `same` in both, `only` in this one, or `beyond` what is compared.

    Time is quadratic in the words that differ, of which at most `MOST` are looked at.

    >>> difference("a red fox", "a blue fox")[0]
    [('same', 'a '), ('only', 'red'), ('same', ' fox')]
    """
    (ours, rest), (others, other_rest) = _cut(left), _cut(right)
    matcher = SequenceMatcher(None, ours, others)
    one: Segments = []
    two: Segments = []
    for tag, a, b, c, d in matcher.get_opcodes():
        word = SAME if tag == "equal" else ONLY
        one += [(word, "".join(ours[a:b]))] if b > a else []
        two += [(word, "".join(others[c:d]))] if d > c else []
    return one + _beyond(rest), two + _beyond(other_rest)


def _cut(text: str) -> tuple[list[str], str]:
    words: list[str] = []
    end = 0
    for found in _WORDS.finditer(text):
        if len(words) == MOST or len(found[0]) > LONGEST:
            break
        words.append(found[0])
        end = found.end()
    return words, text[end:]


def _beyond(rest: str) -> Segments:
    return [(BEYOND, rest)] if rest else []
