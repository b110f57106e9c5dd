"""The sandbox, from outside: programs of others in child processes, bounded and watched.

Task ──json, one pipe──▶ harness.py, which closes its cage (cage.py) and runs the code
     ◀──verdicts, another pipe; output, a third──
time, output and the process itself are bounded from here
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from prefmill.errors import BadArgument

Sandbox = Literal["strict", "weak"]
#: bytes of output that are read; a program that writes more is ended
MOST_OUTPUT = 1 << 20
_HARNESS = Path(__file__).with_name("harness.py")
#: seconds for the interpreter to start and to end
_GRACE = 5.0


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What a program may take.

    Args:
        seconds: wall time of one program; its processor time is bounded by the same.
        memory_mib: of its address space.
        sandbox: `strict` runs nothing unless every lock holds; `weak` runs with those that do.
        packages: the installed packages can be imported.
    """

    seconds: float = 10.0
    memory_mib: int = 1024
    sandbox: Sandbox = "strict"
    packages: bool = False


@dataclass
class Ended:
    """How a program ended.

    said       lines of the harness: kind and text, in order
    output     what it wrote, at most `MOST_OUTPUT` bytes; error: the end of its standard error
    code       its exit code; minus a signal's number, where one ended it
    timed_out, flooded: it was ended from here, for its time or for its output
    """

    said: list[tuple[str, str]] = field(default_factory=list)
    output: bytes = b""
    error: bytes = b""
    code: int = 0
    timed_out: bool = False
    flooded: bool = False

    def kinds(self) -> dict[str, str]:
        """The lines by kind."""
        return dict(self.said)


def run_code(
    code: str,
    bounds: Bounds,
    *,
    tests: Sequence[str] | None = None,
    given: str = "",
    read: Sequence[str] = (),
) -> Ended:
    """Run `code` in the sandbox: with `tests` in one process, or as a program that reads `given`.

    `read`: further files and folders that it may read. Cost: a process, about 50 ms. Raises
    `BadArgument` where the sandbox does not hold and `bounds` are strict.
    """
    secret = secrets.token_hex(16)
    home = tempfile.mkdtemp(prefix="prefmill-sandbox-")
    try:
        task = {
            "secret": secret,
            "home": home,
            "code": code,
            "tests": None if tests is None else list(tests),
            "memory_mib": bounds.memory_mib,
            "seconds": bounds.seconds,
            "strict": bounds.sandbox == "strict",
            "packages": _packages() if bounds.packages else [],
            "read": list(read),
        }
        ended = _watched(task, home, bounds.seconds, given)
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return _believed(ended, secret)


def _believed(ended: Ended, secret: str) -> Ended:
    """The lines that begin with the secret; a refusal is raised."""
    own = []
    for kind, text in ended.said:
        mark, _, kind = kind.partition(" ")
        if mark == secret:
            own.append((kind, text))
    ended.said = own
    if refused := ended.kinds().get("refused"):
        _refuse(json.loads(refused))
    return ended


def _refuse(lacking: Mapping[str, str]) -> None:
    told = "; ".join(f"{name}: {why}" for name, why in lacking.items())
    raise BadArgument(
        f"verify: this machine cannot close the sandbox; got {told}.",
        hint="Linux 5.13 or newer on x86_64 or aarch64 can. --sandbox weak runs the code with what"
        " holds: only for code that you would run yourself.",
    )


def _packages() -> list[str]:
    """The folders of installed packages."""
    return [path for path in sys.path if path.endswith("-packages") and os.path.isdir(path)]


def _environment(home: str) -> dict[str, str]:
    """All that the child has: nothing of ours, and an order of sets that is the same every time."""
    return {
        "HOME": home,
        "TMPDIR": home,
        "PATH": "/usr/bin:/bin",
        "LANG": "C.UTF-8",
        "TZ": "UTC",
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
        "OPENBLAS_NUM_THREADS": "1",
        "OMP_NUM_THREADS": "1",
    }


class _Pipes:
    """The pipes of one child: what was not written yet, and what came."""

    def __init__(self, task: bytes, given: bytes) -> None:
        self.selector = selectors.DefaultSelector()
        self.task, self.verdicts = os.pipe(), os.pipe()
        self.unwritten = {"task": task, "given": given}
        self.came = {"verdicts": bytearray(), "output": bytearray(), "error": bytearray()}

    def watch(self, child: subprocess.Popen[bytes]) -> None:
        os.close(self.task[0])
        os.close(self.verdicts[1])
        ends = {
            "verdicts": (self.verdicts[0], selectors.EVENT_READ),
            "output": (child.stdout.fileno(), selectors.EVENT_READ),  # type: ignore[union-attr]
            "error": (child.stderr.fileno(), selectors.EVENT_READ),  # type: ignore[union-attr]
            "task": (self.task[1], selectors.EVENT_WRITE),
            "given": (child.stdin.fileno(), selectors.EVENT_WRITE),  # type: ignore[union-attr]
        }
        for name, (end, event) in ends.items():
            os.set_blocking(end, False)
            self.selector.register(end, event, name)

    def _drop(self, end: int, name: str) -> None:
        self.selector.unregister(end)
        if name in ("task", "verdicts"):
            os.close(end)

    def step(self, child: subprocess.Popen[bytes], patience: float) -> None:
        """Move what can be moved."""
        for key, _ in self.selector.select(patience):
            end, name = key.fd, key.data
            if name in self.unwritten:
                self._send(end, name, child)
                continue
            part = os.read(end, 1 << 16)
            if not part:
                self._drop(end, name)
                continue
            self.came[name] += part
            if name == "error":  # its end is what tells
                del self.came[name][:-4096]

    def _send(self, end: int, name: str, child: subprocess.Popen[bytes]) -> None:
        left = self.unwritten[name]
        try:
            left = left[os.write(end, left[: 1 << 16]) :]
        except (BrokenPipeError, ConnectionResetError):
            left = b""
        self.unwritten[name] = left
        if not left:
            self._drop(end, name)
            if name == "given":
                child.stdin.close()  # type: ignore[union-attr]

    @property
    def silent(self) -> bool:
        return not self.selector.get_map()

    def close(self) -> None:
        for key in list(self.selector.get_map().values()):
            self._drop(key.fd, key.data)
        self.selector.close()


def _watched(task: Mapping[str, Any], home: str, seconds: float, given: str) -> Ended:
    """Run the harness over `task` until it ends, or until it has to be ended."""
    ended = Ended()
    pipes = _Pipes(json.dumps(task).encode(), given.encode("utf-8", "surrogatepass"))
    with _started(pipes, home) as child:
        try:
            pipes.watch(child)
            # The clock of the code begins when the cage is closed; until then it is ours.
            deadline, begun = time.monotonic() + seconds + _GRACE, False
            while not pipes.silent:
                pipes.step(child, max(0.0, min(deadline - time.monotonic(), 1.0)))
                if not begun and pipes.came["verdicts"]:
                    deadline, begun = time.monotonic() + seconds, True
                if max(len(pipes.came["output"]), len(pipes.came["verdicts"])) > MOST_OUTPUT:
                    ended.flooded = True
                    break
                if time.monotonic() >= deadline:
                    ended.timed_out = True
                    break
            else:
                try:
                    child.wait(max(0.1, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    ended.timed_out = True
        finally:
            _end(child)
            pipes.close()
    ended.code = child.returncode
    ended.output, ended.error = bytes(pipes.came["output"]), bytes(pipes.came["error"])
    ended.said = list(_lines(bytes(pipes.came["verdicts"])))
    if ended.code == -signal.SIGXCPU:
        ended.timed_out = True
    return ended


def _started(pipes: _Pipes, home: str) -> subprocess.Popen[bytes]:
    task, verdicts = pipes.task[0], pipes.verdicts[1]
    flags = ["-S", "-s", "-P", "-B", "-X", "utf8"]
    return subprocess.Popen(
        [sys.executable, *flags, str(_HARNESS), str(task), str(verdicts)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=home,
        env=_environment(home),
        pass_fds=(task, verdicts),
        start_new_session=True,
    )


def _end(child: subprocess.Popen[bytes]) -> None:
    """End the child and whatever is in its group; it has no children of its own."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _lines(said: bytes) -> list[tuple[str, str]]:
    """`SECRET kind`, text; a line that is not one is left out."""
    lines = []
    for line in said.decode("utf-8", "replace").splitlines():
        mark, _, rest = line.partition(" ")
        kind, _, text = rest.partition(" ")
        with contextlib.suppress(ValueError):
            lines.append((f"{mark} {kind}", str(json.loads(text))))
    return lines


@functools.cache
def what_holds(bounds: Bounds) -> Mapping[str, str]:
    """The locks that do not hold on this machine, and why; raises where they must.

    >>> sorted(what_holds(Bounds(sandbox="weak")).keys() - {"namespaces"})
    []
    """
    ended = run_code("", bounds, tests=[])
    ready = ended.kinds().get("ready")
    if ready is None:
        raise BadArgument(
            f"verify: the sandbox did not start; got {ended.error.decode('utf-8', 'replace')!r}"
            f" and exit code {ended.code}."
        )
    open_still: dict[str, str] = json.loads(ready)
    return open_still
