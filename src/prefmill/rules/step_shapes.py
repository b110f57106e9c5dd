"""Records of steps that are recognised by the names and types of their columns.

schema ──▶ readings: words for the roles that were not named ──▶ the one, or an error with two
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import polars as pl

from prefmill.errors import BadInput, ColumnMissing
from prefmill.shapes.paths import find
from prefmill.table.roles import ALIASES
from prefmill.table.step_words import StepWords

_STEPS = (
    "completions",
    "steps",
    "model_output_steps",
    "model_output_step_format",
    "solution_steps",
    "reasoning_steps",
)
_RATINGS = ("labels", "ratings", "rating", "step_labels", "step_ratings", "step_scores", "label")
_FIRST_ERRORS = (
    "first_error",
    "first_error_step",
    "first_error_index",
    "error_step",
    "error_index",
    "mistake_index",
    "model_output_solution_first_error_step",
    "label",
)
_ELEMENT_TEXTS = ("text", "step", "content", "value")
_ELEMENT_RATINGS = ("rating", "label", "score", "correct", "is_correct")
#: Where a name says how steps are counted, and what says that none is wrong.
_CONVENTIONS: dict[str, dict[str, Any]] = {
    "mistake_index": {"first_index": 0, "no_error": ("null",)},
    "model_output_solution_first_error_step": {"first_index": 1, "no_error": ("N/A",)},
}
#: ProcessBench: its `label` is the place of the first error.
_PROCESS_BENCH = {"steps", "label", "final_answer_correct"}
#: Math-Shepherd: a mark after every step of a text, and the same text with + and - there.
_SHEPHERD = {"input", "label", "task"}
_SHEPHERD_WORDS: dict[str, Any] = {
    "steps": "input",
    "rating": "label",
    "step_separator": "ки",
    "steps_from": "Step 1:",
}


def recognised(schema: pl.Schema, words: StepWords) -> StepWords:
    """`words` with the roles that are not named, as the columns of `schema` say.

    Raises `BadInput` where no reading is possible, or several are: with two of them.

    >>> schema = pl.Schema({"prompt": pl.String, "steps": pl.List(pl.String)})
    >>> recognised(pl.Schema({**schema, "ratings": pl.List(pl.Int64)}), StepWords()).options()
    '--prompt prompt --steps steps --rating ratings'
    """
    if not words.missing:
        return words
    readings = list(dict.fromkeys(_readings(schema, words)))
    if len(readings) == 1:
        return readings[0]
    if readings:
        raise BadInput(
            f"steps: the columns can be read in {len(readings)} ways; got {schema.names()}.",
            hint=f"{readings[0].options()}, or {readings[1].options()}.",
        )
    raise BadInput(
        "steps: no column is known as steps with ratings, or with the place of the first error;"
        f" got {schema.names()}.",
        hint="--prompt PATH --steps PATH --rating PATH, or --first-error PATH for --rating."
        " Rollouts in a tree have --parent-id and --success.",
    )


def _readings(schema: pl.Schema, words: StepWords) -> Iterator[StepWords]:
    for found in _known(schema) or _by_names(schema, words):
        if _contradicts(found, words):
            continue
        named = {name: value for name, value in vars(words).items() if value not in (None, {}, ())}
        yield replace(StepWords(**found), **named)


def _contradicts(found: dict[str, Any], words: StepWords) -> bool:
    """Whether something else was named for a role."""
    if words.first_error is not None and "rating" in found:
        return True
    if words.rating is not None and "first_error" in found:
        return True
    return any(getattr(words, name) not in (None, found.get(name)) for name in words.paths())


def _known(schema: pl.Schema) -> list[dict[str, Any]]:
    """Shapes of data sets that everybody has."""
    columns = set(schema.names())
    steps = "label.steps.completions"
    if _kind(schema, f"{steps}.text") == "texts of candidates" and _has(schema, "question.problem"):
        found = {
            "prompt": "question.problem",
            "steps": f"{steps}.text",
            "rating": f"{steps}.rating",
            "chosen": "label.steps.chosen_completion",
        }
        if _kind(schema, "label.steps.human_completion.text") == "texts":
            found["written"] = "label.steps.human_completion.text"
        return [found]
    texts = [schema[name] == pl.String for name in ("input", "label") if name in columns]
    if columns >= _SHEPHERD and len(texts) == 2 and all(texts):
        return [dict(_SHEPHERD_WORDS)]
    return []


def _by_names(schema: pl.Schema, words: StepWords) -> Iterator[dict[str, Any]]:
    """Every reading that names and types allow."""
    prompts = [words.prompt] if words.prompt else _prompts(schema)
    if words.steps_from:
        prompts = [words.prompt]
    steps = [words.steps] if words.steps else list(_steps(schema))
    for prompt, path in product(prompts, steps):
        for labels in _labels(schema, words, path):
            if prompt not in (path, *labels.values()):
                yield {"prompt": prompt, "steps": path, **labels}


def _prompts(schema: pl.Schema) -> list[str | None]:
    names: list[str | None] = [n for n in schema.names() if n.lower() in ALIASES["prompt"]]
    names = [name for name in names if schema[str(name)] == pl.String]
    if "prompt" in names:
        return ["prompt"]
    # Alpaca's are two parts of one prompt.
    return ["instruction,input"] if {"instruction", "input"} <= set(names) else names


def _steps(schema: pl.Schema) -> Iterator[str]:
    for name in (name for name in _STEPS if name in schema):
        if _kind(schema, name) in ("texts", "texts of candidates"):
            yield name
        for field in _ELEMENT_TEXTS:
            if _has(schema, f"{name}.{field}") and _kind(schema, f"{name}.{field}") == "texts":
                yield f"{name}.{field}"


def _labels(schema: pl.Schema, words: StepWords, steps: str) -> Iterator[dict[str, Any]]:
    if words.rating or words.first_error:
        role = "rating" if words.rating else "first_error"
        yield {role: getattr(words, role)}
        return
    # Of records: a field next to the text.
    above = steps.rpartition(".")[0]
    fields = [f"{above}.{name}" for name in _ELEMENT_RATINGS] if above else []
    for name in (*fields, *_RATINGS):
        in_text = words.step_separator is not None and schema.get(name) == pl.String
        if in_text or _kind(schema, name) in ("numbers", "texts"):
            yield {"rating": name}
    for name in (name for name in _FIRST_ERRORS if name in schema):
        if schema[name].is_integer() or (schema[name] == pl.String and name != "label"):
            yield {"first_error": name, **_convention(schema, name)}


def _convention(schema: pl.Schema, name: str) -> dict[str, Any]:
    if name == "label" and set(schema.names()) >= _PROCESS_BENCH:
        return {"first_index": 0, "no_error": ("-1",)}
    return _CONVENTIONS.get(name, {})


def _has(schema: pl.Schema, path: str) -> bool:
    try:
        find(path, schema)
    except ColumnMissing:
        return False
    return True


def _kind(schema: pl.Schema, path: str) -> str | None:
    """What a path leads to, of what can be steps or ratings."""
    if not _has(schema, path):
        return None
    kind: Any = find(path, schema).dtype
    if not isinstance(kind, pl.List):
        return None
    inner: Any = kind.inner
    if inner == pl.String:
        return "texts"
    if isinstance(inner, pl.List) and inner.inner == pl.String:
        return "texts of candidates"
    return "numbers" if inner.is_numeric() or inner == pl.Boolean else None
