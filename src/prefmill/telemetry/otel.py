"""OpenTelemetry: a span for every run, one for each of its phases, and counters of rows.

Only the API is used. Who configures an SDK in this process (or starts the command with
`opentelemetry-instrument`) says where spans and metrics go; without one nothing is made.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from prefmill._version import __version__
from prefmill.telemetry.facts import places_of, rows_out, without_secrets
from prefmill.telemetry.run import Run, word_of

#: With one of these the API loads an SDK by itself.
_PROVIDERS = ("OTEL_PYTHON_TRACER_PROVIDER", "OTEL_PYTHON_METER_PROVIDER")
#: Spans of phases that one run makes at most: those of a long run may alternate.
_PHASES = 100
#: Milliseconds that exporters have for what is left, before a command ends.
FLUSH_MS = 5_000


def opened(run: Run) -> _Spans | None:
    """Who makes spans of `run`; None where nobody has loaded OpenTelemetry."""
    # Whoever configured an SDK has imported the API.
    if "opentelemetry" not in sys.modules and not any(name in os.environ for name in _PROVIDERS):
        return None
    try:
        import opentelemetry.trace
    except ImportError:
        return None
    return _Spans(opentelemetry.trace)


class _Spans:
    name = "opentelemetry"

    def __init__(self, trace: Any) -> None:
        self._trace = trace
        self._tracer = trace.get_tracer("prefmill", __version__)
        self._phase, self._word, self._phases = None, "", 0

    def started(self, run: Run) -> None:
        from opentelemetry import context

        known = {"prefmill.command": run.command, "prefmill.run_id": run.id}
        self._span = self._tracer.start_span(
            f"prefmill.{run.command}", context=self._above(), attributes=known
        )
        self._token = context.attach(self._trace.set_span_in_context(self._span))

    def _above(self) -> Any:
        """The span that the environment names as W3C's `traceparent`, where none is current."""
        named = os.environ.get("TRACEPARENT")
        if not named or self._trace.get_current_span().get_span_context().is_valid:
            return None
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        return TraceContextTextMapPropagator().extract({"traceparent": named})

    def phase(self, run: Run, phase: str, share: float | None) -> None:
        word = word_of(phase)
        if word == self._word or self._phases >= _PHASES:
            return
        self._end_phase()
        self._word, self._phases = word, self._phases + 1
        self._phase = self._tracer.start_span(f"prefmill.{run.command}: {word}")

    def _end_phase(self) -> None:
        if self._phase is not None:
            self._phase.end()
            self._phase = None

    def ended(self, run: Run) -> None:
        from opentelemetry import context

        context.detach(self._token)
        self._end_phase()
        for name, value in self._facts(run).items():
            self._span.set_attribute(f"prefmill.{name}", value)
        if run.error:
            name, kind = run.error
            self._span.set_attribute("error.type", name)
            status = self._trace.Status(self._trace.StatusCode.ERROR, f"{name}: {kind}")
            self._span.set_status(status)
        self._span.end()
        _count(run)

    def _facts(self, run: Run) -> dict[str, Any]:
        known: dict[str, Any] = {**run.facts, "outcome": run.outcome}
        for name, value in run.figures.items():
            if isinstance(value, dict):
                known |= {f"{name}.{reason}": rows for reason, rows in value.items()}
            else:
                known[name] = value
        places = [without_secrets(place) for place in places_of(run.output)]
        if places:
            known["output"] = places
        return known


def _count(run: Run) -> None:
    """Add a run to the metrics."""
    from opentelemetry import metrics

    meter = metrics.get_meter("prefmill", __version__)
    runs = meter.create_counter("prefmill.runs", "{run}", "Runs by command and outcome")
    rows = meter.create_counter("prefmill.rows", "{row}", "Rows by what became of them")
    seconds = meter.create_histogram("prefmill.run.duration", "s", "Wall time of a run")
    own = {"prefmill.command": run.command}
    ended = {**own, "prefmill.outcome": run.outcome}
    if run.error:
        ended["error.type"] = run.error[0]
    runs.add(1, ended)
    seconds.record(run.seconds, ended)
    by_state = {
        "in": run.figures.get("rows_in"),
        "used": run.figures.get("rows_used"),
        "out": rows_out(run.figures),
    }
    for name in ("dropped", "null"):
        for reason, count in run.figures.get(name, {}).items():
            by_state[f"{name}: {reason}"] = count
    for state, count in by_state.items():
        if count is not None:
            rows.add(count, {**own, "prefmill.state": state})


def flush() -> None:
    """Let exporters send what they hold: a command ends without the hooks of Python's own end."""
    loaded = (sys.modules.get(f"opentelemetry.{name}") for name in ("trace", "metrics"))
    for module, kind in zip(loaded, ("tracer", "meter"), strict=True):
        provider = getattr(module, f"get_{kind}_provider", lambda: None)()
        force = getattr(provider, "force_flush", None)
        if force is not None:
            try:
                force(FLUSH_MS)
            except Exception as error:
                from prefmill.telemetry.run import gave_up

                gave_up("opentelemetry", error)
