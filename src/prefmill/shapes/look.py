"""A table as recognition sees it, and the columns of single roles by their names and types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from prefmill.errors import ColumnMissing
from prefmill.shapes import names
from prefmill.shapes.paths import find, is_message, is_messages, is_path
from prefmill.shapes.seen import leaves, meanings, opened_json, spells_numbers, words_seen
from prefmill.shapes.words import COMMON, Rows, as_number, split
from prefmill.table.messages import is_text
from prefmill.table.roles import ALIASES, LABEL

#: Words of `[rows]`, by name: what a shape says of a table, or a part of it.
Words = dict[str, Any]
_ROLES = ("prompt", "completion", "score", "each", "winner", "source", "history", "system")
#: A column of more, or longer, words than these holds texts, not scores.
_FEW, _SHORT = 10, 30
_SHOWN = 3
_INSIDE = ("full_text", "text", "content", "body", "question", "prompt", "value")


@dataclass(frozen=True)
class Table:
    """What is known of a table: its types, its first records, and what was named.

    `problems` are errors for the case that no reading is found: what was seen and not understood.
    """

    schema: pl.Schema
    head: pl.DataFrame | None
    named: Rows
    score: bool
    completion: bool
    paths: dict[str, pl.DataType]
    problems: list[ColumnMissing] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        schema: pl.Schema,
        head: pl.DataFrame | None,
        named: Rows,
        score: bool,
        completion: bool,
    ) -> Table:
        """A table whose columns of JSON have the types that its first records have."""
        head = opened_json(schema, head)
        types = dict(schema)
        if head is not None:
            types |= {name: head.schema[name] for name in types if name in head.columns}
        table = cls(schema, head, named, score, completion, leaves(pl.Schema(types)))
        for text in table.texts("completion"):
            if text not in table.paths and is_path(text, schema):
                dtype = find(text, schema).dtype
                table.paths.update({text: dtype} if dtype is not None else {})
        return table

    def texts(self, word: str) -> list[str]:
        """The paths that were named for a word."""
        value = getattr(self.named, word)
        if isinstance(value, str) and value in self.schema:
            return [value]
        return [] if value is None else [str(each) for each in split(value)]

    def misspelled(self) -> list[tuple[str, str]]:
        """The paths that were named and lead nowhere, each with its word: such is no shape."""
        named = [(role, text) for role in _ROLES for text in self.texts(role)]
        return [
            (role, text)
            for role, text in named
            if as_number(text) is None
            and text != COMMON
            and not is_path(text, self.schema)
            and not is_path(text.removeprefix("-"), self.schema)
        ]

    def where(self, test: Callable[[pl.DataType], bool]) -> list[str]:
        """The paths whose values have such a type."""
        return [path for path, dtype in self.paths.items() if test(dtype)]

    def pools(self, taken: Iterable[str] = ()) -> list[list[str]]:
        """The paths that are free: columns, and then what is inside of records."""
        used = tuple(taken)
        free = [path for path in self.paths if not any(_meet(path, each) for each in used)]
        top = [path for path in free if path in self.schema]
        return [top, [path for path in free if path not in self.schema]]

    def is_number(self, path: str) -> bool:
        """Whether values are numbers or booleans, or texts that all spell numbers."""
        dtype = self.paths[path]
        if is_text(dtype):
            return spells_numbers(self.head, path)
        return dtype.is_numeric() or dtype == pl.Boolean

    def can_ask(self, path: str) -> bool:
        """Whether values can be prompts: a hundred prompts that are numbers are ids."""
        dtype = self.paths[path]
        if is_messages(dtype):
            return True
        return is_text(dtype) and not spells_numbers(self.head, path)


def _meet(path: str, used: str) -> bool:
    return path == used or path.startswith((f"{used}.", f"{used}["))


def can_answer(dtype: pl.DataType) -> bool:
    """Whether values can be answers: texts, messages, or one message."""
    return is_text(dtype) or is_messages(dtype) or is_message(dtype)


def is_list_of_texts(dtype: pl.DataType) -> bool:
    """Whether values are lists of answers."""
    return isinstance(dtype, pl.List) and is_text(dtype.inner)  # type: ignore[arg-type]


def prompts(table: Table, taken: Iterable[str]) -> list[Words]:
    """The possible prompts, as words: the field's names first, at last names that are weaker."""
    if table.named.prompt is not None:
        return [{}]
    pools = [[path for path in pool if table.can_ask(path)] for pool in table.pools(taken)]
    for pool in pools:
        own = [path for path in pool if names.plain(path) == "prompt"]
        called = own or [path for path in pool if names.plain(path) in names.PROMPTS]
        if called:
            return [_with_history(table, each) for each in _parts(table, called)]
    if inside := _inside_records(table, pools[1]):
        return [{"prompt": path} for path in inside]
    for pool in pools:
        if weak := [path for path in pool if names.is_weak_prompt(path)]:
            return [{"prompt": path} for path in weak]
    for name in names.WEAK_PROMPTS:
        for pool in pools:
            if found := [path for path in pool if names.plain(path) == name]:
                return [{"prompt": path} for path in found]
    return []


def _parts(table: Table, called: Sequence[str]) -> list[Words]:
    """The prompt in parts: instruction and input are both. Of other texts nobody knows: the error
    of the role says that they can be joined.
    """
    if len(called) == 1:
        return [{"prompt": called[0]}]
    by_name = {names.plain(path): path for path in called}
    if set(by_name) == {"instruction", "input"} and len(called) == 2:
        return [{"prompt": (by_name["instruction"], by_name["input"])}]
    if all(is_text(table.paths[path]) for path in called):
        return []
    return [{"prompt": path} for path in called]


def _with_history(table: Table, words: Words) -> Words:
    """Earlier turns, a list of [question, answer] or messages: without them the prompt would be
    another one.
    """
    dtype = table.schema.get("history")
    pairs = isinstance(dtype, pl.List) and is_list_of_texts(dtype.inner)  # type: ignore[arg-type]
    if (pairs or is_messages(dtype)) and table.named.history is None:
        return {**words, "history": "history"}
    return words


def _inside_records(table: Table, nested: Sequence[str]) -> list[str]:
    """Texts of a record that is called a prompt, `question.full_text`."""
    for name in _INSIDE:
        found = [
            path
            for path in nested
            if names.plain(path) == name and names.plain(path.rpartition(".")[0]) in names.PROMPTS
        ]
        if found:
            return found
    return []


def completions(table: Table) -> list[str]:
    """The columns that can be the one answer of a row."""
    if table.named.completion is not None:
        found = table.texts("completion")
        return found if len(found) == 1 else []
    pools = [[path for path in pool if can_answer(table.paths[path])] for pool in table.pools()]
    for pool in pools:
        own = [path for path in pool if names.plain(path) == "completion"]
        if called := own or [p for p in pool if names.plain(p) in ALIASES["completion"]]:
            return called
    for pool in pools:
        if weak := [path for path in pool if names.is_weak_answer(path)]:
            return weak
    for name in names.WEAK_COMPLETIONS:
        for pool in pools:
            if found := [path for path in pool if names.plain(path) == name]:
                return found
    return []


def scores(table: Table, taken: Iterable[str]) -> list[Words]:
    """The possible scores of a row, as words: numbers by name, then words of thumbs."""
    if not table.score or table.named.winner is not None:
        return [{}]
    if table.named.score is not None:
        return _named_score(table)
    for pool in table.pools(taken):
        numbers = [path for path in pool if table.is_number(path)]
        own = [path for path in numbers if names.plain(path) == "score"]
        if called := own or [p for p in numbers if names.plain(p) in ALIASES["score"]]:
            return [{"score": path} for path in called]
        thumbs: list[Words] = [{"score": p} for p in numbers if _is_thumb(table, p)]
        thumbs += [
            {"score": path, "values": values}
            for path in pool
            if path not in numbers
            and names.plain(path) in names.THUMBS
            and (values := thumbs_of(table, path))
        ]
        if label := [each for each in thumbs if names.plain(each["score"]) == LABEL]:
            thumbs = label
        if thumbs:
            return thumbs
        if weak := [path for path in numbers if _is_weak_score(path)]:
            return [{"score": path} for path in weak]
        _tell_words(table, [path for path in pool if path in table.schema])
    return []


def _is_thumb(table: Table, path: str) -> bool:
    """Whether numbers, or booleans, are what people say of an answer."""
    name, dtype = names.plain(path), table.paths[path]
    return name in names.THUMBS and (dtype == pl.Boolean or name not in names.WORDS_ONLY)


def _is_weak_score(path: str) -> bool:
    """`judge_score`; of a record of figures the mean, `user_score.avg`."""
    if names.plain(path) in ("avg", "mean", "average") and "." in path:
        return names.is_score(names.words(path.rpartition(".")[0]))
    return names.is_score(names.words(path))


def _tell_words(table: Table, columns: Sequence[str]) -> None:
    """Few words under the name of a score that are no thumbs: somebody must say their scores."""
    for path in columns:
        if names.plain(path) in names.THUMBS and is_text(table.paths[path]):
            words = words_seen(table.head, path) or []
            if 0 < len(words) <= _FEW and all(word and len(word) < _SHORT for word in words):
                meant = Rows(score=path, values=dict.fromkeys(words, 1.0)).options()
                table.problems.append(
                    ColumnMissing(
                        f"rows: no column for the role 'score'; {path!r} has its name and holds no"
                        f" numbers; got {words[:_SHOWN]}.",
                        hint=f"if they are scores, say which: {meant.replace('=1', '=NUMBER')}.",
                    )
                )


def _named_score(table: Table) -> list[Words]:
    texts = table.texts("score")
    if len(texts) == 1 and table.named.values is None and texts[0] in table.schema:
        values = None if table.is_number(texts[0]) else thumbs_of(table, texts[0])
        return [{"values": values}] if values else [{}]
    return [{}]


def thumbs_of(table: Table, path: str) -> dict[str, float | None] | None:
    """What the words of a column mean as thumbs; None if it has others, or if nobody knows."""
    if not is_text(table.paths[path]):
        return None
    words = words_seen(table.head, path)
    return meanings(words) if words else None


def common(answers: Sequence[str]) -> Words:
    """The prompt of whole conversations; two have a common beginning."""
    return {"prompt": COMMON} if len(answers) == 2 else {}
