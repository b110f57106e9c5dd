"""Commands in processes of their own, which need not import everything: forks of one that has.

    python forked.py SOCKET [MODULE ...]     a server: for each request a fork runs `prefmill`

A fork has its own arguments, folder, environment, standard streams and exit code, as a command has
that a shell starts. What it does not show is how a process starts: `cli/test_startup.py` does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import importlib
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: What most commands import; none of it starts threads or reads what a test sets.
MODULES = (
    *("numpy", "duckdb", "polars", "pyarrow.parquet", "prefmill.__main__", "prefmill.cli.main"),
    *("prefmill.polars", "prefmill.runs.plan", "prefmill.runs.run", "prefmill.runs.values"),
    *("prefmill.runs.rows", "prefmill.runs.looks.check", "prefmill.runs.judges.votes"),
    "prefmill.runs.queries.query",
)


#: What commands import that load models.
OF_MODELS = ("torch", "transformers", "safetensors.torch")


class Server:
    """The process whose forks run commands; it ends with this one."""

    def __init__(self, modules: tuple[str, ...]) -> None:
        self._here, there = socket.socketpair()
        words = [sys.executable, __file__, str(there.fileno()), *modules]
        paths = os.pathsep.join(path for path in sys.path if path)
        env = {"HF_HUB_OFFLINE": "1", **os.environ, "PYTHONPATH": paths}
        self._process = subprocess.Popen(
            words, pass_fds=[there.fileno()], env=env, stdin=subprocess.DEVNULL
        )
        there.close()
        self._lock = threading.Lock()
        atexit.register(self.end)

    def end(self) -> None:
        """Let the process end, which has nobody to work for."""
        self._here.close()
        self._process.wait(timeout=60)

    def run(self, asked: Mapping[str, Any], stdin: bytes | None) -> tuple[int, bytes, bytes]:
        """Exit code, standard output and standard error of one command."""
        pipes = [os.pipe() for _ in range(3)]
        theirs = [pipes[0][0], pipes[1][1], pipes[2][1]]
        told: list[bytes] = [b"", b""]

        def write() -> None:
            with contextlib.suppress(BrokenPipeError), os.fdopen(pipes[0][1], "wb") as file:
                file.write(stdin or b"")

        def read(place: int) -> None:
            with os.fdopen(pipes[1 + place][0], "rb") as file:
                told[place] = file.read()

        with self._lock:
            socket.send_fds(self._here, [json.dumps(asked).encode() + b"\n"], theirs)
            for each in theirs:
                os.close(each)
            works = [threading.Thread(target=write)]
            works += [threading.Thread(target=read, args=(place,)) for place in (0, 1)]
            for each in works:
                each.start()
            for each in works:
                each.join()
            code = int(self._here.recv(100))
        return code, *told


@functools.cache
def server(models: bool = False) -> Server:
    """That of this process; with `models` one whose forks have what loads them."""
    return Server((*MODULES, *(OF_MODELS if models else ())))


def serve(here: socket.socket, modules: list[str]) -> None:
    """Fork for each request until nobody is there who asks."""
    for name in modules:
        importlib.import_module(name)
    while True:
        line, fds, _, _ = socket.recv_fds(here, 1 << 20, 3)
        if not line:
            return
        while not line.endswith(b"\n"):
            line += here.recv(1 << 20)
        child = os.fork()
        if not child:
            here.close()
            command(json.loads(line), fds)
        for each in fds:
            os.close(each)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        here.sendall(str(code).encode())


def command(asked: Mapping[str, Any], fds: list[int]) -> None:
    """What `python -m prefmill` does; ends the process."""
    for place, each in enumerate(fds):
        os.dup2(each, place)
        os.close(each)
    os.environ.clear()
    os.environ.update(asked["env"])
    os.chdir(asked["folder"])
    sys.path = [asked["folder"], *sys.path]  # as `python -m` begins it
    sys.argv = ["prefmill", *asked["words"]]
    files = [os.fdopen(place, mode, closefd=False) for place, mode in enumerate(("r", "w", "w"))]
    sys.stdin, sys.stdout, sys.stderr = files
    files[2].reconfigure(errors="backslashreplace", line_buffering=True)
    from prefmill.__main__ import main

    code = 1
    try:
        main()
        code = 0
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else 1 if done.code else 0
    finally:
        for each in files[1:]:
            with contextlib.suppress(OSError, ValueError):
                each.flush()
        os._exit(code)


if __name__ == "__main__":  # pytest imports every file, for doctests
    assert isinstance(sys.stdout, io.TextIOBase)
    sys.path.remove(str(Path(__file__).parent))  # a command's path begins with its folder
    serve(socket.socket(fileno=int(sys.argv[1])), sys.argv[2:])
