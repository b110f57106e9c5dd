"""Run a plan from files to files on many machines; the same rows, in the same order, as on one."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, TypedDict, Unpack, get_args

import polars as pl

from prefmill._version import __version__
from prefmill.connection import MB
from prefmill.disk import whole
from prefmill.disk.hidden import sweep
from prefmill.disk.ledger import Ledger
from prefmill.disk.stores import store_of
from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress, peak_rss_mb, silent
from prefmill.readers import Source
from prefmill.runs.cluster.driver import Cut, Spread, cut_of
from prefmill.runs.cluster.executor import Executor
from prefmill.runs.cluster.in_memory import MemoryTasks
from prefmill.runs.cluster.on_ray import RayTasks
from prefmill.runs.cluster.pieces import Pieces, Shelf
from prefmill.runs.cluster.session import connected
from prefmill.runs.job import Job, Reading, opened
from prefmill.runs.remedies import refused_with_numbers, remedies
from prefmill.runs.report import RunReport, said_roles, whole_rows_of, with_words
from prefmill.table.roles import Inputs, RoleNames, Roles
from prefmill.writers import write as writers
from prefmill.writers.formats import Format, in_parts

_REPORT = "report.json"
#: How rows come together by prompt: through the workers' memory, or through storage.
Shuffle = Literal["auto", "memory", "storage"]


class Spreading(TypedDict, total=False):
    """What a run on a cluster takes besides what every run does; meaning in `prefmill.run`."""

    address: str | None
    work: str | Path | None
    shuffle: Shuffle


def run(
    plan: FeedbackPlan,
    inputs: Inputs,
    output: str | Path | None,
    *,
    roles: RoleNames | None = None,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
    keep: Sequence[str] = (),
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    allow_empty: bool = False,
    progress: Progress | None = None,
    address: str | None = None,
    work: str | Path | None = None,
    shuffle: Shuffle = "auto",
    executor: Executor | None = None,
    cut: Cut | None = None,
    **reading: Unpack[Reading],
) -> RunReport:
    """Run a plan over feedback in tasks of `executor`, which is Ray's where it is None.

    `work` is where tasks leave what others read: a folder, or a URL, that all machines see. None is
    next to the output. `cut`: how the input is divided, for tests. The other arguments are those of
    `prefmill.run`.
    """
    started = time.perf_counter()
    if shuffle not in get_args(Shuffle):
        raise BadArgument(
            f"run: no shuffle {shuffle!r}; expected one of {list(get_args(Shuffle))}."
        )
    if output is None:
        raise BadArgument(
            "run: engine 'ray' writes an output; got None.", hint="engine='duckdb' only reports."
        )
    layout = format or plan.layout
    whole_rows = whole_rows_of(plan, layout, keep if format else ())
    sweep(reading.get("temp_dir"))
    writers.check_target(output, split=split, overwrite=True)
    outputs = [Path(each) for each in writers.outputs_of(output, split)]
    reading["without"] = [*reading.get("without", ()), *map(str, outputs)]
    # Files that are not Parquet are staged where workers see them.
    home = Path(work) if work else outputs[0].parent
    home.mkdir(parents=True, exist_ok=True)
    reading["temp_dir"] = reading.get("temp_dir") or str(home)
    tell = progress or silent
    job_here = opened(
        plan,
        inputs,
        roles=roles,
        engine="duckdb",
        keep=keep,
        whole_rows=whole_rows,
        parts=in_parts(layout) and not chat,
        progress=progress,
        **reading,
    )
    with job_here as job, _executing(executor, address, reading.get("memory_bytes")) as tasks:
        if any(
            path.resolve() == Path(label).resolve()
            for path in outputs
            for label in job.source.labels
        ):
            raise BadArgument(
                f"run: {str(output)!r} is the input too; engine 'ray' writes to another name."
            )
        memory_bytes = getattr(tasks, "memory_bytes", None) or reading.get("memory_bytes")
        first = cut or cut_of(job, tasks.slots, memory_bytes)
        writing = {"format": layout, "chat": chat, "margin_scale": margin_scale, "split": split}
        key = {
            "plan": with_words(plan, roles, job.rowed).hash(),
            "input": _identity(job.records),
            "roles": {name: value for name, value in asdict(job.roles).items() if value},
            "keep": list(keep),
            **writing,
            "prefmill": __version__.split(".")[0],
        }
        with Ledger(outputs[0], key, asdict(first), overwrite=overwrite, where="run") as ledger:
            if ledger.done and (ledger.folder / _REPORT).exists():
                return _read_report(ledger.folder / _REPORT)
            shelf: Pieces = Shelf(store_of(ledger.folder))
            way, because = "storage", ""
            if isinstance(tasks, RayTasks):
                way, because = _shuffle_of(shuffle, job, tasks, resumed=ledger.resumed)
                if way == "memory":
                    tasks = MemoryTasks(session=tasks.session, memory_bytes=memory_bytes)
                    shelf = tasks.shelf
            spread = Spread(job, tasks, Cut(**ledger.shape), shelf, tell, memory_bytes)
            with refused_with_numbers(spread):
                unwritten, columns = job.assembly.unwritten, job.assembly.schema()
                schema = {name: kind for name, kind in columns.items() if name not in unwritten}
                written = writers.write(
                    (frame.drop(unwritten) for frame in _published(ledger, spread)),
                    pl.Schema(schema),
                    output,
                    seed=plan.seed,
                    overwrite=overwrite or ledger.replaces,
                    prompt=job.roles.prompt if whole_rows else "prompt",
                    publish_empty=allow_empty,
                    **writing,  # type: ignore[arg-type]
                )
                report = spread.report()
            done = RunReport(
                **asdict(report),
                rows_rejected=job.source.rejected,
                seconds=round(time.perf_counter() - started, 3),
                peak_rss_mb=peak_rss_mb(),
                engine=tasks.name,
                output=written.paths,
                split_rows=written.rows if written.paths and split else {},
                plan_hash=key["plan"],
                roles=said_roles(plan, job.roles),
                score_range=None if report.pairs_out else spread.score_range(),
                renamed=job.assembly.renamed or {},
                thresholds=spread.plan.thresholds or None,
                notes=[
                    *job.source.notes,
                    *([because] if because else []),
                    *spread.plan.notes(plan, report, spread.scale_told()),
                    *remedies(spread, report),
                ],
                bad_scores=spread.bad_scores() if "bad_score" in report.dropped else (),
                worker_rss_mb=spread.worker_rss_mb,
            )
            if written.paths:
                text = json.dumps(asdict(done))
                whole.put_text(ledger.folder / _REPORT, text)
                ledger.finish({})
            return done


def _published(ledger: Ledger, spread: Spread) -> Iterator[pl.DataFrame]:
    """The frames of the output; before the last one the ledger is told that it comes."""
    yield from spread.frames()
    ledger.publishing()


@contextmanager
def _executing(
    executor: Executor | None, address: str | None, memory_bytes: int | None
) -> Iterator[Executor]:
    if executor is not None:
        yield executor
        return
    with connected("run", address) as session:
        yield RayTasks(session, memory_bytes)


def _shuffle_of(shuffle: Shuffle, job: Job, tasks: RayTasks, *, resumed: bool) -> tuple[str, str]:
    """The way of the shuffle, and why, for people."""
    size = job.source.rows * (job.narrow_bytes() + job.row_bytes())
    room = tasks.store_bytes // 2
    about = f"about {size // MB:,} MB of rows; {room // MB:,} MB are half of the workers' memory"
    way = shuffle
    if shuffle == "auto":
        way = "storage" if resumed or size > room else "memory"
    return way, f"shuffle: {way} ({about})"


def _identity(source: Source) -> list[list[Any]]:
    """What says that files are the same as before: name, rows, and size and time where local."""
    identity = []
    for label, rows in zip(source.labels, source.file_rows, strict=True):
        try:
            status = Path(label).stat()
        except OSError:  # a URL, or a table in memory
            identity.append([label, rows])
        else:
            identity.append([label, rows, status.st_size, status.st_mtime_ns])
    return identity


def _read_report(path: Path) -> RunReport:
    told = json.loads(path.read_text("utf-8"))
    told["roles"] = Roles(**told["roles"])
    return RunReport(**told)
