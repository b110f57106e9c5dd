"""Labels of steps over frames: the door that finds the roles, and lets the data decide the rest."""

from __future__ import annotations

from typing import Unpack
from warnings import warn

import polars as pl

from prefmill.arguments import closed
from prefmill.errors import BadArgument, BadInput
from prefmill.pools.frames import frame_of
from prefmill.rules.step_cells import Place, row_of
from prefmill.rules.step_facts import facts_of, settled
from prefmill.rules.step_labels import COLUMNS, labelled, listed
from prefmill.rules.step_shapes import recognised
from prefmill.shapes.cells import Inside, Joined
from prefmill.shapes.paths import Path, find
from prefmill.shapes.words import split
from prefmill.table.messages import is_text
from prefmill.table.roles import Inputs
from prefmill.table.step_words import StepOptions, StepWords

_OUT = ("prompt", "completions", "labels")


@closed("step_labels")
def step_labels(data: Inputs, **words: Unpack[StepOptions]) -> pl.DataFrame:
    """Records of steps with ratings, or with the place of the first error, in TRL's stepwise form.

    Columns out: prompt, completions (list of text), labels (list of bool), in the order of records.
    `data` is a frame, or whatever `prefmill.run` takes. The words are those of `StepWords`; what is
    not named is recognised by the names that the field uses. Records that give no row are left out:
    `prefmill steps` counts them by reason. Raises `ColumnMissing`, and `BadInput` where lists are
    not side by side, or where neither words nor data say what a rating or a position means.

    >>> records = pl.DataFrame(
    ...     {"prompt": ["2+2?"], "steps": [["2+2=5", "so 5"]], "mistake_index": [0]}
    ... )
    >>> step_labels(records).rows()
    [('2+2?', ['2+2=5'], [False])]
    >>> step_labels(records, after_error="false").rows()
    [('2+2?', ['2+2=5', 'so 5'], [False, False])]
    """
    frame = frame_of(data, "step_labels").lazy().collect()
    wanted = recognised(frame.schema, StepWords(**words))
    paths = listed(records_of(frame, wanted), wanted)
    wanted, note = settled(wanted, facts_of(paths, wanted))
    if note:
        warn(f"prefmill: {note}", stacklevel=2)
    return labelled(paths, wanted).filter(pl.col("_reason").is_null()).select(_OUT)


def lazy_step_labels(frame: pl.LazyFrame, **words: Unpack[StepOptions]) -> pl.LazyFrame:
    """`step_labels` when it is collected; names and types of columns are looked at now."""
    schema = frame.collect_schema()
    records_of(pl.DataFrame(schema=schema), recognised(schema, StepWords(**words)))

    def rows(batch: pl.DataFrame) -> pl.DataFrame:
        return step_labels(batch, **words)

    return frame.map_batches(rows, schema=pl.Schema({name: COLUMNS[name] for name in _OUT}))


def records_of(frame: pl.DataFrame, words: StepWords, first: int = 0) -> pl.DataFrame:
    """The columns of the roles under our own names, and _pos, which begins at `first`.

    Raises `ColumnMissing` for a path that leads nowhere, `BadInput` for types that cannot be.
    """
    cells: dict[str, pl.Expr] = {}
    kinds: dict[str, pl.DataType] = {}
    for role, parts in paths_of(words, frame.schema).items():
        value, kind = _cell(role, parts)
        if kind != pl.Null and is_text(kind):
            value, kind = value.cast(pl.String), pl.String()
        cells[f"_{role}"], kinds[role] = value, kind
    _check_types(kinds, words)
    if "prompt" not in kinds:
        cells["_prompt"] = pl.lit(None, pl.String)
    for role, kind in kinds.items():
        if kind == pl.Null:
            empty = {"prompt": pl.String(), "first_error": pl.String()}
            cells[f"_{role}"] = cells[f"_{role}"].cast(empty.get(role, pl.List(pl.String)))
    records = frame.select(**cells)
    return records.with_row_index("_pos", offset=first).cast({"_pos": pl.Int64})


def paths_of(words: StepWords, schema: pl.Schema) -> dict[str, list[Path]]:
    """The path of every role that has one; a prompt may have several, with commas."""
    paths = {}
    for role, text in words.paths().items():
        several = role == "prompt" and text not in schema
        texts = split(text) if several else [text]
        paths[role] = [find(each, schema, where="steps", role=role) for each in texts]
    return paths


def _cell(role: str, parts: list[Path]) -> tuple[pl.Expr, pl.DataType]:
    """The value of a role and its type; several texts are joined by a blank line."""
    for part in parts:
        if part.dtype is None:
            raise _in_json(role, part.text)
        if len(parts) > 1 and not is_text(part.dtype):
            what = f"{part.text!r} cannot be a part of {role}; got {part.dtype}, expected text"
            raise BadInput(f"steps: {what}.", hint=f"name other paths: --{role} PATH,PATH.")
    if len(parts) > 1:
        return Joined(tuple(map(Inside, parts))).polars(), pl.String()
    kind = parts[0].dtype
    assert kind is not None
    return Inside(parts[0]).polars(), kind


def _check_types(kinds: dict[str, pl.DataType], words: StepWords) -> None:
    for role, expected, depths in (
        ("prompt", "text", (0,)),
        ("steps", "a list of text", (1, 2)),
        ("chosen", "a list of whole numbers", (1,)),
        ("written", "a list of text", (1,)),
    ):
        if role in kinds and not _holds(kinds[role], depths, role == "chosen"):
            if role == "steps" and kinds[role] == pl.String:
                _refuse_text(words)
                continue
            raise _unfit(role, words, kinds[role], expected)
    if words.chosen and _depth(kinds["steps"])[0] != 2:
        raise _unfit("steps", words, kinds["steps"], "a list of candidates for each step")
    if "rating" in kinds:
        _check_rating(kinds["rating"], kinds["steps"], words)
    if "first_error" in kinds:
        kind = kinds["first_error"]
        if not (kind.is_numeric() or kind in (pl.String, pl.Null)):
            raise _unfit("first_error", words, kind, "a number, or text")


def _refuse_text(words: StepWords) -> None:
    if words.step_separator is None:
        raise BadArgument(
            f"steps: {words.steps!r} is one text; got no step_separator.",
            hint="say what stands between its steps: --step-separator TEXT.",
        )


def _check_rating(rating: pl.DataType, steps: pl.DataType, words: StepWords) -> None:
    depth, inner = _depth(rating)
    wanted = 2 if words.chosen else 1
    in_text = steps == pl.String and rating == pl.String
    fits = depth == wanted and (inner.is_numeric() or inner in (pl.String, pl.Boolean, pl.Null))
    if rating == pl.Null or in_text or fits:
        return
    if depth == 2 and not words.chosen:
        raise BadArgument(
            f"steps: {words.rating!r} has several ratings for a step; got no path of chosen.",
            hint="say which candidate leads on: --chosen PATH.",
        )
    raise _unfit("rating", words, rating, "a list of numbers, booleans or words")


def _holds(kind: pl.DataType, depths: tuple[int, ...], whole: bool) -> bool:
    depth, inner = _depth(kind)
    fits = inner.is_integer() if whole else inner == pl.String
    return inner == pl.Null or (depth in depths and fits)


def _depth(kind: pl.DataType) -> tuple[int, pl.DataType]:
    depth = 0
    while isinstance(kind, pl.List):
        assert isinstance(kind.inner, pl.DataType)
        kind, depth = kind.inner, depth + 1
    return depth, kind


def _in_json(role: str, path: str) -> BadInput:
    return BadInput(
        f"steps: {path!r} lies in values that no column type holds; got JSON for {role}.",
        hint="make the records alike in the file, or flatten them with prefmill sql.",
    )


def _unfit(role: str, words: StepWords, kind: pl.DataType, expected: str) -> BadInput:
    path = getattr(words, role)
    hint = f"name another path: --{role.replace('_', '-')} PATH."
    _, inner = _depth(kind)
    if isinstance(inner, pl.Struct):
        fields = [field.name for field in inner.fields]
        hint = f"name a field of it: --{role.replace('_', '-')} {path}.FIELD, one of {fields}."
    return BadInput(
        f"steps: {path!r} cannot be {role}; got {kind}, expected {expected}.", hint=hint
    )


__all__ = ["Place", "lazy_step_labels", "records_of", "row_of", "step_labels"]
