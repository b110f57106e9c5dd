"""A user's own command as a check: a row as JSON on its standard input, a verdict from its end."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prefmill.scoring.verify.checks import Verdict
from prefmill.scoring.verify.sandbox import MOST_OUTPUT


def words_of(command: str) -> list[str]:
    """The words of a command; raises `ValueError` where it has none, or no such program is."""
    words = shlex.split(command)
    if not words:
        raise ValueError("it has no words")
    if shutil.which(words[0]) is None:
        raise ValueError(f"there is no program {words[0]!r}")
    return words


def content_of_command(command: str) -> str:
    """A hash of the command and of the files that it names."""
    digest = hashlib.sha256(command.encode())
    for word in words_of(command):
        path = Path(shutil.which(word) or word)
        with contextlib.suppress(OSError):
            if path.is_file() and path.stat().st_size < 64 << 20:
                digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def commanded(command: str, row: Mapping[str, Any], seconds: float, memory_mib: int) -> Verdict:
    """The verdict of `command` on one row.

    It ends with 0: the last line that it wrote, if that is a number, else 1. It ends with another
    code: 0. It is ended for its time, or by a signal: nothing is known. Its memory and time are
    bounded, its network and files are not: it is the user's own.
    """
    line = json.dumps(row, default=str, ensure_ascii=False) + "\n"
    bound = memory_mib << 20

    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as error:
        child = subprocess.Popen(
            words_of(command),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=error,
            start_new_session=True,
        )
        if hasattr(resource, "prlimit"):
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(child.pid, resource.RLIMIT_AS, (bound, bound))
        try:
            child.communicate(line.encode("utf-8", "surrogatepass"), timeout=seconds)
            late = False
        except subprocess.TimeoutExpired:
            late = True
        finally:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        said, seen = _tail(output), _tail(error)
    if late:
        return Verdict(None, None, "check_failed: timed out")
    if child.returncode < 0:
        return Verdict(None, None, f"check_failed: signal {-child.returncode}")
    last = said.rstrip().rpartition("\n")[2].strip()
    if child.returncode:
        seen = seen.rstrip().rpartition("\n")[2].strip() or last
        return Verdict(
            0.0, None, f"refused: code {child.returncode}" + (f": {seen}" if seen else "")
        )
    return Verdict(_number(last))


def _tail(file: Any) -> str:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - min(MOST_OUTPUT, 4096)))
    text: str = file.read().decode("utf-8", "replace")
    return text[-500:]


def _number(line: str) -> float:
    try:
        value = float(line)
    except ValueError:
        return 1.0
    return value
