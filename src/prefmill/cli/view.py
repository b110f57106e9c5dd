"""`prefmill view`: options of the page that shows data row by row."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

from prefmill.cli.app import command
from prefmill.cli.options import EngineReading, Inputs, Quiet, option


class _Page(Inputs):
    flags: Annotated[
        Path | None,
        option(
            metavar="FILE",
            help="Where flags are kept, for pairs --exclude.  [default: INPUT-flags.jsonl]",
        ),
    ] = None
    port: Annotated[int, option(min=0, max=65535, help="0 is a free one.")] = 0
    no_open: Annotated[bool, option("--no-open", help="Open no browser; print the address.")] = (
        False
    )
    quiet: Quiet = False


class ViewOptions(_Page, EngineReading):
    """The options of `prefmill view`."""


@command
def view(options: ViewOptions) -> None:
    """Show data row by row in a browser: pairs side by side with the words that differ, answers of
    a prompt, conversations; search, sort, filter and flag rows. Flags go to a file that
    pairs --exclude takes.

    The page is for this machine only, and its address has a secret. Ctrl-C ends it.

    \b
    prefmill view pairs.parquet
    prefmill view feedback.csv --flags wrong.jsonl --no-open
    """
    from prefmill.cli import show
    from prefmill.viewer.view import viewing

    with show.progress(quiet=options.quiet) as tell:
        server_here = viewing(
            options.inputs,
            flags=options.flags,
            port=options.port,
            progress=tell,
            **options.reading(),
        )
        server = server_here.__enter__()
    try:
        print(server.url, flush=True)
        if not options.quiet:
            print(f"view: flags go to {server.flags.path}; Ctrl-C ends it.", file=sys.stderr)
        if not options.no_open:
            import webbrowser

            threading.Thread(target=webbrowser.open, args=[server.url], daemon=True).start()
        _serve(server)
    finally:
        server_here.__exit__(None, None, None)


def _serve(server: Any) -> None:
    """Serve until Ctrl-C, which is how a page is meant to end: the exit code is 0."""
    ended = threading.Event()
    before = signal.signal(signal.SIGINT, lambda *_: ended.set())
    serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1})
    serving.daemon = True
    serving.start()
    try:
        while not ended.wait(0.2):
            pass
        server.shutdown()
    finally:
        signal.signal(signal.SIGINT, before)
