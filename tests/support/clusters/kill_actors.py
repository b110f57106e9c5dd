"""Run as a program by test_actor_losses: score a pool on workers until the output is there.

    python kill_actors.py POOL OUTPUT ADDRESS SECONDS

Every chunk takes SECONDS. Prints how many chunks an earlier life had done.
"""

from __future__ import annotations

import sys
import time
from typing import Any


def slow(batch: Any) -> list[float]:
    """A length, after a while."""
    time.sleep(slow.seconds)
    return [len(text) * 0.5 for text in batch["completion"].to_pylist()]


slow.compares = False
slow.reads = ()
slow.fingerprint = "slow"  # whatever it takes

if __name__ == "__main__":  # pytest imports every file, for doctests
    import prefmill as pm
    from prefmill.runs.workers.workers import Workers

    pool, output, address, seconds = sys.argv[1:]
    slow.seconds = float(seconds)
    workers = Workers(2, address=address)
    done = pm.score(pool, output, scorer=slow, chunk_rows=4, workers=workers)
    print(done.chunks_resumed)
