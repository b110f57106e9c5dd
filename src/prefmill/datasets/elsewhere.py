"""A stream read in a fresh process: one that was forked has lost the threads of Polars.

The workers of a `DataLoader` are forked.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from prefmill.disk.hidden import temporary
from prefmill.errors import BadInput
from prefmill.forks import lost_threads

# What the other process runs.
_SERVE = """
import sys
sys.path[:] = sys.argv[3:]
from prefmill.datasets.elsewhere import serve
serve(*sys.argv[1:3])
"""


class Made(Protocol):
    """A stream of tables; it can be pickled."""

    @property
    def features(self) -> Any:
        """What its tables are made of."""
        ...

    def made(self) -> Iterator[pa.Table]:
        """Its tables, anew."""
        ...


def keyed_tables(stream: Made) -> Iterator[tuple[str, pa.Table]]:
    """Keys and tables of `stream`, as `ArrowExamplesIterable` wants them."""
    tables = _made_elsewhere(stream) if lost_threads() else stream.made()
    for number, table in enumerate(tables):
        yield str(number), table


def _made_elsewhere(stream: Made) -> Iterator[pa.Table]:
    import dill

    with temporary() as home:
        payload, failure = home / "stream", home / "failure"
        payload.write_bytes(dill.dumps(stream, recurse=True))
        command = [sys.executable, "-c", _SERVE, str(payload), str(failure), *sys.path]
        worker = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        assert worker.stdout is not None
        try:
            with worker.stdout:
                for batch in _batches_from(worker.stdout):
                    yield pa.Table.from_batches([batch])
            if worker.wait() != 0:
                message = f"datasets: the reading process ended with {worker.returncode}."
                raise BadInput(failure.read_text() if failure.exists() else message)
        finally:
            if worker.poll() is None:
                worker.kill()
                worker.wait()


def _batches_from(pipe: Any) -> Iterator[pa.RecordBatch]:
    try:
        yield from pa.ipc.open_stream(pipe)
    except pa.ArrowInvalid:  # it ended early; why, its exit code and its last words say
        return


def serve(payload: str, failure: str) -> None:
    """The other end of `keyed_tables`: the stream in `payload`, as Arrow IPC on stdout."""
    import dill

    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what others print does not belong in there
    try:
        stream: Made = dill.loads(Path(payload).read_bytes())
        with out, pa.ipc.new_stream(out, stream.features.arrow_schema) as file:
            for table in stream.made():
                file.write_table(table)
    except Exception as error:
        Path(failure).write_text(str(error))
        raise SystemExit(1) from None
