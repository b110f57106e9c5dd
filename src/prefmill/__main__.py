"""`python -m prefmill` and the `prefmill` command."""

from __future__ import annotations

import io
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable


def main() -> None:
    """Run the command line; exits with the codes of `docs/cli.md`."""
    if sys.argv[1:] == ["--version"]:
        from prefmill._version import __version__

        try:
            print(f"prefmill {__version__}", flush=True)
        except BrokenPipeError:
            sys.exit(_reader_gone())
        return
    # Until the command can be stopped in order, which `watch` sees to, nothing is there to end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from prefmill import ending
    from prefmill.cli.main import app
    from prefmill.disk.settling import abandon
    from prefmill.shown import guard

    # typer makes every option of every command that it knows before it looks which one is asked
    # for.
    asked = [
        known
        for known in app.registered_commands
        if sys.argv[1:2] == [known.name or getattr(known.callback, "__name__", "")]
    ]
    app.registered_commands = asked or app.registered_commands
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # the name of a file may be any bytes; JSON has the same escape
    guard()
    warnings.showwarning = _told  # type: ignore[assignment]
    as_json = _log_format(sys.argv[1:]) == "json"
    if as_json:
        from prefmill.cli import logs

        logs.as_json()
    ending.watch(abandon)
    code = _code(app)
    if "opentelemetry" in sys.modules:  # the hooks that would send what is left do not run
        from prefmill.telemetry.otel import flush

        flush()
    if ending.stopped():
        ending.say_stopped()
    code = ending.stopped() or code
    if as_json:
        logs.end(code)
    ending.leave(code)


def _log_format(arguments: list[str]) -> str:
    """The format that the arguments or the environment name.

    Asked before options are parsed: what is wrong with these is logged in it too.

    >>> _log_format(["pairs", "--log-format", "json"]), _log_format(["pairs"])
    ('json', 'text')
    """
    asked = os.environ.get("PREFMILL_LOG_FORMAT") or "text"
    for number, each in enumerate(arguments):
        if each == "--":
            break
        name, equals, value = each.partition("=")
        if name == "--log-format":
            asked = value if equals else "".join(arguments[number + 1 : number + 2])
    return asked


def _reader_gone() -> int:
    """The code of `prefmill ... | head`: nothing more to say, and nowhere to say it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 141


def _code(app: Callable[..., object]) -> int:
    """Run the command, say what went wrong, and give its exit code."""
    from prefmill import ending
    from prefmill.errors import PrefmillError

    try:
        app(prog_name="prefmill", standalone_mode=True)
    except SystemExit as done:
        if isinstance(done.__context__, BrokenPipeError):  # typer makes 1 of it
            return _reader_gone()
        return done.code if isinstance(done.code, int) else 1 if done.code else 0
    except PrefmillError as error:
        from prefmill.cli import logs

        if not logs.told(error):
            ending.say(f"prefmill: {error}")
        return error.exit_code
    except BrokenPipeError:
        return _reader_gone()
    except KeyboardInterrupt:
        ending.say_stopped("nothing was written")
        return 130
    except OSError as error:  # a full disk, a folder without permission
        ending.say(f"prefmill: {ending.of_disk(error) or error}")
        return 1
    except BaseException as error:  # a panic of an engine is no `Exception`
        if ending.stopped():  # DuckDB makes another error of it
            ending.say_stopped("nothing was written")
            return 1
        full = ending.of_disk(error)
        if full is not None:
            ending.say(f"prefmill: {full}")
            return 1
        if "OutOfMemory" in type(error).__name__:
            ending.say(
                f"prefmill: out of memory: {error}\n"
                "Hint: raise --memory-limit, or free space in --temp-dir."
            )
            return 1
        ending.say(
            traceback.format_exc()
            + "prefmill: this should not happen; please report it with the command that you ran."
        )
        return 70
    return 0


def _told(message: Warning | str, category: type[Warning], *_: object) -> None:
    """A warning of ours for people; Python's own are for developers."""
    if category is UserWarning:
        print(f"prefmill: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
