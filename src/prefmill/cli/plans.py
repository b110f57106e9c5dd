"""Options of plans: made of a plan's fields, and made a plan again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import Field, fields
from inspect import Parameter, get_annotations
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args, get_type_hints

from prefmill.cli.app import Options
from prefmill.cli.options import option, role_option
from prefmill.cli.texts import numbers_in, threshold_in
from prefmill.errors import BadArgument
from prefmill.plans import FeedbackPlan, Plan, read_plan

_P = TypeVar("_P", bound=Plan)


class PlanFile(Options):
    """A plan that is kept in a file."""

    plan: Annotated[
        Path | None,
        option("--plan", metavar="FILE", help="Plan as TOML; options given beside it win."),
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
    for place, base in enumerate(kind.__mro__):
        places |= dict.fromkeys(get_annotations(base), place)
    for field in sorted(fields(kind), key=lambda field: places[field.name]):
        yield _parameter(field, hints[field.name])


def plan_parameters(kind: type[FeedbackPlan]) -> Iterator[Parameter]:
    """The options of a plan over feedback: its fields, then `--plan`, then its roles."""
    yield from (each for each in field_parameters(kind) if each.name not in kind.idle)
    if kind.unbounded:
        yield from Unbounded.parameters()
    yield from PlanFile.parameters()
    for role in kind.role_names:
        yield optional(role, role_option(role))


def optional(name: str, annotation: Any) -> Parameter:
    """An option that is None where it is not given."""
    return Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def _parameter(field: Field[Any], hint: Any) -> Parameter:
    """The option of a field; not given, it is None, and the plan's own default holds."""
    about, kinds = field.metadata, {hint, *get_args(hint)}
    kind, metavar = next((kind for kind in (bool, int, float) if kind in kinds), str), None
    if _is_bound(field):
        kind, metavar = str, "NUMBER|none"
    elif about.get("table"):
        metavar = "NAME=W,..."
    name = field.name.replace("_", "-")
    names = (f"--{name}/--no-{name}",) if kind is bool else about.get("option", ())
    shown = about.get("shown", "" if field.default in (None, False) else f"{field.default}")
    default = f"  [default: {shown}]" if shown else ""
    said = option(*names, metavar=metavar, help=about["help"] + default)
    return optional(field.name, Annotated[kind | None, said])


def _is_bound(field: Field[Any]) -> bool:
    """Whether the field is a number of scores, where `none` is no bound."""
    check = field.metadata["check"]
    return check(0.5) is None and check(None) is None and not field.metadata.get("table")


def plan_of(kind: type[_P], options: Any) -> _P:
    """The plan of `--plan` with the options that were given on top."""
    values: dict[str, Any] = {}
    if path := getattr(options, "plan", None):
        plan = _read(path)
        if plan.kind != kind.kind:
            raise BadArgument(
                f"--plan: {str(path)!r} is a plan of {plan.kind}; expected {kind.kind}."
            )
        values = {field.name: getattr(plan, field.name) for field in fields(kind)}
    if getattr(options, "no_thresholds", False):
        values |= {"chosen_min": None, "rejected_below": None}
    for field in fields(kind):
        name, value = field.name, getattr(options, field.name, None)
        if value is None:
            continue
        if _is_bound(field):
            value = threshold_in(name, value, auto=field.metadata["check"]("auto") is None)
        elif field.metadata.get("table"):
            value = numbers_in(f"--{name}", value)
        values[name] = value
    return kind(**values)


def _read(path: Path) -> Plan:
    try:
        return read_plan(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadArgument(f"--plan: cannot read {str(path)!r}; {error.strerror}.") from None
