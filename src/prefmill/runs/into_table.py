"""A run whose output is a table: its rows are made in a temporary file, then committed at once."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_origin, get_type_hints

from prefmill._version import __version__
from prefmill.disk import records
from prefmill.disk.hidden import sweep, temporary
from prefmill.errors import BadArgument
from prefmill.plans.plan import Plan
from prefmill.runs.account.expecting import done_before, in_key
from prefmill.runs.job.exclude_file import excluded_in
from prefmill.runs.records.inputs import is_certain, is_stdin, joined, known_of, read_by
from prefmill.runs.records.recorded import key_of, plain, restored
from prefmill.shapes.source import words_in
from prefmill.telemetry.watch import watched
from prefmill.warehouse.address import TABLES, Address
from prefmill.warehouse.commit import Commit, Mode, Table, check_mode, fingerprint
from prefmill.warehouse.tables import opened, publish

#: Options that decide what the rows look like.
_LAYOUT = ("format", "chat", "margin_scale", "keep")
#: What a report says of a run that was in its table already.
NOTHING_TO_DO = "the table holds this run already: nothing was to do."

#: Options of files alone: what is wrong with each of them, and what to do.
_OF_FILES = {
    "split": (
        "splits go to files; got them with",
        "write splits to files, or one table for each of them.",
    ),
    "spreadsheet_safe": (
        "spreadsheet_safe is of CSV for people; got",
        "leave --spreadsheet-safe out: tables hold no formulas.",
    ),
    "partition_by": (
        "partitions are a folder of files; got them with",
        "leave --partition-by out: the table keeps the partitions that it was made with.",
    ),
}


def check_apart(given: Mapping[str, Any]) -> None:
    """Raise `BadArgument` for options that only tables have."""
    for name in ("mode", "run_key"):
        if given.get(name) is not None:
            raise BadArgument(
                f"run: {name} is for tables; the output is none.",
                hint=f"tables are {', '.join(TABLES)}; files have --overwrite.",
            )


@watched()
def into_table(
    plan: Plan,
    inputs: Any,
    output: Address,
    *,
    run: Callable[..., Any],
    options: dict[str, Any],
    mode: Mode | None = None,
    run_key: str | None = None,
) -> Any:
    """Run a plan, and commit its rows to a table; a run that is there already changes nothing.

    Args:
        run: runs the plan from inputs to a file, with `options`.
        mode: what becomes of the table; `overwrite` among the options means `replace`.
        run_key: the run's name in the table, as a scheduler knows it; None: a hash of the plan, of
            the names of the inputs, and of the rows. The same name for other rows is refused.

    Raises what `run` and `warehouse.tables.publish` raise.
    """
    mode = mode or ("replace" if options.get("overwrite") else "create")
    check_mode(mode)
    if options.get("overwrite") and mode != "replace":
        raise BadArgument(
            f"run: overwrite is the mode 'replace'; got it with the mode {mode!r}.",
            hint="leave --overwrite out, or leave --mode out.",
        )
    for name, (told, hint) in _OF_FILES.items():
        if options.get(name):
            raise BadArgument(f"run: {told} the table {output.shown}.", hint=hint)
    if mode == "merge" and plan.has_ids and not options.get("pair_id"):
        options["pair_id"] = None  # where the rows have none of their own
    if options.get("incremental"):
        return _incremental(plan, inputs, output, inspect.unwrap(run), options, mode, run_key)
    sweep(options.get("temp_dir"))  # also where nothing is to do
    asked = _asked(plan, inputs, options)
    with opened(output) as table:
        before = _before(table, asked, run_key, mode)  # it can be asked, before hours of work
    if before is not None:
        return _told(_restored(plan, run, before), output, done=False)
    run = inspect.unwrap(run)  # one run is told of, and its output is the table
    with temporary(options.get("temp_dir")) as home:
        rows = home / "rows.parquet"
        report = run(plan, inputs, rows, **options)
        if not rows.exists():
            return report
        content = _hash(rows)
        # Inputs of other names are another run, also where they give the same rows.
        names = [] if is_stdin(inputs) else [each[0] for each in known_of(inputs)]
        key = run_key or f"{plan.kind}-{_short(json.dumps([plan.hash(), names, content]))}"
        done = publish(rows, output, _commit(plan, report, key, content, mode, asked))
    return _told(report, output, done)


def _incremental(
    plan: Plan,
    inputs: Any,
    output: Address,
    run: Callable[..., Any],
    options: dict[str, Any],
    mode: Mode,
    run_key: str | None,
) -> Any:
    """Run over what changed, and bring the table to the rows of a full run."""
    from prefmill.runs.incremental.mirror import (
        check_table,
        folder_of,
        held,
        publish_changes,
        run_beside,
    )

    if mode not in ("create", "replace"):
        raise BadArgument(
            f"run: an incremental run keeps a table equal to a full run; got the mode {mode!r}.",
            hint="leave --mode out, or leave --incremental out.",
        )
    if options.get("changes"):
        raise BadArgument(
            "run: a table takes the changes itself; got changes.",
            hint="leave --changes out, or write .parquet.",
        )
    folder = folder_of(output, options.pop("work", None))
    check_table(output, plan.hash(), overwrite=mode == "replace")
    options["overwrite"] = mode == "replace"
    with held(folder, output), temporary(options.get("temp_dir")) as home:
        report, result = run_beside(run, plan, inputs, folder, options)
        if result is None:
            return report
        key = run_key or f"{plan.kind}-{result.content[:16]}"
        commit = _commit(plan, report, key, result.content, mode)
        done = publish_changes(result, output, commit, home)
    return _told(report, output, done)


def _commit(
    plan: Plan, report: Any, key: str, content: str, mode: Mode, asked: str | None = None
) -> Commit:
    facts = {
        "version": __version__,
        "plan": plan.hash(),
        "report": json.dumps(asdict(report) | {"output": None}, default=str),
        **({"asked": asked} if asked else {}),
    }
    return Commit(key, fingerprint(content), mode, facts)


def _asked(plan: Plan, inputs: Any, options: Mapping[str, Any]) -> str | None:
    """A hash of what is asked of a run, of its inputs' versions too; None where one has none."""
    if is_stdin(inputs):
        return None
    roles, rows = options.get("roles") or {}, getattr(plan, "rows", None)
    words = words_in(rows, roles).named() if hasattr(plan, "rows") else dict(roles)
    joins = joined(words, plan.kind)
    known = known_of(inputs)
    if not is_certain([*known, *joins]):
        return None
    key = key_of(
        inputs=known,
        joined=joins,
        command=plan.kind,
        plan=plan.content(),
        words=words,
        layout={name: options[name] for name in _LAYOUT if options.get(name)},
        pair_id=options.get("pair_id", False) is not False,
        exclude=excluded_in(file).digest if (file := options.get("exclude")) else None,
        carried=in_key(plan.expect),
        **read_by(options),
    )
    return records.key_hash(json.loads(json.dumps(key, default=plain)))


def _before(table: Table, asked: str | None, run_key: str | None, mode: Mode) -> str | None:
    """The report of the run that was asked the same, where the table still holds what it made."""
    if table.columns() is None or asked is None:
        return None
    for number, standing in enumerate(table.runs()):
        last = not number and standing.newest
        if mode == "replace" and not standing.alone:
            return None  # the table may hold more rows
        if not last and (mode != "append" or table.fingerprint_of(standing.run) is None):
            continue
        if standing.facts.get("asked") == asked and run_key in (None, standing.run):
            return standing.facts.get("report")
    return None


def _restored(plan: Plan, run: Callable[..., Any], told: str) -> Any:
    """The report of a run that was done before; it has to hold what is expected now."""
    kind = get_type_hints(inspect.unwrap(run))["return"]
    several = get_origin(get_type_hints(kind)["output"]) is Mapping
    report = restored(kind, {**json.loads(told), "output": {} if several else None})
    return done_before(plan, report)


def _told(report: Any, output: Address, done: bool) -> Any:
    """The report with the table as its output."""
    shown: Any = output.shown
    if isinstance(report.output, Mapping):
        shown = {"": shown}
    notes = [*report.notes, *([] if done else [NOTHING_TO_DO])]
    return replace(report, output=shown, notes=notes)


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
