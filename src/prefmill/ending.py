"""How a command ends: in time after a signal, with its exit code, and with a word of the cause
where that can be said.
"""

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

#: Seconds that a command has for ending by itself after SIGTERM or Ctrl-C, and then for removing
#: its temporary folders.
GRACE, CLEANING = 3.0, 1.0
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_FULL_WORDS = re.compile(
    r"No space left on device|Disk quota exceeded|File too large|os error (?:28|122|27)\b"
)
_signal: int | None = None


def watch(abandon: Callable[[], object]) -> None:
    """From here on SIGTERM ends this process with 143, and Ctrl-C with 130, at the latest a few
    seconds later.

    Both raise in the main thread, which cleans up. Python lets them do so only between its own
    steps, and a query may take
    hours in one: then a thread, which the signal wakes at once, ends the process. To be called in
    the main thread.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(
        target=_end_in_time, args=(reading, abandon), name="prefmill-signals", daemon=True
    ).start()


def _stop(number: int, frame: FrameType | None) -> None:
    global _signal
    _signal = number
    if number == signal.SIGINT:
        signal.default_int_handler(number, frame)
    sys.exit(128 + number)


def stopped() -> int | None:
    """The exit code of the signal that came, whatever an engine made of the exception; None where
    none came.
    """
    return None if _signal is None else 128 + _signal


def _end_in_time(reading: int, abandon: Callable[[], object]) -> None:
    while True:
        (number,) = os.read(reading, 1)
        if number in (signal.SIGTERM, signal.SIGINT):
            time.sleep(GRACE)
            os.write(2, b"prefmill: stopped.\n")
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
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError as error:
        arguments = sys.argv[1:]
        if (
            "--json" in arguments
            or "-" in arguments
            or any(each.endswith("=-") for each in arguments)
        ):
            return
        with contextlib.suppress(OSError):
            print(f"{text}\nprefmill: {of_stream(error, '<stderr>')}", flush=True)


def full_disk(error: BaseException) -> str | None:
    """What is said of an error that is a full disk, whoever raised it; None where it is none."""
    if isinstance(error, OSError) and error.errno in _FULL:
        said = os.strerror(error.errno)
        if (
            error.filename is None and error.strerror == said
        ):  # outputs are named by who writes them
            return f"stdout or stderr: cannot be written; {said}."
        place = error.filename or "a temporary file"  # Arrow has words of its own, and no name
        hint = (
            ""
            if str(place).startswith("<")
            else "\nHint: free space there, or name another place: -o, --temp-dir."
        )
        return f"{place}: cannot be written; {said}.{hint}"
    if _FULL_WORDS.search(str(error)) and type(error).__module__.split(".")[0] in (
        "duckdb",
        "_duckdb",
        "polars",
        "pyarrow",
    ):
        first = str(error).strip().splitlines()[0]
        return f"a file cannot be written; {first}\nHint: free space there, or name another place: -o, --temp-dir."
    return None
