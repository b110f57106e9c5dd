"""The scores that thresholds wait for, kept by file of input, so that old files are not read again.

A file of (pos, score): the rows that are candidates, where nothing merges rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import duckdb
import polars as pl

from prefmill.connection import literal
from prefmill.plans.feedback import FeedbackPlan
from prefmill.rules.limits import scores_in
from prefmill.runs.incremental.state import InputFile
from prefmill.runs.job.job import Job
from prefmill.table.thresholds import Scale


def write(job: Job, path: Path) -> None:
    """The scores of all candidates of `job`, which has made these, to a file in its folder."""
    job.con.execute(
        "COPY (SELECT _pos AS pos, _score AS score FROM candidates WHERE _reason IS NULL)"
        f" TO {literal(str(path))} (FORMAT parquet, COMPRESSION snappy)"
    )


def settled(
    plan: FeedbackPlan,
    con: duckdb.DuckDBPyConnection,
    files: Sequence[InputFile],
    homes: Mapping[str, Path],
) -> tuple[FeedbackPlan, Scale]:
    """`plan` with numbers for its thresholds, from the scores of all files; their scale.

    Raises `ThresholdsUnfit`.
    """
    # Only a quantile asks how often a score is there.
    which = "ALL" if plan.quantiles else "DISTINCT"
    query = f"SELECT {which} score FROM ({of_files(files, homes)})"
    scores = scores_in(pl.DataFrame(con.sql(query).to_arrow_table())["score"])
    return plan.settled(scores), scores.scale


def of_files(
    files: Iterable[InputFile], homes: Mapping[str, Path], shifts: Mapping[str, int] | None = None
) -> str:
    """The scores of these files as a relation of pos and score, by file of scores shifted."""
    ranges: dict[str, list[list[int]]] = {}
    for file in sorted(files, key=lambda each: each.first):
        listed = ranges.setdefault(file.scores, [])
        if listed and listed[-1][1] == file.first:
            listed[-1][1] += file.rows
        else:
            listed.append([file.first, file.first + file.rows])
    selects = []
    for name, listed in ranges.items():
        there = " OR ".join(f"(pos >= {first} AND pos < {end})" for first, end in listed)
        selects.append(
            f"SELECT pos + {(shifts or {}).get(name, 0)} AS pos, score"
            f" FROM read_parquet({literal(str(homes[name]))}) WHERE {there}"
        )
    return " UNION ALL ".join(selects)


def shifts(files: Iterable[InputFile]) -> dict[str, int]:
    """By how much to move the positions of each file of scores, so that no two overlap."""
    ends: dict[str, int] = {}
    for file in files:
        ends[file.scores] = max(ends.get(file.scores, 0), file.first + file.rows)
    moved, total = {}, 0
    for name, end in ends.items():
        moved[name] = total
        total += end
    return moved
