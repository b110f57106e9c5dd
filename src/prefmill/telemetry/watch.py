"""The seam that every run passes: it starts, tells its phases, and ends in one of three ways."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextvars import ContextVar
from functools import partial
from typing import Any, ParamSpec, TypeVar

from prefmill.arguments import around, names_of, refuse_unknown
from prefmill.progress import Progress, silent
from prefmill.telemetry import lineage, logs, notebook, otel
from prefmill.telemetry.facts import figures
from prefmill.telemetry.run import Listener, Run, gave_up

P = ParamSpec("P")
R = TypeVar("R")

_current: ContextVar[Run | None] = ContextVar("prefmill_run", default=None)
_OPENERS: tuple[Callable[[Run], Listener | None], ...] = (
    logs.opened,
    lineage.opened,
    otel.opened,
    notebook.opened,
)
#: What functions call their inputs.
_INPUTS = ("inputs", "data", "pairs")


def note(**facts: Any) -> None:
    """Say something of the run that is under way here: its `run_key`, say. Plain values only."""
    run = _current.get()
    if run is not None:
        run.facts.update(facts)


def watched(command: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make every call of a function a run that listeners are told of.

    `command` names it; None: the command of the argument `plan`. The function calls its target
    `output`, and takes `progress` by keyword if at all. Its answer is a report with `as_json`. A
    name that it does not take is refused before anything else.
    """

    return lambda work: around(work, partial(_through, command))


def _through(
    command: str | None, work: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Call `work`, and tell those who listen."""
    asked = f"{work.__module__}.{work.__name__}"
    refuse_unknown(command or "run", kwargs, names_of(work), asked=asked)
    signature = inspect.signature(work)
    try:
        given = signature.bind_partial(*args, **kwargs).arguments
    except TypeError:
        return work(*args, **kwargs)  # it says best what is wrong with its arguments
    run = Run(
        command=command or str(getattr(given.get("plan"), "command", "run")),
        inputs=next((given[name] for name in _INPUTS if name in given), None),
        output=given.get("output"),
        parent=_current.get(),
        told=kwargs.get("progress") is not None,
    )
    listeners = _Listeners(run)
    if not listeners.here:
        return work(*args, **kwargs)
    if "progress" in signature.parameters:
        kwargs = {**kwargs, "progress": listeners.between(kwargs.get("progress") or silent)}
    before = _current.set(run)
    try:
        listeners.tell("started")
        report = work(*args, **kwargs)
        run.figures = figures(report)
        run.output = getattr(report, "output", None) or run.output
    except BaseException as error:
        run.failed(error)
        raise
    finally:
        listeners.tell("ended")
        _current.reset(before)
    return report


class _Listeners:
    """Those who listen to one run: each until it fails."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.here: list[Listener] = []
        for opener in _OPENERS:
            try:
                listener = opener(run)
            except Exception as error:
                gave_up(opener.__module__.rpartition(".")[2], error)
            else:
                self.here += [listener] if listener else []

    def tell(self, what: str, *more: Any) -> None:
        """Call the method `what` of all."""
        for listener in list(self.here):
            try:
                getattr(listener, what)(self.run, *more)
            except Exception as error:
                self.here.remove(listener)
                gave_up(listener.name, error)

    def between(self, progress: Progress) -> Progress:
        """A callback that tells listeners what it tells `progress`."""

        def tell(phase: str, share: float | None = None) -> None:
            self.tell("phase", phase, share)
            progress(phase, share)

        return tell
