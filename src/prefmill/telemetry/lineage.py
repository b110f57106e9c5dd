"""OpenLineage: START of a run, and COMPLETE, FAIL or ABORT at its end.

On where `openlineage-python` is configured, by the variables and files that it reads itself. Its
events are made and sent in a thread: a run waits for the last one, and `WAIT_S` at most.
"""

from __future__ import annotations

import copy
import os
import threading
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue

from prefmill.errors import installing
from prefmill.telemetry.run import Run, gave_up, logger

#: Seconds that a run waits for a server to take its events, and one that was told to stop.
WAIT_S, WAIT_STOPPED_S = 5.0, 1.0
_VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
_STATES = {"done": "COMPLETE", "failed": "FAIL", "stopped": "ABORT"}
_Queue = SimpleQueue[tuple[str, str, Run] | None]


def is_configured() -> bool:
    """Whether events have a place to go to; without one the client would print them."""
    if os.environ.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    if any(name.startswith(_VARIABLES) for name in os.environ):
        return True
    here, home = Path("openlineage.yml"), Path("~/.openlineage/openlineage.yml")
    return here.is_file() or home.expanduser().is_file()


def opened(run: Run) -> _Lineage | None:
    """Who sends events of `run`; None where nobody wants them."""
    return _Lineage() if is_configured() else None


class _Lineage:
    name = "openlineage"

    def started(self, run: Run) -> None:
        self._queue: _Queue = SimpleQueue()
        name = "prefmill-lineage"
        self._thread = threading.Thread(target=_send, args=(self._queue,), name=name, daemon=True)
        self._thread.start()
        self._put("START", run)

    def phase(self, run: Run, phase: str, share: float | None) -> None:
        """Phases are no events."""

    def ended(self, run: Run) -> None:
        self._put(_STATES[run.outcome], run)
        self._queue.put(None)
        wait = WAIT_STOPPED_S if run.outcome == "stopped" else WAIT_S
        self._thread.join(wait)
        if self._thread.is_alive():
            logger.warning("openlineage: no answer in %g s; the run goes on without it", wait)

    def _put(self, state: str, run: Run) -> None:
        # As it is now, for it goes on while the event waits.
        self._queue.put((state, datetime.now(UTC).isoformat(), copy.copy(run)))


def _send(queue: _Queue) -> None:
    """Send what comes, until None does. One failure is told, and the next event is tried."""
    told = False
    client = None
    while (item := queue.get()) is not None:
        try:
            if client is None:
                from openlineage.client import OpenLineageClient

                client = OpenLineageClient()
            from prefmill.telemetry.events import event_of

            client.emit(event_of(*item))
        except Exception as error:
            if not told:
                gave_up("openlineage", _with_hint(error))
                told = True
    if client is not None:
        try:
            client.close(WAIT_S)
        except Exception as error:
            gave_up("openlineage", error)


def _with_hint(error: Exception) -> Exception:
    """A missing package, with what installs it."""
    if isinstance(error, ModuleNotFoundError) and str(error.name).startswith("openlineage"):
        return ModuleNotFoundError(f"{error}; {installing('lineage')}")
    return error
