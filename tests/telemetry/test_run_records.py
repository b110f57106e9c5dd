"""Log records of runs: the library is silent, and what it logs has counts and no texts."""

from __future__ import annotations

import logging
import subprocess
import sys

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import prefmill as pm
from prefmill.telemetry import logs, watch
from prefmill.telemetry.facts import dataset_of, without_secrets

ROWS = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 3]}


def test_the_library_is_silent_until_logging_is_configured():
    code = f"import polars as pl, prefmill as pm; pm.run(pm.Pairs(), pl.DataFrame({ROWS!r}), None)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("", "")


def test_a_run_is_logged_with_its_counts(tmp_path, caplog):
    target = tmp_path / "pairs.parquet"
    with caplog.at_level(logging.INFO, "prefmill"):
        report = pm.run(pm.Pairs(), pl.DataFrame(ROWS), target)
    first, *phases, last = [record for record in caplog.records if record.name == "prefmill"]
    assert (first.event, first.command, first.output) == ("start", "pairs", [str(target)])
    assert {each.event for each in phases} == {"progress"}
    assert (last.event, last.run_id) == ("done", first.run_id)
    assert last.figures["dropped"] == dict(report.dropped)
    assert last.figures["pairs_out"] == 1
    assert last.output == [str(target)]


def test_progress_is_not_a_record_for_every_step(caplog, monkeypatch):
    @watch.watched("score")
    def work(inputs, output, *, progress):
        for number in range(1000):
            progress(f"{number} of 1000 rows", number / 1000)

    def records() -> int:
        return sum(getattr(record, "event", "") == "progress" for record in caplog.records)

    with caplog.at_level(logging.INFO, "prefmill"):
        work("a", "b")
        assert records() == 1
        monkeypatch.setattr(logs, "EVERY_S", 0.0)
        work("a", "b")
    assert records() == 1001


def test_the_caller_of_a_watched_function_sees_no_difference(caplog):
    seen = []

    @watch.watched("score")
    def work(inputs, output, *, progress=None):
        progress("reading", 0.5)
        return 7

    with caplog.at_level(logging.INFO, "prefmill"):
        answer = work("a", "b", progress=lambda phase, share: seen.append((phase, share)))
        assert (answer, seen) == (7, [("reading", 0.5)])
        with pytest.raises(TypeError, match="missing 1 required positional argument: 'output'"):
            work("a")


# --- no texts, no secrets

MARKER = "MARKER-OF-A-TEXT"


@pytest.mark.parametrize("on_invalid", ["drop", "raise"])
def test_no_text_of_the_data_is_in_any_record(on_invalid, tmp_path, caplog, monkeypatch):
    """Texts stand where messages and notes of reports quote them: scores, labels, prompts."""
    rows = {
        "prompt": [f"{MARKER} p", f"{MARKER} p", f"{MARKER} q"],
        "completion": [f"{MARKER} a", f"{MARKER} b", None],
        "score": [f"{MARKER} 5", "1", "2"],
    }
    spans = pytest.importorskip("opentelemetry.sdk.trace")
    from opentelemetry import trace
    from opentelemetry.sdk.trace import export
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    provider, exporter = spans.TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(export.SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "_TRACER_PROVIDER", provider)
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(tmp_path / "events"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    pl.DataFrame(rows).write_csv(tmp_path / "rated.csv")
    plan = pm.Pairs(chosen_min=None, rejected_below=None, on_invalid=on_invalid)
    raised = ""
    with caplog.at_level(logging.DEBUG, "prefmill"):
        try:
            pm.run(plan, tmp_path / "rated.csv", tmp_path / "pairs.parquet", allow_empty=True)
        except pm.PrefmillError as error:
            raised = str(error)
    assert (MARKER in raised) == (on_invalid == "raise")  # else this test would show nothing
    told = [repr(vars(record)) for record in caplog.records if record.name == "prefmill"]
    told += [span.to_json() for span in exporter.get_finished_spans()]
    told.append((tmp_path / "events").read_text())
    assert len(told) > 4
    assert not [each for each in told if MARKER in each]
    provider.shutdown()


WORD = st.text("abcXYZ019-_~", min_size=1, max_size=8)


@given(scheme=st.sampled_from(["s3", "https", "gs", "postgres"]), host=WORD, path=WORD, name=WORD)
def test_credentials_of_urls_are_told_nowhere(scheme, host, path, name):
    url = f"{scheme}://user:SECRET@{host}/{path}/{name}.parquet?token=SECRET#SECRET"
    assert without_secrets(f"of {url} no") == f"of {scheme}://{host}/{path}/{name}.parquet no"
    assert dataset_of(url) == (f"{scheme}://{host}", f"{path}/{name}.parquet")
