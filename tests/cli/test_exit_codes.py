"""Exit codes are a promise: every error has the one that docs/etl.md gives it, and no other."""

from __future__ import annotations

import os
import pickle
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from prefmill import errors
from prefmill.errors import TRY_LATER, PrefmillError, RequestFailed, StoreFailed

DOCS = Path(__file__).parents[2] / "docs"
#: Asked on the way to an answer, an error can be either: nobody answered, or the answer was no.
EITHER = (RequestFailed, StoreFailed)


def table(page: str) -> dict[int, list[str]]:
    """The errors of each exit code, as a page lists them."""
    rows = re.findall(r"^\| (\d+) \|(.*)\|$", (DOCS / page).read_text("utf-8"), re.MULTILINE)
    return {int(code): re.findall(r"`([A-Z]\w+)`", rest) for code, rest in rows}


def kinds(above: type[PrefmillError] = PrefmillError) -> list[type[PrefmillError]]:
    below = [kind for kind in above.__subclasses__() if kind.__module__.startswith("prefmill")]
    return below + [each for kind in below for each in kinds(kind)]


def test_every_error_is_in_the_row_of_its_code():
    assert {kind.__module__ for kind in kinds()} == {errors.__name__}
    listed = table("etl.md")
    expected: dict[int, list[str]] = {code: [] for code in listed}
    for kind in dict.fromkeys(kinds()):
        expected[kind.exit_code].append(kind.__name__)
        if kind in EITHER:
            expected[TRY_LATER].append(kind.__name__)
    assert {code: sorted(names) for code, names in listed.items()} == {
        code: sorted(names) for code, names in expected.items()
    }


@pytest.mark.parametrize("page", ["cli.md", "decisions/003-exit-codes.md"])
def test_other_pages_have_the_same_codes(page):
    assert set(table(page)) <= set(table("etl.md"))
    assert set(table("etl.md")) - set(table(page)) <= {141}


def test_what_airflow_reads_as_a_skip_stays_free():
    assert 99 not in table("etl.md")


@pytest.mark.parametrize("kind", EITHER)
def test_no_answer_may_be_tried_again_and_a_refusal_may_not(kind):
    refused, unanswered = kind("no"), kind("nobody", again=True)
    assert (refused.exit_code, refused.retryable) == (1, False)
    assert (unanswered.exit_code, unanswered.retryable) == (75, True)
    sent = pickle.loads(pickle.dumps(unanswered))  # from a worker
    assert sent.retryable


def test_what_a_request_was_about_keeps_that():
    assert RequestFailed("nobody", again=True).about("row 3").retryable


@pytest.mark.parametrize(
    "command", ["pairs rows.csv --no-thresholds -o -", "sql 'FROM range(200000)' --json"]
)
def test_a_reader_that_goes_away_is_141(command: str, tmp_path: Path) -> None:
    lines = [f"p{n // 2},{'a' * 300}{n},{n % 5 + 1}" for n in range(4000)]
    (tmp_path / "rows.csv").write_text("\n".join(["prompt,completion,score", *lines]))
    program = subprocess.Popen(
        [sys.executable, "-m", "prefmill", *shlex.split(command)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert program.stdout is not None
    assert program.stderr is not None
    assert program.stdout.read(5)
    program.stdout.close()
    said = program.stderr.read().decode()
    assert (program.wait(), "Traceback" in said) == (141, False), said
    program.stderr.close()


def test_the_version_for_nobody_is_141_too() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "prefmill", "--version"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, "")
