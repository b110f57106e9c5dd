"""Commands end in time after a signal, and say what a full disk took: with their exit code, and
nothing else on the screen.
"""

from __future__ import annotations

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill import ending
from prefmill.writers import sinks

#: A join that no machine ends: DuckDB is in one call all the while.
LONG = "SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = 7"


def until(condition, what: str) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError(f"never came: {what}")


def started(*arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "prefmill", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("more", [(), ("--json",), ("-o", "counted.parquet")])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_long_query_ends_with_the_signal(number, code, more, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    command = started("sql", LONG, "--threads", 1, "--temp-dir", tmp_path, *more)
    until(lambda: any(tmp_path.glob("prefmill-*")), "its temporary folder")
    time.sleep(0.5)  # into the query
    command.send_signal(number)
    out, err = command.communicate(timeout=ending.GRACE + ending.CLEANING + 5)
    assert command.returncode == code, err
    assert out == ""
    assert err.startswith("prefmill: stopped")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []


def test_the_bound_is_five_seconds():
    assert ending.GRACE + ending.CLEANING < 5


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_pair_run_ends_with_the_signal(number, code, tmp_path):
    """It waits for its input, as a run waits for a slow disk."""
    os.mkfifo(tmp_path / "rows.jsonl")
    command = started(
        "pairs", tmp_path / "rows.jsonl", "-o", tmp_path / "pairs.parquet", "--temp-dir", tmp_path
    )
    until(lambda: any(tmp_path.glob("prefmill-*")), "its temporary folder")
    time.sleep(0.3)
    command.send_signal(number)
    _, err = command.communicate(timeout=10)
    assert command.returncode == code, err
    assert err.splitlines()[-1].startswith("prefmill: stopped")
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == ["rows.jsonl"]


def test_ctrl_c_while_the_command_loads_says_nothing(tmp_path, monkeypatch):
    """Nothing has begun: it ends as any command does that has no handler."""
    (tmp_path / "typer.py").write_text(
        f"import pathlib, time\npathlib.Path({str(tmp_path / 'here')!r}).touch()\ntime.sleep(60)\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}")
    command = started("pairs", "rows.jsonl", "-o", "pairs.parquet")
    until((tmp_path / "here").exists, "the import of typer")
    command.send_signal(signal.SIGINT)
    assert command.communicate(timeout=10) == ("", "")
    assert command.returncode == -signal.SIGINT


def test_no_handler_in_python(tmp_path):
    """Signals are the caller's: only the command has handlers."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    rows = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    rows.write_parquet(tmp_path / "rows.parquet")
    pm.run(pm.Pairs(), tmp_path / "rows.parquet", tmp_path / "pairs.parquet")
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == before
    assert signal.set_wakeup_fd(-1) == -1


# --- full disks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("pool") / "pool.parquet"
    draw = random.Random(0)
    texts = [f"{draw.getrandbits(400):x}" for _ in range(6000)]
    prompts, scores = [str(i // 4) for i in range(6000)], [i * 7919 % 100 for i in range(6000)]
    pl.DataFrame({"prompt": prompts, "completion": texts, "score": scores}).write_parquet(path)
    return path


def small_files() -> None:
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (40_000, 40_000)
    )  # Python ignores its signal: writes fail with EFBIG


@pytest.mark.parametrize(
    ("command", "name"),
    [
        *(("best", name) for name in ("out.parquet", "out.jsonl", "out.csv", "out.arrow", "out")),
        *(("pairs", name) for name in ("out.parquet", "out.jsonl.gz")),
        *(("advantages", name) for name in ("out.parquet",)),
    ],
)
def test_a_full_target_is_said_in_one_line(command, name, pool, tmp_path):
    extra = ["--no-thresholds"] if command == "pairs" else []
    arguments = [
        sys.executable,
        "-m",
        "prefmill",
        command,
        str(pool),
        "-o",
        str(tmp_path / name),
        "-q",
        *extra,
    ]
    done = subprocess.run(
        arguments, capture_output=True, text=True, check=False, preexec_fn=small_files
    )
    assert done.returncode == 1
    assert done.stderr.splitlines() == [
        f"prefmill: {tmp_path / name}: cannot be written; {os.strerror(errno.EFBIG)}.",
        "Hint: free space there, or name another place: -o, --temp-dir.",
    ]
    assert os.listdir(tmp_path) == []


def test_in_python_it_is_an_error_of_the_system(pool, tmp_path, monkeypatch):
    """`/dev/full` takes nothing: whatever the encoder makes of it, it comes out with its number and
    the target's name.
    """
    real = Path.open

    def full(path: Path, mode: str = "r", *args, **more):
        return real(Path("/dev/full") if mode == "wb" else path, mode, *args, **more)

    monkeypatch.setattr(sinks.Path, "open", full)
    for name in ("out.parquet", "out.jsonl", "out.arrow"):
        with pytest.raises(OSError, match="No space left on device") as raised:
            pm.run(pm.BestOf(), pool, tmp_path / name)
        assert (raised.value.errno, raised.value.filename) == (errno.ENOSPC, str(tmp_path / name))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("more", "stream", "said"),
    [
        (("-o", "a.jsonl"), "stderr", "<stderr>: cannot be written; No space left on device."),
        (
            ("-o", "a.jsonl", "--json"),
            "stdout",
            "prefmill: <stdout>: cannot be written; No space left on device.",
        ),
        (("-o", "-"), "stdout", "prefmill: <stdout>: cannot be written; No space left on device."),
    ],
)
def test_a_full_stream_is_said_on_the_other(more, stream, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}).write_parquet(
        "rows.parquet"
    )
    with open("/dev/full", "w") as full:
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: full}
        command = [sys.executable, "-m", "prefmill", "pairs", "rows.parquet", *more]
        done = subprocess.run(command, text=True, check=False, **streams)
    other = done.stdout if stream == "stderr" else done.stderr
    assert done.returncode == 1
    assert said in other
    assert "Traceback" not in other
    assert "Exception ignored" not in other


def test_data_on_stdout_stays_data(tmp_path, monkeypatch):
    """Where the rows go to stdout, a full stderr adds no line to them."""
    monkeypatch.chdir(tmp_path)
    pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}).write_parquet(
        "rows.parquet"
    )
    with open("/dev/full", "w") as full:
        command = [sys.executable, "-m", "prefmill", "pairs", "rows.parquet", "-o", "-"]
        done = subprocess.run(command, text=True, check=False, stdout=subprocess.PIPE, stderr=full)
    assert done.returncode == 1
    assert (
        done.stdout
        == '{"prompt":"p","chosen":"a","rejected":"b","chosen_score":5.0,"rejected_score":1.0}\n'
    )
