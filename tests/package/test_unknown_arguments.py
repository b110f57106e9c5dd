"""No public function ignores an argument that it does not have, before it reads or writes."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import prefmill as pm
from prefmill.arguments import names_of
from prefmill.errors import BadArgument
from prefmill.plans import KINDS
from prefmill.plans.signature import signature_of

MODULES = (
    *("prefmill", "prefmill.polars", "prefmill.duckdb", "prefmill.spark", "prefmill.ray"),
    *("prefmill.datasets", "prefmill.plots", "prefmill.training"),
)
#: Public functions of modules that have others too.
MORE = ("prefmill.datasets.cards.write_card", "prefmill.runs.looks.check.check")
#: What hands arguments on to a function that is not ours, or that is the caller's.
HANDS_ON = {"isolated", "push_to_hub"}


class Untouched:
    """An argument that nobody may look at yet."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"{name} was asked for")


def callables() -> Iterator[tuple[str, Callable[..., Any]]]:
    """Every public function, and every method of a public class or of a plan, that takes names
    which its signature does not list.
    """
    for place in MODULES:
        module = importlib.import_module(place)
        for name in getattr(module, "__all__", ()):
            thing = getattr(module, name)
            if not str(getattr(thing, "__module__", "")).startswith("prefmill"):
                continue
            if inspect.isfunction(thing):
                yield f"{place}.{name}", thing
            elif inspect.isclass(thing) and not getattr(thing, "_is_protocol", False):
                made = thing() if thing in KINDS.values() else thing
                for method, work in inspect.getmembers(made, callable):
                    if not method.startswith("_") and hasattr(work, "__code__"):
                        yield f"{place}.{name}.{method}", work
    for place in MORE:
        module, _, name = place.rpartition(".")
        yield place, getattr(importlib.import_module(module), name)


def takes_more(work: Callable[..., Any]) -> bool:
    found = inspect.signature(work).parameters.values()
    return any(each.kind is each.VAR_KEYWORD for each in found)


OPEN = {
    name: work
    for name, work in callables()
    if takes_more(work) and name.rpartition(".")[2] not in HANDS_ON
}


def filled(work: Callable[..., Any]) -> dict[str, Any]:
    """Values for the arguments that have to be there."""
    needed = [
        each.name
        for each in inspect.signature(work).parameters.values()
        if each.default is each.empty and each.kind is not each.VAR_KEYWORD
    ]
    return {name: pm.Pairs() if name == "plan" else Untouched() for name in needed}


@pytest.mark.parametrize("value", [True, None])
@pytest.mark.parametrize("name", OPEN)
def test_a_misspelt_argument_is_refused(
    name: str, value: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    work = OPEN[name]
    known = ["overwrite"] if name == "prefmill.run" else names_of(work)
    with pytest.raises(BadArgument, match=f"(?s)no .*'{known[-1]}x'.*did you mean '{known[-1]}'"):
        work(**filled(work), **{f"{known[-1]}x": value})
    assert list(tmp_path.iterdir()) == []


def test_the_commands_are_among_them() -> None:
    """That the test above looks at what people call."""
    there = {name.removeprefix("prefmill.") for name in OPEN}
    assert {"run", "score", "sample", "votes", "curve", "worth", "audit", "calibrate"} <= there
    assert {"report", "diff", "why", "rows", "label_next", "label_steps", "values"} <= there
    assert {"Pairs.lazy", "Pairs.sql", "polars.rows", "datasets.apply", "ray.apply"} <= there


@pytest.mark.parametrize("kind", [pm.Pairs, pm.Unpaired, pm.BestOf, pm.Advantage])
def test_functions_of_plans_list_all_their_arguments(kind: Any) -> None:
    """So Python itself refuses others."""
    import prefmill.polars

    of_host = getattr(prefmill.polars, kind.kind)
    assert not takes_more(of_host)
    assert inspect.signature(of_host) == signature_of(kind, "frame", {"keep": ()})
    with pytest.raises(TypeError, match="keeps"):
        of_host(Untouched(), keeps=["id"])
