"""A run whose output is a table: its rows are made in a temporary file, then committed at once."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prefmill._version import __version__
from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument
from prefmill.plans.plan import Plan
from prefmill.runs.inputs import is_stdin, known_of
from prefmill.telemetry.watch import watched
from prefmill.warehouse.address import TABLES, Address
from prefmill.warehouse.commit import Commit, Mode, check_mode, fingerprint
from prefmill.warehouse.tables import opened, publish

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
    with opened(output) as table:
        table.columns()  # it can be asked, before hours of work
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
        }
        done = publish(rows, output, Commit(key, fingerprint(content), mode, facts))
    return _told(report, output, done)


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
