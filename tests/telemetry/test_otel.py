"""Spans and metrics of OpenTelemetry, as an SDK that the user configured collects them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill.telemetry import otel, watch

sdk = pytest.importorskip("opentelemetry.sdk.trace")

from opentelemetry import metrics, trace  # noqa: E402
from opentelemetry.sdk.metrics import MeterProvider  # noqa: E402
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402
from opentelemetry.sdk.trace.export import SimpleSpanProcessor  # noqa: E402
from opentelemetry.sdk.trace.export.in_memory_span_exporter import (  # noqa: E402
    InMemorySpanExporter,
)

ROWS = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 3]}


@pytest.fixture
def spans(monkeypatch):
    """Finished spans; the API's provider is a global that is set once, so it is set aside here."""
    exporter = InMemorySpanExporter()
    provider = sdk.TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    yield exporter
    provider.shutdown()


@pytest.fixture
def reader(monkeypatch):
    reader = InMemoryMetricReader()
    provider = MeterProvider(metric_readers=[reader])
    monkeypatch.setattr(metrics._internal, "_METER_PROVIDER", provider)
    yield reader
    provider.shutdown()


@pytest.fixture
def rated(tmp_path) -> Path:
    path = tmp_path / "rated.parquet"
    pl.DataFrame(ROWS).write_parquet(path)
    return path


def test_a_run_is_a_span_with_its_counts(rated, tmp_path, spans):
    report = pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    *phases, whole = spans.get_finished_spans()
    assert whole.name == "prefmill.pairs"
    known = dict(whole.attributes)
    assert (known["prefmill.rows_in"], known["prefmill.rows_used"]) == (3, report.rows_used)
    assert known["prefmill.pairs_out"] == 1
    assert known["prefmill.dropped.single_completion"] == 1
    assert known["prefmill.output"] == (str(tmp_path / "pairs.parquet"),)
    assert {span.name for span in phases} >= {"prefmill.pairs: ranking"}
    assert {span.parent.span_id for span in phases} == {whole.context.span_id}
    assert whole.status.status_code is trace.StatusCode.UNSET


def test_a_failed_run_has_the_type_of_its_error_and_no_message(rated, tmp_path, spans):
    (tmp_path / "there.parquet").write_text("x")
    with pytest.raises(pm.PrefmillError):
        pm.run(pm.Pairs(), rated, tmp_path / "there.parquet")
    (span,) = spans.get_finished_spans()
    assert span.attributes["error.type"] == "TargetExists"
    assert span.status.status_code is trace.StatusCode.ERROR
    assert span.status.description == "TargetExists: The output is already there."
    assert span.events == ()


def test_the_environment_names_the_span_above(rated, tmp_path, spans, monkeypatch):
    monkeypatch.setenv("TRACEPARENT", f"00-{'a' * 32}-{'b' * 16}-01")
    pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    whole = spans.get_finished_spans()[-1]
    assert format(whole.context.trace_id, "x") == "a" * 32
    with trace.get_tracer("caller").start_as_current_span("task") as task:
        pm.run(pm.Pairs(), rated, tmp_path / "again.parquet")
    whole = spans.get_finished_spans()[-2]
    assert whole.parent.span_id == task.get_span_context().span_id


def test_runs_are_counted(rated, tmp_path, reader):
    for name in ("one", "two"):
        pm.run(pm.Pairs(), rated, tmp_path / f"{name}.parquet")
    with pytest.raises(pm.PrefmillError):
        pm.run(pm.Pairs(min_margin=9), rated, tmp_path / "two.parquet")
    (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
    made = {metric.name: metric.data.data_points for metric in scope.metrics}
    outcomes = {
        point.attributes["prefmill.outcome"]: point.value for point in made["prefmill.runs"]
    }
    assert outcomes == {"done": 2, "failed": 1}
    states = {point.attributes["prefmill.state"]: point.value for point in made["prefmill.rows"]}
    assert states["in"] == 6
    assert states["out"] == 2
    assert states["dropped: single_completion"] == 2
    assert sum(point.count for point in made["prefmill.run.duration"]) == 3


def test_an_exporter_that_raises_changes_nothing(rated, tmp_path, monkeypatch, caplog):
    class Broken:
        def start_span(self, *_, **__):
            raise OSError("no collector at https://me:SECRET@host/x?token=SECRET")

    monkeypatch.setattr(trace, "get_tracer", lambda *_: Broken())
    report = pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    assert report.pairs_out == 1
    ours = [record.getMessage() for record in caplog.records if record.name == "prefmill"]
    expected = "opentelemetry failed, and the run goes on without it: OSError"
    assert ours == [f"{expected}: no collector at https://host/x"]


def test_spans_of_phases_are_bounded(spans):
    @watch.watched("score")
    def work(inputs, output, *, progress):
        for number in range(500):
            progress("reading" if number % 2 else "writing", None)

    work("a", "b")
    assert len(spans.get_finished_spans()) == otel._PHASES + 1


def test_who_has_not_loaded_it_is_not_asked():
    """In a process of its own, where no test has loaded the API."""
    code = (
        "import sys, polars as pl, prefmill as pm;"
        f"pm.run(pm.Pairs(), pl.DataFrame({ROWS!r}), None);"
        "assert not [name for name in sys.modules if 'opentelemetry' in name or 'openline' in name]"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_command_ends_after_its_spans_are_sent(rated, tmp_path):
    """With an SDK that sends in batches, as `opentelemetry-instrument` sets it up."""
    code = """
import sys
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
provider = TracerProvider()
exporter = ConsoleSpanExporter(out=open(sys.argv.pop(), "w"))
provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=600_000))
trace.set_tracer_provider(provider)
from prefmill.__main__ import main
main()
"""
    arguments = ["pairs", rated, "-o", tmp_path / "pairs.parquet", "-q", tmp_path / "spans.json"]
    command = [sys.executable, "-c", code, *map(str, arguments)]
    subprocess.run(command, check=True)
    assert '"prefmill.pairs"' in (tmp_path / "spans.json").read_text()
