"""Child processes for checks that may take for ever: mathematics, regular expressions, schemas.

    Workers.ask(rows) ──a line of JSON for a row──▶ python -m prefmill.scoring.verify.workers
                      ◀──a verdict; where none comes in time the child is ended──

A child serves one row at a time, and so many rows as come; it ends with our end of its pipe.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import select
import signal
import subprocess
import sys
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

from prefmill.scoring.verify.checks import Settings, Verdict, verdict

#: address space of a child, in MiB
_MEMORY_MIB = 4096
#: seconds for a child to start, on a busy machine
_START = 60.0


class _Late(BaseException):
    """The alarm rang; no `except Exception` of a library holds it up."""


class Worker:
    """One child, started on the first row and again after it was ended."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.child: subprocess.Popen[bytes] | None = None
        self._close: Callable[[], object] = lambda: None

    def _start(self) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps(asdict(self.settings))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            start_new_session=True,
        )
        self._close = weakref.finalize(self, _ended, child)
        self.child = child
        if self._line(child, _START) is None:
            self._close()
            self.child = None
        return child

    def _line(self, child: subprocess.Popen[bytes], seconds: float) -> bytes | None:
        """The next line, or None where none comes: out of time, or the child is gone."""
        end, parts = child.stdout, bytearray()
        assert end is not None
        while select.select([end], [], [], seconds)[0]:
            part = os.read(end.fileno(), 1 << 16)
            if not part:
                return None
            parts += part
            if parts.endswith(b"\n"):
                return bytes(parts)
        return None

    def ask(self, text: str, gold: Any) -> Verdict:
        """The child's verdict on one row."""
        child = self.child or self._start()
        line = json.dumps({"text": text, "gold": gold}, default=str).encode() + b"\n"
        answer = None
        with contextlib.suppress(BrokenPipeError):
            child.stdin.write(line)  # type: ignore[union-attr]
            child.stdin.flush()  # type: ignore[union-attr]
            # The child's own alarm comes first, where it can.
            answer = self._line(child, self.settings.seconds + 2)
        if answer is not None:
            return Verdict(**json.loads(answer))
        late = child.poll() is None
        self._close()
        self.child = None
        return Verdict(None, None, f"check_failed: {'timed out' if late else 'the check died'}")


def _ended(child: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    for end in (child.stdin, child.stdout):
        with contextlib.suppress(BrokenPipeError):
            end.close()  # type: ignore[union-attr]
    child.wait()


class Workers:
    """So many children, which share the rows of a batch."""

    def __init__(self, settings: Settings, count: int) -> None:
        self.count = count
        self._free: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for _ in range(count):
            self._free.put(Worker(settings))

    def _one(self, row: tuple[str, Any]) -> Verdict:
        worker = self._free.get()
        try:
            return worker.ask(*row)
        finally:
            self._free.put(worker)

    def ask(self, rows: Sequence[tuple[str, Any]]) -> list[Verdict]:
        """The verdicts on rows, in their order."""
        with ThreadPoolExecutor(self.count, thread_name_prefix="prefmill-verify") as threads:
            return list(threads.map(self._one, rows))


def _serve(settings: Settings) -> None:
    """Answer every line of standard input by one line, until it ends."""
    import resource

    most = resource.getrlimit(resource.RLIMIT_AS)[1]
    bound = _MEMORY_MIB << 20
    if most == resource.RLIM_INFINITY or bound < most:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_AS, (bound, most))

    def ring(number: int, frame: object) -> None:
        raise _Late

    signal.signal(signal.SIGALRM, ring)
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # what libraries print is no verdict
    out.write(b"ready\n")
    for line in sys.stdin.buffer:
        row = json.loads(line)
        out.write(json.dumps(_timed(settings, row)._asdict()).encode() + b"\n")


def _timed(settings: Settings, row: dict[str, Any]) -> Verdict:
    signal.setitimer(signal.ITIMER_REAL, settings.seconds)
    try:
        found = verdict(settings, row["text"], row["gold"])
        signal.setitimer(signal.ITIMER_REAL, 0)
        return found
    except _Late:
        return Verdict(None, None, "check_failed: timed out")
    except MemoryError:
        return Verdict(None, None, "check_failed: out of memory")
    except Exception as error:
        return Verdict(None, None, f"check_failed: {type(error).__name__}: {error}"[:300])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


if __name__ == "__main__":
    _serve(Settings(**json.loads(sys.argv[1])))
