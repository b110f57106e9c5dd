"""Roles that nobody named: found by the names that the field uses, also inside of lists."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from prefmill.errors import ColumnMissing, PrefmillError
from prefmill.shapes import verdicts
from prefmill.shapes.paths import fields_of, is_message, is_messages
from prefmill.shapes.reader import Reader
from prefmill.shapes.words import COMMON, Rows
from prefmill.table.fits import fits_schema
from prefmill.table.messages import is_text
from prefmill.table.roles import ALIASES, LABEL, Roles


def with_names(rows: Rows, schema: pl.Schema, where: str, *, score: bool, completion: bool) -> Rows:
    """`rows` with the paths of roles that were not named, by the names that the field uses."""
    if completion and rows.completion is None:
        rows = replace(rows, completion=_completion_named(rows, schema, where))
    if rows.prompt is None:
        rows = replace(rows, prompt=_prompt_named(rows, schema, where))
    if score and rows.score is None and rows.winner is None:
        rows = replace(rows, score=_score_named(rows, schema, where))
    return rows


def _inside_each(rows: Rows, schema: pl.Schema, where: str) -> dict[str, pl.DataType]:
    """Paths of what the elements of `each` are made of, and their types."""
    if rows.each is None:
        return {}
    reader = Reader(rows, schema, where)
    inside: dict[str, pl.DataType] = {}
    for text in reader.texts("each"):
        path = reader.find(text, "each")
        dtype = path.dtype
        if path.json_from is not None:
            inside[text] = pl.String()  # what a value inside JSON is, if it is a leaf
        if not isinstance(dtype, pl.List):
            continue
        inner: Any = dtype.inner
        if isinstance(inner, pl.Struct) and not is_message(inner):
            inside |= {f"{text}.{name}": kind for name, kind in fields_of(inner).items()}
        else:
            inside[text] = inner
    return inside


def _completion_named(rows: Rows, schema: pl.Schema, where: str) -> Any:
    inside = _inside_each(rows, schema, where)
    found = by_name("completion", inside)
    texts = [path for path, dtype in inside.items() if is_text(dtype)]
    if not found and len(texts) == 1:
        found = texts
    if len(found) == 1:
        return found[0]
    if {"chosen", "rejected"} <= set(schema):
        return ("chosen", "rejected")
    return _resolved("completion", schema, where, rows)


def _prompt_named(rows: Rows, schema: pl.Schema, where: str) -> Any:
    there = {name.lower(): name for name in schema}
    if "instruction" in there and "input" in there and "prompt" not in there:
        return (there["instruction"], there["input"])
    try:
        return _resolved("prompt", schema, where, rows)
    except PrefmillError:
        answers = Reader(rows, schema, where).texts("completion")
        if len(answers) == 2 and {str(a) for a in answers} <= set(schema):
            kinds = [schema[str(answer)] for answer in answers]
            if all(is_messages(kind) for kind in kinds):
                return COMMON
        raise


def _score_named(rows: Rows, schema: pl.Schema, where: str) -> Any:
    answers = Reader(rows, schema, where).texts("completion")
    if len(answers) > 1:
        return _scores_side_by_side([str(each) for each in answers], schema, where)
    inside = _inside_each(rows, schema, where)
    found = by_name("score", inside)
    numbers = [path for path, dtype in inside.items() if dtype.is_numeric() or dtype == pl.Boolean]
    if not found and len(numbers) == 1:
        found = numbers
    if len(found) == 1:
        return found[0]
    return _resolved("score", schema, where, rows)


def _scores_side_by_side(answers: list[str], schema: pl.Schema, where: str) -> Any:
    parts = verdicts.own_parts(answers)
    if answers == ["chosen", "rejected"]:
        parts = answers
    scores = score_columns(parts, schema)
    if len(scores) > 1:
        lines = " or ".join(f"--score {','.join(each)}" for each in scores)
        raise ColumnMissing(
            f"{where}: several columns could be the scores of {answers}; got {scores}.",
            hint=f"name those that are meant: {lines}.",
        )
    if scores:
        return tuple(scores[0])
    if answers == ["chosen", "rejected"]:
        return ("1", "0")
    raise ColumnMissing(
        f"{where}: no scores and no verdict for the answers {answers}; got {list(schema)}.",
        hint="name scores, --score a,b, or the verdict's column, --winner COLUMN.",
    )


_SCORES = ("score", "rating", "reward", "grade", "points", "overall_score", "stars", "upvotes")


def score_columns(parts: Sequence[str], schema: pl.Schema) -> list[list[str]]:
    """Columns of numbers that are named as these parts of answers' names are."""
    there = {name.lower().replace("-", "_"): name for name in schema}
    found = []
    for noun in _SCORES:
        for form in ("{noun}_{part}", "{part}_{noun}", "{noun}{part}", "{noun}s_{part}"):
            names = [form.format(noun=noun, part=part.lower()) for part in parts]
            columns = [there.get(name, "") for name in names]
            if all(columns) and all(_is_number(schema[column]) for column in columns):
                found.append(columns)
    return found


def _is_number(dtype: pl.DataType) -> bool:
    return dtype.is_numeric() or dtype == pl.Boolean or is_text(dtype)


def by_name(role: str, paths: Mapping[str, pl.DataType]) -> list[str]:
    """The paths whose last name is one of the field's for `role`; the role's own name wins."""
    names = [*ALIASES[role], *(f"{name}s" for name in ALIASES[role])]
    if role == "completion":
        names += ["text", "model_response", "content"]
    if role == "score":
        names += [LABEL, "labels"]
    lasts = {path: path.rpartition(".")[2].lower().replace("-", "_") for path in paths}
    own = [path for path, last in lasts.items() if last in (role, f"{role}s")]
    if own:
        return own[:1] if len(own) == 1 else own
    fits = fits_schema(pl.Schema(paths))
    return [path for path, last in lasts.items() if last in names and fits(role, path) is not False]


def _resolved(role: str, schema: pl.Schema, where: str, rows: Rows) -> Any:
    taken = {
        text
        for word, value in rows.named().items()
        if word not in ("values", "where", "group")
        for text in ([value] if isinstance(value, str) else value)
        if isinstance(text, str)
    }
    free = [name for name in schema if name not in taken]
    roles = Roles.resolve(free, required=(role,), where=where, fits=fits_schema(schema))
    return getattr(roles, role)
