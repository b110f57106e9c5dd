"""Run a plan from files to files on many machines; the same rows, in the same order, as on one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import polars as pl

from prefmill._version import __version__
from prefmill.connection import MB
from prefmill.disk.hidden import sweep, temporary
from prefmill.disk.ledger import Ledger
from prefmill.disk.stores import LocalStore, Store, store_of
from prefmill.disk.targets import is_object, shown
from prefmill.errors import BadArgument, BadInput, ExpectationFailed, ThresholdsUnfit
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress, silent
from prefmill.readers.find import is_same
from prefmill.runs.cluster.driver import Cut, Spread, cut_of
from prefmill.runs.cluster.executor import Executor
from prefmill.runs.cluster.identity import identity_of
from prefmill.runs.cluster.in_memory import MemoryTasks
from prefmill.runs.cluster.on_ray import RayTasks
from prefmill.runs.cluster.parts_out import PartsOut, Writing, write_part
from prefmill.runs.cluster.pieces import Pieces, Shelf
from prefmill.runs.cluster.session import connected
from prefmill.runs.cluster.where import Looking, Spreading, parted
from prefmill.runs.expecting import checked, counted_apart, done_before, sources_asked
from prefmill.runs.job import Job, Reading, opened
from prefmill.runs.remedies import refused_with_numbers
from prefmill.runs.report import RunReport, run_report, whole_rows_of, with_words
from prefmill.table.roles import Inputs, RoleNames, Roles
from prefmill.writers import write as writers
from prefmill.writers.formats import Format, in_parts

_REPORT = "report.json"
_STAR = "*"


@dataclass(frozen=True)
class Place:
    """The workers of a run, and where their tasks leave what others read.

    `because` says, for people, why the shuffle takes its way.
    """

    tasks: Executor
    shelf: Pieces
    because: str = ""


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
    spreadsheet_safe: bool = False,
    progress: Progress | None = None,
    **looking: Unpack[Looking],
) -> RunReport:
    """Run a plan over feedback in tasks; the arguments are those of `prefmill.run`.

    A run that died goes on where it was, and one that is done does nothing, where the plan and the
    input are the same. Raises `RunDiffers` where they are not.
    """
    spreading, reading = parted("run", "ray", looking)
    started = time.perf_counter()
    if output is None:
        raise BadArgument(
            "run: engine 'ray' writes an output; got None.", hint="engine='duckdb' only reports."
        )
    layout = format or plan.layout
    whole_rows = whole_rows_of(plan, layout, keep if format else ())
    sweep(reading.get("temp_dir"))
    outputs = _outputs(output, split, spreadsheet_safe)
    reading["without"] = [*reading.get("without", ()), *map(str, outputs)]
    scratch = _scratch(reading)
    # Files that are not Parquet, and objects of records, are staged where workers see them.
    home = _home(spreading, outputs[0])
    if home is not None:
        home.mkdir(parents=True, exist_ok=True)
        reading.setdefault("temp_dir", str(home))
    job_here = opened(
        plan,
        inputs,
        roles=roles,
        engine="duckdb",
        keep=keep,
        whole_rows=whole_rows,
        parts=in_parts(layout) and not chat,
        stay=True,
        apart=True,
        progress=progress,
        **reading,
    )
    memory_bytes = reading.get("memory_bytes")
    unseen = home is None and bool(spreading.get("address"))
    with job_here as job, _all_seen(job, unseen), _executing(spreading, memory_bytes) as tasks:
        if any(is_same(label, path) for path in outputs for label in job.source.labels):
            raise BadArgument(
                f"run: {str(output)!r} is the input too.", hint="write to another name."
            )
        writing: dict[str, Any] = {
            "format": layout,
            "chat": chat,
            "margin_scale": margin_scale,
            "split": split,
        }
        if spreadsheet_safe:
            writing["spreadsheet_safe"] = True
        key = {
            "plan": with_words(plan, roles, job.rowed).hash(),
            "input": identity_of(job, reading),
            "roles": {name: value for name, value in asdict(job.roles).items() if value},
            "keep": list(keep),
            **writing,
            "prefmill": __version__.split(".")[0],
        }
        # What a plan expects decides no row; but narrow rows of a run that goes on have the column.
        if carried := sources_asked(plan, job):
            key["carried"] = list(carried)
        first = _cut(spreading, job, tasks, memory_bytes)
        with Ledger(outputs[0], key, asdict(first), overwrite=overwrite, where="run") as ledger:
            if ledger.done:
                return _done_before(ledger, plan)
            store = ledger.store
            place = _place(spreading, job, tasks, store, resumed=ledger.resumed)
            spread = Spread(
                job,
                place.tasks,
                Cut(**ledger.shape),
                place.shelf,
                progress or silent,
                carried=carried,
                memory_bytes=_memory_of(tasks, memory_bytes),
                temp_dir=scratch,
            )
            with _unbound(place.shelf, ledger.folder / "parts"), refused_with_numbers(spread):
                writing |= {"seed": plan.seed, "memory_bytes": memory_bytes}
                writing["prompt"] = job.roles.prompt if whole_rows else "prompt"
                written = _written(ledger, spread, output, writing, allow_empty=allow_empty)
                done = run_report(
                    plan,
                    spread,
                    job,
                    written,
                    figures=counted_apart(plan, spread),
                    engine=place.tasks.name,
                    started=started,
                    plan_hash=str(key["plan"]),
                    notes=[place.because] if place.because else [],
                    worker_rss_mb=spread.worker_rss_mb,
                )
            if written.paths:
                ledger.keep(_REPORT, json.dumps(asdict(done)))
                ledger.finish({})
                shutil.rmtree(ledger.folder / "parts", ignore_errors=True)
            return done


@contextmanager
def looked_at(
    plan: FeedbackPlan,
    inputs: Inputs,
    spreading: Spreading,
    reading: Reading,
    *,
    roles: RoleNames | None = None,
    keep: Sequence[str] = (),
    texts_read: bool = False,
) -> Iterator[Spread]:
    """A plan over an input, of which questions are asked and nothing is written.

    `keep` are columns that travel with the narrow rows, and with `texts_read` the completions do.
    What tasks leave is gone when the context ends.
    """
    memory_bytes, scratch = reading.get("memory_bytes"), _scratch(reading)
    with temporary(spreading.get("work") or reading.get("temp_dir")) as home:
        reading = {**reading, "temp_dir": str(home)}
        words: dict[str, Any] = {"roles": roles, "keep": keep, "stay": True, **reading}
        job_here = opened(plan, inputs, engine="duckdb", apart=True, **words)
        with job_here as job, _executing(spreading, memory_bytes) as tasks:
            place = _place(spreading, job, tasks, store_of(home / "pieces"), resumed=False)
            yield Spread(
                job,
                place.tasks,
                _cut(spreading, job, tasks, memory_bytes),
                place.shelf,
                silent,
                carried=tuple(keep),
                texts_read=texts_read,
                memory_bytes=_memory_of(tasks, memory_bytes),
                temp_dir=scratch,
            )


@contextmanager
def _unbound(shelf: Pieces, staged: Path) -> Iterator[None]:
    """What plan and data refuse in here leaves nothing: another plan may have the output."""
    try:
        yield
    except (BadArgument, BadInput, ThresholdsUnfit, ExpectationFailed):
        shelf.forget("")
        shutil.rmtree(staged, ignore_errors=True)
        raise


def _outputs(
    output: str | Path, split: Mapping[str, float] | None, spreadsheet_safe: bool
) -> list[Path]:
    """The files, or the folder, of an output; raises what writing it would raise about its name."""
    if parts_out := PartsOut.of(output):
        parts_out.check(overwrite=True, spreadsheet_safe=spreadsheet_safe)
        return [parts_out.folder]
    writers.check_target(output, split=split, overwrite=True, spreadsheet_safe=spreadsheet_safe)
    return [Path(each) for each in writers.outputs_of(output, split)]


def _written(
    ledger: Ledger,
    spread: Spread,
    output: str | Path,
    writing: Mapping[str, Any],
    *,
    allow_empty: bool,
) -> writers.Written:
    """Write the output, and publish it."""
    assembly = spread.job.assembly
    unwritten = assembly.unwritten
    columns = {name: kind for name, kind in assembly.schema().items() if name not in unwritten}
    if parts_out := PartsOut.of(output):
        staged = str(ledger.folder / "parts")
        how = Writing(staged, parts_out, pl.Schema(columns), tuple(unwritten), writing)
        return _in_parts(ledger, spread, how, allow_empty=allow_empty)
    return writers.write(
        (frame.drop(unwritten) for frame in _published(ledger, spread)),
        pl.Schema(columns),
        output,
        overwrite=ledger.replaces,
        publish_empty=allow_empty,
        **writing,
    )


def _published(ledger: Ledger, spread: Spread) -> Iterator[pl.DataFrame]:
    """The frames of the output; after the last one the ledger is told that it comes."""
    yield from spread.frames()
    _check_expected(spread)
    ledger.publishing()


def _check_expected(spread: Spread) -> None:
    """Raise where what the plan expects does not hold."""
    plan = spread.job.plan
    if plan.expect is not None:
        checked(plan, counted_apart(plan, spread))


def _in_parts(
    ledger: Ledger, spread: Spread, how: Writing, *, allow_empty: bool
) -> writers.Written:
    """Let workers write the output, and publish it."""
    out, staged = how.out, Path(how.staged)
    if spread.is_empty:
        _check_expected(spread)
        if not allow_empty:
            return writers.Written(paths={}, rows={})
        writers.write([], how.schema, staged / out.named(0), overwrite=True, **how.options)
        count, rows, marked = 1, dict.fromkeys(how.options["split"] or {"": 1}, 0), 0
    else:
        notes = spread.on_parts(partial(write_part, writing=how))
        count, rows, marked = len(notes), {}, 0
        for note in notes.values():
            marked += note.get("marked") or 0
            for name, number in note["rows"].items():
                rows[name] = rows.get(name, 0) + number
    _check_expected(spread)
    ledger.publishing()
    out.publish(staged, range(count), overwrite=True)
    names = {name: f"{_STAR}-{name}" if name else _STAR for name in rows}
    paths = {n: str(out.folder / out.name.replace(_STAR, star)) for n, star in names.items()}
    safe = "spreadsheet_safe" in how.options
    return writers.Written(paths=paths, rows=rows, marked=marked if safe else None)


def _home(spreading: Spreading, output: Path) -> Path | None:
    """A folder that all workers see; None: of this machine, where no other one has to see it."""
    if work := spreading.get("work"):
        return Path(work)
    return None if is_object(output) else output.parent


@contextmanager
def _all_seen(job: Job, unseen: bool) -> Iterator[None]:
    """Raise where workers would be told to read a file of ours that they do not see."""
    if unseen:
        _refuse_staged(job)
    yield


def _refuse_staged(job: Job) -> None:
    stays = job.records.stays or [None] * len(job.records.files)
    files = zip(job.records.files, job.records.labels, stays, strict=True)
    for file, label, stays_there in files:
        if stays_there is None and Path(file).is_relative_to(job.home):
            raise BadArgument(
                f"run: {shown(label)!r} is converted first, in a folder that workers do not see.",
                hint="name one that all of them see: --work (work=).",
            )


@contextmanager
def _executing(spreading: Spreading, memory_bytes: int | None) -> Iterator[Executor]:
    if executor := spreading.get("executor"):
        yield executor
        return
    with connected("run", spreading.get("address")) as session:
        yield RayTasks(session, memory_bytes)


def _scratch(reading: Reading) -> str | None:
    """Where tasks keep what is their own: the folder that was named, or that of each machine."""
    folder = reading.get("temp_dir")
    return None if folder is None else str(folder)


def _memory_of(tasks: Executor, memory_bytes: int | None) -> int | None:
    return tasks.memory_bytes if isinstance(tasks, RayTasks) else memory_bytes


def _cut(spreading: Spreading, job: Job, tasks: Executor, memory_bytes: int | None) -> Cut:
    return spreading.get("cut") or cut_of(job, tasks.slots, _memory_of(tasks, memory_bytes))


def _place(
    spreading: Spreading, job: Job, tasks: Executor, store: Store, *, resumed: bool
) -> Place:
    """Through which of the two ways rows come together by prompt."""
    own = not isinstance(tasks, RayTasks) or tasks.session.is_own
    shelf = Shelf(store, own=own and isinstance(store, LocalStore))
    if not isinstance(tasks, RayTasks):
        shelf.begin()
        return Place(tasks, shelf)
    size = job.source.rows * (job.narrow_bytes() + job.row_bytes())
    room = tasks.store_bytes // 2
    way = spreading.get("shuffle", "auto")
    if way == "auto":
        way = "storage" if resumed or size > room else "memory"
    because = (
        f"shuffle: {way} (about {size // MB:,} MB of rows;"
        f" {room // MB:,} MB are half of the workers' memory for objects)"
    )
    if way == "storage":
        shelf.begin()
        return Place(tasks, shelf, because)
    kept = MemoryTasks(session=tasks.session, memory_bytes=tasks.memory_bytes)
    return Place(kept, kept.shelf, because)


def _done_before(ledger: Ledger, plan: FeedbackPlan) -> RunReport:
    """The report of the run that wrote what stands there; it has to hold what is expected now."""
    told = json.loads(ledger.store.get_text(_REPORT))
    group = tuple(told["roles"].pop("group"))
    done = RunReport(**told | {"roles": Roles(**told["roles"], group=group)})
    done = done_before(plan, done)
    return replace(done, notes=[*done.notes, "this run was done before: nothing was to do."])
