"""Run a plan from files to files: rank narrow, gather once, publish whole."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Unpack

import polars as pl

from prefmill.disk.hidden import sweep
from prefmill.errors import BadArgument
from prefmill.plans import Advantage, BestOf, Pairs, Plan, Unpaired
from prefmill.plans.thresholds import notes, thresholds_of
from prefmill.progress import Progress, peak_rss_mb
from prefmill.readers.find import is_same
from prefmill.runs.job import Engine, Job, Reading, opened
from prefmill.table.report import as_html
from prefmill.table.roles import Inputs, RoleNames, Roles
from prefmill.writers import write as writers
from prefmill.writers.formats import Format


@dataclass(frozen=True)
class RunReport:
    """What a run did. The counts are those of `PairReport`; `rows_rejected` are malformed rows that
    never became rows.

    `labels` are the rows of output by label, `thresholds` the numbers that pairs or labels were
    made with, `notes` sentences for people. `bad_scores` are the first three different texts that
    are no number, where a row was dropped for one. `renamed` are columns of the input whose name
    the output needs itself, and what they are called in it. `seconds` of wall time, `peak_rss_mb`
    the largest resident size of this process so far, in MiB.
    """

    rows_in: int
    rows_used: int
    rows_not_selected: int
    dropped: Mapping[str, int]
    groups_in: int
    groups_used: int
    pairs_out: int
    rows_rejected: int
    seconds: float
    peak_rss_mb: float
    engine: str
    output: Mapping[str, str]
    split_rows: Mapping[str, int]
    plan_hash: str
    roles: Roles
    score_range: tuple[float, float] | None
    renamed: Mapping[str, str]
    length: Mapping[str, float | None] | None = None
    labels: Mapping[str, int] | None = None
    thresholds: Mapping[str, float | None] | None = None
    notes: Sequence[str] = ()
    bad_scores: Sequence[str] = ()

    def _repr_html_(self) -> str:
        return as_html(self.as_json())

    def as_json(self) -> dict[str, object]:
        """The report with plain values only; `output` is a path, or with splits a mapping of split
        to path.
        """
        out = asdict(self)
        out["output"] = self.output.get("", dict(self.output)) if self.output else None
        out["roles"] = {key: value for key, value in asdict(self.roles).items() if value}
        return out


def run(
    plan: Plan,
    inputs: Inputs,
    output: str | Path | None,
    *,
    roles: RoleNames | None = None,
    engine: Engine = "auto",
    format: Format | Literal["pairs"] | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
    keep: Sequence[str] = (),
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    allow_empty: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> RunReport:
    """Run `plan` over files and write its pairs, labels or picks; `output=None` only reports.

    Args:
        inputs: files, globs, directories or URLs, in the order of positions (`prefmill.readers`);
            or what is in memory: a Polars, pandas or pyarrow table, a LazyFrame, a DuckDB relation,
                a `datasets` Dataset or IterableDataset (written to a temporary file first).
        output: the target; its extension says the kind of file (`prefmill.writers.write`). It
            appears whole or not at all.
        roles: the column of each role; those not named are found by the names that the field uses.
        format: the columns (`prefmill.writers.layouts.convert`): `trl`, for labels `kto`, for
            best-of-K `pool` by default. `pool` is every column of the picked rows, `rank` (or
            `advantage`), with length control `adjusted_score`, with `aggregate` `aggregated_score`;
            `pairs` sets each of the best against the worst.
        engine: `duckdb` ranks out of core, `polars` in memory; `auto` is duckdb. The texts are
            gathered the same way.
        overwrite: replace what stands at the output.
        allow_empty: write an output without rows too; else nothing is written then, and what stood
            there stays.
        keep: columns to carry along, as `chosen_NAME` and `rejected_NAME` (labels and picks:
            `NAME`).
        progress: called with a phase and the share of it that is done (0 to 1, or None where it is
            not known), for a progress bar.
        memory_bytes: bound of the resident size, as near as the engines can keep it; None: as much
            as is useful.

    The output is no input: of a folder or glob it is left out with a warning, and named itself it
    is refused; advantages, which keep every row and column, may replace their one input file as
    long as no row is dropped. The rows of output, and their order, depend on the plan and the input
    alone: not on engine, threads or memory. Raises `PrefmillError`s; nothing is left behind then.

    >>> import tempfile
    >>> import polars as pl
    >>> from prefmill import Pairs
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}).write_parquet(f"{folder}/feedback.parquet")
    ...     report = run(Pairs(), f"{folder}/feedback.parquet", f"{folder}/pairs.jsonl")
    ...     Path(f"{folder}/pairs.jsonl").read_text()
    '{"prompt":"p","chosen":"a","rejected":"b","chosen_score":5.0,"rejected_score":1.0}\\n'
    """
    started = time.perf_counter()
    layout: Format
    if format == "pairs":
        plan, layout = _best_against_worst(plan), "trl"
    else:
        layout = format or (
            "kto"
            if isinstance(plan, Unpaired)
            else "pool"
            if isinstance(plan, BestOf | Advantage)
            else "trl"
        )
        if isinstance(plan, Advantage) and layout != "pool":
            raise BadArgument(
                f"run: advantages are whole rows; got format {layout!r}, expected 'pool'.",
                hint="leave --format out.",
            )
    whole_rows = _whole_rows(
        plan, layout, keep if format else ()
    )  # who names no format and keeps a column has it
    if output is not None:
        sweep(reading.get("temp_dir"))  # also where the target is refused
        writers.check_target(output, split=split, overwrite=overwrite)
        reading["without"] = [*reading.get("without", ()), *writers.outputs_of(output, split)]
    with opened(
        plan,
        inputs,
        roles=roles,
        engine=engine,
        keep=keep,
        whole_rows=whole_rows,
        progress=progress,
        **reading,
    ) as job:
        written = None
        if output is not None:
            schema, unsaid = job.schema(), []
            if isinstance(plan, BestOf) and plan.length_control and not whole_rows:
                unsaid = ["_adjusted_score"]  # like the score and the rank, it is in no layout
            schema = pl.Schema(
                {name: dtype for name, dtype in schema.items() if name not in unsaid}
            )
            if isinstance(plan, Advantage):
                _refuse_loss(job, output)
            frames = (frame.drop(unsaid) for frame in job.frames())
            written = writers.write(
                frames,
                schema,
                output,
                format=layout,
                chat=chat,
                margin_scale=margin_scale,
                split=split,
                seed=plan.seed,
                overwrite=overwrite,
                prompt=job.roles.prompt if whole_rows else "prompt",
                publish_empty=allow_empty,
            )
        report = job.report()
        return RunReport(
            **asdict(report),
            rows_rejected=job.source.rejected,
            seconds=round(time.perf_counter() - started, 3),
            peak_rss_mb=peak_rss_mb(),
            engine=job.engine,
            output=written.paths if written else {},
            split_rows=written.rows if written and written.paths and split else {},
            plan_hash=plan.hash(),
            roles=said_roles(plan, job.roles),
            score_range=None if report.pairs_out else job.score_range(),
            renamed=job.renamed,
            thresholds=thresholds_of(job.plan),
            notes=[*job.source.notes, *notes(plan, job.plan, report, job.scale_told())],
            bad_scores=job.bad_scores() if "bad_score" in report.dropped else (),
        )


def said_roles(plan: Plan, roles: Roles) -> Roles:
    """`roles` for people: a score that is a weighted sum of columns says so."""
    if not plan.weights or roles.aspect:
        return roles
    return replace(
        roles, score=" + ".join(f"{weight:g} * {name}" for name, weight in plan.weights.items())
    )


def _refuse_loss(job: Job, output: str | Path) -> None:
    """Advantages may replace their input, but then every row has to stay."""
    if not any(is_same(file, output) for file in job.source.files + job.source.labels):
        return
    told = job.report()
    if told.rows_in != told.pairs_out or job.source.rejected:
        raise BadArgument(
            f"run: {str(output)!r} is the input, and {told.rows_in - told.pairs_out + job.source.rejected:,} of its rows would be lost.",
            hint="write to another name.",
        )


def _best_against_worst(plan: Plan) -> Pairs:
    """The pairs that are each of the k best against the worst of their prompt."""
    plain = (
        isinstance(plan, BestOf)
        and plan.pick == "best"
        and plan.scope == "prompt"
        and plan.stages == "all"
        and not plan.length_control
    )
    if not (isinstance(plan, BestOf) and plain):
        raise BadArgument(
            f"run: format 'pairs' sets the best of a prompt against its worst; got {_said(plan)},"
            " expected pick best, scope prompt, stages all, no length control.",
            hint="make pairs with `prefmill pairs` (Pairs), or use another format.",
        )
    return Pairs(
        strategy="all",
        top_k=plan.k,
        bottom_k=1,
        chosen_min=plan.min_score,
        rejected_below=None,
        aggregate=plan.aggregate,
        normalize=plan.normalize,
        weights=plan.weights,
        min_votes=plan.min_votes,
        tie_break=plan.tie_break,
        on_invalid=plan.on_invalid,
        seed=plan.seed,
    )


def _said(plan: Plan) -> str:
    if not isinstance(plan, BestOf):
        return f"a plan of {plan.kind}"
    return f"pick {plan.pick}, scope {plan.scope}, stages {plan.stages}{', length control' if plan.length_control else ''}"


def _whole_rows(plan: Plan, layout: str, keep: Sequence[str]) -> bool:
    """Whether the output is whole rows of the input."""
    if layout != "pool":
        return False
    if not isinstance(plan, BestOf | Advantage):
        raise BadArgument(
            f"run: format 'pool' is whole rows; got {_said(plan)}, expected best_of or advantages.",
            hint="leave --format out.",
        )
    if keep:
        raise BadArgument(
            "run: format 'pool' keeps every column; got --keep beside it.", hint="leave --keep out."
        )
    return True


def explain(
    plan: Plan,
    inputs: Inputs,
    *,
    roles: RoleNames | None = None,
    engine: Engine = "auto",
    format: str | None = None,
    **reading: Unpack[Reading],
) -> str:
    """What `run` would do with these arguments: inputs, roles, the plan, and the query of its
    engine. Reads the inputs, writes nothing.
    """
    reading["rejects"] = None
    if format == "pairs":
        plan = _best_against_worst(plan)
    with opened(plan, inputs, roles=roles, engine=engine, **reading) as job:
        head = f"inputs: {job.source.rows:,} rows\nroles: {job.roles}\nengine: {job.engine}\nplan {plan.hash()}:\n"
        return f"{head}{plan.to_toml()}\n{job.explain()}\n"
