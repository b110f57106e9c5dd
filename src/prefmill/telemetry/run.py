"""One run, as those who listen know it."""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Literal, Protocol

from prefmill.telemetry.facts import without_secrets

#: `failed` raised an error; `stopped` was told to end, by a signal or Ctrl-C.
Outcome = Literal["done", "failed", "stopped"]

#: Silent until a program configures `logging`.
logger = logging.getLogger("prefmill")
logger.addHandler(logging.NullHandler())


@dataclass
class Run:
    """One run.

    output   the target that was asked for; once the run is done, what was written
    facts    what else is known of it: `run_key`, once the run has one
    figures  when it is done: the numbers of its report, and mappings of reason to rows
    told     whether the caller has a `progress` of its own
    error    when it failed: the type of the error and what kind of error that is; never its
             message, which may hold texts
    """

    command: str
    inputs: Any
    output: Any
    parent: Run | None = None
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    begun: float = field(default_factory=time.perf_counter)
    facts: dict[str, Any] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)
    told: bool = False
    outcome: Outcome = "done"
    error: tuple[str, str] | None = None
    exit_code: int = 0

    @property
    def seconds(self) -> float:
        """Wall time so far."""
        return round(time.perf_counter() - self.begun, 3)

    def failed(self, error: BaseException) -> None:
        """Keep what may be told of the error that ended the run."""
        stopped = isinstance(error, KeyboardInterrupt | SystemExit | GeneratorExit)
        self.outcome = "stopped" if stopped else "failed"
        kind = (type(error).__doc__ or "").strip().split("\n")[0]
        self.error = (type(error).__name__, kind)
        self.exit_code = _exit_code(error)


def _exit_code(error: BaseException) -> int:
    """What the command would end with."""
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 130
    known = getattr(error, "exit_code", 1 if isinstance(error, OSError) else 70)
    return known if isinstance(known, int) else 70


class Listener(Protocol):
    """Who is told of one run. What it raises is logged, and it is told no more."""

    name: str

    def started(self, run: Run) -> None:
        """The run begins."""

    def phase(self, run: Run, phase: str, share: float | None) -> None:
        """What it does now, in words, and the share that is done (0 to 1) where it is known."""

    def ended(self, run: Run) -> None:
        """It is over: `run.outcome` says how."""


def word_of(phase: str) -> str:
    """The phase without its numbers and names, which change with every step and run.

    >>> word_of("step 10 of 20, loss 0.4"), word_of("1,024 of 4,096 rows"), word_of("reading a/b.c")
    ('step', 'working', 'reading')
    """
    words = takewhile(str.isalpha, phase.replace(":", "").split())
    return " ".join(words) or "working"


def gave_up(name: str, error: BaseException) -> None:
    """Log that a listener failed: the run goes on without it."""
    words = without_secrets(str(error))[:300]
    logger.warning(
        "%s failed, and the run goes on without it: %s: %s", name, type(error).__name__, words
    )
