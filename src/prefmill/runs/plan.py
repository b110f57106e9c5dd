"""Run a plan of any kind from files to files: the kind names the module that does it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Unpack, overload

from prefmill.arguments import names_of, refuse_unknown
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.plan import Plan
from prefmill.plans.values import Values
from prefmill.runs.cluster.where import Spreading
from prefmill.runs.into_table import check_apart, into_table
from prefmill.runs.job.job import Engine
from prefmill.runs.job.opening import Reading
from prefmill.table.roles import Inputs, RoleNames, ValueNames
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Mode
from prefmill.writers.formats import Format

if TYPE_CHECKING:
    from prefmill.progress import Progress
    from prefmill.runs.account.report import RunReport
    from prefmill.runs.values import ValuesReport


#: What only a run into a table takes.
_OF_TABLES = ("mode", "run_key")


class Running(Reading, total=False):
    """What a run of any plan takes."""

    overwrite: bool
    allow_empty: bool
    spreadsheet_safe: bool
    progress: Progress | None
    mode: Mode | None
    run_key: str | None


class FeedbackRunning(Running, Spreading, total=False):
    """What a run of a plan over feedback takes."""

    roles: RoleNames | None
    engine: Engine | Literal["ray"]
    format: Format | None
    chat: bool
    margin_scale: float | None
    keep: Sequence[str]
    split: Mapping[str, float] | None
    incremental: bool
    changes: str | Path | None
    pair_id: bool | None
    exclude: str | Path | None
    partition_by: Sequence[str]


class ValuesRunning(Running, total=False):
    """What a run of `Values` takes."""

    roles: ValueNames | None


@overload
def run(
    plan: FeedbackPlan,
    inputs: Inputs,
    output: str | Path | None,
    **options: Unpack[FeedbackRunning],
) -> RunReport: ...
@overload
def run(
    plan: Values, inputs: Inputs, output: str | Path | None, **options: Unpack[ValuesRunning]
) -> ValuesReport: ...
def run(plan: Plan, inputs: Inputs, output: str | Path | None, **options: Any) -> Any:
    """Run `plan` over files and write its pairs, labels, picks or values.

    `output=None` only reports. The answer is a `RunReport`, of `Values` a `ValuesReport`.

    Args:
        inputs: files, globs, directories or URLs, in the order of positions (`prefmill.readers`);
            or what is in memory: a Polars, pandas or pyarrow table, a LazyFrame, a DuckDB relation,
                a `datasets` Dataset or IterableDataset (written to a temporary file first).
        output: the target; its extension says the kind of file (`prefmill.writers.write`). It
            appears whole or not at all. Or a table: `delta:PATH`, `lance:PATH`,
            `duckdb:FILE#TABLE`, `sqlite:FILE#TABLE`, `iceberg:CATALOG.NAMESPACE.TABLE`
            (docs/tables.md).
        mode: of a table: `create` (the default), `append`, `merge` (by `pair_id`), or `replace`,
            which is what `overwrite` means there. The same run again changes nothing.
        run_key: the name of the run in a table, as a scheduler knows it; None: a hash of what it
            makes.
        roles: the column of each role; those not named are found by the names that the field uses.
            The roles of `Values` are those of `prefmill.values`; its other options are
            `overwrite`, `allow_empty`, `progress` and those of reading.
        format: the columns (`prefmill.writers.layouts.convert`): `trl`, for labels `kto`, for
            best-of-K `pool` by default. `pool` is every column of the picked rows, `rank` (or
            `advantage`), with length control `adjusted_score`, with `aggregate` `aggregated_score`.
        engine: `duckdb` ranks out of core, `polars` in memory; `auto` is duckdb. The texts are
            gathered the same way. `ray` runs the same steps in tasks on a cluster; the same call
            goes on where a run died (docs/scaling.md).
        address: with `ray`, HOST:PORT of the cluster, or `auto`; None: the environment's
            RAY_ADDRESS, else a Ray of this machine.
        work: with `ray`, a folder that all workers see, for what they leave each other; with
            `incremental` and a table, one for what the next run goes on from. None: next to the
            output.
        shuffle: with `ray`, `memory` (rows meet in the workers' memory: fast), `storage` (in files,
            which outlive workers, nodes and this process), or `auto`: by size.
        overwrite: replace what stands at the output.
        allow_empty: write an output without rows too; else nothing is written then, and what stood
            there stays.
        spreadsheet_safe: of CSV for people, texts that begin like a formula get an apostrophe in
            front; read back, they are other texts. The report says how many.
        keep: columns to carry along, as `chosen_NAME` and `rejected_NAME` (labels and picks:
            `NAME`).
        incremental: compute only the prompts whose rows changed since the last run with this output
            (docs/incremental.md). The output is local Parquet, one file or `pairs/part-*.parquet`,
            equal to that of a full run and a column `pair_id`. Next to it a change file appears.
        changes: the change file; by default `NAME-changes.parquet`.
        pair_id: add the column `pair_id`: the same text for the same row, whatever else is in the
            input, as `sql/pair_id.sql` says. Incremental runs have it anyway. None: only where the
            rows have no such column, which is what `mode="merge"` does by itself.
        exclude: of pairs, a file whose columns `pair_id` or `text_id` name pairs, or single answers
            (docs/view.md). A pair whose id, or that of one of its answers, is there does not come
            out; rows that have no other pair are dropped as `excluded`.
        partition_by: columns of the output. It is a folder then, with one file of Parquet for each
            of their values, `pairs/source=web/part-00000.parquet`; the columns stay in the files.
        progress: called with a phase and the share of it that is done (0 to 1, or None where it is
            not known), for a progress bar.
        memory_bytes: bound of the resident size, as near as the engines can keep it, and with `ray`
            that of each worker; None: as much as is useful.
        temp_bytes: bound of what the run keeps in its temporary folder (`temp_dir`): what engines
            spill, and files that are converted first. An error says where it binds. Of one machine.

    The output is no input: of a folder or glob it is left out with a warning, and named itself it
    is refused; advantages, which keep every row and column, may replace their one input file as
    long as no row is dropped. The rows of output, and their order, depend on the plan and the input
    alone: not on engine, threads or memory. Raises `PrefmillError`s; nothing is left behind then.

    >>> import tempfile
    >>> import polars as pl
    >>> from prefmill import Pairs
    >>> feedback = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     feedback.write_parquet(f"{folder}/feedback.parquet")
    ...     report = run(Pairs(), f"{folder}/feedback.parquet", f"{folder}/pairs.jsonl")
    ...     Path(f"{folder}/pairs.jsonl").read_text()
    '{"prompt":"p","chosen":"a","rejected":"b","chosen_score":5.0,"rejected_score":1.0}\\n'
    """
    runner = importlib.import_module(f"prefmill.runs.{plan.runs}")
    _, _, _, *known = names_of(runner.run)  # but for plan, inputs and output
    refuse_unknown(
        "run",
        options,
        [*known, *_OF_TABLES],
        of_plan=[field.name for field in fields(plan)],
        kind=type(plan).__name__,
        asked="prefmill.run",
    )
    of_tables = {name: options.pop(name, None) for name in _OF_TABLES}
    if (address := Address.of(output)) is not None:
        return into_table(plan, inputs, address, run=runner.run, options=options, **of_tables)
    check_apart(of_tables)
    return runner.run(plan, inputs, output, **options)
