"""The file of a proxy: one frame, as a pool, with the record of the command."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.runs.job.opening import Reading
from prefmill.runs.records.recording import Recording
from prefmill.writers import write as writers


def written(
    frame: pl.DataFrame,
    output: str | Path,
    record: Recording,
    report: Callable[[writers.Written], Any],
    reading: Reading,
) -> None:
    """Write `frame` to `output`, whole or not at all, and its `report` into the record.

    Raises what `writers.write` raises.
    """
    writers.write(
        iter([frame]),
        frame.schema,
        output,
        format="pool",
        overwrite=record.overwrites,
        memory_bytes=reading.get("memory_bytes"),
        publish=record.publisher(report),
    )
