"""What a recipe's sections stand for: samplers, scorers, plans and trainings, made from the keys
that a section holds.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prefmill.plans import BestOf, Pairs
from prefmill.sampling.kinds import kind_for, sampler_class, sampler_from
from prefmill.scoring.kinds import SCORERS, scorer_class

if TYPE_CHECKING:
    from prefmill.loops.recipe import Recipe, ScoreSection

#: Fields that no TOML value can be, and the one whose name a section needs itself.
_OBJECTS = frozenset({"parity", "parity_rows", "tolerance"})
_SPELLED = {"kind": "server"}
_FIELD_OF = {"server": "kind"}
_GIVEN_BY_THE_LOOP = frozenset({"model", "method", "seed", "overwrite", "progress", "quiet"})


def kind_of(section: str, given: Mapping[str, Any]) -> tuple[Any, list[str]]:
    """What the keys of `section` belong to, a class or a function, and their names; (None, []) if
    its `kind` is none of ours.
    """
    if section == "train":
        from prefmill.training.train import train_policy

        names = [
            p.name
            for p in inspect.signature(train_policy).parameters.values()
            if p.kind is p.KEYWORD_ONLY
        ]
        return train_policy, [name for name in names if name not in _GIVEN_BY_THE_LOOP]
    name = str(given.get("kind", "reward"))
    if section == "sample":
        kind = sampler_class(kind_for(given))
    elif name in SCORERS:
        kind = scorer_class(name)
    else:
        return None, []
    names = [f.name for f in fields(kind) if f.init and f.name not in _OBJECTS]
    if section == "sample":
        return kind, names if "url" in given else [name for name in names if name != "model"]
    return kind, [_SPELLED.get(name, name) for name in names]


def needed_by(section: str, kind: Any) -> list[str]:
    """The keys that cannot be left out."""
    if section == "train":
        return []
    needed = [
        f.name
        for f in fields(kind)
        if f.init and f.default is MISSING and f.default_factory is MISSING
    ]
    return [name for name in needed if section != "sample" or name != "model"]


def select_plan(method: str) -> tuple[Any, Mapping[str, Any]]:
    """The plan that selects for a training, and what differs from its own defaults.

    >>> select_plan("dpo")[0].kind
    'pairs'
    """
    return (
        (Pairs, {"chosen_min": None, "rejected_below": None}) if method == "dpo" else (BestOf, {})
    )


def sampler_of(recipe: Recipe, policy: str) -> Any:
    """The sampler of `policy`, a folder or hub id."""
    own = recipe.sample.sampler
    return sampler_from({"model": policy, **own})


def scorer_of(section: ScoreSection) -> Any:
    """The scorer that a section describes."""
    return built(section.kind, section.scorer)


def built(kind: str, own: Mapping[str, Any]) -> Any:
    """The scorer of a kind from its keys; a judge's `sampler` is a table of its own, with the keys
    of [sample] that are a sampler's.
    """
    given = {_FIELD_OF.get(name, name): value for name, value in own.items()}
    if isinstance(given.get("sampler"), Mapping):
        given["sampler"] = sampler_from(given["sampler"])
    return scorer_class(kind)(**given)


def ratio_of(recipe: Recipe, policy: str) -> Any:
    """The scorer whose score is log p_policy(y) - log p_base(y), in nats: what the KL estimate
    averages.
    """
    from prefmill.scoring import ImplicitReward

    own = recipe.sample.sampler
    same = {
        name: own[name]
        for name in ("template_date", "device", "dtype", "trust_remote_code", "batch_tokens")
        if name in own and "url" not in own
    }
    return ImplicitReward(
        model=policy,
        reference=recipe.policy.model,
        reference_revision=recipe.policy.revision,
        beta=1.0,
        on_too_long="null",
        **same,
    )


def identity(recipe: Recipe) -> dict[str, str]:
    """What decides the answers of the policy, by content where it is a folder of this machine."""
    part = recipe.policy
    folder = Path(part.model)
    if not folder.is_dir():
        return {"model": part.model, "revision": str(part.revision)}
    from prefmill.models.loading import content_hash

    return {"model": content_hash(folder)}


def prints_date(recipe: Recipe) -> bool:
    """Whether the template of the policy asks for the date of today; of a hub's model nobody knows
    before it is here.
    """
    own = recipe.sample.sampler
    template = str(own.get("template", "auto"))
    files = (
        [Path(template)]
        if Path(template).is_file()
        else [
            *Path(recipe.policy.model).glob("*.jinja"),
            Path(recipe.policy.model) / "tokenizer_config.json",
        ]
    )
    return "url" not in own and any(
        path.is_file() and "strftime_now" in path.read_text(encoding="utf-8") for path in files
    )
