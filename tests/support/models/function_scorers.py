"""Plain functions as scorers, run over one small batch."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from prefmill.scoring.scorers import as_scorer

BATCH = pa.record_batch(
    {"prompt": ["p", "p", "q"], "completion": ["a", "bcd", "ef"], "group": [0, 0, 1]}
)


def run(scorer: Any, batch: pa.RecordBatch = BATCH) -> Any:
    staged = as_scorer(scorer)
    return staged.run(staged.prepare(batch))


def giving(value: Any) -> Any:
    return lambda batch: value
