"""Run as a program by test_sample_runs: sample in child processes that are killed at random
instants, until one gets through.

    python kill_sample.py PROMPTS OUTPUT MODEL KILLS SEED

The parent imports everything once and forks, so that a life is short. Every life has another batch
size and chunk size. Prints how many were killed, and how many chunks the last life found done.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings

import torch
import transformers.models.llama.modeling_llama  # noqa: F401

import prefmill.runs.sample
import prefmill.sampling.decode
from prefmill import LocalSampler

torch.set_num_threads(1)


def life(prompts: str, output: str, model: str, draw: random.Random) -> int:
    """One child: exits 0 when the output is there."""
    sampler = LocalSampler(
        model=model, max_new_tokens=12, batch_tokens=draw.choice([64, 300, 2000]), threads=1
    )
    child = os.fork()
    if child:
        return child
    try:
        warnings.simplefilter("ignore")
        done = prefmill.runs.sample.sample(
            prompts,
            output,
            sampler=sampler,
            n=4,
            temperatures=[0.8, 0],
            chunk_rows=draw.choice([8, 16]),
            threads=1,
        )
        print("resumed", done.chunks_resumed, "of", done.chunks, flush=True)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main() -> None:
    prompts, output, model = sys.argv[1:4]
    kills, draw = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    killed, longest = 0, 0.8
    while killed < kills:
        started = time.perf_counter()
        child = life(prompts, output, model, draw)
        time.sleep(draw.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.waitstatus_to_exitcode(status):
            sys.exit("a life failed by itself")
        else:  # it got through: kill sooner, and begin anew so that there is something to kill
            longest = max(0.2, (time.perf_counter() - started) * 0.9)
            if killed < kills:
                os.unlink(output)
    child = life(prompts, output, model, draw)
    _, status = os.waitpid(child, 0)
    print("killed", killed)
    sys.exit(os.waitstatus_to_exitcode(status))


if __name__ == "__main__":  # pytest imports every file, for doctests
    main()
