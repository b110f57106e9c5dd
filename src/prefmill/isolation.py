"""A call in a process of its own, so that a crash in a hostile file costs the call alone.

    isolated(f, ...) ──pickled call──▶ python -c "...serve(FD)", a new session
                     ◀──progress, warnings, log records; at the end the answer or the error──

The pipe is the bond: who finds it closed knows that the other one is gone. No main module is
imported by the child, unless what is called stands in it.
"""

from __future__ import annotations

import logging
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from prefmill import ending
from prefmill.errors import BadArgument, RunDied

P = ParamSpec("P")
R = TypeVar("R")

_CODE = "from prefmill.isolation import serve; serve({})"
#: What functions call what they read.
_INPUTS = ("inputs", "data", "pairs", "files")
#: Seconds that a child has for its end.
_GRACE = ending.GRACE + ending.CLEANING + 1.0
_MAIN = b"__main__"
_MEMORY = (
    "the system ended it, for want of memory more often than not: give the call less"
    " (memory_bytes=, --memory-limit), or the machine more."
)
_CRASH = (
    "native code that reads these files, or a package that it loads, ended the process; read the"
    " files one by one to find the one that does it."
)


def isolated(function: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `function` in a new process: what crashes there does not take this process down.

    Args:
        function: `prefmill.run`, `score`, `sample`, `votes`, `prefmill.runs.looks.check.check`, or
            any other function of a module.
        args, kwargs: its arguments, which are pickled on their way; so is the answer. `progress`
            stays here, and is told what it would be told.

    An error of the function is raised as itself; one that cannot be pickled is a `RuntimeError`
    with its words. Warnings, and records of the logger `prefmill`, come here too. Spans of
    OpenTelemetry do not, for the process that configured them is this one. Ctrl-C and SIGTERM end
    the child before they end the call, and so does the death of this process.

    It is a guard against crashes, and no cage: the child may do what this process may. A script
    needs a main guard (`if __name__ == "__main__":`) only where the call takes functions or classes
    of the script itself, which the child then imports as `multiprocessing` does. Lambdas,
    connections and DuckDB relations cannot go to another process.

    Cost: a start of Python and the imports of the call, about a second. Raises `RunDied` where a
    signal ended the child (a crash, or the system for want of memory), `BadArgument` for what
    cannot be pickled.

    >>> import tempfile
    >>> import polars as pl
    >>> import prefmill as pm
    >>> feedback = pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     isolated(pm.run, pm.Pairs(), feedback, f"{folder}/pairs.parquet").pairs_out
    1
    """
    named = dict(cast(Mapping[str, Any], kwargs))
    progress = named.get("progress")
    if progress is not None:
        named["progress"] = None
    call = _pickled(function, args, named, relays=progress is not None)
    with _started() as (child, bond):
        answer = None
        with suppress(EOFError, ConnectionError):
            bond.send(_surroundings(call))
            bond.send_bytes(call)
            answer = _answer(bond, progress)
        with suppress(subprocess.TimeoutExpired):
            child.wait(_GRACE)
    if answer is None:
        _tidy(named)
        raise _death(function, args, named, child.returncode)
    value, error = answer
    if error is not None:
        raise error
    return cast(R, value)


def _pickled(function: Any, args: Any, named: dict[str, Any], *, relays: bool) -> bytes:
    try:
        return pickle.dumps((function, args, named, relays))
    except Exception as error:  # what breaks when it is pickled is anybody's guess
        raise BadArgument(
            f"isolated: the call cannot go to another process; {error}.",
            hint="name functions of modules, and files instead of connections and relations.",
        ) from None


def _surroundings(call: bytes) -> dict[str, Any]:
    """What the child has to know before it can unpickle the call."""
    logger = logging.getLogger("prefmill")
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    return {
        "path": sys.path,
        "main": os.path.abspath(main) if main and _MAIN in call else None,
        "level": logger.getEffectiveLevel() if logger.hasHandlers() else None,
    }


@contextmanager
def _started() -> Iterator[tuple[subprocess.Popen[str], Connection]]:
    """A child and our end of the pipe to it; neither is left."""
    ours, theirs = socket.socketpair()
    # By the path, for the call is found with it; and `-P`: the folder that we are in is not code.
    paths = os.pathsep.join(each for each in sys.path if each)
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", _CODE.format(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": paths},
        start_new_session=True,  # Ctrl-C is ours to tell
        text=True,
        errors="replace",
    )
    theirs.close()
    telling = threading.Thread(target=_tell, args=(child.stderr,), daemon=True)
    telling.start()
    bond = Connection(ours.detach())
    try:
        yield child, bond
    finally:
        _end(child)
        bond.close()
        telling.join(1.0)  # what the child started may still hold its end


def _tell(stream: Any) -> None:
    """What the child writes to stderr goes where ours goes: Python may have put something there."""
    with suppress(ValueError, OSError), stream:
        for text in stream:
            if sys.stderr is not None:
                sys.stderr.write(text)
                sys.stderr.flush()


def _answer(bond: Connection, progress: Any) -> tuple[Any, BaseException | None]:
    """The answer or the error; what comes on the way is told."""
    while True:
        kind, message = bond.recv()
        if kind == "progress":
            progress(*message)
        elif kind == "warning":
            warnings.warn(message, stacklevel=3)
        elif kind == "log":
            logging.getLogger(message.name).handle(message)
        elif kind == "error":
            return None, message
        else:
            return message, None


def _end(child: subprocess.Popen[str]) -> None:
    """End the child in time; it cleans up."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(_GRACE)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _tidy(named: Mapping[str, Any]) -> None:
    """Remove what the dead child left in its temporary folder; the rest is the next run's to do."""
    from prefmill.disk.hidden import sweep

    with suppress(Exception):
        sweep(named.get("temp_dir"))


def _death(function: Any, args: Any, named: Mapping[str, Any], code: int) -> RunDied:
    name = getattr(function, "__name__", "call")
    number = -code if code < 0 else None
    got = f"exit code {code}"
    if number is not None:
        got = signal.Signals(number).name if number in list(signal.Signals) else f"signal {number}"
    inputs = _inputs_told(function, args, named)
    return RunDied(
        f"{name}: the process of the call{inputs} ended without a word; got {got}.",
        hint=_MEMORY if number == signal.SIGKILL else _CRASH,
        signal=number,
    )


def _inputs_told(function: Any, args: Any, named: Mapping[str, Any]) -> str:
    """What was read, where it has names."""
    import inspect

    with suppress(TypeError, ValueError):
        given = inspect.signature(function).bind_partial(*args, **named).arguments
        inputs = next((given[name] for name in _INPUTS if name in given), None)
        several = inputs if isinstance(inputs, list | tuple) else [inputs]
        names = [os.fspath(each) for each in several if isinstance(each, str | Path)]
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            return f" over {', '.join(map(repr, names[:3]))}{more}"
    return ""


def portable(error: BaseException) -> BaseException:
    """`error`, or what it says if another process cannot take it."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # what breaks when it is pickled is anybody's guess
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error


# In the child


def serve(number: int) -> None:
    """The whole life of a child: one call, which comes through the file `number`."""
    from prefmill.disk.settling import abandon
    from prefmill.shown import guard

    os.set_inheritable(number, False)
    bond = Connection(number)
    ending.LAST_WORDS = b""  # the parent has them
    ending.watch(abandon)
    guard()
    sending = threading.Lock()

    def send(kind: str, message: Any) -> None:
        with sending, suppress(BrokenPipeError, ConnectionError):  # the parent is gone
            bond.send((kind, message))

    try:
        around = bond.recv()
        _settle_in(around, send)
        function, args, named, relays = _unpickled(bond.recv_bytes())
        threading.Thread(target=_watch_parent, args=(bond,), daemon=True).start()
        if relays:
            named["progress"] = lambda phase, share=None: send("progress", (phase, share))
        value = function(*args, **named)
        sys.stdout.flush()  # what goes wrong with it is an error of the call
        send("answer", value)
    except BaseException as error:
        if not ending.stopped():
            # A traceback does not go to another process.
            error.add_note("".join(traceback.format_exception(error)))
            send("error", portable(error))
    ending.leave(ending.stopped() or 0)


def _unpickled(call: bytes) -> Any:
    try:
        return pickle.loads(call)
    except Exception as error:
        raise BadArgument(
            f"isolated: the other process cannot read the call; {error}.",
            hint="put functions and classes of your own into a module that can be imported.",
        ) from None


def _settle_in(around: Mapping[str, Any], send: Callable[[str, Any], None]) -> None:
    """Be as the parent is, as far as a call can see it."""
    sys.path[:] = around["path"]
    if around["main"] is not None:
        from multiprocessing import spawn

        spawn.import_main_path(around["main"])

    def show(message: Warning | str, category: type[Warning], *_: object) -> None:
        made = message if isinstance(message, Warning) else category(message)
        send("warning", portable(made) if portable(made) is made else UserWarning(str(made)))

    warnings.showwarning = show  # type: ignore[assignment]
    if around["level"] is not None:
        from logging.handlers import QueueHandler

        class Relay(QueueHandler):
            def enqueue(self, record: logging.LogRecord) -> None:
                send("log", record)

        logger = logging.getLogger("prefmill")
        logger.setLevel(around["level"])
        logger.addHandler(Relay(cast(Any, None)))


def _watch_parent(bond: Connection) -> None:
    """End this process where the parent is gone: nobody will take the answer."""
    with suppress(EOFError, OSError):
        bond.recv_bytes()
    os.kill(os.getpid(), signal.SIGTERM)
