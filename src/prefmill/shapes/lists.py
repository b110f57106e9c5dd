"""Records whose answers are in lists, or in a record with a field for each model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import polars as pl

from prefmill.errors import ColumnMissing
from prefmill.shapes import names
from prefmill.shapes.look import Table, Words, can_answer, is_list_of_texts, prompts
from prefmill.shapes.named import by_name
from prefmill.shapes.paths import fields_of, is_message
from prefmill.shapes.seen import lengths, permutations_from_zero
from prefmill.table.messages import is_text
from prefmill.table.roles import LABEL

Found = list[tuple[str, Words]]
RECORDS = "a list of answers, each a record"
BESIDE = "lists of answers and scores side by side"
FIELDS = "a field for each answer"
#: Fields of a record that are an answer, whatever the list is called.
_ANSWERS = ("completion", "answer", "response", "output", "generation", "generated_text", "reply")
_RANKS = ("rank", "ranking")


def lists(table: Table) -> Found:
    """Records whose answers are in a list of records, or in lists side by side."""
    if table.named.completion is not None or table.named.winner is not None:
        return []
    return [*_records(table), *_beside(table), *_fields(table)]


def _is_answers(path: str) -> bool:
    """Whether a list's name says that its elements are answers."""
    return names.is_answer(names.singular(path))


def _are_models(path: str) -> bool:
    """Whether a list's name says that its elements are what made the answers."""
    return names.is_source(names.singular(path))


def _asked(table: Table, words: Words, taken: Sequence[str]) -> list[Words]:
    each = {} if table.named.each is not None else {"each": words["each"]}
    rest = {word: value for word, value in words.items() if word != "each"}
    return [{**prompt, **each, **rest} for prompt in prompts(table, taken)]


def _wanted(table: Table, path: str) -> bool:
    return table.named.each is None or path in table.texts("each")


# A list of records


def _records(table: Table) -> Found:
    found: Found = []
    for path, dtype in table.paths.items():
        inner: Any = dtype.inner if isinstance(dtype, pl.List) else None
        if not isinstance(inner, pl.Struct) or is_message(inner) or not _wanted(table, path):
            continue
        inside = {f"{path}.{name}": kind for name, kind in fields_of(inner).items()}
        answers = [each for each in inside if names.plain(each) in _ANSWERS]
        if not answers and _is_answers(path):
            answers = by_name("completion", inside)
        answers = [each for each in answers if can_answer(inside[each])]
        for answer in answers:
            for score in _scores_inside(table, inside):
                words: Words = {"each": path, "completion": answer, **score}
                models = [
                    each
                    for each, kind in inside.items()
                    if names.plain(each) in names.SOURCES and is_text(kind)
                ]
                if models and table.named.source is None:
                    words["source"] = models[0]
                found += [(RECORDS, each) for each in _asked(table, words, [path])]
    return found


def _scores_inside(table: Table, inside: dict[str, Any]) -> list[Words]:
    if not table.score or table.named.score is not None:
        return [{}]
    numbers = {each: kind for each, kind in inside.items() if _is_number(kind)}
    if found := by_name("score", numbers):
        return [{"score": each} for each in found]
    return [{"score": f"-{each}"} for each in numbers if names.plain(each) in _RANKS]


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean


# Lists side by side


def _beside(table: Table) -> Found:
    texts = [path for path in table.where(is_list_of_texts) if _wanted(table, path)]
    texts = [path for path in texts if _is_answers(path)]
    found: Found = []
    for answers in texts:
        near = [path for path in table.paths if _is_beside(table, path, answers)]
        # Of unequal lists the run says file and row; a list that fits is meant before them.
        beside = [path for path in near if _same_length(table, path, answers)] or near
        for score in _scores_beside(table, answers, beside):
            column = score.get("score", "").removeprefix("-")
            models = [
                path
                for path in table.where(is_list_of_texts)
                if _are_models(path) and _same_length(table, path, answers)
            ]
            words: Words = {"each": tuple(filter(None, (answers, column))), "completion": answers}
            if models and table.named.source is None and table.named.each is None:
                words |= {"each": (*words["each"], models[0]), "source": models[0]}
            taken = [path for path in (answers, column) if path]
            found += [(BESIDE, each) for each in _asked(table, words | score, taken)]
    return found


def _is_beside(table: Table, path: str, answers: str) -> bool:
    """Whether a list can hold the scores of answers: numbers, next to them, one for each."""
    dtype = table.paths[path]
    numbers = isinstance(dtype, pl.List) and _is_number(dtype.inner)  # type: ignore[arg-type]
    near = path.rpartition(".")[0] == answers.rpartition(".")[0]
    return numbers and near and _wanted(table, path)


def _same_length(table: Table, path: str, answers: str) -> bool:
    """As far as anyone has seen."""
    return lengths(table.head, path) == lengths(table.head, answers)


def _scores_beside(table: Table, answers: str, beside: Sequence[str]) -> list[Words]:
    if not table.score or table.named.score is not None:
        return [{}]
    singular = {path: names.singular(path) for path in beside}
    if scores := [path for path, words in singular.items() if names.is_score(words)]:
        return [{"score": path} for path in scores]
    labels = [path for path, words in singular.items() if words in ([LABEL], ["correct"])]
    if labels and not _are_steps(table, answers, labels[0]):
        return [{"score": path} for path in labels]
    ranks = [path for path, words in singular.items() if names.is_score(words, names.RANKS)]
    for path in ranks:
        if not permutations_from_zero(table.head, path) and table.head is not None:
            return [{"score": f"-{path}"}]
        table.problems.append(_order_or_ranks(path, answers))
    return []


def _order_or_ranks(path: str, answers: str) -> ColumnMissing:
    """[2, 0, 1] says that answer 2 is best, or that answer 1 is: nobody can tell."""
    return ColumnMissing(
        f"rows: the list {path!r} is an order of the answers from the best on, or the rank of"
        " each, and both look alike.",
        hint=f"if it holds ranks: --each {answers},{path} --completion {answers} --score=-{path};"
        " an order of numbers must become ranks first (prefmill sql, list_position).",
    )


def _are_steps(table: Table, answers: str, labels: str) -> bool:
    """TRL's stepwise layout, whose completions are the steps of one answer, looks like a list of
    answers with labels.
    """
    if names.plain(answers) not in ("completions", "completion") or labels != "labels":
        return False
    table.problems.append(
        ColumnMissing(
            f"rows: {answers!r} and {labels!r} are the steps of one answer and their labels, or"
            " answers and their labels.",
            hint=f"steps are for prefmill steps; if they are answers: --each {answers},{labels}"
            f" --completion {answers} --score {labels}.",
        )
    )
    return True


# A field for each answer


def _fields(table: Table) -> Found:
    """A record of answers with a field for each model, and one of scores with the same fields."""
    if table.named.each is not None:
        return []
    records = {path: kind for path, kind in table.paths.items() if isinstance(kind, pl.Struct)}
    found: Found = []
    for answers, dtype in records.items():
        fields = fields_of(dtype)
        if not _is_answers(answers) or len(fields) < 2 or not all(map(is_text, fields.values())):
            continue
        beside = [
            path
            for path, kind in records.items()
            if list(kind.to_schema()) == list(fields)
            and all(map(_is_number, fields_of(kind).values()))
        ]
        if not table.score or table.named.score is not None:
            scores: list[Words] = [{}]
        else:
            scores = [{"score": f"{path}.*"} for path in beside]
        for score in scores:
            words: Words = {"completion": f"{answers}.*", **score}
            asked = prompts(table, [answers, *beside])
            found += [(FIELDS, {**prompt, **words}) for prompt in asked]
    return found
