"""Records of steps on every engine: the Polars rule, a run over files, the SQL macros."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import oracle_steps as oracle
import polars as pl

import prefmill as pm
from prefmill.connection import literal
from prefmill.errors import PrefmillError
from prefmill.runs.steps import label_steps

Rows = list[tuple[str, list[str], list[bool]]]
_ROLES = ("prompt", "steps", "rating", "first_error", "chosen", "written")


def frame_of(records: list[dict[str, Any]], schema: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(records, schema=schema, strict=False)


def options(frame: pl.DataFrame, words: oracle.Words) -> dict[str, Any]:
    """The words as arguments of `step_labels`."""
    told = {role: role for role in _ROLES if role in frame.columns}
    told |= {
        "values": words.values,
        "threshold": words.threshold,
        "first_index": words.first_index,
        "no_error": words.no_error,
        "after_error": words.after_error,
        "step_separator": words.separator,
        "steps_from": words.steps_from,
    }
    return {name: value for name, value in told.items() if value not in (None, {}, ())}


def in_polars(frame: pl.DataFrame, words: oracle.Words) -> tuple[Rows, None]:
    return pm.step_labels(frame, **options(frame, words)).rows(), None


def in_files(frame: pl.DataFrame, words: oracle.Words, folder: Path) -> tuple[Rows, Counter[str]]:
    path = folder / "out.parquet"
    report = label_steps(frame, path, overwrite=True, allow_empty=True, **options(frame, words))
    return pl.read_parquet(path).rows(), Counter(report.dropped)


def in_sql(
    frame: pl.DataFrame, words: oracle.Words, con: duckdb.DuckDBPyConnection
) -> tuple[Rows, Counter[str]]:
    con.register("records", frame.to_arrow())
    table, columns, meanings = "records", {name: name for name in frame.columns}, _map(words)
    head = ""
    if "chosen" in frame.columns:
        written = ", written := written" if "written" in frame.columns else ""
        head = (
            "WITH paths AS (FROM step_paths(records, prompt, steps, rating, chosen"
            f"{written}, meanings := {meanings})) "
        )
        table, meanings = "paths", "MAP {}"
        columns = {"prompt": "prompt", "steps": "steps", "rating": "rating", "reason": "reason"}
    elif words.separator is not None:
        columns |= _texts(words, frame)
    elif frame.schema["steps"] == pl.List(pl.List(pl.String)):
        columns["steps"] = "list_transform(steps, lambda s: array_to_string(s, E'\\n'))"
    told = [columns.pop("prompt"), columns.pop("steps")]
    told += [f"{name} := {cell}" for name, cell in columns.items()]
    told.append(f"meanings := {meanings}")
    if words.no_error:
        told.append(f"no_error := [{', '.join(map(literal, words.no_error))}]")
    for name in ("threshold", "first_index", "after_error"):
        value = getattr(words, name)
        if value is not None:
            told.append(f"{name} := {literal(value) if isinstance(value, str) else value}")
    call = f"{table}, {', '.join(told)}"
    rows = con.execute(f"{head}FROM step_labels({call})").fetchall()
    report = con.execute(f"{head}FROM step_label_report({call})").fetchall()
    ((paths, rows_out, dropped),) = report
    assert rows_out == len(rows) == paths - sum(dropped.values())
    return rows, Counter(dropped)


def _texts(words: oracle.Words, frame: pl.DataFrame) -> dict[str, str]:
    separator = literal(str(words.separator))
    begins = literal(words.steps_from) if words.steps_from else "NULL"
    columns = {"steps": f"text_steps(steps, {separator}, steps_from := {begins})"}
    if "prompt" not in frame.columns:
        columns["prompt"] = f"text_prompt(steps, {separator}, {begins})"
    if frame.schema.get("rating") == pl.String:
        columns["rating"] = f"text_marks(steps, rating, {separator}, steps_from := {begins})"
    return columns


def _map(words: oracle.Words) -> str:
    pairs = (
        f"{literal(word)}: {'NULL' if value is None else value}"
        for word, value in words.values.items()
    )
    return f"MAP {{{', '.join(pairs)}}}"


def expect(frame: pl.DataFrame, words: oracle.Words, con: Any, folder: Path) -> str | None:
    """Check every engine against the oracle; what the oracle refuses, if it does."""
    records = frame.to_dicts()
    try:
        wanted = oracle.rows(records, words)
    except oracle.Refused as refusal:
        for run in (
            lambda: in_polars(frame, words),
            lambda: in_files(frame, words, folder),
            lambda: in_sql(frame, words, con),
        ):
            try:
                found = run()
            except (PrefmillError, duckdb.Error) as error:
                assert "step" in str(error)  # noqa: PT017
            else:
                raise AssertionError(f"not refused ({refusal}): {found}")
        return str(refusal)
    assert in_polars(frame, words)[0] == wanted[0]
    assert in_files(frame, words, folder) == wanted
    assert in_sql(frame, words, con) == wanted
    return None
