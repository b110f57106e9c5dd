"""What the first records of a table hold: words, who speaks first, types inside of JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from prefmill.errors import PrefmillError
from prefmill.shapes.cells import ASSISTANTS, Inside
from prefmill.shapes.paths import find, is_message, is_messages
from prefmill.shapes.words import as_number, folded
from prefmill.table.json_values import JSON_FIELD, decoded
from prefmill.table.messages import is_json_text

#: Words of thumbs, each with its opposite.
_OPPOSITES = (
    ("up", "down"),
    ("thumbs_up", "thumbs_down"),
    ("thumbs up", "thumbs down"),
    ("thumbs-up", "thumbs-down"),
    ("thumbsup", "thumbsdown"),
    ("thumb_up", "thumb_down"),
    ("upvote", "downvote"),
    ("upvoted", "downvoted"),
    ("like", "dislike"),
    ("liked", "disliked"),
    ("good", "bad"),
    ("yes", "no"),
    ("y", "n"),
    ("positive", "negative"),
    ("pos", "neg"),
    ("correct", "incorrect"),
    ("right", "wrong"),
    ("pass", "fail"),
    ("passed", "failed"),
    ("helpful", "unhelpful"),
    ("helpful", "not helpful"),
    ("helpful", "not_helpful"),
    ("accept", "reject"),
    ("accepted", "rejected"),
    ("approved", "rejected"),
    ("satisfied", "unsatisfied"),
    ("satisfied", "dissatisfied"),
    ("true", "false"),
    ("👍", "👎"),
    ("👍️", "👎️"),
    (":thumbsup:", ":thumbsdown:"),
    (":+1:", ":-1:"),
)
_SCORE = {word: float(not place) for both in _OPPOSITES for place, word in enumerate(both)}
_OPPOSITE = {
    word: [other for both in _OPPOSITES if word in both for other in both if other != word]
    for word in _SCORE
}
#: Words of people who said nothing.
_NOTHING = frozenset({"", "none", "null", "n/a", "na", "no_feedback", "no feedback", "unrated"})
_MANY = 50


def words_seen(head: pl.DataFrame | None, path: str) -> list[str] | None:
    """The distinct words of a path, as words compare, in order of first use; None: nobody knows.

    >>> words_seen(pl.DataFrame({"vote": ["Up", "up ", None, "down"]}), "vote")
    ['up', 'down']
    """
    values = _values(head, path)
    if values is None or values.dtype.is_nested():
        return None
    if values.dtype.is_float():
        numbers = values.drop_nulls().unique(maintain_order=True)
        return [f"{number:g}" for number in numbers.head(_MANY)]
    texts = values.drop_nulls().cast(pl.String).unique(maintain_order=True)
    return list(dict.fromkeys(map(folded, texts)))


def meanings(words: Sequence[str]) -> dict[str, float | None] | None:
    """What words of thumbs mean as scores; None if one of them is no such word.

    A side that nobody used comes along with the other, for it may come later in the file.

    >>> meanings(["up", "down"]), meanings(["up", "sideways"]), meanings(["good", ""])
    ({'up': 1.0, 'down': 0.0}, None, {'good': 1.0, 'bad': 0.0, '': None})
    """
    known: dict[str, float | None] = {}
    for word in words:
        opposites = _OPPOSITE.get(word)
        if opposites:
            known[word] = _SCORE[word]
            if not any(other in words for other in opposites):
                known[opposites[0]] = 1.0 - _SCORE[word]
        elif word not in _NOTHING:
            return None
    if not known:
        return None
    known = dict(sorted(known.items(), key=lambda item: -(item[1] or 0.0)))
    return known | {word: None for word in words if word in _NOTHING}


def spells_numbers(head: pl.DataFrame | None, path: str) -> bool:
    """Whether every word that was seen is a number."""
    words = words_seen(head, path)
    return bool(words) and all(_is_number(word) for word in words or ())


def _is_number(word: str) -> bool:
    return word in ("true", "false") or as_number(word) is not None


def begins_with_asking(head: pl.DataFrame | None, path: str) -> bool | None:
    """Whether conversations begin with another one than the assistant: they are whole then.

    Texts do if they are written as HH writes them. None: nobody knows, or some do.
    """
    values = _values(head, path)
    if values is None:
        return None
    values = values.drop_nulls()
    if not values.len():
        return None
    if is_messages(values.dtype):
        first = (
            values.list.first()
            .struct.field(_role_of(values.dtype))
            .cast(pl.String)
            .str.to_lowercase()
        )
        asking = first.drop_nulls().is_in(ASSISTANTS).not_()
    elif values.dtype == pl.String:
        asking = values.str.strip_chars_start().str.starts_with("Human:")
    else:
        return None
    if not asking.len():
        return None
    return True if asking.all() else None if asking.any() else False


def begin_with(head: pl.DataFrame | None, answers: Sequence[str], prompt: object) -> bool:
    """Whether all texts of some columns begin with that of another one.

    >>> head = pl.DataFrame({"ask": ["Hi"], "one": ["Hi. Yes."], "other": ["Hi. No."]})
    >>> begin_with(head, ["one", "other"], "ask"), begin_with(head, ["ask"], "one")
    (True, False)
    """
    if not isinstance(prompt, str):
        return False
    found = [_values(head, path) for path in (prompt, *answers)]
    if any(values is None or values.dtype != pl.String for values in found):
        return False
    asked, *said = (values for values in found if values is not None)
    both = pl.DataFrame([each.alias(str(n)) for n, each in enumerate((asked, *said))])
    full = both.drop_nulls().filter(pl.col("0").str.strip_chars() != "")
    tests = [pl.col(str(n)).str.starts_with(pl.col("0")) for n in range(1, len(found))]
    return bool(full.height) and full.select(pl.all_horizontal(*tests).all()).item()


def answers_said(head: pl.DataFrame | None, path: str) -> pl.Series | None:
    """How many turns of an assistant each conversation has."""
    values = _values(head, path)
    if values is None or not is_messages(values.dtype):
        return None
    turn = pl.element().struct.field(_role_of(values.dtype)).cast(pl.String).str.to_lowercase()
    said = values.list.eval(turn.is_in(ASSISTANTS).cast(pl.Int64))
    return said.list.sum()


def _role_of(dtype: pl.DataType) -> str:
    names = {field.name for field in dtype.inner.fields}  # type: ignore[attr-defined]
    return "role" if {"role", "content"} <= names else "from"


def _values(head: pl.DataFrame | None, path: str) -> pl.Series | None:
    if head is None:
        return None
    try:
        found = find(path, head.schema)
    except PrefmillError:
        return None
    if found.json_from is not None:
        return None
    return head.select(value=Inside(found).polars())["value"]


def lengths(head: pl.DataFrame | None, path: str) -> list[int] | None:
    """How many elements each list has."""
    values = _values(head, path)
    if values is None or not isinstance(values.dtype, pl.List):
        return None
    return values.list.len().fill_null(0).to_list()


def permutations_from_zero(head: pl.DataFrame | None, path: str) -> bool:
    """Whether every list is an order of 0, 1, 2 ...: places of answers, or ranks of them."""
    values = _values(head, path)
    if values is None or not isinstance(values.dtype, pl.List):
        return False
    lists = values.drop_nulls().to_list()
    return bool(lists) and all(sorted(each) == list(range(len(each))) for each in lists)


def opened_json(schema: pl.Schema, head: pl.DataFrame | None) -> pl.DataFrame | None:
    """`head` with the values of columns of JSON in types, where all of a column have one."""
    if head is None:
        return None
    marked = [name for name, dtype in schema.items() if is_json_text(dtype)]
    for name in marked:
        if name not in head.columns or head[name].dtype != schema[name]:
            continue
        try:
            texts = head[name].struct.field(JSON_FIELD)
            values = [None if text is None else decoded(json.loads(text)) for text in texts]
            series = pl.Series(name, values, dtype=json_type(values), strict=False)
            head = head.with_columns(series)
        except (ValueError, TypeError, pl.exceptions.PolarsError):
            continue
    return head


def json_type(values: Iterable[Any]) -> pl.DataType:
    """The type of JSON values; of kinds that do not go together it is that of a column of JSON.

    >>> json_type([{"a": [1, 2.5]}, {"a": [], "b": "x"}, None])
    Struct({'a': List(Float64), 'b': String})
    """
    there = [value for value in values if value is not None]
    kinds = {type(value) for value in there}
    if not kinds:
        return pl.Null()
    if kinds == {bool}:
        return pl.Boolean()
    if kinds == {str}:
        return pl.String()
    if kinds <= {int, float}:
        return pl.Float64() if float in kinds else pl.Int64()
    if kinds == {list}:
        return pl.List(json_type(each for value in there for each in value))
    if kinds == {dict}:
        keys = dict.fromkeys(key for value in there for key in value)
        return pl.Struct({key: json_type(each.get(key) for each in there) for key in keys})
    return pl.Struct({JSON_FIELD: pl.String()})


def leaves(schema: pl.Schema) -> dict[str, pl.DataType]:
    """Paths to every column and to every field of records in records, without those of lists.

    >>> list(leaves(pl.Schema({"data": pl.Struct({"answer": pl.String}), "id": pl.Int64})))
    ['data', 'data.answer', 'id']
    """
    found: dict[str, pl.DataType] = {}

    def walk(path: str, dtype: pl.DataType, depth: int) -> None:
        found[path] = dtype
        if depth and isinstance(dtype, pl.Struct) and not is_message(dtype):
            for field in dtype.fields:
                if not is_json_text(dtype):
                    walk(f"{path}.{_part(field.name)}", _instance(field.dtype), depth - 1)

    for name, dtype in schema.items():
        walk(name, dtype, _DEPTH)
    return found


_DEPTH = 3


def _part(name: str) -> str:
    plain = not any(letter in name for letter in '.[]"')
    return name if plain else '"' + name.replace('"', '""') + '"'


def _instance(dtype: Any) -> pl.DataType:
    made: pl.DataType = dtype() if isinstance(dtype, type) else dtype
    return made
