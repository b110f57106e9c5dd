"""The words of `[rows]`: how raw records become rows, as data.

The meaning of each word is in `docs/semantics.md` (Rows of raw records). A word is a field of
`Rows`, a key of the table `[rows]` in TOML, a keyword argument on every host, and an option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from prefmill.errors import PlanError
from prefmill.table.fields import key, maybe, one_of

Disagree = Literal["flip", "drop", "keep"]
Repeats = Literal["keep", "drop"]
#: The word for a score of nothing: `--values "-1=null"`.
NULL = "null"
#: The prompt of whole conversations: their common beginning.
COMMON = "common"


def _paths(value: object) -> str | None:
    """A path, or several."""
    if isinstance(value, str) and value:
        return None
    several = isinstance(value, list | tuple) and value
    if several and all(isinstance(each, str | int | float) for each in value):  # type: ignore[attr-defined]
        return None
    return "a path, or a list of paths"


def _words(value: object) -> str | None:
    """Anything: the words were read when the rows were made."""
    return None


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How raw records become rows of prompt, completion, score and the other roles.

    A path is a column's name, then `.field`, `[index]` or `[from:to]`, from 0. Several paths are
    a list, or a text with commas. All words may be left out: what is not named is found by the
    names that the field uses, and common shapes are recognised.

    Args:
        prompt: a path; of several the texts are joined by a blank line. `common` is the longest
            common beginning of conversations.
        completion: a path; several are the answers of a record side by side.
        score: a path (`-PATH`: lower is better), one for each answer, or a number for each.
        id, annotator, aspect, stage, weight, logprob, conclusion, source, system, history,
            group: paths.
        each: lists side by side, whose elements become rows.
        winner: the verdict of a record: one column, one a judge, or one-hot columns.
        wins: the words by which each answer wins; several words of an answer are joined by `|`.
        ties: words of a tie, besides the usual ones.
        values: what words, or numbers, of the score mean: a number, or `null`.
        where: only records that have these values.
        join: `FILE:KEY`, or `FILE:KEY=ITS_KEY,...`: the columns of another file.
        file_as: the name of a column that holds the file's name.
        disagree: pairs whose rejected answer has the higher score: `flip`, `drop` or `keep`.
        repeats: records that prefer the same of the same answers to a prompt as an earlier one:
            `keep` or `drop`.

    Raises `PlanError` with every problem at once.

    >>> Rows(completion="a,b", winner="label", wins="A>B,B>A").wins
    (('A>B',), ('B>A',))
    """

    prompt: Any = key(
        maybe(_paths), None, help="Column of the prompt; several are joined by a blank line."
    )
    completion: Any = key(
        maybe(_paths), None, help="Column of the completion; several stand side by side."
    )
    score: Any = key(
        maybe(_paths), None, help="Column of the score; -COLUMN where lower is better."
    )
    id: Any = key(maybe(_paths), None, help="Column of the row's id.")
    annotator: Any = key(maybe(_paths), None, help="Column of the annotator.")
    aspect: Any = key(maybe(_paths), None, help="Column of the aspect judged.")
    stage: Any = key(maybe(_paths), None, help="Column of the stage, a whole number.")
    weight: Any = key(maybe(_paths), None, help="Column of the policy's weight (or probability).")
    logprob: Any = key(maybe(_paths), None, help="Column of the policy's log-probability.")
    conclusion: Any = key(
        maybe(_paths), None, help="Column of the answer that a completion comes to."
    )
    source: Any = key(maybe(_paths), None, help="Column of what made the completion, a model say.")
    system: Any = key(maybe(_paths), None, help="Column of the system prompt.")
    history: Any = key(maybe(_paths), None, help="Column of earlier turns: pairs, or messages.")
    group: Any = key(
        maybe(_paths), None, help="Column that groups instead of the prompt; may be given again."
    )
    each: Any = key(maybe(_paths), None, help="Lists side by side whose elements become rows.")
    winner: Any = key(maybe(_paths), None, help="Column of the verdict over answers side by side.")
    wins: Any = key(_words, None, help="Words by which each answer wins: 'A>B,B>A'.")
    ties: Any = key(_words, None, help="Further words of a tie.")
    values: Any = key(_words, None, help="Words as scores: 'up=1,down=0,-1=null'.", table=True)
    where: Any = key(
        _words, None, help="Only records with PATH=VALUE; may be repeated.", table=True
    )
    join: Any = key(_words, None, help="Columns of another file, FILE:KEY; may be repeated.")
    file_as: str | None = key(maybe(_paths), None, help="Name of a column for the file's name.")
    disagree: Disagree | None = key(
        maybe(one_of(*get_args(Disagree))),
        None,
        help="Pairs whose scores contradict them: flip, drop or keep.  [default: flip]",
    )
    repeats: Repeats | None = key(
        maybe(one_of(*get_args(Repeats))),
        None,
        help="Pairs that an earlier record has too: keep or drop.  [default: keep]",
    )

    def __post_init__(self) -> None:
        problems: list[str] = []

        def settle(name: str, read: Any) -> None:
            value = getattr(self, name)
            if value in (None, (), [], {}):
                object.__setattr__(self, name, None)
                return
            try:
                object.__setattr__(self, name, read(value))
            except ValueError as error:
                problems.append(f"{name}: {error}")

        settle("wins", _wins)
        settle("ties", lambda words: tuple(map(str, split(words))))
        settle("values", _values)
        settle("where", _where)
        settle("join", _listed)
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
            if expected := field.metadata["check"](getattr(self, field.name)):
                problems.append(f"{field.name} must be {expected}; got {value!r}")
        if problems:
            raise PlanError("rows", problems)

    def named(self) -> dict[str, Any]:
        """The words that were given.

        >>> Rows(each="responses").named()
        {'each': 'responses'}
        """
        words = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in words.items() if value is not None}

    def options(self) -> str:
        """The words as options of the command line, for people to type.

        >>> Rows(each="responses", values={"up": 1, "down": 0}).options()
        '--each responses --values up=1,down=0'
        """
        return " ".join(_option(name, value) for name, value in self.named().items())


#: Words beyond a column for each role.
SHAPING = (
    "each",
    "winner",
    "wins",
    "ties",
    "values",
    "where",
    "join",
    "file_as",
    "disagree",
    "repeats",
)
WORDS = tuple(field.name for field in fields(Rows))


def split(value: str | Iterable[Any]) -> list[Any]:
    """A text at its commas, but for those in quotes; a list as it is.

    >>> split('a,"b,c".d'), split(["a,b"])
    (['a', '"b,c".d'], ['a,b'])
    """
    if not isinstance(value, str):
        return list(value)
    parts, quoted = [""], False
    for letter in value:
        quoted ^= letter == '"'
        if letter == "," and not quoted:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _listed(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(map(str, value))


def _wins(value: Any) -> tuple[tuple[str, ...], ...]:
    def words(each: Any) -> tuple[str, ...]:
        return tuple(each.split("|")) if isinstance(each, str) else tuple(map(str, _as_list(each)))

    wins = tuple(words(each) for each in split(value))
    every = [folded(word) for answer in wins for word in answer]
    if len(wins) < 2:
        raise ValueError(f"got {value!r}, expected a word for each of two or more answers")
    if len(set(every)) < len(every):
        raise ValueError(f"got {value!r}, expected different words for each answer")
    return wins


def _as_list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list | tuple) else [value]


def _values(value: Any) -> dict[str, float | None]:
    pairs = value.items() if isinstance(value, Mapping) else map(_pair, split(value))
    values: dict[str, float | None] = {}
    for word, number in pairs:
        name = str(word)
        if folded(name) in map(folded, values):
            raise ValueError(f"{name!r} has two meanings")
        values[name] = None if number in (None, NULL) else _number(number)
    return values


def _pair(text: str) -> tuple[str, str]:
    # From the right: a word may hold an equals sign, a number does not.
    word, equals, meaning = text.rpartition("=")
    if not equals:
        raise ValueError(f"got {text!r}, expected WORD=NUMBER or WORD=null")
    return word, meaning.strip()


def _number(value: Any) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise ValueError(f"got {value!r}, expected a number or null") from None
    if number != number or number in (float("inf"), float("-inf")):
        raise ValueError(f"got {value!r}, expected a finite number or null")
    return number


def _where(value: Any) -> dict[str, tuple[str, ...]]:
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[str, Any]] = value.items()
    else:
        pairs = [_equation(text) for text in _listed(value)]
    where: dict[str, tuple[str, ...]] = {}
    for path, wanted in pairs:
        where[path] = (*where.get(path, ()), *map(_spelled, _as_list(wanted)))
    return where


def _spelled(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _equation(text: str) -> tuple[str, str]:
    path, equals, wanted = text.partition("=")
    if not equals or not path:
        raise ValueError(f"got {text!r}, expected PATH=VALUE")
    return path, wanted


def folded(word: str) -> str:
    """A word as words compare: without white space around it, and without regard to case."""
    return word.strip(" \t\r\n").lower()


def as_number(word: str) -> float | None:
    """The number that a word spells, or None."""
    try:
        return float(word)
    except ValueError:
        return None


def _option(name: str, value: Any) -> str:
    option = f"--{name.replace('_', '-')}"
    if name == "values":
        value = [
            f"{word}={NULL if number is None else f'{number:g}'}" for word, number in value.items()
        ]
    elif name == "where":
        pairs = [(path, word) for path, words in value.items() for word in words]
        return " ".join(f"{option} {_shell(f'{path}={word}')}" for path, word in pairs)
    elif name in ("join", "group") and not isinstance(value, str):
        return " ".join(f"{option} {_shell(each)}" for each in value)
    elif name == "wins":
        value = ["|".join(words) for words in value]
    elif name != "ties" and not isinstance(value, str):
        value = map(_in_list, value)
    text = value if isinstance(value, str) else ",".join(map(_text, value))
    return f"{option} {_shell(text)}"


def _in_list(path: object) -> object:
    """A path among others: a name with a comma stands in quotes."""
    if not isinstance(path, str) or "," not in path or '"' in path:
        return path
    sign = "-" if path.startswith("-") else ""
    return f'{sign}"{path.removeprefix(sign)}"'


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _shell(text: str) -> str:
    """`text` as a shell reads it back as one word."""
    plain = text.replace("_", "").replace("-", "").replace(".", "").replace(",", "")
    if plain.replace("=", "").replace("/", "").replace(":", "").isalnum():
        return text
    if "'" in text:
        return (
            '"'
            + text.replace("\\", "\\\\").replace('"', '\\"').replace("$", "\\$").replace("`", "\\`")
            + '"'
        )
    return f"'{text}'"
