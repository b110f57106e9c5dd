"""What a loop will do and what it costs, stage by stage: `prefmill loop --dry-run`.

Counts are of the recipe and its prompts. Tokens of prompts are counted with the policy's tokenizer
where it is on this machine; answers are bounded by `max_new_tokens`. A time is told only where the
run's folder holds a step of the same kind that was measured.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from prefmill.errors import PrefmillError
from prefmill.loops.folder import begun_on, done_in
from prefmill.loops.keys import policy_sampler
from prefmill.loops.loop import decided, read
from prefmill.loops.parts import Parts
from prefmill.loops.prompts import DividedPrompts, load_prompts
from prefmill.loops.recipe import Recipe
from prefmill.sampling import LocalSampler
from prefmill.sampling.seeds import draws_of
from prefmill.training.settings import PolicySettings


@dataclass(frozen=True)
class Planned:
    """One step that a loop will do, or has done.

    answers         that are sampled; new_tokens: of them, at most
    forward_tokens  that go through a model, at most, a prompt once for all its answers; None where
                    prompts cannot be counted here
    rows, updates   of a training: rows at most, optimizer steps at most
    done            whether the folder holds it
    seconds         measured where done, else estimated from measured steps, else None
    """

    step: str
    answers: int | None = None
    new_tokens: int | None = None
    forward_tokens: int | None = None
    rows: int | None = None
    updates: int | None = None
    done: bool = False
    seconds: float | None = None

    @property
    def kind(self) -> str:
        """The step without its stage."""
        return self.step.split("/", 1)[1]

    @property
    def amount(self) -> int:
        """What its time is in proportion to."""
        return self.new_tokens or self.rows or self.forward_tokens or 0


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
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = []
        for step, *numbers in table:
            padded = [step.ljust(widths[0])]
            padded += [cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True)]
            lines.append("  ".join(padded).rstrip())
        prompts = ", ".join(f"{name} {number:,}" for name, number in self.prompts.items() if number)
        return "\n".join([f"prompts: {prompts}", *lines, *self.notes, ""])


def explain(
    recipe: Any,
    output: str | Path | None = None,
    *,
    stages: int | None = None,
    seed: int | None = None,
) -> LoopPlan:
    """What `pm.loop` with the same arguments would do.

    It reads the recipe, its prompts and, where there is a run, the files of its models: their
    content says whether the run is this recipe's. It writes nothing and loads no model.
    """
    made = read(recipe, stages=stages, seed=seed)
    prompts = load_prompts(made.prompts)
    tokens, notes = _prompt_tokens(made, prompts)
    done: Mapping[str, Any] = {}
    if output is not None and (Path(output) / "state.json").exists():
        try:
            done = _done(made, prompts, Path(output))
        except PrefmillError as error:
            notes.append(
                f"The run would be refused, and no step of its folder counts as done: {error}"
            )
    planned = _Stages(made, prompts, tokens)
    steps = [
        _measured(step, done) for stage in range(made.stages + 1) for step in planned.of(stage)
    ]
    steps = [step if step.done else replace(step, seconds=_estimate(step, steps)) for step in steps]
    notes.append(
        "Numbers of tokens, rows and updates are upper bounds:"
        " answers may end sooner, and be left out of the selection."
    )
    if any(step.seconds is None and not step.done for step in steps):
        notes.append(
            "No time is told for steps of a kind that was not measured yet;"
            " ask again when stage 0 is done."
        )
    heights = {"train": prompts.train.height, "heldout": prompts.heldout.height}
    return LoopPlan(tuple(steps), {**prompts.counts, **heights}, tuple(notes))


def _done(recipe: Recipe, prompts: DividedPrompts, folder: Path) -> Mapping[str, Any]:
    """The records of the steps in `folder` that this recipe would not do again."""
    date = begun_on(folder) or str(datetime.date.today())
    return done_in(folder, decided(recipe, Parts(recipe, date), prompts))


@dataclass(frozen=True)
class _Stages:
    """The steps of each stage; `tokens` are those of all prompts, None where they are not known."""

    recipe: Recipe
    prompts: DividedPrompts
    tokens: Mapping[str, int] | None

    def of(self, stage: int) -> Iterator[Planned]:
        """The steps of one stage."""
        yield from self._evaluated(stage)
        if stage < self.recipe.stages:
            yield from self._sampled(stage)
            yield self._trained(stage)

    def _evaluated(self, stage: int) -> Iterator[Planned]:
        at, section = f"stage-{stage}/heldout", self.recipe.evaluate
        # At temperature 0 there is one answer, however many are asked for.
        each = section.n if section.temperature else 1
        sample = self._answers(f"{at}/sample", "heldout", self.prompts.heldout.height * each)
        yield sample
        through = sample.forward_tokens
        yield Planned(f"{at}/score", forward_tokens=through)
        if self.recipe.second is not None:
            yield Planned(f"{at}/second", forward_tokens=through)
        if stage and section.kl:
            both = None if through is None else 2 * through
            yield Planned(f"{at}/kl", forward_tokens=both)

    def _sampled(self, stage: int) -> Iterator[Planned]:
        count = self.prompts.train.height * self._each
        sample = self._answers(f"stage-{stage}/sample", "train", count)
        yield sample
        yield Planned(f"stage-{stage}/score", forward_tokens=sample.forward_tokens)

    def _answers(self, step: str, prompts: str, count: int) -> Planned:
        new = count * self._most_tokens
        through = None if self.tokens is None else self.tokens[prompts] + new
        return Planned(step, count, new, through)

    def _trained(self, stage: int) -> Planned:
        settings, prompts = _settings(self.recipe), self.prompts.train.height
        rows = self.recipe.select.plan.most_rows(prompts, self._each * (stage + 1))
        updates, tokens = settings.steps, None
        if rows is not None and updates is None:
            batches = math.ceil(rows / settings.batch_size)
            updates = math.ceil(batches * settings.epochs)
            if self.tokens is not None:
                of_row = self.tokens["train"] / max(1, prompts) + self._most_tokens
                sides = 2 if settings.method == "dpo" else 1
                tokens = int(rows * sides * of_row * settings.epochs)
        step = f"stage-{stage}/train"
        return Planned(step, forward_tokens=tokens, rows=rows, updates=updates)

    @property
    def _each(self) -> int:
        """Answers of a prompt."""
        return len(draws_of(self.recipe.sample.n, self.recipe.sample.temperatures))

    @property
    def _most_tokens(self) -> int:
        """Of an answer."""
        sampler = policy_sampler(self.recipe.policy.model, self.recipe.sample.sampler)
        return int(sampler.max_new_tokens)


def _settings(recipe: Recipe) -> PolicySettings:
    names = {each.name for each in fields(PolicySettings)}
    own = {name: value for name, value in recipe.train.options.items() if name in names}
    return PolicySettings(method=recipe.train.method, **own)


def _prompt_tokens(
    recipe: Recipe, prompts: DividedPrompts
) -> tuple[Mapping[str, int] | None, list[str]]:
    """Tokens of all prompts, by the policy's tokenizer; None (and why) where it is not here."""
    model = recipe.policy.model
    if not Path(model).is_dir():
        why = f"the tokenizer of {model!r} is no folder of this machine."
        return None, [f"Tokens of prompts are not counted: {why}"]
    encoder = LocalSampler(model=model).encoder
    frames = {"train": prompts.train, "heldout": prompts.heldout}
    tokens = {}
    for name, frame in frames.items():
        tokens[name] = sum(map(len, encoder.prompts(frame["prompt"].to_list())))
    return tokens, []


def _measured(step: Planned, done: Mapping[str, Any]) -> Planned:
    record = done.get(step.step)
    if record is None:
        return step
    # The seconds of a step that was resumed are those of its last life only.
    resumed = record["figures"].get("chunks_resumed")
    return replace(step, done=True, seconds=None if resumed else float(record["seconds"]))


def _estimate(step: Planned, steps: list[Planned]) -> float | None:
    """Seconds, as a step of the same kind took them for its amount of work.

    Held-out sampling counts as sampling.
    """
    for kind in (step.kind, step.kind.removeprefix("heldout/"), f"heldout/{step.kind}"):
        for each in steps:
            measured = each.done and each.seconds is not None
            if measured and each.kind == kind and each.amount and step.amount:
                return each.seconds * step.amount / each.amount  # type: ignore[operator]
    return None


def _line(step: Planned) -> tuple[str, ...]:
    counts = (step.answers, step.new_tokens, step.forward_tokens, step.rows, step.updates)
    numbers = ["" if count is None else f"{count:,}" for count in counts]
    seconds = "" if step.seconds is None else f"{step.seconds:.0f} s"
    if step.done:
        time = f"done, {seconds}" if seconds else "done"
    else:
        time = f"about {seconds}" if seconds else ""
    return (step.step, *numbers, time)
