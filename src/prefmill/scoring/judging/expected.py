"""What a judge's tokens tell besides the word: the mean over what it might have said.

Source: Lee et al. 2023, "RLAIF" (arXiv 2309.00267), AI labels as expectations.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from prefmill.scoring.judging.answers import SCALE, parse_answer, parse_rating
from prefmill.scoring.judging.wording import Mark


class TokenLike(Protocol):
    """A token with the log-probabilities of the likeliest tokens in its place."""

    @property
    def text(self) -> str: ...
    @property
    def logprob(self) -> float: ...
    @property
    def top(self) -> Mapping[str, float]: ...


_UNTOLD = 0.05  #: share of a "1" that cannot be told from a 10 up to which it is left out
_WORDS = {"yes": 1.0, "true": 1.0, "no": 0.0, "false": 0.0}
_LEADING = re.compile(r"[^\w]*(10|\d)(?!\d)[^\w]*")


def expected_rating(
    tokens: Sequence[TokenLike],
    ten_is_one_token: bool = False,
    scale: tuple[float, float] = SCALE,
    mark: Mark = None,
) -> float | None:
    """The mean rating under the probabilities of the rating's token.

    None where the tokens do not tell it.

    The token that begins the rating is found by parsing the joined tokens; its alternatives that
    are ratings are weighed by their probabilities, normalised. Where "10" is one token of the
    judge's tokenizer (it stands among the alternatives, or `ten_is_one_token`), "1" means 1. Else
    "1" may begin a 10: if "1" is what was said, the alternatives of the next token part the two; if
    not, nothing does, and "1" is left out of the mean where it weighs less than a twentieth; where
    it weighs more, the tokens do not tell the mean. Fractions, and scales beyond 10, take several
    tokens: these do not tell the mean.
    """
    parsed = parse_rating("".join(token.text for token in tokens), scale=scale, mark=mark)
    if isinstance(parsed, str) or scale[1] > 10 or not parsed[0].is_integer():
        return None
    at = _token_at(tokens, parsed[1])
    token = tokens[at]
    low, high = scale
    weights = _weights(token)
    weights = {n: weight for n, weight in weights.items() if low <= n <= high or n == 1}
    if 1 in weights and scale[1] == 10 and 10 not in weights and not ten_is_one_token:
        if _rating_in(token.text) == 1:
            zero = _share_of_zero(tokens[at + 1]) if at + 1 < len(tokens) else 0.0
            weights[10], weights[1] = weights[1] * zero, weights[1] * (1 - zero)
        elif weights.pop(1) > _UNTOLD * math.fsum(weights.values()):
            return None
    if scale[0] > 1:
        weights.pop(1, None)
    total = math.fsum(weights.values())
    if total <= 0:
        return None
    return math.fsum(value * weight for value, weight in weights.items()) / total


def expected_answer(tokens: Sequence[TokenLike]) -> float | None:
    """The probability of yes against no in the token of the answer.

    None where the tokens do not tell it.

    >>> from types import SimpleNamespace as Token
    >>> top = {"Yes": math.log(0.6), " no": math.log(0.2), "Maybe": math.log(0.2)}
    >>> round(expected_answer([Token(text="Yes", logprob=math.log(0.6), top=top)]), 6)
    0.75
    """
    parsed = parse_answer("".join(token.text for token in tokens))
    if isinstance(parsed, str):
        return None
    token = tokens[_token_at(tokens, parsed[1])]
    weights = {1.0: 0.0, 0.0: 0.0}
    for text, logprob in {token.text: token.logprob, **token.top}.items():
        word = text.strip(" \t\n\"'*_.,:").casefold()
        if word in _WORDS:
            weights[_WORDS[word]] += math.exp(logprob)
    # A token that is part of the word only does not tell which word it begins.
    said = token.text.strip(" \t\n\"'*_.,:").casefold()
    if said not in _WORDS:
        return None
    return weights[1.0] / (weights[1.0] + weights[0.0])


def _token_at(tokens: Sequence[TokenLike], place: int) -> int:
    """The token in which a place of their joined text is."""
    at = 0
    while place >= len(tokens[at].text):
        place -= len(tokens[at].text)
        at += 1
    return at


def _rating_in(text: str) -> int | None:
    match = _LEADING.fullmatch(text)
    return int(match[1]) if match else None


def _weights(token: TokenLike) -> dict[int, float]:
    """The probability of every rating among the alternatives, and of the token itself."""
    weights: dict[int, float] = {}
    for text, logprob in {token.text: token.logprob, **token.top}.items():
        value = _rating_in(text)
        if value is not None:
            weights[value] = weights.get(value, 0.0) + math.exp(logprob)
    return weights


def _share_of_zero(token: TokenLike) -> float:
    """How probable it is that the token after a "1" makes it a 10."""
    alternatives = {token.text: token.logprob, **token.top}
    zeros = [p for text, p in alternatives.items() if re.match(r"0(?!\d)", text)]
    return min(1.0, math.fsum(math.exp(p) for p in zeros))
