"""Functions over the tables of a host, made of the fields of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter, Signature
from typing import Any

from prefmill.plans.feedback import FeedbackPlan
from prefmill.plans.plan import fields_that_decide


def signature_of(kind: type[FeedbackPlan], data: str, more: Mapping[str, Any]) -> Signature:
    """One argument `data`, then by keyword the fields of `kind`, the roles, and `more` (defaults).

    >>> from prefmill import Advantage
    >>> list(signature_of(Advantage, "frame", {"keep": ()}).parameters)[-3:]
    ['weight', 'logprob', 'keep']
    """
    first = Parameter(data, Parameter.POSITIONAL_OR_KEYWORD)
    options = {field.name: (field.default, field.type) for field in fields_that_decide(kind)}
    options |= dict.fromkeys(kind.role_names, (None, "str | None"))
    options |= {name: (default, Parameter.empty) for name, default in more.items()}
    keywords = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
        for name, (default, annotation) in options.items()
    ]
    return Signature([first, *keywords])


def function_of(
    kind: type[FeedbackPlan],
    work: Callable[..., Any],
    *,
    module: str,
    data: str,
    more: Mapping[str, Any],
    name: str = "",
) -> Callable[..., Any]:
    """The plan `kind` as a function: its fields, the roles and `more` are arguments.

    It calls `work(plan, data, roles, **more)`.
    """
    signature = signature_of(kind, data, more)
    names = [field.name for field in fields_that_decide(kind)]

    # Python's own binding: a wrong argument is the TypeError that people know.
    def function(*arguments: Any, **options: Any) -> Any:
        bound = signature.bind(*arguments, **options)
        bound.apply_defaults()
        values = bound.arguments
        roles = {role: values[role] for role in kind.role_names if values[role]}
        plan = kind(**{field: values[field] for field in names})
        return work(plan, values[data], roles, **{option: values[option] for option in more})

    # The docstring of the plan says what the fields mean, so it is not written twice.
    first, _, rest = (kind.__doc__ or "").partition("\n")
    function.__name__ = function.__qualname__ = name or kind.kind
    function.__module__ = module
    function.__doc__ = f"{first} The plan `{kind.__name__}`, its fields and roles as arguments.\n"
    function.__doc__ += rest.partition("Raises `PlanError`")[0]
    function.__signature__ = signature  # type: ignore[attr-defined]
    return function
