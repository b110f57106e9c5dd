"""A run whose output is a table: its rows are made in a temporary file, then committed at once."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, get_type_hints

from prefmill._version import __version__
from prefmill.disk import records
from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument
from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.plan import Plan
from prefmill.runs.expecting import done_before, in_key
from prefmill.runs.inputs import is_certain, is_stdin, joined, known_of, read_by
from prefmill.runs.recorded import key_of, plain, restored
from prefmill.shapes.source import words_in
from prefmill.telemetry.watch import watched
from prefmill.warehouse.address import TABLES, Address
from prefmill.warehouse.commit import Commit, Mode, Table, check_mode, fingerprint
from prefmill.warehouse.tables import opened, publish

#: Options that decide what the rows look like.
_LAYOUT = ("format", "chat", "margin_scale", "keep")
#: What a report says of a run that was in its table already.
NOTHING_TO_DO = "the table holds this run already: nothing was to do."


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
    if options.get("split"):
        raise BadArgument(
            f"run: splits go to files; got them with the table {output.shown}.",
            hint="write splits to files, or one table for each of them.",
        )
    if options.get("spreadsheet_safe"):
        raise BadArgument(
            f"run: spreadsheet_safe is of CSV for people; got the table {output.shown}.",
            hint="leave --spreadsheet-safe out: tables hold no formulas.",
        )
    if options.get("incremental") or options.get("changes"):
        raise BadArgument(
            f"run: an incremental run goes on from its files; got the table {output.shown}.",
            hint="write .parquet with --incremental, or the whole result with --mode merge.",
        )
    asked = _asked(plan, inputs, options)
    with opened(output) as table:
        before = _before(table, asked, run_key, mode)  # it can be asked, before hours of work
    if before is not None:
        return _told(_restored(plan, run, before), output, done=False)
    with temporary(options.get("temp_dir")) as home:
        rows = home / "rows.parquet"
        # One run is told of, and its output is the table.
        report = inspect.unwrap(run)(plan, inputs, rows, **options)
        if not rows.exists():
            return report
        content = _hash(rows)
        # Inputs of other names are another run, also where they give the same rows.
        names = [] if is_stdin(inputs) else [each[0] for each in known_of(inputs)]
        key = run_key or f"{plan.kind}-{_short(json.dumps([plan.hash(), names, content]))}"
        facts = {
            "version": __version__,
            "plan": plan.hash(),
            "report": json.dumps(asdict(report) | {"output": None}, default=str),
            **({"asked": asked} if asked else {}),
        }
        done = publish(rows, output, Commit(key, fingerprint(content), mode, facts))
    return _told(report, output, done)


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
        carried=in_key(plan) if isinstance(plan, FeedbackPlan) else (),
        **read_by(options),
    )
    return records.key_hash(json.loads(json.dumps(key, default=plain)))


def _before(table: Table, asked: str | None, run_key: str | None, mode: Mode) -> str | None:
    """The report of the run that was asked the same, where the table still holds what it made."""
    if table.columns() is None or asked is None:
        return None
    for number, standing in enumerate(table.runs()):
        last = not number and standing.newest
        if not last and (mode != "append" or table.fingerprint_of(standing.run) is None):
            continue
        if standing.facts.get("asked") == asked and run_key in (None, standing.run):
            return standing.facts.get("report")
    return None


def _restored(plan: Plan, run: Callable[..., Any], told: str) -> Any:
    """The report of a run that was done before; it has to hold what is expected now."""
    kind = get_type_hints(inspect.unwrap(run))["return"]
    if not isinstance(plan, FeedbackPlan):
        return restored(kind, json.loads(told))
    return done_before(plan, restored(kind, {**json.loads(told), "output": {}}))


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
