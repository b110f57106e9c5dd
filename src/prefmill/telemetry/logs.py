"""Log records of a run, by the standard library's `logging`: the logger is `prefmill`.

Each record has `event` (start, progress, done, failed, stopped), `command`, `run_id`, and what goes
with the event, as attributes: any formatter for JSON finds them.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from prefmill.telemetry.facts import places_of, without_secrets
from prefmill.telemetry.run import Run, logger, word_of

#: Seconds between two records of one phase.
EVERY_S = 10.0


def opened(run: Run) -> _Records | None:
    """Who logs `run`; None where nobody reads it."""
    return _Records() if logger.isEnabledFor(logging.INFO) else None


class _Records:
    name = "logging"

    def __init__(self) -> None:
        self._word, self._told = "", 0.0

    def started(self, run: Run) -> None:
        inputs = [without_secrets(place) for place in places_of(run.inputs)]
        output = [without_secrets(place) for place in places_of(run.output)]
        _log(run, "start", f"{run.command}: started", inputs=inputs, output=output)

    def phase(self, run: Run, phase: str, share: float | None) -> None:
        word, now = word_of(phase), time.monotonic()
        if word == self._word and now - self._told < EVERY_S:
            return
        self._word, self._told = word, now
        phase = without_secrets(phase)
        percent = "" if share is None else f" ({100 * share:.0f} %)"
        done = None if share is None else round(share, 4)
        _log(run, "progress", f"{run.command}: {phase}{percent}", phase=phase, share=done)

    def ended(self, run: Run) -> None:
        more: dict[str, Any] = {"seconds": run.seconds, **run.facts}
        if run.error:
            name, _ = run.error
            more |= {"error": name, "exit_code": run.exit_code}
            _log(run, run.outcome, f"{run.command}: {run.outcome}: {name}", **more)
            return
        more |= {
            "output": [without_secrets(place) for place in places_of(run.output)],
            "figures": dict(run.figures),
        }
        _log(run, "done", f"{run.command}: done in {run.seconds:.1f} s", **more)


def _log(run: Run, event: str, message: str, **more: Any) -> None:
    level = logging.ERROR if event == "failed" else logging.INFO
    known = {"event": event, "command": run.command, "run_id": run.id, **more}
    if run.parent:
        known["parent_run_id"] = run.parent.id
    logger.log(level, "%s", message, extra=known)
