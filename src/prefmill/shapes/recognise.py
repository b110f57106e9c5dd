"""Shapes that are known without options: what the words of `[rows]` would be, found by the names,
types and first records of a table.

A reading is told ("read as: --each ..."), so whoever runs it sees it. Where there are several, the
records themselves do not say which one is meant: then the lines to choose from are an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import polars as pl

from prefmill.errors import ColumnMissing, PrefmillError
from prefmill.shapes import frames, names
from prefmill.shapes.lists import lists
from prefmill.shapes.look import Table, Words, completions, prompts, scores
from prefmill.shapes.making import shape_of
from prefmill.shapes.paths import find, is_messages
from prefmill.shapes.sides import PAIRS, are_whole, pairs, side_by_side
from prefmill.shapes.words import COMMON, Rows
from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text

#: Gives the first records of a table, or None where nobody has them.
Head = Callable[[], pl.DataFrame | None]
Reading = tuple[str, Rows]
Found = list[tuple[str, Words]]

PARTS = "a prompt in parts"
INSIDE = "rows inside of records"
THUMBS = "words as scores"
NAMED = "rows under other names"
CONVERSATION = "conversations with a score"
_SHOWN = 3
_STEPS = ("step", "steps")


def recognised(
    schema: pl.Schema, head: pl.DataFrame | None, named: Rows, *, score: bool, completion: bool
) -> list[Reading]:
    """The possible readings of a table, each with the name of its shape and with all its words.

    `head` are its first records, None where nobody has them; `named` are words that stay as they
    are. `score` and `completion` say which roles the caller needs. Of the kinds of shape the first
    one that fits counts: ready pairs, answers side by side, roles, lists, conversations. No reading
    is []. Raises `ColumnMissing` where a shape was seen that has no reading: a verdict whose words
    name no answer, steps.

    Cost: that of the first records.

    >>> schema = pl.Schema({"prompt": pl.String, "chosen": pl.String, "rejected": pl.String})
    >>> [(name, rows)] = recognised(schema, None, Rows(), score=True, completion=True)
    >>> name, rows.options()
    ('pairs of a chosen and a rejected answer', '--prompt prompt --completion chosen,rejected \
--score 1,0')
    """
    table = Table.of(schema, head, named, score, completion)
    if table.misspelled():
        return []
    for kind in (pairs, side_by_side, _roles, lists, _conversations):
        if not completion and kind is not _roles:
            continue
        found = [(name, replace(named, **words)) for name, words in kind(table)]
        readings = [each for each in _once(found) if _holds(each[1], table)]
        if readings:
            return readings
    if score and completion:
        _refuse_steps(table)
        if table.problems:
            raise table.problems[0]
    return []


def settled(
    rows: Rows,
    schema: pl.Schema,
    head: Head,
    problem: ColumnMissing,
    *,
    where: str,
    score: bool,
    completion: bool,
) -> Reading:
    """The one reading of a table; `problem`, or the lines to choose from, if there is none."""
    readings = recognised(schema, head(), rows, score=score, completion=completion)
    if not readings:
        raise problem
    if len(readings) > 1:
        raise choose(readings, where) from problem
    return readings[0]


def completed(
    rows: Rows, schema: pl.Schema, head: Head, *, where: str, score: bool, completion: bool
) -> Reading:
    """`rows` with what they do not name, and the name of the shape, "" where nothing was missing.

    Two answers that are whole conversations have their common beginning for a prompt, though a
    column of that name is there: with that one the prompt would be in the answers once more.
    """
    try:
        words = shape_of(rows, schema, where=where, score=score, completion=completion).words
    except ColumnMissing as problem:
        for role, text in Table.of(schema, None, rows, score, completion).misspelled():
            find(text, schema, where=where, role=role)
        return settled(rows, schema, head, problem, where=where, score=score, completion=completion)
    if rows.prompt is None and completion and words.prompt != COMMON:
        table = Table.of(schema, head(), words, score, completion)
        answers = table.texts("completion")
        if all(path in table.paths for path in answers) and are_whole(table, answers):
            return PAIRS, replace(rows, prompt=COMMON)
    return "", rows


def choose(readings: Sequence[Reading], where: str) -> ColumnMissing:
    """The error for records that can be read in several ways: the lines to choose from."""
    kinds = ", or ".join(dict.fromkeys(name for name, _ in readings))
    lines = " or ".join(words.options() for _, words in readings[:_SHOWN])
    more = f" (and {len(readings) - _SHOWN} more)" if len(readings) > _SHOWN else ""
    return ColumnMissing(
        f"{where}: the records can be read in several ways: {kinds}.",
        hint=f"type the line that is meant: {lines}{more}.",
    )


def _once(found: Iterable[Reading]) -> list[Reading]:
    readings: list[Reading] = []
    for name, rows in found:
        if all(rows != other for _, other in readings):
            readings.append((name, rows))
    return readings


def _holds(rows: Rows, table: Table) -> bool:
    """Whether the words have a shape, and the first records give a row."""
    try:
        shape = shape_of(rows, table.schema, score=table.score, completion=table.completion)
    except PrefmillError:
        return False
    if table.head is None or not table.head.height or table.named.join is not None:
        return True
    if JSON_FIELD in str(table.schema):
        return True  # Polars reads no path into JSON
    try:
        made = frames.rows(shape, frames.records(shape, table.head.lazy()))
        return bool(made.head(1).collect().height)
    except PrefmillError:
        return True  # an error of the data has its file and row when it is read
    except pl.exceptions.PolarsError:
        return False


# Rows of roles


def _roles(table: Table) -> Found:
    """One answer a row: under other names, inside of records, with words for scores."""
    if table.named.each is not None or table.named.winner is not None:
        return []
    if not table.completion:
        return [(_kind(words), words) for words in prompts(table, [])]
    found: Found = []
    for answer in completions(table):
        for score in scores(table, [answer]):
            taken = [answer, *([score["score"]] if "score" in score else [])]
            base = {} if table.named.completion is not None else {"completion": answer}
            for prompt in prompts(table, taken):
                words = {**prompt, **base, **score}
                found.append((_kind(words), words))
    return found


def _kind(words: Words) -> str:
    if "values" in words:
        return THUMBS
    if isinstance(words.get("prompt"), tuple):
        return PARTS
    paths = [words.get(role, "") for role in ("prompt", "completion", "score")]
    return INSIDE if any("." in path for path in paths) else NAMED


# Conversations


def _conversations(table: Table) -> Found:
    """Conversations whose last turn is the answer."""
    named = table.named
    if any(each is not None for each in (named.prompt, named.completion, named.each)):
        return []
    found: Found = []
    for path, dtype in table.paths.items():
        if names.plain(path) not in names.CONVERSATIONS or not is_messages(dtype):
            continue
        if is_json_text(table.schema.get(path, pl.Null())):
            continue
        turns = {"prompt": f"{path}[:-1]", "completion": f"{path}[-1]"}
        for score in scores(table, [path]):
            if _of_the_same(path, score.get("score")):
                found.append((CONVERSATION, {**turns, **score}))
            else:
                _tell_last_turn(table, {**turns, **score})
    return found


def _of_the_same(path: str, score: str | None) -> bool:
    """Whether the score lies next to the conversation: else it may be that of another turn."""
    return score is None or path.rpartition(".")[0] == score.rpartition(".")[0]


def _tell_last_turn(table: Table, words: Words) -> None:
    line = replace(table.named, **words).options()
    table.problems.append(
        ColumnMissing(
            f"rows: {words['score']!r} lies apart from the conversation, so it may be the score of"
            " another turn than the last one.",
            hint=f"if it is that of the last turn: {line}.",
        )
    )


# Steps


def _refuse_steps(table: Table) -> None:
    """Labels of steps are for another command."""
    nested = table.where(lambda dtype: isinstance(dtype, pl.List))
    steps = [path for path in nested if set(names.words(path)) & set(_STEPS)]
    if steps:
        raise ColumnMissing(
            f"rows: {steps[0]!r} holds the steps of an answer; got no score of a whole answer.",
            hint="labels of steps are for prefmill steps: see prefmill steps --help.",
        )
