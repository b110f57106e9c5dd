"""Nothing of the data reaches a terminal as a command to it."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from command import prefmill
from serving import server

from prefmill.shown import in_json, shown

#: An escape sequence, a bell, a C1 introducer, a bidirectional override and a byte order mark.
EVIL = "\x1b[31m\x07\x9b31m\u202eevil\ufeff"
COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff]")


def clean(text: str) -> None:
    assert "evil" in text, text
    assert not COMMANDS.search(text.replace("\r\n", "\n")), repr(text)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(path: str, *, name: str = "score", prompt: str = "p") -> None:
    frame = pl.DataFrame({"prompt": [prompt] * 2, "completion": ["a", "b"], name: [5, 1]})
    with open(path, "wb") as file:
        frame.write_ndjson(file)


def test_names_of_files_and_columns(here: Path) -> None:
    rows(f"{EVIL}.jsonl", name=f"score {EVIL}")
    for words in (
        ("pairs", f"{EVIL}.jsonl", "-o", f"out {EVIL}.jsonl"),  # no column for the score
        ("pairs", f"{EVIL}.jsonl", "-o", f"out {EVIL}.jsonl", "--score", f"score {EVIL}"),
        ("check", f"{EVIL}.jsonl", "--score", f"score {EVIL}"),
        ("sql", f"FROM '{EVIL}.jsonl'", "--json"),
        ("sql", f'SELECT "{EVIL}"'),
        ("pairs", f"{EVIL}.nothing", "-o", "x.jsonl"),
        ("pairs", f"{EVIL}.jsonl", "-o", "x.jsonl", f"--{EVIL}"),
        (EVIL,),
    ):
        done = prefmill(*words)
        clean(done.stderr + done.stdout)


def test_texts_of_data(here: Path) -> None:
    (here / "in.csv").write_text(f"prompt,completion,score\np,a,{EVIL}\np,b,1\n")
    rows("rows.jsonl", prompt=EVIL)
    for words in (
        ("pairs", "in.csv", "-o", "x.jsonl", "--on-invalid", "raise"),
        ("sql", "FROM preference_pairs('rows.jsonl')", "--json"),
        ("sql", f"SELECT '{EVIL}'::INTEGER"),
        ("rows", "rows.jsonl", "--completion", f"{EVIL}[0]", "-o", "y.jsonl"),
    ):
        done = prefmill(*words)
        clean(done.stderr + done.stdout)


def test_json_keeps_its_values(here: Path) -> None:
    rows("rows.jsonl", prompt=EVIL)
    done = prefmill("sql", "FROM 'rows.jsonl'", "--json")
    assert json.loads(done.stdout.splitlines()[0])["prompt"] == EVIL


def test_what_a_server_says(here: Path) -> None:
    rows("rows.jsonl")
    with server(lambda *_: (400, {}, f"no such model {EVIL}".encode())) as url:
        done = prefmill(
            *("score", "rows.jsonl", "-o", "x.parquet", "--scorer", "judge", "--model", EVIL),
            *("--url", url, "--score-column", "judged"),
        )
    assert done.returncode
    clean(done.stderr)


def test_tables_and_rows_on_a_terminal(here: Path) -> None:
    rows("rows.jsonl", prompt=EVIL)
    for words in (
        ("sql", "FROM 'rows.jsonl'"),
        ("pairs", "rows.jsonl", "-o", "-", "--quiet"),
    ):
        mine, other = pty.openpty()
        command = [sys.executable, "-m", "prefmill", *words]
        child = subprocess.Popen(command, stdout=other, stderr=other)
        os.close(other)
        text = b""
        try:
            while piece := os.read(mine, 65536):
                text += piece
        except OSError:  # how a terminal ends
            pass
        finally:
            os.close(mine)
        assert child.wait() == 0, text
        clean(text.decode())


def test_ordinary_texts_stay() -> None:
    text = "é 中文 🙂\u200d🙂 \u00a0 ñ\n\t"
    assert shown(text) == text
    assert in_json('"a\U000e0001\x9b"') == '"a\\udb40\\udc01\\u009b"'
    assert json.loads(in_json('"a\U000e0001\x9b"')) == "a\U000e0001\x9b"
