"""What does the work of a loop: samplers, scorers and the trainer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from prefmill.loops.keys import policy_sampler
from prefmill.loops.recipe import Recipe
from prefmill.models.folders import content_hash
from prefmill.sampling.samplers import as_sampler
from prefmill.scoring import ImplicitReward
from prefmill.scoring.kinds import scorer_from
from prefmill.scoring.scorers import as_scorer
from prefmill.training.train import train_policy

#: from a policy's folder (or hub id) to its `Sampler`
MakeSampler = Callable[[str], Any]
#: called with data, output, model (paths), method, seed and the options of [train]; it writes the
#: folder `output`
Trainer = Callable[..., Any]

#: what the sampler and the scorer of the log ratio have in common
_SHARED = ("template_date", "device", "dtype", "trust_remote_code", "batch_tokens")


@dataclass(frozen=True)
class Parts:
    """The parts of a recipe, or those that the caller gave.

    A model is made for a step and let go after it.

    date     what templates print as the date of today: one for all stages, however often the loop
             is stopped
    scorers  given by the caller: `score` selects, `second` only looks on
    """

    recipe: Recipe
    date: str
    scorers: Mapping[str, Any] = field(default_factory=dict)
    make_sampler: MakeSampler | None = None
    make_ratio: Callable[[str], Any] | None = None
    train: Trainer | None = None

    def inputs(self) -> dict[str, Any]:
        """What decides the results of the parts, by name."""
        policy = _identity(self.recipe)
        if _prints_date(self.recipe):
            policy["template_date"] = self.recipe.sample.sampler.get("template_date", self.date)
        inputs: dict[str, Any] = {"policy": policy}
        for name in ("score", "second"):
            scorer = self.scorer(name)
            if scorer is not None:
                inputs[name] = dict(scorer.fingerprint)
        return inputs

    def sampler(self, policy: str) -> Any:
        """The sampler of a policy."""
        if self.make_sampler is None:
            made = policy_sampler(policy, self.recipe.sample.sampler)
        else:
            made = self.make_sampler(policy)
        sampler = as_sampler(made)
        return made if sampler is None else sampler.on_date(self.date)

    def scorer(self, name: str) -> Any:
        """The scorer `score` or `second`; None if there is none."""
        scorer, section = self.scorers.get(name), getattr(self.recipe, name)
        if scorer is None and section is not None:
            scorer = scorer_from(section.kind, section.scorer)
        return None if scorer is None else as_scorer(scorer).on_date(self.date)

    def ratio(self, policy: str) -> Any:
        """The scorer whose score is log p_policy(y) - log p_base(y), in nats.

        The KL estimate averages it.
        """
        make = self.make_ratio or self._implicit
        return as_scorer(make(policy)).on_date(self.date)

    def _implicit(self, policy: str) -> Any:
        base, own = self.recipe.policy, self.recipe.sample.sampler
        shared = {name: own[name] for name in _SHARED if name in own and "url" not in own}
        return ImplicitReward(
            model=policy,
            reference=base.model,
            reference_revision=base.revision,
            beta=1.0,
            on_too_long="null",
            **shared,
        )

    def trainer(self) -> Trainer:
        """What trains a policy."""
        return self.train or train_policy


def _identity(recipe: Recipe) -> dict[str, str]:
    """What decides the answers of the policy, by content where it is a folder of this machine."""
    part = recipe.policy
    if Path(part.model).is_dir():
        return {"model": content_hash(Path(part.model))}
    return {"model": part.model, "revision": str(part.revision)}


def _prints_date(recipe: Recipe) -> bool:
    """Whether the template of the policy asks for the date of today.

    Of a hub's model nobody knows before it is here.
    """
    own = recipe.sample.sampler
    if "url" in own:
        return False
    folder, template = Path(recipe.policy.model), Path(str(own.get("template", "auto")))
    files = [*folder.glob("*.jinja"), folder / "tokenizer_config.json"]
    if template.is_file():
        files = [template]
    texts = (path.read_text(encoding="utf-8") for path in files if path.is_file())
    return any("strftime_now" in text for text in texts)
