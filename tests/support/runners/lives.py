"""A run that is killed at random instants, in child processes, until one gets through.

What `kill_score.py` and `kill_sample.py` share. The parent imports everything once and forks, so
that a life is short.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any


def child(work: Callable[[], Any]) -> int:
    """A process that does `work`, says how many chunks it found done, and exits 0; its number."""
    number = os.fork()
    if number:
        return number
    try:
        warnings.simplefilter("ignore")
        done = work()
        print("resumed", done.chunks_resumed, "of", done.chunks, flush=True)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def main(life: Callable[[str, str, str, random.Random], int], longest: float) -> None:
    """Kill so many lives as the command line says, each within `longest` seconds at first."""
    source, output, model = sys.argv[1:4]
    kills, draw = int(sys.argv[4]), random.Random(int(sys.argv[5]))
    killed = 0
    while killed < kills:
        started = time.perf_counter()
        number = life(source, output, model, draw)
        time.sleep(draw.uniform(0, longest))
        os.kill(number, signal.SIGKILL)
        _, status = os.waitpid(number, 0)
        if os.WIFSIGNALED(status):
            killed += 1
        elif os.waitstatus_to_exitcode(status):
            sys.exit("a life failed by itself")
        else:  # it got through: kill sooner, and begin anew so that there is something to kill
            longest = max(0.2, (time.perf_counter() - started) * 0.9)
            if killed < kills:
                os.unlink(output)
    _, status = os.waitpid(life(source, output, model, draw), 0)
    print("killed", killed)
    sys.exit(os.waitstatus_to_exitcode(status))
