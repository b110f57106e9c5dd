"""`prefmill view`: open a file, and serve its page until it is ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Unpack

from prefmill.errors import BadArgument
from prefmill.progress import Progress
from prefmill.runs.job.opening import Reading, opened_source
from prefmill.shown import shown
from prefmill.table.roles import Inputs
from prefmill.viewer.flags import Flags
from prefmill.viewer.server import HOST, Viewer
from prefmill.viewer.table import Table


def flags_beside(inputs: Inputs) -> Path:
    """Where flags are kept unless a file is named: in this folder, under the name of the data.

    >>> flags_beside(["data/pairs.parquet"])
    PosixPath('pairs-flags.jsonl')
    """
    first = inputs[0] if isinstance(inputs, list | tuple) and inputs else inputs
    stem = Path(str(first)).name.partition(".")[0] if isinstance(first, str | Path) else ""
    return Path(f"{stem.strip('-*?[]#') or 'view'}-flags.jsonl")


@contextmanager
def viewing(
    inputs: Inputs,
    *,
    flags: str | Path | None = None,
    port: int = 0,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Iterator[Viewer]:
    """A server of the page of `inputs`, on this machine's loopback only; the caller runs it.

    Rows stay in their files: what is not Parquet is converted once, in a temporary folder. Raises
    what `prefmill.run` raises of inputs, and `BadArgument` for a port that is taken.
    """
    kept = flags_beside(inputs) if flags is None else flags
    reading["without"] = [*reading.get("without", ()), str(kept)]
    with opened_source("view", inputs, progress=progress, **reading) as (source, home):
        table = Table(source, home, memory_bytes=reading.get("memory_bytes"))
        try:
            named = ", ".join(dict.fromkeys(label for label, _ in source.inputs))
            try:
                server = Viewer(table, Flags(kept, table), shown(named)[:200], port=port)
            except OSError as error:
                raise BadArgument(
                    f"view: the port {port} of {HOST} cannot be had; {error.strerror}.",
                    hint="name another one, or leave --port out: then a free one is taken.",
                ) from None
            with server:
                yield server
        finally:
            table.close()
