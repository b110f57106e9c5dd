"""What a loop will do and what it costs, stage by stage, before anything runs:
`prefmill loop --dry-run`.

Counts are of the recipe and its prompts. Tokens of prompts are counted with the policy's tokenizer
where it is on this machine; answers are bounded by `max_new_tokens`. A time is told only where the
run's folder holds a step of the same kind that was measured.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from prefmill.errors import PrefmillError
from prefmill.loops.folder import begun_on, done_in
from prefmill.loops.loop import decided, read
from prefmill.loops.prompts import Prompts, load_prompts
from prefmill.loops.recipe import Recipe
from prefmill.loops.steps import Parts
from prefmill.plans import BestOf, Pairs
from prefmill.sampling.seeds import draws_of


@dataclass(frozen=True)
class Planned:
    """One step that a loop will do, or has done.

    answers         that are sampled; new_tokens: of them, at most
    forward_tokens  that go through a model, at most, a prompt once for all its answers; None where
    prompts cannot be counted here
    rows, updates   of a training: rows at most, optimizer steps at most
    done            whether the folder holds it; seconds: measured where done, else estimated from
    measured steps, else None
    """

    step: str
    answers: int | None = None
    new_tokens: int | None = None
    forward_tokens: int | None = None
    rows: int | None = None
    updates: int | None = None
    done: bool = False
    seconds: float | None = None


@dataclass(frozen=True)
class LoopPlan:
    """All steps in order, the prompts, and what is not known."""

    steps: tuple[Planned, ...]
    prompts: Mapping[str, int]
    notes: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """Plain values only."""
        return {
            "steps": [asdict(step) for step in self.steps],
            "prompts": dict(self.prompts),
            "notes": list(self.notes),
        }

    def text(self) -> str:
        """A table for people."""
        headings = ("step", "answers", "new tokens", "forward tokens", "rows", "updates", "time")
        table = [headings, *(_line(step) for step in self.steps)]
        widths = [max(len(line[i]) for line in table) for i in range(len(headings))]
        padded = [
            [
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            for line in table
        ]
        lines = ["  ".join(line).rstrip() for line in padded]
        prompts = ", ".join(f"{name} {number:,}" for name, number in self.prompts.items() if number)
        return "\n".join([f"prompts: {prompts}", *lines, *self.notes, ""])


def explain(
    recipe: Any,
    output: str | Path | None = None,
    *,
    stages: int | None = None,
    seed: int | None = None,
) -> LoopPlan:
    """What `pm.loop` with the same arguments would do. Reads the recipe, its prompts and, where
    there is a run, the files of its models, whose content says whether it is this recipe's; writes
    nothing, loads no model."""
    made = read(recipe, stages=stages, seed=seed)
    prompts = load_prompts(made.prompts)
    tokens, notes = _prompt_tokens(made, prompts)
    done: Mapping[str, Any] = {}
    if output is not None and (Path(output) / "state.json").exists():
        date = begun_on(Path(output)) or str(datetime.date.today())
        parts = Parts(made, None, {"score": None, "second": None}, None, None, date)
        try:
            done = done_in(Path(output), decided(made, parts, prompts))
        except PrefmillError as error:
            notes.append(
                f"The run would be refused, and no step of its folder counts as done: {error}"
            )
    steps = [
        _told(step, done)
        for stage in range(made.stages + 1)
        for step in _stage(made, prompts, tokens, stage)
    ]
    steps = [step if step.done else replace(step, seconds=_estimate(step, steps)) for step in steps]
    notes.append(
        "Numbers of tokens, rows and updates are upper bounds: answers may end sooner, and be left out of the selection."
    )
    if any(step.seconds is None and not step.done for step in steps):
        notes.append(
            "No time is told for steps of a kind that was not measured yet; ask again when stage 0 is done."
        )
    told = {**prompts.counts, "train": prompts.train.height, "heldout": prompts.heldout.height}
    return LoopPlan(tuple(steps), told, tuple(notes))


def _stage(
    recipe: Recipe, prompts: Prompts, tokens: Mapping[str, int] | None, stage: int
) -> list[Planned]:
    """The steps of one stage."""
    at, most = f"stage-{stage}", _most_tokens(recipe)
    answers = prompts.heldout.height * (recipe.evaluate.n if recipe.evaluate.temperature else 1)
    new = answers * most
    through = None if tokens is None else tokens["heldout"] + new
    steps = [
        Planned(f"{at}/heldout/sample", answers, new, through),
        Planned(f"{at}/heldout/score", forward_tokens=through),
    ]
    if recipe.second is not None:
        steps.append(Planned(f"{at}/heldout/second", forward_tokens=through))
    if stage and recipe.evaluate.kl:
        steps.append(
            Planned(f"{at}/heldout/kl", forward_tokens=None if through is None else 2 * through)
        )
    if stage == recipe.stages:
        return steps
    k = len(draws_of(recipe.sample.n, recipe.sample.temperatures))
    answers = prompts.train.height * k
    through = None if tokens is None else tokens["train"] + answers * most
    steps += [
        Planned(f"{at}/sample", answers, answers * most, through),
        Planned(f"{at}/score", forward_tokens=through),
    ]
    rows = _rows(recipe, prompts.train.height, k * (stage + 1))
    options = recipe.train.options
    updates = options.get("steps")
    if updates is None and rows is not None:
        updates = math.ceil(
            math.ceil(rows / options.get("batch_size", 8)) * options.get("epochs", 1)
        )
    per_row = None if tokens is None else tokens["train"] / max(1, prompts.train.height) + most
    sides = 2 if recipe.train.method == "dpo" else 1
    epochs = options.get("epochs", 1)
    trained = (
        None
        if per_row is None or rows is None or options.get("steps")
        else int(rows * sides * per_row * epochs)
    )
    return [*steps, Planned(f"{at}/train", forward_tokens=trained, rows=rows, updates=updates)]


def _rows(recipe: Recipe, prompts: int, k: int) -> int | None:
    """Rows (or pairs) that selection gives at most."""
    plan = recipe.select.plan
    if isinstance(plan, BestOf):
        return min(prompts * k, plan.k * (prompts if plan.scope == "prompt" else 1))
    assert isinstance(plan, Pairs)
    of_prompt = {
        "best_worst": 1,
        "best_random": 1,
        "best_rest": k - 1,
        "adjacent": k - 1,
        "all": k * (k - 1) // 2,
    }.get(plan.strategy)
    if plan.max_pairs_per_prompt is not None:
        of_prompt = min(
            plan.max_pairs_per_prompt,
            of_prompt if of_prompt is not None else plan.max_pairs_per_prompt,
        )
    return None if of_prompt is None else prompts * of_prompt


def _most_tokens(recipe: Recipe) -> int:
    from prefmill.loops.parts import sampler_of

    return int(sampler_of(recipe, recipe.policy.model).max_new_tokens)


def _prompt_tokens(recipe: Recipe, prompts: Prompts) -> tuple[Mapping[str, int] | None, list[str]]:
    """Tokens of all prompts, by the policy's tokenizer; None (and why) where it is not on this
    machine.
    """
    if not Path(recipe.policy.model).is_dir():
        return None, [
            f"Tokens of prompts are not counted: the tokenizer of {recipe.policy.model!r} is no folder of this machine."
        ]
    from prefmill.sampling import LocalSampler

    encoder = LocalSampler(model=recipe.policy.model).encoder
    frames = {"train": prompts.train, "heldout": prompts.heldout}
    return {
        name: sum(len(row) for row in encoder.prompts(frame["prompt"].to_list()))
        for name, frame in frames.items()
    }, []


def _told(step: Planned, done: Mapping[str, Any]) -> Planned:
    record = done.get(step.step)
    if record is None:
        return step
    whole = not record["figures"].get(
        "chunks_resumed"
    )  # else these are the seconds of its last life only
    return replace(step, done=True, seconds=float(record["seconds"]) if whole else None)


def _estimate(step: Planned, steps: list[Planned]) -> float | None:
    """Seconds, as a step of the same kind took them for its amount of work; held-out sampling
    counts as sampling.
    """

    def amount(each: Planned) -> int | None:
        return each.new_tokens or each.rows or each.forward_tokens

    kind = step.step.split("/", 1)[1]
    for wanted in (kind, kind.removeprefix("heldout/"), f"heldout/{kind}"):
        for each in steps:
            if (
                each.done
                and each.step.split("/", 1)[1] == wanted
                and amount(each)
                and amount(step)
                and each.seconds is not None
            ):
                return each.seconds * amount(step) / amount(each)  # type: ignore[operator]
    return None


def _line(step: Planned) -> tuple[str, ...]:
    numbers = [
        ("" if value is None else f"{value:,}")
        for value in (step.answers, step.new_tokens, step.forward_tokens, step.rows, step.updates)
    ]
    seconds = "" if step.seconds is None else f"{step.seconds:.0f} s"
    time = (
        ", ".join(["done", seconds] if seconds else ["done"])
        if step.done
        else f"about {seconds}"
        if seconds
        else ""
    )
    return (step.step, *numbers, time)
