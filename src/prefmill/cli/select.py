"""`prefmill pairs`, `unpair`, `best`, `advantages`: a command for every kind of plan.

Its options are the fields of the plan, so a new kind of plan is a command without a line here.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import Field, fields
from functools import partial
from inspect import Parameter, get_annotations
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

import typer

from prefmill.cli.app import Options, add_command
from prefmill.cli.options import (
    Empty,
    Inputs,
    Isolating,
    Sheets,
    Spreading,
    Target,
    Writing,
    expecting,
    finish,
    option,
    output_of,
    role_option,
)
from prefmill.cli.texts import names_in, numbers_in, roles_given, stdout_or, threshold_in
from prefmill.errors import BadArgument, near_file
from prefmill.plans import FEEDBACK_KINDS, FeedbackPlan, Plan, read_plan
from prefmill.plans.expect import expect_in
from prefmill.writers.formats import help_for, margin_for

_P = TypeVar("_P", bound=Plan)


class PlanFile(Options):
    """A plan that is kept in a file."""

    plan: Annotated[
        Path | None,
        option("--plan", metavar="FILE", help="Plan as TOML; options given beside it win."),
    ] = None


class Expecting(Options):
    """What must hold of a run."""

    expect: Annotated[
        list[str] | None,
        expecting(FeedbackPlan.contract),
    ] = None


class Unbounded(Options):
    """Both thresholds at once."""

    no_thresholds: Annotated[
        bool, option("--no-thresholds", help="Any two different scores make a pair.")
    ] = False


def field_parameters(kind: type[Plan]) -> Iterator[Parameter]:
    """The options of a plan's fields, its own first."""
    hints = get_type_hints(kind)
    places: dict[str, int] = {}
    # A class comes before its bases here, so what is special to a kind is what people read first.
    for place, base in enumerate(kind.__mro__):
        places |= dict.fromkeys(get_annotations(base), place)
    own = [field for field in fields(kind) if not field.metadata.get("own_table")]
    for field in sorted(own, key=lambda field: places[field.name]):
        yield _parameter(field, hints[field.name])


def plan_parameters(kind: type[FeedbackPlan]) -> Iterator[Parameter]:
    """The options of a plan over feedback: its fields, then `--plan`, then its roles."""
    yield from (each for each in field_parameters(kind) if each.name not in kind.idle)
    if kind.unbounded:
        yield from Unbounded.parameters()
    yield from PlanFile.parameters()
    yield from Expecting.parameters()
    for role in (role for role in kind.role_names if role not in kind.idle):
        yield optional(role, role_option(role))


def optional(name: str, annotation: Any) -> Parameter:
    """An option that is None where it is not given."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _parameter(field: Field[Any], hint: Any) -> Parameter:
    """The option of a field; not given, it is None, and the plan's own default holds."""
    about, kinds = field.metadata, {hint, *get_args(hint)}
    kind: type = next((kind for kind in (bool, int, float) if kind in kinds), str)
    metavar: str | None = None
    if _is_bound(field):
        kind, metavar = str, about.get("metavar", "NUMBER|none")
    elif about.get("table"):
        metavar = "NAME=W,..."
    name = field.name.replace("_", "-")
    names = about.get("option", ())
    if kind is bool:  # None has to stay apart from false, which overrides a plan of --plan
        names = (f"--{name}/--no-{name}",)
    text = about["help"]
    shown = about.get("shown", field.default)
    if shown is not None and shown is not False:
        text += f"  [default: {shown}]"
    made = option(*names, metavar=metavar, help=text)
    return optional(field.name, Annotated[kind | None, made])


def _is_bound(field: Field[Any]) -> bool:
    """Whether the field is a number of scores, where `none` is no bound."""
    check = field.metadata["check"]
    return check(0.5) is None and check(None) is None and not field.metadata.get("table")


def plan_of(kind: type[_P], options: Any) -> _P:
    """The plan of `--plan` with the options that were given on top."""
    values: dict[str, Any] = {}
    if path := getattr(options, "plan", None):
        plan = _read(path)
        # Each kind has a command of its own, so another kind is a mistake and not a wish.
        if plan.kind != kind.kind:
            raise BadArgument(
                f"--plan: {str(path)!r} is a plan of {plan.kind}; expected {kind.kind}."
            )
        values = {field.name: getattr(plan, field.name) for field in fields(kind)}
    if getattr(options, "no_thresholds", False):
        values |= {"chosen_min": None, "rejected_below": None}
    for field in fields(kind):
        name, value = field.name, getattr(options, field.name, None)
        if value is None or field.metadata.get("own_table"):
            continue
        if _is_bound(field):
            value = threshold_in(name, value, auto=field.metadata["check"]("auto") is None)
        elif field.metadata.get("table"):
            value = numbers_in(f"--{name}", value)
        values[name] = value
    if texts := getattr(options, "expect", None):
        known = values["expect"].named() if values.get("expect") else {}
        values["expect"] = known | expect_in(texts, kind.contract)
    return kind(**values)


def _read(path: Path) -> Plan:
    try:
        return read_plan(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArgument(
            f"--plan: cannot read {str(path)!r}; {error.strerror}.", hint=near_file(str(path))
        ) from None


class Layout(Options):
    """How rows are laid out."""

    chat: Annotated[bool, option("--chat", help="Write text as messages.")] = False
    keep: Annotated[str | None, option(metavar="COL,...", help="Columns to carry along.")] = None


class Margin(Options):
    """The margin of a pair."""

    margin_scale: Annotated[
        float | None,
        option(
            metavar="NUMBER",
            help="Add margin = (chosen - rejected) * NUMBER: RewardTrainer's loss uses it.",
        ),
    ] = None


class _How(Options):
    split: Annotated[
        str | None,
        option(metavar="NAME=SHARE,...", help="Split by prompt, for example train=0.95,test=0.05."),
    ] = None
    engine: Annotated[str, option(help="auto, polars, duckdb, or ray (many machines).")] = "auto"
    incremental: Annotated[
        bool,
        option(
            "--incremental",
            help="Recompute prompts whose rows changed; add pair_id and a change file.",
        ),
    ] = False
    changes: Annotated[
        Path | None,
        option(metavar="FILE", help="The change file.  [default: OUTPUT-changes.parquet]"),
    ] = None
    partition_by: Annotated[
        str | None,
        option(
            metavar="COL,...",
            help="Write a folder of Parquet in hive partitions: column=value/part-00000.parquet.",
        ),
    ] = None
    pair_id: Annotated[
        bool,
        option("--pair-id", help="Add pair_id, a stable id of each row (a merge does so itself)."),
    ] = False
    dry_run: Annotated[bool, option("--dry-run", help="Print what would run; write nothing.")] = (
        False
    )


class Tables(Options):
    """What becomes of a table that is the output."""

    mode: Annotated[
        str | None,
        option(
            metavar="MODE",
            help="Of a table: create, append, merge (by pair_id), replace.  [default: create]",
        ),
    ] = None
    run_key: Annotated[
        str | None,
        option(
            metavar="KEY",
            help="Of a table: the name of this run; one that is there already does nothing.  "
            "[default: a hash]",
        ),
    ] = None


class Running(_How, Tables, Spreading, Isolating, Writing, Empty, Sheets):
    """How a plan is run."""


class Excluding(Options):
    """Pairs that do not come out."""

    exclude: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="Leave out pairs whose pair_id is in this file; view and worth write one.",
        ),
    ] = None


def _parameters(kind: type[FeedbackPlan]) -> Iterator[Parameter]:
    """All options of the command that runs plans of `kind`."""
    yield from Inputs.parameters()
    yield from Target.parameters()
    yield from plan_parameters(kind)
    if not kind.every_row:
        layouts = option(help=help_for(kind.rows_are))
        yield optional("format", Annotated[str | None, layouts])
        yield from Layout.parameters()
    if margin_for(kind.rows_are):
        yield from Margin.parameters()
        yield from Excluding.parameters()
    yield from Running.parameters()


class Selecting(Inputs, Target, Layout, Margin, Excluding, Running):
    """The options of such a command; those that it does not have are at their defaults."""

    format: str | None = None


def _run(kind: type[FeedbackPlan], options: Selecting) -> None:
    """Run one plan from the options of its command, and tell what became of every row."""
    reading = {**options.reading(), **options.picked("engine", "format")}
    reading["roles"] = roles_given(options)
    from prefmill.cli import show
    from prefmill.runs.plan import run
    from prefmill.runs.run import explain

    plan = plan_of(kind, options)
    if options.dry_run:
        told = options.called(
            explain,
            plan,
            options.inputs,
            partition_by=names_in(options.partition_by),
            **options.picked("output", "incremental", "changes"),
            **reading,
        )
        typer.echo(told, nl=False)
        return
    output = output_of(options, plan.kind, "-o pairs.parquet, or --dry-run to see the plan.")
    if output == "-" and (options.split or options.partition_by):
        raise BadArgument(
            "-o - and --split or --partition-by: stdout takes one stream of rows.",
            hint="give -o a name, or leave that option out.",
        )
    if output == "-" and options.incremental:
        raise BadArgument(
            "-o - and --incremental: an incremental run goes on from its output.",
            hint="name the output pairs.parquet, or pairs/part-*.parquet.",
        )
    with stdout_or(output) as target, show.progress(quiet=options.quiet) as tell:
        report = options.called(
            run,
            plan,
            options.inputs,
            target,
            keep=names_in(options.keep),
            split=numbers_in("--split", options.split),
            progress=tell,
            **options.picked("chat", "margin_scale", "overwrite", "allow_empty"),
            **options.picked("spreadsheet_safe"),
            **options.picked("address", "work", "shuffle", "incremental", "changes"),
            **options.picked("pair_id", "exclude"),
            partition_by=names_in(options.partition_by),
            **options.picked("mode", "run_key"),
            **reading,
        )
    finish(report, options, lambda report: show.report(plan, report))
    if not report.pairs_out and not options.allow_empty:
        what = f"no {plan.rows_are} came out, and nothing was written (--allow-empty writes it)"
        hint = show.nothing_hint(plan, report)
        print(f"prefmill: {what}.\nHint: {hint}", file=sys.stderr)
        raise typer.Exit(1)


for _kind in FEEDBACK_KINDS.values():
    add_command(_kind.command, _kind.usage, _parameters(_kind), Selecting, partial(_run, _kind))
