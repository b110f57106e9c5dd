"""Labels of steps, from files to a file: of records in bounded memory, of trees in memory.

files ──▶ batches of the roles' columns ──facts──▶ words that are settled ──again──▶ rows
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

import polars as pl
import pyarrow as pa

from prefmill.connection import connect, quote, share_of
from prefmill.errors import AccountingError
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.readers import Source
from prefmill.rules.rollouts import stepwise
from prefmill.rules.step_facts import Facts, facts_of, settled
from prefmill.rules.step_json import has_json, merged, plain_values, type_of, typed
from prefmill.rules.step_labels import COLUMNS, labelled, listed
from prefmill.rules.step_records import paths_of, records_of
from prefmill.rules.step_shapes import recognised
from prefmill.runs.job.opening import Reading, opened_source
from prefmill.runs.records.commands import recorded
from prefmill.table.roles import Inputs
from prefmill.table.showing import Showing
from prefmill.table.step_words import StepOptions, StepWords
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

_BATCH_ROWS = 8192
_OUT = pl.Schema({name: COLUMNS[name] for name in ("prompt", "completions", "labels")})


@dataclass(frozen=True)
class StepsReport(Showing):
    """What a run that labels steps did.

    Records in give paths: one each, or where steps have candidates one for every candidate that
    ends one. Paths = rows out + paths dropped for each reason; checked when a report is made.
    `rows_rejected` are malformed rows that never became records. `steps` are the labels that came
    out, `true` and `false`. `read_as` are the words that were used, as options. Of a tree paths are
    its rollouts.
    """

    rows_in: int
    rows_rejected: int
    paths: int
    rows_out: int
    dropped: Mapping[str, int]
    steps: Mapping[str, int]
    read_as: str
    seconds: float
    peak_rss_mb: float
    output: str | None
    tree: bool = False
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        told = self.rows_out + sum(self.dropped.values())
        if told != self.paths:
            raise AccountingError(
                f"steps: {self.paths} paths were found and {told} are accounted for.",
                hint="this is a bug of prefmill: please report it with the command that you ran.",
            )

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return asdict(self)


@watched("steps")
def label_steps(
    inputs: Inputs,
    output: str | Path | None,
    *,
    overwrite: bool = False,
    allow_empty: bool = False,
    progress: Progress | None = None,
    reading: Reading | None = None,
    **words: Unpack[StepOptions],
) -> StepsReport:
    """Write the rows of `prefmill.step_labels` to a file, in the order of records.

    `inputs`, `output`, `overwrite`, `allow_empty` and `reading` are those of `prefmill.run`; `None`
    for the output only reports. The words are those of `step_labels`.
    Cost: two passes over the columns of the roles, in batches; memory does not grow with the input.

    >>> import tempfile
    >>> records = pl.DataFrame(
    ...     {"prompt": ["2+2?"], "completions": [["4"]], "labels": [[True]]}
    ... )
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     report = label_steps(records, f"{folder}/steps.parquet")
    ...     report.rows_out, report.steps
    (1, {'true': 1, 'false': 0})
    """
    run = Run(StepWords(**words), None, progress or silent)
    return run.to(output, inputs, overwrite, allow_empty, reading or {})


def step_rows(inputs: Inputs, **words: Unpack[StepOptions]) -> Iterator[pl.DataFrame]:
    """The rows of `prefmill.step_labels` as frames, in bounded memory; `inputs` as there."""
    run = Run(StepWords(**words), None, silent)
    with opened_source("steps", inputs) as (source, home):
        yield from run.records(source, home, {})


@dataclass
class Run:
    """One run. With `tree`, the arguments of `stepwise`, the input is a tree of rollouts; where
    neither is named a column `parent_id` makes it one. The threshold is that of `words`.
    """

    words: StepWords
    tree: Mapping[str, Any] | None
    tell: Progress
    notes: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def to(
        self,
        output: str | Path | None,
        inputs: Inputs,
        overwrite: bool,
        allow_empty: bool,
        reading: Reading,
    ) -> StepsReport:
        """Run over `inputs` and write `output`."""
        started = time.perf_counter()
        reading = reading.copy()
        words = {"words": self.words, "tree": self.tree}
        recording = recorded("steps", inputs, output, reading, overwrite=overwrite, steps=words)
        with recording as record:
            if record.done:
                return record.restored(StepsReport)
            with opened_source("steps", inputs, progress=self.tell, **reading) as (source, home):
                is_tree = self._is_tree(source)
                rows = self._rollouts(source) if is_tree else self.records(source, home, reading)

                def report(written: writers.Written | None) -> StepsReport:
                    counts = self.counts
                    return StepsReport(
                        rows_in=source.rows,
                        rows_rejected=source.rejected,
                        paths=counts["paths"],
                        rows_out=counts["rows"],
                        dropped=dict(sorted(self.dropped.items())),
                        steps={"true": counts["true"], "false": counts["steps"] - counts["true"]},
                        read_as=self._read_as() if is_tree else self.words.options(),
                        seconds=round(time.perf_counter() - started, 3),
                        peak_rss_mb=peak_rss_mb(),
                        output=written.paths.get("") if written else None,
                        tree=is_tree,
                        notes=(*source.notes, *self.notes),
                    )

                if output is None:
                    for _ in rows:
                        pass
                    return report(None)
                record.read(source.inputs)
                writers.write(
                    rows,
                    _OUT,
                    output,
                    format="pool",
                    overwrite=record.overwrites,
                    publish_empty=allow_empty,
                    memory_bytes=reading.get("memory_bytes"),
                    publish=record.publisher(report),
                )
                return record.made or report(None)

    def _is_tree(self, source: Source) -> bool:
        if self.tree is not None:
            return True
        return not self.words.is_named and "parent_id" in source.columns.names

    def _read_as(self) -> str:
        names, tree = ("id", "parent_id", "text", "success"), self.tree or {}
        columns = {name: tree.get(name, name) for name in names}
        return " ".join(f"--{name.replace('_', '-')} {path}" for name, path in columns.items())

    def _rollouts(self, source: Source) -> Iterator[pl.DataFrame]:
        files = [pl.read_parquet(file, glob=False) for file in source.files]
        told = dict(self.tree or {})
        if self.words.threshold is not None:
            told["threshold"] = self.words.threshold
        rows = stepwise(pl.concat(files, how="diagonal_relaxed"), **told)
        self._count(rows)
        self.counts["paths"] = rows.height
        yield rows.cast(dict(_OUT))  # type: ignore[arg-type]

    def records(self, source: Source, home: Path, reading: Reading) -> Iterator[pl.DataFrame]:
        """The rows of records, and what became of all of them in the counts."""
        batches = _Batches(source, home, reading)
        self.words = recognised(batches.schema, self.words)
        asked = self.words.threshold if self.words.rating else self.words.first_index
        if asked is None:
            self.tell("looking at ratings", None)
            self._settle(batches)
        self.tell("labelling steps", None)
        for paths, records in batches.paths(self.words):
            rows = labelled(paths, self.words)
            if rows["_pos"].n_unique() != records:
                raise AccountingError("steps: a record gave neither a path nor a reason.")
            self.counts["paths"] += rows.height
            reasons = rows["_reason"].drop_nulls().value_counts()
            self.dropped.update(dict(reasons.iter_rows()))
            kept = rows.filter(pl.col("_reason").is_null()).select(_OUT.names())
            self._count(kept)
            if kept.height:
                yield kept

    def _settle(self, batches: _Batches) -> None:
        seen = Facts()
        for paths, _ in batches.paths(self.words):
            seen |= facts_of(paths, self.words)
        self.words, note = settled(self.words, seen)
        if note:
            self.notes.append(note)

    def _count(self, rows: pl.DataFrame) -> None:
        self.counts["rows"] += rows.height
        labels = rows["labels"]
        self.counts["steps"] += int(labels.list.len().sum())
        self.counts["true"] += int(labels.list.sum().sum())


class _Batches:
    """A source, batch by batch, any number of times."""

    def __init__(self, source: Source, home: Path, reading: Reading) -> None:
        # Arrow imports pandas, where it is installed, for `empty_table()`.
        columns = pl.DataFrame(pa.Table.from_batches([], schema=source.columns)).schema
        self._source, self._home = source, home
        memory_bytes = reading.get("memory_bytes")
        self._con = connect(
            temp_dir=home,
            reads=source.reads,
            memory_bytes=share_of(memory_bytes) if memory_bytes else None,
            threads=reading.get("threads"),
            remote=source.remote,
            ordered=True,
        )
        self._json = [name for name, dtype in columns.items() if has_json(dtype)]
        self.schema = columns
        if self._json:
            self.schema = pl.Schema({**columns, **self._types()})

    def _types(self) -> dict[str, pl.DataType]:
        """The types of columns with JSON inside: a pass over them."""
        types: dict[str, pl.DataType] = dict.fromkeys(self._json, pl.Null())
        for frame in self._frames(self._json):
            for name in self._json:
                types[name] = merged(types[name], type_of(plain_values(frame[name])))
        return types

    def _frames(self, names: Sequence[str]) -> Iterator[pl.DataFrame]:
        columns = ", ".join(map(quote, names))
        query = self._con.sql(f"SELECT {columns} FROM {self._source.relation}")
        for batch in query.to_arrow_reader(_BATCH_ROWS):
            if batch.num_rows:
                yield pl.DataFrame(pa.Table.from_batches([batch]))

    def paths(self, words: StepWords) -> Iterator[tuple[pl.DataFrame, int]]:
        """The paths of each batch, and of how many records they are."""
        found = paths_of(words, self.schema).values()
        roots = [path.column for paths in found for path in paths]
        first = 0
        for frame in self._frames(list(dict.fromkeys(roots))):
            columns = [self._typed(column) for column in frame.get_columns()]
            records = records_of(pl.DataFrame(columns), words, first)
            yield listed(records, words, self._place), frame.height
            first += frame.height

    def _typed(self, column: pl.Series) -> pl.Series:
        dtype = self.schema[column.name]
        if column.name in self._json:
            return typed(column.name, plain_values(column), dtype)
        return column.cast(dtype)

    def _place(self, position: int) -> str:
        return self._source.place_of(position, home=self._home)


__all__ = ["Run", "StepsReport", "label_steps"]
