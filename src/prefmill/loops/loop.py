"""Rejection sampling in stages: sample, score, select from all stages, train, and again.

policy s ──answers to held-out prompts──▶ figures of stage s ──▶ stop?
   └──sample K──▶ pool ──score──▶ scored ──with the scored rows of all earlier stages──▶ select
      ──train──▶ policy s + 1

Source: Touvron et al. 2023, "Llama 2", section 3.2: winners are drawn from the samples of all
iterations, not only the last. What is on disk, and how a killed loop goes on, is in `folder.py`;
the steps themselves are in `steps.py`.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefmill._version import __version__
from prefmill.disk import whole
from prefmill.errors import BadArgument
from prefmill.loops.findings import best_stage
from prefmill.loops.folder import RunFolder, begun_on
from prefmill.loops.parts import MakeSampler, Parts, Trainer
from prefmill.loops.prompts import DividedPrompts, load_prompts
from prefmill.loops.recipe import Recipe, read_recipe
from prefmill.loops.report import write_report
from prefmill.loops.steps import LoopSteps
from prefmill.progress import Progress, silent
from prefmill.readers.find import check_apart
from prefmill.runs.resumable.sampling import COLUMNS
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched


@dataclass(frozen=True)
class LoopReport(Showing):
    """What a loop did.

    stages      the figures of every policy, stage 0 (the model that it began with) first:
                `prefmill.loops.figures.measure`, and of what was trained there: pool_mean,
                pool_median, pool_best, selected_rows, selected_mean, seconds of each step
    said        findings in sentences, those of report.md
    stopped     the rule that ended it before all stages were done, or None
    best_stage  the policy with the largest mean reward on held-out prompts; policy: its folder
    ran         the steps that this call ran; all others were done before
    seconds     how long it took
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
        values = asdict(self)
        lists = {name: list(values[name]) for name in ("stages", "said", "ran")}
        return {**values, **lists}


@watched("loop")
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
    """Run a recipe in the folder `output`; killed at any point, the same call goes on.

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
    selected. Steps that are done are not done again. A recipe that changed is refused by the name
    of what changed, unless there are only more stages.
    Raises `PrefmillError`s: `PlanError` for a recipe, with every problem at once.
    """
    started = time.perf_counter()
    scorers = {"score": scorer, "second": second}
    others = {**scorers, "train": trainer}
    names = [name for name, part in others.items() if part is not None]
    made, folder = read(recipe, stages=stages, seed=seed, parts=names), Path(output)
    _refuse_inside(recipe, made, folder)
    prompts = load_prompts(made.prompts)
    begun = None if overwrite else begun_on(folder)
    date = begun or str(datetime.date.today())
    parts = Parts(made, date, scorers, sampler, ratio, trainer)
    decides = decided(made, parts, prompts)
    with RunFolder(folder, decides, reuse=reuse, overwrite=overwrite) as run:
        steps = LoopSteps(made, prompts, parts, run, progress or silent)
        stopped = steps.all()
        rows = steps.rows()
        best = best_stage(rows)
        return LoopReport(
            output=str(output),
            stages=tuple(rows),
            said=tuple(write_report(run, rows, made, prompts.counts, stopped)),
            stopped=stopped,
            best_stage=best,
            policy=steps.policy(best),
            ran=tuple(run.ran),
            seconds=round(time.perf_counter() - started, 3),
        )


def decided(recipe: Recipe, parts: Parts, prompts: DividedPrompts) -> dict[str, Any]:
    """All that the results of a loop depend on: a run's folder belongs to it."""
    for name in ("score", "second"):
        _refuse_unkept(name, parts.scorer(name), prompts)
    inputs = {**parts.inputs(), "prompts": prompts.content}
    return {**recipe.decides(), "inputs": inputs, "prefmill": __version__.split(".")[0]}


def _refuse_inside(recipe: Any, made: Recipe, output: Path) -> None:
    """Prompts, models and the recipe may not lie in the folder.

    A loop that begins anew empties it.
    """
    whole.check_name(output, "loop")
    inputs: list[Any] = []
    for files in (made.prompts.train, made.prompts.heldout):
        inputs += [files] if isinstance(files, str) else files or ()
    inputs.append(made.policy.model)
    if isinstance(recipe, str | Path):
        inputs.append(recipe)
    check_apart(inputs, output, where="loop")


def read(
    recipe: Any, *, stages: int | None = None, seed: int | None = None, parts: Sequence[str] = ()
) -> Recipe:
    """The recipe with another number of stages or seed."""
    made = recipe if isinstance(recipe, Recipe) else read_recipe(recipe, parts=parts)
    return made.changed(stages=stages, seed=seed)


def _refuse_unkept(name: str, scorer: Any, prompts: DividedPrompts) -> None:
    """Refuse a scorer that reads a column of the prompts which is not carried along."""
    wanted = () if scorer is None else scorer.reads or ()
    known = (*prompts.train.columns, "completion", *COLUMNS)
    missing = [column for column in wanted if column not in known]
    if missing:
        raise BadArgument(
            f"loop: [{name}] reads {missing} next to prompt and completion; expected some of"
            f" {list(known)}.",
            hint=f"[prompts] keep = {json.dumps(missing)} carries columns of the prompts along.",
        )
