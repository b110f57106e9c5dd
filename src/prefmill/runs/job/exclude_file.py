"""The file of `--exclude`: which pairs a run is to leave out."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Unpack

import polars as pl

from prefmill.disk.targets import shown
from prefmill.errors import BadArgument, BadInput, ColumnMissing
from prefmill.plans.feedback import FeedbackPlan
from prefmill.runs.job.excluding import COLUMNS, Excluded
from prefmill.runs.job.opening import Reading, opened_source

_ID = re.compile(r"[0-9a-f]{32}")


def excluded_in(path: str | Path, **reading: Unpack[Reading]) -> Excluded:
    """The ids in a file of any kind that commands read: column `pair_id`, `text_id`, or both.

    Raises `ColumnMissing` where it has neither, `BadInput` for a text that is no id.
    """
    name = shown(str(path))
    room: Reading = {"temp_dir": reading.get("temp_dir")}
    with opened_source("exclude", str(path), needs=_ids_in, **room) as (source, _):
        there = _ids_in(source.columns.names)
        if not there:
            raise ColumnMissing(
                f"exclude: {name!r} has no ids; got the columns {list(source.columns.names)},"
                f" expected {' or '.join(map(repr, COLUMNS))}.",
                hint="prefmill view and prefmill worth write such a file; in SQL an id is"
                " pair_id(prompt, chosen, rejected).",
            )
        rows = pl.concat(
            [pl.read_parquet(each, columns=there) for each in source.files], how="vertical_relaxed"
        )
    entries = []
    for row in rows.cast(pl.String).unique(maintain_order=True).iter_rows():
        known = {text.strip().lower() for text in row if text is not None}
        wrong = sorted(text for text in known if not _ID.fullmatch(text))
        if wrong:
            raise BadInput(
                f"exclude: {name!r} has an id that is none; got {wrong[0][:40]!r},"
                " expected 32 hexadecimal digits.",
                hint="prefmill pairs --pair-id writes the id of each pair.",
            )
        if known:
            entries.append(frozenset(known))
    return Excluded(name, tuple(entries))


def check_exclude(plan: FeedbackPlan, *, incremental: bool) -> None:
    """Raise `BadArgument` for a run that leaves out no pairs by their ids."""
    if plan.rows_are != "pairs":
        raise BadArgument(
            f"run: exclude leaves pairs out; got a plan of {plan.kind}.",
            hint="leave it out, or exclude from the pairs.",
        )
    if incremental:
        raise BadArgument(
            "run: an incremental run computes again what changed in its inputs, and exclude is none"
            " of them; got both.",
            hint="leave --incremental out.",
        )


def _ids_in(columns: Sequence[str]) -> list[str]:
    return [name for name in COLUMNS if name in columns]
