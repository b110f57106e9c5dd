"""Rejection sampling in stages: sample, score, add to the pool, select from all stages, train, and
again with the new policy.

policy s ──answers to held-out prompts──▶ figures of stage s ──▶ stop?
   └──sample K──▶ pool ──score──▶ scored ──with the scored rows of all earlier stages──▶ select ──▶
   train ──▶ policy s + 1

Source: Touvron et al. 2023, "Llama 2", section 3.2: winners are drawn from the samples of all
iterations, not only the last. What is on disk, and how a killed loop goes on, is in
`loop_state.py`; the steps themselves are in `loop_steps.py`.
"""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefmill._version import __version__
from prefmill.disk import whole
from prefmill.errors import BadArgument
from prefmill.loops import findings as stage_report
from prefmill.loops.folder import RunFolder, begun_on
from prefmill.loops.prompts import Prompts, load_prompts
from prefmill.loops.recipe import Recipe, read_recipe
from prefmill.loops.steps import MakeSampler, Parts, Stages, Trainer
from prefmill.progress import Progress, silent
from prefmill.readers.find import check_apart


@dataclass(frozen=True)
class LoopReport:
    """What a loop did.

    stages      the figures of every policy, stage 0 (the model that it began with) first:
    `prefmill.loops.figures.measure`, and of what
                was trained there: pool_mean, pool_median, pool_best, selected_rows, selected_mean,
                    seconds of each step
    said        findings in sentences, those of report.md
    stopped     the rule that ended it before all stages were done, or None
    best_stage, policy   the policy with the largest mean reward on held-out prompts, and its folder
    ran, seconds         the steps that this call ran (all others were done before), and how long it
    took
    """

    output: str
    stages: tuple[Mapping[str, Any], ...]
    said: tuple[str, ...]
    stopped: str | None
    best_stage: int
    policy: str
    ran: tuple[str, ...]
    seconds: float

    def as_json(self) -> dict[str, Any]:
        """The report with plain values only."""
        return {
            **asdict(self),
            "stages": [dict(row) for row in self.stages],
            "said": list(self.said),
            "ran": list(self.ran),
        }


def loop(
    recipe: str | Path | Mapping[str, Any] | Recipe,
    output: str | Path,
    *,
    stages: int | None = None,
    seed: int | None = None,
    sampler: MakeSampler | None = None,
    scorer: Any = None,
    second: Any = None,
    ratio: Callable[[str], Any] | None = None,
    trainer: Trainer | None = None,
    reuse: Sequence[str | Path] = (),
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LoopReport:
    """Run a recipe in the folder `output`; killed at any point and started again, it goes on where
    it was.

    Args:
        recipe: a TOML file, a mapping of the same shape, or a `Recipe` (`docs/loop.md` has every
            key).
        output: the run's folder: samples, scores, selections, policies, `stages.parquet`,
            `report.md`, `state.json`.
        stages, seed: instead of the recipe's.
        sampler: a function from a policy's folder to its `Sampler`, instead of [sample].
        scorer, second: scorers as `pm.score` takes them, instead of [score] and [second].
        ratio: a function from a policy's folder to a scorer of log p(y) - log p_0(y), instead of
            `ImplicitReward` with beta 1.
        trainer: instead of `pm.train_policy`: called with data, output, model, method, seed and the
            options of [train].
        reuse: folders of other loops: a step that one of them did from the very same inputs is
            taken over instead of run.
        overwrite: begin anew, whatever is in `output`.

    Stage s samples from policy s, which is policy s - 1 (or the base) trained on what stage s - 1
    selected. Steps that are done are not done again; a recipe that changed is refused by the name
    of what changed, unless there are only more stages.
    Raises `PrefmillError`s: `PlanError` for a recipe, with every problem at once.
    """
    started = time.perf_counter()
    given = {"score": scorer, "second": second}
    made = read(
        recipe,
        stages=stages,
        seed=seed,
        parts=[name for name, part in given.items() if part is not None],
    )
    _refuse_inside(recipe, made, Path(output))
    prompts = load_prompts(made.prompts)
    parts = Parts(
        made,
        sampler,
        given,
        ratio,
        trainer,
        (None if overwrite else begun_on(Path(output))) or str(datetime.date.today()),
    )
    decides = decided(made, parts, prompts)
    with RunFolder(Path(output), decides, reuse=reuse, overwrite=overwrite) as run:
        done = Stages(made, prompts, parts, run, progress or silent)
        stopped = done.all()
        rows = done.rows()
        said = stage_report.write(run, rows, made, prompts.counts, stopped)
        best = stage_report.best_stage(rows)
        return LoopReport(
            output=str(output),
            stages=tuple(rows),
            said=tuple(said),
            stopped=stopped,
            best_stage=best,
            policy=done.policy(best),
            ran=tuple(run.ran),
            seconds=round(time.perf_counter() - started, 3),
        )


def decided(recipe: Recipe, parts: Parts, prompts: Prompts) -> dict[str, Any]:
    """All that the results of a loop depend on: a run's folder belongs to it."""
    inputs = {**parts.inputs(), "prompts": prompts.content}
    return {**recipe.decides(), "inputs": inputs, "prefmill": __version__.split(".")[0]}


def _refuse_inside(recipe: Any, made: Recipe, output: Path) -> None:
    """Prompts, models and the recipe may not lie in the folder: a loop that begins anew empties
    it.
    """
    whole.check_name(output, "loop")
    prompts = [made.prompts.train, made.prompts.heldout]
    files = [
        each
        for given in prompts
        if given is not None
        for each in ([given] if isinstance(given, str) else given)
    ]
    read = [*files, made.policy.model, *([recipe] if isinstance(recipe, str | Path) else [])]
    check_apart(read, output, where="loop")


def read(
    recipe: Any, *, stages: int | None = None, seed: int | None = None, parts: Sequence[str] = ()
) -> Recipe:
    """The recipe with another number of stages or seed."""
    made = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, parts=parts)
    for name, value, least in (("stages", stages, 1), ("seed", seed, 0)):
        if value is not None and (type(value) is not int or value < least):
            raise BadArgument(f"loop: {name}: got {value!r}, expected a whole number >= {least}.")
    return made.changed(stages=stages, seed=seed)
