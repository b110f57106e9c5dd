"""`python -m prefmill` and the `prefmill` command."""

from __future__ import annotations

import os
import signal
import sys
import traceback
import warnings


def main() -> None:
    """Run the command line; exits with the codes of `docs/cli.md`."""
    if sys.argv[1:] == ["--version"]:
        from prefmill._version import __version__

        print(f"prefmill {__version__}")
        return
    from prefmill.cli import app
    from prefmill.errors import PrefmillError

    # typer makes every option of every command that it knows before it looks which one is asked for.
    asked = [known for known in app.registered_commands if sys.argv[1:2] == [known.name or known.callback.__name__]]  # type: ignore[union-attr]
    app.registered_commands = asked or app.registered_commands
    warnings.showwarning = _told
    # A job scheduler's SIGTERM must clean up as Ctrl-C does: temporary files go, the old output stays.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app(prog_name="prefmill", standalone_mode=True)
    except SystemExit as done:
        # Everything is written and closed: without this, handing back gigabytes page by page takes a third of a second.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(done.code if isinstance(done.code, int) else 1 if done.code else 0)
    except PrefmillError as error:
        print(f"prefmill: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # `prefmill ... | head`: nothing more to say, and nowhere to say it
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:  # a full disk, a folder without permission
        print(f"prefmill: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("prefmill: stopped; nothing was written.", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        if "OutOfMemory" in type(error).__name__:
            print(f"prefmill: out of memory: {error}\nHint: raise --memory-limit, or free space in --temp-dir.", file=sys.stderr)
            sys.exit(1)
        traceback.print_exc()
        print("prefmill: this should not happen; please report it with the command that you ran.", file=sys.stderr)
        sys.exit(70)


def _told(message: Warning | str, category: type[Warning], *_: object) -> None:
    """A warning of ours for people; Python's own are for developers."""
    if category is UserWarning:
        print(f"prefmill: {message}", file=sys.stderr)


if __name__ == "__main__":
    main()
