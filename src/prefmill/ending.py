"""How a command ends: in time after a signal, with its exit code and a word of the cause."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType

from prefmill.shown import shown

#: Seconds that a command has for ending by itself after SIGTERM or Ctrl-C, and then for removing
#: its temporary folders.
GRACE, CLEANING = 3.0, 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|os error (?:28|122|27)\b"
)
_FAILED_WORDS = re.compile(r"Input/output error|os error 5\b")
_ENGINES = ("duckdb", "_duckdb", "polars", "pyarrow")
_MAKE_ROOM = "\nHint: free space there, or name another place: -o, --temp-dir."
_ELSEWHERE = "\nHint: try again, or name another place: -o, --temp-dir."
_signal: int | None = None
_told = False
#: What is written where a command has to be ended.
LAST_WORDS = b"prefmill: stopped.\n"


def watch(abandon: Callable[[], object]) -> None:
    """From here on SIGTERM ends this process with 143, and Ctrl-C with 130, within seconds.

    Both raise in the main thread, which cleans up. Python lets them do so only between its own
    steps, and a query may take hours in one: then a thread, which the signal wakes at once, ends
    the process, after `abandon`. To be called in the main thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    waiting = (reading, abandon)
    name = "prefmill-signals"
    threading.Thread(target=_end_in_time, args=waiting, name=name, daemon=True).start()


def _stop(number: int, frame: FrameType | None) -> None:
    global _signal
    _signal = number
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    sys.exit(128 + number)


def say_stopped(more: str = "") -> None:
    """Say that a signal ended the command, and what that means; without that only once."""
    global _told
    if more or not _told:
        _told = True
        say(f"prefmill: stopped{more and f'; {more}'}.")


def stopped() -> int | None:
    """The exit code of the signal that came, if one did, whatever an engine made of it."""
    return None if _signal is None else 128 + _signal


def _end_in_time(reading: int, abandon: Callable[[], object]) -> None:
    while True:
        (number,) = os.read(reading, 1)
        if number in (signal.SIGTERM, signal.SIGINT):
            time.sleep(GRACE)
            os.write(2, LAST_WORDS)
            cleaning = threading.Thread(target=abandon, daemon=True)
            cleaning.start()
            cleaning.join(CLEANING)
            os._exit(128 + number)


def leave(code: int) -> None:
    """End the process: what was written is flushed, and nothing is taken down piece by piece.

    Handing back gigabytes page by page takes a third of a second, and engines complain when they
    are torn down after an error. A stream that takes no more makes the code 1, where it was 0.
    """
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:  # it was closed before we began
                stream.flush()
        except BrokenPipeError:
            code = code or 141
        except OSError as error:
            say(f"prefmill: {of_stream(error, stream.name)}")
            code = code or 1
    os._exit(code)


def of_stream(error: OSError, name: str) -> str:
    """What is said of a standard stream that takes no more."""
    return f"{name}: cannot be written; {error.strerror}."


def say(text: str) -> None:
    """`text` on stderr; where that takes nothing, on stdout, unless data goes there."""
    text = shown(text)
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError as error:
        for_data = [each for each in sys.argv[1:] if each in ("--json", "-") or each.endswith("=-")]
        if for_data:
            return
        with contextlib.suppress(OSError):
            print(f"{text}\nprefmill: {of_stream(error, '<stderr>')}", flush=True)


def is_full(error: BaseException) -> bool:
    """Whether a disk, or what may be written to it, is full.

    >>> is_full(OSError(28, "No space left on device")), is_full(OSError(5, "Input/output error"))
    (True, False)
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return True
    engine = type(error).__module__.split(".")[0]
    return engine in _ENGINES and _FULL_WORDS.search(str(error)) is not None


def of_disk(error: BaseException) -> str | None:
    """What is said of an error of a full or failing disk, whoever raised it; None of any other."""
    if isinstance(error, OSError) and error.errno in _FULL:
        words = os.strerror(error.errno)
        if error.filename is None and error.strerror == words:
            # Outputs are named by who writes them.
            return f"stdout or stderr: cannot be written; {words}."
        place = error.filename or "a temporary file"  # Arrow has words of its own, and no name
        hint = "" if str(place).startswith("<") else _MAKE_ROOM
        return f"{place}: cannot be written; {words}.{hint}"
    engine, text = type(error).__module__.split(".")[0], str(error).strip()
    if is_full(error):
        return f"a file cannot be written; {text.splitlines()[0]}{_MAKE_ROOM}"
    if engine in _ENGINES and _FAILED_WORDS.search(text):
        return f"the disk failed; {text.splitlines()[0]}{_ELSEWHERE}"
    return None
