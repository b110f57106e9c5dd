"""Run a plan from files to files on many machines; the same rows, in the same order, as on one."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Unpack

from prefmill._version import __version__
from prefmill.connection import MB
from prefmill.disk.hidden import sweep, temporary
from prefmill.disk.ledger import Ledger, is_begun
from prefmill.disk.ledger import key_of as key_of_ledger
from prefmill.disk.stores import LocalStore, Store, store_of
from prefmill.disk.targets import is_object, shown
from prefmill.errors import BadArgument, BadInput, ExpectationFailed, ThresholdsUnfit
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress, silent
from prefmill.readers.find import is_same
from prefmill.runs.account.expecting import done_before, sources_asked
from prefmill.runs.account.remedies import refused_with_numbers
from prefmill.runs.account.report import RunReport, facts_of, run_report, whole_rows_of, with_words
from prefmill.runs.cluster.driver import Cut, Spread, cut_of
from prefmill.runs.cluster.executor import Executor
from prefmill.runs.cluster.identity import identity_of
from prefmill.runs.cluster.in_memory import MemoryTasks
from prefmill.runs.cluster.on_ray import RayTasks
from prefmill.runs.cluster.outcome import Outcome, counted_apart
from prefmill.runs.cluster.parts_out import PartsOut
from prefmill.runs.cluster.pieces import Pieces, Shelf
from prefmill.runs.cluster.where import Looking, Spreading, parted
from prefmill.runs.job.excluding import Excluded
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.records.commands import is_temporary, key_of_plan
from prefmill.runs.records.inputs import is_stdin
from prefmill.runs.records.recording import NOTHING_TO_DO, recording
from prefmill.runs.workers.session import connected
from prefmill.table.roles import Inputs, RoleNames, Roles
from prefmill.writers import write as writers
from prefmill.writers.formats import Format, in_parts

_REPORT = "report.json"


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
    excluded: Excluded | None = None,
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
    writing: dict[str, Any] = {
        "format": layout,
        "chat": chat,
        "margin_scale": margin_scale,
        "split": split,
    }
    if spreadsheet_safe:
        writing["spreadsheet_safe"] = True
    exclude = {"exclude": excluded.digest} if excluded else {}
    key: dict[str, Any] = {}
    if known := not is_stdin(inputs) and not any(map(is_temporary, outputs)):
        parts = output if PartsOut.of(output) else None
        key = key_of_plan(
            plan, inputs, roles, reading, keep=keep, parts=parts, **writing, **exclude
        )
    # Where there is a ledger, another key may still be the same run.
    free = None if key_of_ledger(outputs[0]) else ()
    recorded = recording(
        plan.command, outputs if known else [], key, overwrite=overwrite, free=free
    )
    with recorded as record:
        if record.done and not is_begun(outputs[0]):
            return done_before(plan, record.restored(RunReport))
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
            excluded=frozenset() if excluded is None else excluded.ids,
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
            record.facts |= facts_of(plan, roles, job)
            record.read(job.records.inputs)
            ledger_key = {
                "plan": with_words(plan, roles, job.rowed).hash(),
                "input": identity_of(job, reading),
                "roles": {name: value for name, value in asdict(job.roles).items() if value},
                "keep": list(keep),
                **writing,
                **exclude,
                "prefmill": __version__.split(".")[0],
            }
            # What a plan expects decides no row; but narrow rows of a run that goes on have the
            # column.
            if carried := sources_asked(plan.expect, job.source.columns.names):
                ledger_key["carried"] = list(carried)
            first = _cut(spreading, job, tasks, memory_bytes)
            opened_ledger = Ledger(
                outputs[0],
                ledger_key,
                asdict(first),
                overwrite=overwrite,
                where="run",
                held=record.lock,
            )
            with opened_ledger as ledger:
                if ledger.done:
                    return _done_before(ledger, plan)
                store = ledger.store
                place = _place(spreading, job, tasks, store, resumed=ledger.resumed)
                because = [place.because] if place.because else []
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

                def report(written: writers.Written) -> RunReport:
                    return run_report(
                        plan,
                        spread,
                        job,
                        written,
                        figures=counted_apart(plan, spread),
                        engine=place.tasks.name,
                        started=started,
                        plan_hash=str(ledger_key["plan"]),
                        notes=[*(excluded.told(spread.excluded) if excluded else ()), *because],
                        worker_rss_mb=spread.worker_rss_mb,
                    )

                with _unbound(place.shelf, ledger.folder / "parts"), refused_with_numbers(spread):
                    writing |= {"seed": plan.seed, "memory_bytes": memory_bytes}
                    writing["prompt"] = job.roles.prompt if whole_rows else "prompt"
                    made = Outcome(ledger, record, spread, report, allow_empty=allow_empty)
                    done = made.write(output, writing)
                if done.output:
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
    return replace(done, notes=[*done.notes, NOTHING_TO_DO])
