"""Run as a program by test_loop: a loop in child processes that are killed, until one gets through.

    python kill_loop.py boundaries FOLDER        every life does one step, and dies before or behind
    its entry in the state python kill_loop.py random FOLDER KILLS SEED    lives that are killed at
    random instants python kill_loop.py models FOLDER KILLS SEED    the same with real tiny models:
    the recipe FOLDER/recipe.toml

The parent imports everything once and forks, so that a life is short. Prints how many were killed.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import loop_fakes

import prefmill.loops.findings
import prefmill.loops.loop
import prefmill.runs.resumable.sample
import prefmill.runs.resumable.score
import prefmill.runs.run
from prefmill.loops import plot as stage_plot
from prefmill.loops.folder import RunFolder


def life(folder: Path, dies: str = "", *, models: bool = False) -> int:
    """One child; `dies` is where it kills itself: before or behind the first step's entry."""
    child = os.fork()
    if child:
        return child
    try:
        warnings.simplefilter("ignore")
        stage_plot.draw = lambda *_: None  # takes seconds
        if dies:
            _mine(dies)
        if models:
            prefmill.loops.loop.loop(folder / "recipe.toml", folder / "run")
        else:
            prefmill.loops.loop.loop(
                loop_fakes.recipe(folder), folder / "run", **loop_fakes.parts()
            )
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def _mine(dies: str) -> None:
    save = RunFolder.save

    def save_and_die(self: RunFolder) -> None:
        if self.ran and dies == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        save(self)
        if self.ran:
            os.kill(os.getpid(), signal.SIGKILL)

    RunFolder.save = save_and_die


def ended(child: int) -> bool:
    """Whether it got through; False if it was killed."""
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return False
    if os.waitstatus_to_exitcode(status):
        sys.exit("a life failed by itself")
    return True


def boundaries(folder: Path) -> int:
    killed = 0
    while True:
        for dies in ("before", "behind"):
            if ended(life(folder, dies)):
                return killed
            killed += 1


def at_random(folder: Path, kills: int, draw: random.Random, *, models: bool) -> int:
    killed, longest = 0, 6.0 if models else 1.0
    while killed < kills:
        started = time.perf_counter()
        child = life(folder, models=models)
        time.sleep(draw.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        if ended(
            child
        ):  # it got through: kill sooner, and begin anew so that there is something to kill
            longest = max(0.1, (time.perf_counter() - started) * 0.8)
            if killed < kills:
                (folder / "run").rename(folder / f"done-{killed}-{time.monotonic_ns()}")
        else:
            killed += 1
    if not ended(life(folder, models=models)):
        sys.exit("killed by somebody else")
    return killed


if __name__ == "__main__":  # pytest imports every file, for doctests
    where = Path(sys.argv[2])
    if sys.argv[1] == "boundaries":
        print("killed", boundaries(where))
    else:
        with_models = sys.argv[1] == "models"
        if with_models:
            import torch  # noqa: F401
            import transformers.models.llama.modeling_llama  # noqa: F401
            import trl  # noqa: F401
        print(
            "killed",
            at_random(where, int(sys.argv[3]), random.Random(int(sys.argv[4])), models=with_models),
        )
