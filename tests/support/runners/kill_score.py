"""Run as a program by test_score_runs: score a pool in child processes that are killed at random
instants, until one gets through.

    python kill_score.py POOL OUTPUT MODEL KILLS SEED

The parent imports everything once and forks, so that a life is short. Every life has another batch
size, another number of threads. Prints how many were killed, and how many chunks the last life
found done.
"""

from __future__ import annotations

import random

import lives
import torch  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import prefmill.runs.resumable.score
from prefmill import RewardModel


def life(pool: str, output: str, model: str, draw: random.Random) -> int:
    """One child: exits 0 when the output is there."""
    scorer = RewardModel(
        model=model, batch_tokens=draw.choice([64, 256, 1024]), threads=draw.choice([1, 2])
    )
    return lives.child(
        lambda: prefmill.runs.resumable.score.score(
            pool,
            output,
            scorer=scorer,
            chunk_rows=draw.choice([6, 24]),
            threads=draw.choice([1, 2]),
        )
    )


if __name__ == "__main__":  # pytest imports every file, for doctests
    lives.main(life, longest=0.6)
