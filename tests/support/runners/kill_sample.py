"""Run as a program by test_sample_runs: sample in child processes that are killed at random
instants, until one gets through.

    python kill_sample.py PROMPTS OUTPUT MODEL KILLS SEED

The parent imports everything once and forks, so that a life is short. Every life has another batch
size and chunk size. Prints how many were killed, and how many chunks the last life found done.
"""

from __future__ import annotations

import random

import lives
import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import prefmill.runs.resumable.sample
import prefmill.sampling.decode
from prefmill import LocalSampler

torch.set_num_threads(1)


def life(prompts: str, output: str, model: str, draw: random.Random) -> int:
    """One child: exits 0 when the output is there."""
    sampler = LocalSampler(
        model=model, max_new_tokens=12, batch_tokens=draw.choice([64, 300, 2000]), threads=1
    )
    return lives.child(
        lambda: prefmill.runs.resumable.sample.sample(
            prompts,
            output,
            sampler=sampler,
            n=4,
            temperatures=[0.8, 0],
            chunk_rows=draw.choice([8, 16]),
            threads=1,
        )
    )


if __name__ == "__main__":  # pytest imports every file, for doctests
    lives.main(life, longest=0.8)
