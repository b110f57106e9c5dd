"""Events of OpenLineage: what is sent; nothing is sent unasked, and nothing stops a run."""

from __future__ import annotations

import http.server
import json
import logging
import os
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm
from prefmill.telemetry import lineage, watch

pytest.importorskip("openlineage.client")

ROWS = {"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 3]}
PARENT = "airflow/daily.pairs/11111111-1111-4111-8111-111111111111"


@pytest.fixture(autouse=True)
def unconfigured(monkeypatch, tmp_path):
    """No configuration but the test's own; and the client's writes to the environment go."""
    for name in [name for name in os.environ if name.startswith("OPENLINEAGE")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(os.environ)
    yield
    for name in set(os.environ) - set(before):
        del os.environ[name]


@pytest.fixture
def rated(tmp_path) -> Path:
    path = tmp_path / "rated.parquet"
    pl.DataFrame(ROWS).write_parquet(path)
    return path


@pytest.fixture
def events(tmp_path, monkeypatch):
    """Events go to a file; the fixture reads them."""
    path = tmp_path / "events.jsonl"
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(path))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")

    def read() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text().splitlines()]

    return read


def test_a_run_is_a_start_and_a_complete(rated, tmp_path, events, monkeypatch):
    monkeypatch.setenv("OPENLINEAGE_PARENT_ID", PARENT)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "prod")
    target = tmp_path / "pairs.parquet"
    report = pm.run(pm.Pairs(), rated, target)
    start, complete = events()
    assert [start["eventType"], complete["eventType"]] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == complete["run"]["runId"]
    assert complete["job"]["namespace"] == "prod"
    assert complete["job"]["name"] == "daily.pairs.prefmill.pairs"
    parent = complete["run"]["facets"]["parent"]
    assert parent["job"] == {"facets": {}, "name": "daily.pairs", "namespace": "airflow"}
    assert parent["run"]["runId"] == PARENT.rpartition("/")[2]
    (given,) = complete["inputs"]
    assert (given["namespace"], given["name"]) == ("file", str(rated))
    assert given["inputFacets"]["inputStatistics"]["rowCount"] == 3
    (made,) = complete["outputs"]
    assert (made["namespace"], made["name"]) == ("file", str(target))
    told = made["outputFacets"]["outputStatistics"]
    assert (told["rowCount"], told["fileCount"]) == (report.pairs_out, 1)
    assert told["size"] == target.stat().st_size
    columns = [each["name"] for each in made["facets"]["schema"]["fields"]]
    assert columns == pl.read_parquet_schema(target).names()
    own = complete["run"]["facets"]["prefmill"]
    assert own["figures"]["dropped"] == dict(report.dropped)
    assert own["figures"]["rows_in"] == 3


def test_splits_are_outputs_of_their_own(rated, tmp_path, events):
    pl.DataFrame({**ROWS, "prompt": ["p", "p", "q"]}).write_parquet(rated)
    report = pm.run(
        pm.Pairs(), rated, tmp_path / "out", split={"train": 0.5, "test": 0.5}, allow_empty=True
    )
    _, complete = events()
    assert [each["name"] for each in complete["outputs"]] == list(report.output.values())


def test_a_failure_is_a_fail_without_the_message(rated, tmp_path, events):
    (tmp_path / "there.parquet").write_text("x")
    with pytest.raises(pm.PrefmillError, match="there"):
        pm.run(pm.Pairs(), rated, tmp_path / "there.parquet")
    _, fail = events()
    assert fail["eventType"] == "FAIL"
    error = fail["run"]["facets"]["errorMessage"]
    assert error["message"].startswith("TargetExists: The output is already there. (exit code 2;")
    assert fail["run"]["facets"]["prefmill"]["exitCode"] == 2


@pytest.mark.parametrize(("error", "code"), [(KeyboardInterrupt(), 130), (SystemExit(143), 143)])
def test_a_stopped_run_is_an_abort(events, error, code):
    @watch.watched("score")
    def work(inputs, output):
        raise error

    with pytest.raises(type(error)):
        work("in.csv", "out.csv")
    _, abort = events()
    assert abort["eventType"] == "ABORT"
    assert abort["run"]["facets"]["prefmill"]["exitCode"] == code


def test_a_run_inside_a_run_names_it(events):
    @watch.watched("score")
    def inner(inputs, output):
        watch.note(run_key="abc")

    @watch.watched("loop")
    def outer(inputs, output):
        inner("a", "b")

    outer("c", "d")
    # Each run has a thread that sends, so times are the order.
    told = sorted(events(), key=lambda event: event["eventTime"])
    start, inner_start, inner_done, _ = told
    assert inner_start["job"]["name"] == "prefmill.loop.score"
    assert inner_start["run"]["facets"]["parent"]["run"]["runId"] == start["run"]["runId"]
    assert inner_done["run"]["facets"]["prefmill"]["facts"] == {"run_key": "abc"}


def ones(batch):
    return [1.0] * len(batch)


def test_every_command_sends_both_events(rated, tmp_path, events):
    pm.run(pm.BestOf(), rated, tmp_path / "best.parquet")
    pm.rows(rated, tmp_path / "rows.parquet")
    pm.votes(rated, tmp_path / "votes.parquet")
    pm.score(rated, tmp_path / "out.parquet", scorer=ones, score_column="new")
    pm.curve(rated, resamples=10)
    told = [(each["job"]["name"], each["eventType"]) for each in events()]
    names = ["best", "rows", "votes", "score", "curve"]
    both = ("START", "COMPLETE")
    assert told == [(f"prefmill.{name}", state) for name in names for state in both]


# --- off, and broken


def test_without_configuration_there_is_no_thread_and_no_event(rated, tmp_path, monkeypatch):
    monkeypatch.setattr(lineage, "_send", lambda queue: pytest.fail("a thread was started"))
    assert not lineage.is_configured()
    pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    monkeypatch.setenv("OPENLINEAGE_URL", "http://localhost:1")
    monkeypatch.setenv("OPENLINEAGE_DISABLED", "true")
    pm.run(pm.Pairs(), rated, tmp_path / "again.parquet")


@pytest.mark.parametrize("place", ["openlineage.yml", ".openlineage/openlineage.yml"])
def test_files_configure_it_too(place, tmp_path):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("transport: {type: console}")
    assert lineage.is_configured()


def test_no_server_is_told_once_and_the_run_is_done(rated, tmp_path, monkeypatch, caplog):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    transport = f"{{type: http, url: 'http://127.0.0.1:{port}', retry: {{total: 0}}}}"
    (tmp_path / "openlineage.yml").write_text(f"transport: {transport}")
    with caplog.at_level(logging.WARNING, "prefmill"):
        report = pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    assert report.pairs_out == 1
    ours = [record.getMessage() for record in caplog.records if record.name == "prefmill"]
    assert len(ours) == 1
    assert ours[0].startswith("openlineage failed, and the run goes on without it:")


def test_a_server_that_never_answers_is_not_waited_for(rated, tmp_path, monkeypatch, caplog):
    held, done = socket.create_server(("127.0.0.1", 0)), threading.Event()
    monkeypatch.setattr(lineage, "WAIT_S", 0.2)
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{held.getsockname()[1]}")
    monkeypatch.setattr(lineage, "gave_up", lambda *_: done.set())
    with caplog.at_level(logging.WARNING, "prefmill"):
        report = pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    assert report.pairs_out == 1
    assert "openlineage: no answer in 0.2 s" in caplog.text
    held.close()  # what the thread waits for ends, so that it does too


def test_a_server_that_refuses_changes_nothing(rated, tmp_path, monkeypatch, caplog):
    class Refuses(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Refuses)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{server.server_port}")
    with caplog.at_level(logging.WARNING, "prefmill"):
        pm.run(pm.Pairs(), rated, tmp_path / "pairs.parquet")
    server.shutdown()
    server.server_close()
    assert "openlineage failed" in caplog.text
    assert (tmp_path / "pairs.parquet").exists()


def test_a_missing_package_is_told_with_what_installs_it(events, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "openlineage.client", None)

    @watch.watched("pairs")
    def work(inputs, output):
        return None

    with caplog.at_level(logging.WARNING, "prefmill"):
        work("a", "b")
    assert "pip install '.[lineage]'" in caplog.text
