"""Files become a job: what they are read as, and which columns of them are asked for."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from prefmill.connection import memory_told
from prefmill.disk.hidden import temporary
from prefmill.errors import ColumnMissing, PlanError
from prefmill.forks import refuse_fork
from prefmill.plans.feedback import Aggregate, FeedbackPlan
from prefmill.pools.stream import paths_of
from prefmill.progress import Progress, silent
from prefmill.readers import Source, blamed_on, open_source
from prefmill.runs.job.job import Engine, Job
from prefmill.shapes.source import (
    columns_of,
    is_plain,
    plain_names,
    record_told,
    reshaped,
    spelled,
    words_in,
)
from prefmill.table.fits import fits_files
from prefmill.table.roles import NO_RECORDS, Inputs, OfRecords, RoleNames


class Reading(TypedDict, total=False):
    """How inputs are read; meaning in `prefmill.run`."""

    encoding: str | None
    delimiter: str | None
    rejects: str | Path | None
    memory_bytes: int | None
    threads: int | None
    temp_dir: str | Path | None
    temp_bytes: int | None
    without: Sequence[str]


@contextmanager
def opened(
    plan: FeedbackPlan,
    inputs: Inputs,
    *,
    roles: RoleNames | None = None,
    engine: Engine = "auto",
    keep: Sequence[str] = (),
    whole_rows: bool = False,
    trainer: bool = True,
    of_records: OfRecords = NO_RECORDS,
    parts: bool = False,
    each_vote: bool = False,
    merged: Aggregate = "none",
    stay: bool = False,
    apart: bool = False,
    ordered: bool = False,
    excluded: frozenset[str] = frozenset(),
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Iterator[Job]:
    """A `Job` over files; its temporary folder goes when the context ends.

    `each_vote`: votes of several judges stay rows of their own; `merged`: how they become one where
    the plan does not say. `of_records`: what is known of the records that the input has the rows
    of. `parts`: the two columns that a prompt was joined of come along. `stay`: objects may stay
    where they are (`Source.stays`); then nobody but workers may ask the job for all rows. `apart`:
    small files stay files of their own. `ordered`: slots have the numbers that order them, `_o0`
    ... `excluded`: ids of pairs that do not come out.
    """

    words = words_in(plan.rows, roles or {})

    def needs(columns: Sequence[str]) -> Sequence[str] | None:
        if not is_plain(words, columns):
            return columns_of(words, columns)
        try:
            rows = plan.program(plan.roles(plain_names(words), columns, where="roles")).read
            return list(dict.fromkeys(rows.columns().values()))
        except (ColumnMissing, PlanError):  # said of all files together, or not at all
            return None

    source_and_home = opened_source(
        "run",
        inputs,
        needs=needs,
        named=spelled(words),
        in_place=plan.every_row,
        stay=stay,
        progress=progress,
        apart=apart or bool(words.file_as),
        **reading,
    )
    with source_and_home as (source, home):
        fits = fits_files(source.files)
        columns = source.columns.names
        wide = plan.wide_scores(words.named())
        rowed = reshaped(
            source,
            words,
            home=home,
            where="roles",
            attempt=lambda names: plan.roles(names, columns, where="roles", fits=fits),
            score=not wide,
            extra=[*wide, *keep],
            check_later=True,
            memory_bytes=reading.get("memory_bytes"),
            threads=reading.get("threads"),
        )
        if rowed.shape is not None:
            inside, votes = rowed.shape.own_group, rowed.shape.votes and not each_vote
            if votes and plan.aggregate == "none":
                plan = replace(plan, aggregate=merged)
            plan = plan.over_records(inside=inside, votes=votes, where="run")
            plan = replace(plan, rows=None)  # from here on rows are read as they are
        with record_told(rowed.source, rowed.shape, home, "run"):
            yield Job(
                plan,
                rowed,
                keep,
                home,
                engine,
                progress or silent,
                whole_rows=whole_rows,
                trainer=trainer,
                of_records=(rowed.of_records or of_records).for_layout(parts),
                memory_bytes=reading.get("memory_bytes"),
                threads=reading.get("threads"),
                ordered=ordered,
                excluded=excluded,
            )


@contextmanager
def opened_source(
    where: str,
    inputs: Inputs,
    *,
    needs: Callable[[Sequence[str]], Collection[str] | None] = frozenset,
    named: Collection[str] = (),
    in_place: bool = False,
    stay: bool = False,
    apart: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Iterator[tuple[Source, Path]]:
    """`inputs` as one table of files, and a temporary folder that goes when the context ends.

    In here an engine's errors about memory, or about a file, say what to do.
    """
    refuse_fork(where)
    tell = progress or silent
    rejects, memory_bytes = reading.get("rejects"), reading.get("memory_bytes")
    with (
        temporary(reading.get("temp_dir"), reading.get("temp_bytes")) as home,
        memory_told(where, memory_bytes, home),
    ):
        source = open_source(
            _paths(inputs, home),
            temp_dir=home,
            encoding=reading.get("encoding"),
            delimiter=reading.get("delimiter"),
            rejects=Path(rejects) if rejects else None,
            memory_bytes=memory_bytes,
            threads=reading.get("threads"),
            progress=lambda phase: tell(phase, None),
            needs=needs,
            named=named,
            without=[*reading.get("without", ()), *([str(rejects)] if rejects else [])],
            in_place=in_place,
            stay=stay,
            apart=apart,
        )
        with blamed_on(source):
            yield source, home


def _paths(inputs: Inputs, home: Path) -> list[str]:
    """`inputs` as paths; what is not in files goes to files in `home`."""
    if isinstance(inputs, str | Path):
        return [str(inputs)]
    if isinstance(inputs, list | tuple) and all(isinstance(each, str | Path) for each in inputs):
        return [str(each) for each in inputs]
    return paths_of(inputs, home)
