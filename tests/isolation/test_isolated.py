"""Calls in a process of their own: what comes back, what ends them, and what crashes there."""

from __future__ import annotations

import ctypes
import logging
import os
import signal
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill import errors
from prefmill.errors import BAD_ROW, BadArgument, BadRow, ExpectationFailed, RunDied
from prefmill.runs.looks.check import check

ROWS = {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}


def crash(inputs, way):
    """What a reader of native code does to its process."""
    if way == "read":
        ctypes.string_at(0)  # a real fault, in C
    if way == "abort":
        os.abort()
    if way == "exit":
        os._exit(3)
    os.kill(os.getpid(), int(way))


def fail(error):
    raise error


class Unpicklable(Exception):
    def __init__(self, first, second):
        super().__init__(f"{first} {second}")


def fail_oddly():
    raise Unpicklable("two", "words")


def tell(warning, record):
    warnings.warn(warning, stacklevel=1)
    logging.getLogger("prefmill").warning(record)
    return os.getpid()


def linger(started, left):
    """A call that takes long, and says that it began and that it was unwound."""
    try:
        Path(started).write_text(str(os.getpid()))
        time.sleep(120)
    finally:
        Path(left).write_text("unwound")


def test_the_report_comes_back(tmp_path):
    told = []
    feedback = pl.DataFrame(ROWS)
    report = pm.isolated(
        pm.run,
        pm.Pairs(),
        feedback,
        tmp_path / "pairs.parquet",
        progress=lambda phase, share: told.append(phase),
    )
    here = pm.run(pm.Pairs(), feedback, tmp_path / "here.parquet")
    passing = ("seconds", "peak_rss_mb", "output")
    same = [name for name in vars(here) if name not in passing]
    assert [getattr(report, name) for name in same] == [getattr(here, name) for name in same]
    assert report.pairs_out == 1
    assert told
    assert pl.read_parquet(tmp_path / "pairs.parquet").height == 1


def test_other_calls_come_back(tmp_path):
    source = tmp_path / "rows.parquet"
    pl.DataFrame(ROWS).write_parquet(source)
    assert pm.isolated(check, source).ok
    done = pm.isolated(
        pm.score, source, tmp_path / "scored.parquet", scorer=len_of, score_column="n"
    )
    assert done.rows_scored == 2


def len_of(batch):
    return [len(text) for text in batch["completion"].to_pylist()]


@pytest.mark.parametrize(
    ("way", "name"),
    [
        ("read", "SIGSEGV"),
        ("abort", "SIGABRT"),
        (str(int(signal.SIGKILL)), "SIGKILL"),
        (str(int(signal.SIGBUS)), "SIGBUS"),
        ("exit", "exit code 3"),
    ],
)
def test_a_death_is_an_error_that_names_it(way, name):
    with pytest.raises(RunDied) as raised:
        pm.isolated(crash, ["hostile.parquet", "b", "c", "d"], way)
    error = raised.value
    assert f"got {name}." in error.message
    assert error.message.startswith("crash: ")
    assert "'hostile.parquet', 'b', 'c' and 1 more" in error.message
    assert error.signal == getattr(signal, name, None)
    assert error.exit_code == 1
    assert ("memory" in error.hint) is (name == "SIGKILL")


ERRORS = [
    errors.BadInput("x: no; got y.", hint="do z."),
    errors.ColumnMissing.for_role("x", "score", "scor", ["score"]),
    errors.TargetExists("x: is there.", hint="--overwrite."),
    errors.PlanError("Pairs", ["one", "two"]),
    errors.RequestFailed("x: no answer.", index=3, status=503, again=True),
    errors.MissingPackage.for_extra("x", "ray", "ray"),
    errors.BatchesUnderWay("x: wait.", batches=["b"]),
    ExpectationFailed("run", ["min_rows: got 2"], held=["another"]),
    BadRow("score", "is empty", row=3, reason=next(iter(BAD_ROW)), name="row 3 of x"),
    RunDied("x: died.", hint="no.", signal=11),
    KeyError("k"),
    OSError(28, "No space left on device", "/x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_come_back_as_themselves(error):
    with pytest.raises(type(error)) as raised:
        pm.isolated(fail, error)
    came = raised.value
    assert type(came) is type(error)
    assert str(came) == str(error)
    unlike = ("__notes__", "found")  # in `found` of a bad row are errors, which equal themselves
    own, kept = (
        {name: value for name, value in vars(each).items() if name not in unlike}
        for each in (error, came)
    )
    assert kept == own
    assert getattr(came, "found", (came,))[0] is came
    assert "in fail" in came.__notes__[-1]


def test_an_error_that_cannot_travel_says_its_words():
    with pytest.raises(RuntimeError, match="Unpicklable: two words"):
        pm.isolated(fail_oddly)


def test_what_cannot_travel_is_refused_here():
    with pytest.raises(BadArgument, match="cannot go to another process") as raised:
        pm.isolated(lambda: 1)
    assert "functions of modules" in raised.value.hint


def test_warnings_and_records_come_here(caplog):
    with pytest.warns(UserWarning, match="of the child"):
        number = pm.isolated(tell, UserWarning("of the child"), "a record")
    assert "a record" in caplog.messages
    assert number != os.getpid()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_the_child_ends_with_the_parent(number, tmp_path):
    """Ctrl-C and SIGTERM let the child unwind; it also does where the parent is just gone."""
    started, left = tmp_path / "started", tmp_path / "left"
    script = tmp_path / "script.py"  # without a main guard
    script.write_text(
        "import prefmill as pm, signal, test_isolated\n"
        # Whoever runs the tests in the background of a shell had it ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"pm.isolated(test_isolated.linger, {str(started)!r}, {str(left)!r})\n"
    )
    paths = [str(Path(__file__).parent), *filter(None, sys.path)]
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        stderr=subprocess.DEVNULL,
    )
    try:
        child = int(_awaited(started))
        parent.send_signal(number)
        assert parent.wait(60) != 0
    finally:
        parent.kill()
        parent.wait()
    assert _awaited(left) == "unwound"
    _gone(child)


def _awaited(path, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if path.exists() and path.read_text():
            return path.read_text()
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def _gone(number, seconds=30):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            os.kill(number, 0)
        except ProcessLookupError:
            return
        time.sleep(0.05)
    raise AssertionError(f"process {number} is still there")


def test_what_a_dead_run_left_is_swept(tmp_path):
    temp = tmp_path / "temp"
    temp.mkdir()
    with pytest.raises(RunDied):
        pm.isolated(die_in_a_folder, temp_dir=temp)
    assert not list(temp.iterdir())


def die_in_a_folder(temp_dir):
    from prefmill.disk.hidden import temporary

    with temporary(temp_dir) as home:
        (home / "spill").write_text("much")
        assert list(temp_dir.iterdir())
        os.abort()


def test_a_script_with_a_guard_may_call_functions_of_its_own(tmp_path):
    script = tmp_path / "script.py"
    body = (
        "import prefmill as pm\n"
        "def double(x):\n    return 2 * x\n"
        "if __name__ == '__main__':\n    print(pm.isolated(double, 21))\n"
    )
    script.write_text(body)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120)
    assert done.stdout == "42\n", done.stderr


def test_it_works_in_a_thread():
    answers = []
    thread = threading.Thread(target=lambda: answers.append(pm.isolated(os.getpid)))
    thread.start()
    thread.join(60)
    assert answers
    assert answers[0] != os.getpid()


def test_it_works_in_a_forked_worker(tmp_path):
    """There Polars waits for threads that did not come along, so that a plain call is refused."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, polars as pl, prefmill as pm\n"
        "rows = pl.DataFrame({'prompt': ['p', 'p'], 'completion': ['a', 'b'], 'score': [5, 1]})\n"
        "rows.lazy().select(pl.col('score').sort()).collect()\n"
        "rows.write_parquet('rows.parquet')\n"
        "number = os.fork()\n"
        "if not number:\n"
        "    done = pm.isolated(pm.run, pm.Pairs(), 'rows.parquet', 'pairs.parquet')\n"
        "    os._exit(40 + done.pairs_out)\n"
        "sys.exit(os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]))\n"
    )
    done = subprocess.run([sys.executable, script], cwd=tmp_path, capture_output=True, timeout=120)
    assert done.returncode == 41, done.stderr
