"""What people are told to type about words, and about numbers that stand for no score."""

from __future__ import annotations

from collections.abc import Sequence

from prefmill.shapes.words import folded

#: What cannot stand inside double quotes of a shell, or in `--values` itself.
_UNTYPED = set('",=|$`\\!…')
#: Numbers that stand for no score in surveys and logs, where they are far from all scores.
_SENTINELS = {-9, -99, -999, -9999, -100, -1000, 9, 99, 999, 9999}


def values_option(words: Sequence[str]) -> str:
    """The option that says what `words` mean, texts as `Job.bad_scores` gives them.

    Which number a word is, only people know: typed as it is, the option is refused.

    >>> values_option(["'good'", "'Good '", "'so so'"])
    '--values "good=NUMBER,so so=NUMBER"'
    >>> values_option(["'1,5'"])
    '--values "WORD=NUMBER,..."'
    """
    texts = list(dict.fromkeys(folded(word[1:-1]) for word in words))
    if not texts or any(not text.isprintable() or set(text) & _UNTYPED for text in texts):
        return '--values "WORD=NUMBER,..."'
    return '--values "{}"'.format(",".join(f"{text}=NUMBER" for text in texts))


def about_words(words: Sequence[str]) -> str:
    """What to say of texts that are no score."""
    return (
        f"got {', '.join(words)}, expected numbers, true or false: say what they mean with "
        f"{values_option(words)} (null is no score), or name another column with --score."
    )


def sentinels(count: int, lowest: Sequence[float], highest: Sequence[float]) -> list[float]:
    """Which of `count` different numbers are likely a sign for no score.

    `lowest` and `highest` are the two smallest and the two largest, from the end on. The rule is in
    `docs/semantics.md`.

    >>> sentinels(6, [-1, 1], [10, 9]), sentinels(3, [-1, 0], [1, 0])
    ([-1], [])
    >>> sentinels(3, [0, 1], [999, 1])
    [999]
    """
    found: list[float] = []
    if count < 3:
        return found
    for (value, next_one), (other_end, _) in ((lowest, highest), (highest, lowest)):
        spread = abs(other_end - next_one)
        far = value in _SENTINELS and abs(value - next_one) > spread
        below_all = value == -1 and next_one >= 0 and count > 3
        if far or below_all:
            found.append(value)
    return found
