"""What workers do with a chunk: score it, or answer its prompts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import polars as pl
import pyarrow as pa

from prefmill.models.contract import OnBadRow
from prefmill.pools.pool import Chunk
from prefmill.runs.resumable.answers import Answering
from prefmill.runs.resumable.devices import columns_of
from prefmill.runs.workers.worker import Made, packed_batch, unpacked_batch
from prefmill.sampling.samplers import Sampler
from prefmill.sampling.seeds import Asked
from prefmill.scoring.bad_rows import RowGuard
from prefmill.scoring.scorers import Staged

_OF_PARTS = ("fingerprint", "shape", "printed_date")


@dataclass(frozen=True)
class ScoreJob:
    """Chunks of a pool, by a scorer."""

    part: Staged
    on_bad_row: OnBadRow
    facts: ClassVar[tuple[str, ...]] = (
        *_OF_PARTS,
        "columns",
        "texts",
        "lists",
        "compares",
        "over_pool",
        "reads",
        "chunk_tokens",
    )

    def on(self, part: Any) -> Self:
        """The same with another scorer."""
        return replace(self, part=part)

    def pack(self, chunk: Chunk) -> Any:
        """Number, positions and rows."""
        return chunk.number, chunk.positions, packed_batch(chunk.batch)

    def prepare(self, packed: Any) -> Any:
        """The scorer's first half."""
        number, positions, rows = packed
        chunk = Chunk(number, positions, unpacked_batch(rows))
        return chunk, RowGuard(self.part, self.on_bad_row).prepare(chunk.batch)

    def start(self, prepared: Any) -> Callable[[], Made]:
        """Its second half."""
        chunk, work = prepared
        fetch = RowGuard(self.part, self.on_bad_row).start(work)
        return lambda: columns_of(chunk, fetch())


@dataclass(frozen=True)
class SampleJob:
    """Slices of distinct prompts, by a sampler."""

    part: Sampler
    on_bad_row: OnBadRow
    asked: Asked
    facts: ClassVar[tuple[str, ...]] = _OF_PARTS

    def on(self, part: Any) -> Self:
        """The same with another sampler."""
        return replace(self, part=part)

    def pack(self, frame: pl.DataFrame) -> Any:
        """The prompts, and their places in the input."""
        table = frame.select("row", "prompt").to_arrow(compat_level=pl.CompatLevel.oldest())
        return packed_batch(table.combine_chunks().to_batches()[0])

    def prepare(self, packed: Any) -> Any:
        """The prompts."""
        return pl.DataFrame(pa.Table.from_batches([unpacked_batch(packed)]))

    def start(self, prepared: Any) -> Callable[[], Made]:
        """Their answers."""
        made = Answering(self.part, self.asked, self.on_bad_row).chunk(prepared)
        return lambda: made
