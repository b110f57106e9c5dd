"""A server for one policy, while it samples.

The recipe's `serve` command starts it; without one, the server that is there is checked to be the
right one.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from prefmill.errors import BadInput
from prefmill.loops.recipe import SampleSection

WAIT = 1800.0  # seconds that a server may take to load a model
#: Becomes the command, on Linux: a killed loop leaves no server that answers for an old policy.
#: A program of its own, since a fork of this process would take the state of threads along.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
os.execvp(sys.argv[1], sys.argv[1:])
"""


@contextmanager
def served(section: SampleSection, policy: str, *, wait: float = WAIT) -> Iterator[None]:
    """The server at [sample] url answers for `policy` inside this context.

    Without a url there is nothing to do. `serve` is a command line in which {model} is the policy's
    folder: it is started here, without a shell, and ended afterwards. Without it a server must
    already be there and offer the policy under its name. Raises `BadInput` where no server answers,
    or it offers other models.
    """
    url = section.sampler.get("url")
    if url is None:
        yield
    elif section.serve is None:
        _check_there(str(url), str(section.sampler.get("model") or policy))
        yield
    else:
        process = _started(str(url), section.serve, policy)
        try:
            _wait_for(process, str(url), section.serve, wait)
            yield
        finally:
            _end(process)


def _check_there(url: str, name: str) -> None:
    offered = _models(url)
    if offered is None:
        raise BadInput(
            f"loop: no server answers at {url!r}.",
            hint="start it, or give [sample] serve: the command that does.",
        )
    if offered and name not in offered:
        raise BadInput(
            f"loop: the server at {url!r} offers other models; got {offered}, expected {name!r}.",
            hint="serve that folder under that name, then the same command goes on;"
            " or give [sample] serve.",
        )


def _started(url: str, serve: str, policy: str) -> subprocess.Popen[bytes]:
    if _models(url) is not None:
        raise BadInput(
            f"loop: a server that this loop did not start answers at {url!r}.",
            hint="end it, or leave [sample] serve out.",
        )
    command = [part.replace("{model}", policy) for part in shlex.split(serve)]
    try:
        if sys.platform == "linux" and shutil.which(command[0]):
            command = [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, *command]
        return subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise BadInput(
            f"loop: [sample] serve cannot be started; got {serve!r}: {error.strerror}."
        ) from None


def _models(url: str) -> list[str] | None:
    """The names that the server offers; [] where it does not tell, None where nothing answers."""
    try:
        with urllib.request.urlopen(f"{url.rstrip('/')}/models", timeout=10) as answer:
            return [str(each["id"]) for each in json.load(answer)["data"]]
    except (urllib.error.HTTPError, ValueError, KeyError, TypeError):
        return []
    except OSError:
        return None


def _wait_for(process: subprocess.Popen[bytes], url: str, command: str, wait: float) -> None:
    until = time.monotonic() + wait
    while _models(url) is None:
        if process.poll() is not None:
            raise BadInput(
                f"loop: the server ended by itself with code {process.returncode};"
                f" its command is {command!r}."
            )
        if time.monotonic() > until:
            raise BadInput(
                f"loop: no server answered at {url!r} for {wait:.0f} s; its command is {command!r}."
            )
        time.sleep(0.2)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server and the processes that it started, which are a session of their own."""
    patience = 30.0 if sys.exception() is None else 1.0
    for sign, wait in ((signal.SIGTERM, patience), (signal.SIGKILL, 10.0)):
        try:
            os.killpg(process.pid, sign)
            process.wait(wait)
            break
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()
