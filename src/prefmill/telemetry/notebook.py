"""The bar of a run in a notebook: a listener that shows phases below the cell."""

from __future__ import annotations

import html
import time
from typing import Any

from prefmill.progress import notebook
from prefmill.shown import shown
from prefmill.telemetry.facts import without_secrets
from prefmill.telemetry.run import Run

#: Seconds between two changes of the bar: each is a message to a browser.
EVERY_S = 0.2


def opened(run: Run) -> _Bar | None:
    """The bar of `run`; None outside a notebook, inside of another run, and where `progress` was
    given.
    """
    return _Bar() if run.parent is None and not run.told and notebook() else None


def drawn(command: str, phase: str, share: float | None) -> str:
    """The bar as HTML; a browser moves one without a share by itself."""
    value = "" if share is None else f' value="{min(max(share, 0.0), 1.0):.4f}"'
    words = html.escape(shown(without_secrets(f"{command}: {phase}")))
    return f'<progress max="1"{value} aria-label="progress"></progress> {words}'


class _Bar:
    name = "notebook"

    def __init__(self) -> None:
        self._handle: Any = None
        self._changed = 0.0

    def started(self, run: Run) -> None:
        import IPython.display as cell

        begun = drawn(run.command, "starting", None)
        self._handle = cell.display(_html(begun), display_id=True)  # type: ignore[no-untyped-call]

    def phase(self, run: Run, phase: str, share: float | None) -> None:
        now = time.monotonic()
        if now - self._changed >= EVERY_S:
            self._changed = now
            self._show(drawn(run.command, phase, share))

    def ended(self, run: Run) -> None:
        self._show("")  # the report stands there now, or the error

    def _show(self, text: str) -> None:
        if self._handle is not None:
            self._handle.update(_html(text))


def _html(text: str) -> Any:
    from IPython.display import HTML

    return HTML(text)  # type: ignore[no-untyped-call]
