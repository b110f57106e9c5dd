"""No secret leaves a run: markers stand wherever a secret can, and are looked for in all it tells.

stdout, stderr (also as JSON), log records, errors, records, ledgers, reports, cards, lineage events
and spans. A secret of the data, which is no secret to us, may stand in the rows alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import traceback
from pathlib import Path

import polars as pl
import pytest
from command import prefmill
from hypothesis import given
from hypothesis import strategies as st
from serving import chat, server

import prefmill as pm
from prefmill.__main__ import _code
from prefmill.cli.main import app
from prefmill.datasets.cards import card
from prefmill.errors import BadInput, RequestFailed
from prefmill.redact import redacted, without_secrets
from prefmill.shown import Shown

MARK = "MARKERofSECRET"
ROWS = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}
#: Ends before any network: no store, no package, no host has that name.
HTTP = f"https://me:{MARK}1@127.0.0.1:9"
VARIABLES = (
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "HF_TOKEN",
    "OPENAI_API_KEY",
    "AZURE_STORAGE_ACCOUNT_KEY",
    "OPENLINEAGE_API_KEY",
    "MY_SERVERS_KEY",
    "DB_PASSWORD",
)
COMMANDS = (
    ("pairs", f"{HTTP}/x.parquet?sig={MARK}2", "-o", "o.parquet"),
    ("pairs", f"{HTTP}/x.csv?sig={MARK}2", "-o", "o.parquet"),
    ("pairs", f"{HTTP}/x.docx?sig={MARK}2", "-o", "o.parquet"),
    ("check", f"{HTTP}/x.jsonl?sig={MARK}2", "--json"),
    ("pairs", "in.parquet", "-o", f"{HTTP}/o.parquet?sig={MARK}2"),
    ("pairs", "in.parquet", "-o", f"s3://me:{MARK}1@bucket/o.parquet"),
    ("pairs", f"s3://me:{MARK}1@bucket/o.parquet", "-o", "o.parquet"),
    ("pairs", f"ftp://me:{MARK}1@host/o.parquet", "-o", "o.parquet"),
    ("pairs", f"postgresql://me:{MARK}1@127.0.0.1:9/db?password={MARK}2#t", "-o", "o.parquet"),
    ("pairs", f"postgres:host=127.0.0.1 port=9 password={MARK}1#t", "-o", "o.parquet"),
    ("pairs", f"postgresql://me:{MARK}1@127.0.0.1:9/db", "-o", "o.parquet"),
    ("pairs", "in.parquet", "-o", f"postgresql://me:{MARK}1@127.0.0.1:9/db#t"),
    ("pairs", "in.parquet", "-o", f"iceberg:s3://me:{MARK}1@bucket/t"),
    ("pairs", "in.parquet", "-o", "o1.parquet", "--join", f"{HTTP}/x.csv?sig={MARK}2:id"),
    ("pairs", "in.parquet", "-o", "o1.parquet", "--rejects", f"{HTTP}/x.csv?sig={MARK}2"),
    ("pairs", "in.parquet", "-o", "o1.parquet", "--plan", f"{HTTP}/x.toml?sig={MARK}2"),
    ("sql", f"FROM '{HTTP}/x.parquet?sig={MARK}2'"),
    ("sql", "FROM x", f"x={HTTP}/x.parquet?sig={MARK}2"),
    ("sql", "FROM pool", f"postgresql://me:{MARK}1@127.0.0.1:9/db#t"),
    ("score", "in.parquet", "-o", "s.parquet", "--url", f"{HTTP}/v1", "--model", "m"),
    ("score", "in.parquet", "-o", "s.parquet", "--model", f"{HTTP}/m?x={MARK}2"),
    ("rows", f"{HTTP}/x.csv?sig={MARK}2", "--sql"),
    ("votes", f"{HTTP}/x.csv?sig={MARK}2", "-o", "x.csv"),
    ("curve", f"{HTTP}/x.csv?sig={MARK}2", "--plot", f"{HTTP}/x.png?sig={MARK}2"),
    ("runs", f"{HTTP}/x?sig={MARK}2"),
)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in VARIABLES:
        monkeypatch.setenv(name, f"{MARK}of{name}")
    pl.DataFrame(ROWS).write_parquet("in.parquet")
    return tmp_path


def leaks_in(folder: Path) -> list[str]:
    """Files of a folder, hidden ones too, that hold a marker."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [str(path) for path in files if MARK.encode() in path.read_bytes()]


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: " ".join(words)[:40])
def test_a_command_that_fails_tells_none(
    words: tuple[str, ...],
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("sys.argv", ["prefmill", *words])
    out, err = io.StringIO(), io.StringIO()
    with (
        caplog.at_level(logging.DEBUG),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = _code(app)
    assert code in (1, 2, 75)
    assert err.getvalue().startswith("prefmill: ")  # an error of ours, and not a traceback
    assert MARK not in out.getvalue() + err.getvalue()
    assert not [vars(record) for record in caplog.records if MARK in repr(vars(record))]
    assert leaks_in(here) == []


def test_a_run_that_ends_well_tells_none(
    here: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A server is asked with a key, and with fields of requests that hold secrets."""
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__TYPE", "file")
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__LOG_FILE_PATH", str(here / "events"))
    monkeypatch.setenv("OPENLINEAGE__TRANSPORT__APPEND", "true")
    asked: list[tuple[object, str]] = []

    def answer(path: str, body: object, headers: dict[str, str]) -> tuple[int, dict, object]:
        asked.append((body, headers["authorization"]))
        return 200, {}, chat("an answer")

    with server(answer) as url, caplog.at_level(logging.DEBUG):
        sampler = pm.EndpointSampler(
            url=f"{url}/v1",
            model="m",
            api_key_env="MY_SERVERS_KEY",
            extra={"api_key": f"{MARK}4", "meta": {"Authorization": f"Bearer {MARK}5"}},
        )
        report = pm.sample("in.parquet", "pool.jsonl", sampler=sampler, n=1)
    assert MARK in repr(asked[0][0])
    assert asked[0][1] == f"Bearer {MARK}ofMY_SERVERS_KEY"
    assert (here / "events").read_text().count("COMPLETE") == 1
    assert list(here.rglob("manifest.json"))
    assert leaks_in(here) == []
    assert MARK not in json.dumps(report.as_json())
    assert not [vars(record) for record in caplog.records if MARK in repr(vars(record))]


def test_a_server_that_says_the_key_back_is_not_repeated(here: Path) -> None:
    said = {"error": {"message": f"bad key {MARK}ofMY_SERVERS_KEY, Bearer {MARK}ofMY_SERVERS_KEY"}}
    with server(lambda path, body, headers: (401, {}, said)) as url:
        sampler = pm.EndpointSampler(url=f"{url}/v1", model="m", api_key_env="MY_SERVERS_KEY")
        with pytest.raises(RequestFailed) as refused:
            pm.sample("in.parquet", "pool.jsonl", sampler=sampler, n=1)
    assert MARK not in "".join(traceback.format_exception(refused.value))
    assert leaks_in(here) == []


def test_json_logs_of_a_process_of_its_own(here: Path) -> None:
    target = f"{HTTP}/o.parquet?sig={MARK}2"
    done = prefmill("pairs", "in.parquet", "-o", target, "--log-format", "json")
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert lines[-1]["exit_code"] == 2
    assert "https://127.0.0.1:9/o.parquet" in done.stderr
    assert MARK not in done.stdout + done.stderr


def test_stderr_holds_back_what_libraries_write(here: Path) -> None:
    stream = Shown(io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), hides=True)
    print(
        f"Traceback: IOError: {HTTP}/x?sig={MARK} password='{MARK}' {MARK}ofHF_TOKEN", file=stream
    )
    stream.flush()
    assert stream.buffer.getvalue() == (
        b"Traceback: IOError: https://127.0.0.1:9/x password=*** ***\n"
    )


def test_a_card_names_its_source_without_secrets() -> None:
    report = pm.pair_report(pl.DataFrame(ROWS))
    made = card(pm.Pairs(), report, source=f"{HTTP}/x.parquet?sig={MARK}")
    assert "https://127.0.0.1:9/x.parquet" in made
    assert MARK not in made


SECRET = st.text("abcXYZ019-_.~%+=", min_size=1, max_size=12).map(lambda text: f"{MARK}{text}")
AROUND = st.sampled_from(["", "'", '"', "(", ", ", "got "])


@given(SECRET, AROUND, st.sampled_from(["https", "s3", "postgresql", "hf"]), st.booleans())
def test_no_url_keeps_its_secrets(secret: str, before: str, scheme: str, in_json: bool) -> None:
    text = f"{before}{scheme}://me:{secret}@host/x.parquet?a=1&sig={secret}{before} is it."
    told = without_secrets(json.dumps(text) if in_json else text)
    assert MARK not in told
    assert f"{scheme}://host/x.parquet" in told
    assert told.rstrip('"').endswith(" is it.")
    assert not in_json or json.loads(told)
    assert without_secrets(told) == told
    assert MARK not in str(BadInput(text, hint=text))
    assert redacted({"a": [text], "b": {"api_key": secret}, "pad_token": "x"}) == {
        "a": [redacted(text)],
        "b": {"api_key": "***"},
        "pad_token": "x",
    }


@given(st.text(st.sampled_from("abc /?:@#'\"=.\\"), max_size=30))
def test_texts_without_urls_stay(text: str) -> None:
    assert ":/" in text or without_secrets(text) == text


def test_a_short_value_of_a_variable_is_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_PASSWORD", "postgres")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", os.path.abspath("a-file-of-credentials"))
    text = f"postgres: no file {os.path.abspath('a-file-of-credentials')}"
    assert without_secrets(text) == text
