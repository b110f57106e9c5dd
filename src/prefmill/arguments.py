"""Arguments by name that a function does not have: refused, with the one that was meant.

A function whose last argument is `**names: Unpack[...]` takes whatever it is given: a misspelt
name would change nothing, without a word. `closed` makes it take its own names alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable
from functools import cache, update_wrapper
from types import FunctionType
from typing import Any, ParamSpec, TypeVar, cast

from prefmill.errors import BadArgument, nearest

P = ParamSpec("P")
R = TypeVar("R")


@cache
def names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of all arguments, those of an `Unpack[...]` among them.

    Its options have to be known in the function's module when it runs, not to type checkers alone.

    >>> names_of(nearest)
    ('wanted', 'names')
    """
    names: list[str] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind is parameter.VAR_KEYWORD:
            word = str(parameter.annotation).removeprefix("Unpack[").removesuffix("]")
            names += _here(function)[word].__annotations__
        else:
            names.append(parameter.name)
    return tuple(names)


def refuse_unknown(
    where: str,
    given: Iterable[str],
    known: Collection[str],
    *,
    of_plan: Collection[str] = (),
    kind: str = "",
    asked: str = "",
    thing: str = "argument",
) -> None:
    """Raise `BadArgument` for a name that is not known: it would be ignored without a word.

    `of_plan` are the fields of the plan of this `kind`, which are no arguments of its run; `asked`
    is the function by its whole name, and `thing` what the names are called.

    >>> refuse_unknown("score", ["overwrit"], ["overwrite", "threads"])
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: score: no argument 'overwrit'.
    Hint: did you mean 'overwrite'?
    """
    for name in given:
        if name in known:
            continue
        hint = f"the arguments are in help({asked or where})."
        if name in of_plan:
            hint = f"it is a field of the plan: {kind}({name}=...)."
        elif near := nearest(name, known):
            hint = f"did you mean {near[0]!r}?"
        raise BadArgument(f"{where}: no {thing} {name!r}.", hint=hint)


def closed(where: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a function refuse names that are not its own, before it does anything.

    >>> @closed("double")
    ... def double(number): return 2 * number
    >>> double(nummer=2)
    Traceback (most recent call last):
    ...
    prefmill.errors.BadArgument: double: no argument 'nummer'.
    Hint: did you mean 'number'?
    """

    def call(work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        refuse_unknown(where, kwargs, names_of(work), asked=f"{work.__module__}.{work.__name__}")
        return work(*args, **kwargs)

    return lambda work: around(work, call)


def around(
    work: Callable[P, R],
    call: Callable[[Callable[P, R], tuple[Any, ...], dict[str, Any]], Any],
) -> Callable[P, R]:
    """The function `work`, every call of which is `call(work, args, kwargs)`."""

    def calling(*args: Any, **kwargs: Any) -> Any:
        return call(work, args, kwargs)

    # doctest skips a function whose globals are not those of the module that it stands in.
    made = FunctionType(calling.__code__, _here(work), closure=calling.__closure__)
    return cast(Callable[P, R], update_wrapper(made, work))


def _here(function: Callable[..., Any]) -> dict[str, Any]:
    """The names of the module that a function stands in."""
    return cast(FunctionType, inspect.unwrap(function)).__globals__
