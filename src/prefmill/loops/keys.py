"""Which keys a section of a recipe may have: the fields of what the section describes."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from typing import Any

from prefmill.plans import BestOf, Pairs
from prefmill.sampling.kinds import kind_for, sampler_class, sampler_from
from prefmill.scoring.kinds import FIELD_OF, SCORERS, scorer_class, scorer_from
from prefmill.training.settings import PolicySettings
from prefmill.training.train import train_policy

#: fields that no TOML value can be
_OBJECTS = frozenset({"parity", "parity_rows", "tolerance"})
_KEY_OF = {field: key for key, field in FIELD_OF.items()}
_GIVEN_BY_THE_LOOP = frozenset({"model", "method", "seed", "overwrite", "progress", "quiet"})


@dataclass(frozen=True)
class Described:
    """What a section describes, besides its own keys.

    name     of the class or function, for messages
    keys     all that it takes; needed: those that cannot be left out
    checked  the keys that are fields with a check
    make     makes it, and so checks its values together; None where there is no such check
    """

    name: str
    keys: tuple[str, ...]
    needed: tuple[str, ...] = ()
    checked: Mapping[str, Field[Any]] = field(default_factory=dict)
    make: Callable[[Mapping[str, Any]], Any] | None = None


def described_by(section: str, table: Mapping[str, Any]) -> Described | None:
    """What the section with this table describes; None if its `kind` is none of ours."""
    if section == "train":
        return _training()
    if section == "sample":
        return _sampler(table)
    return _scorer(str(table.get("kind", "reward")))


def _training() -> Described:
    parameters = inspect.signature(train_policy).parameters.values()
    names = [each.name for each in parameters if each.kind is each.KEYWORD_ONLY]
    keys = tuple(name for name in names if name not in _GIVEN_BY_THE_LOOP)
    checked = {each.name: each for each in fields(PolicySettings) if each.name in keys}
    return Described(train_policy.__name__, keys, checked=checked)


def _sampler(table: Mapping[str, Any]) -> Described:
    kind = sampler_class(kind_for(table))
    # The model is the policy; a server may know it by another name.
    keys = [each.name for each in fields(kind) if each.init]
    known = ("backend", *(key for key in keys if key != "model" or "url" in table))
    needed = tuple(key for key in _needed(kind) if key != "model")
    return Described(kind.__name__, known, needed, make=lambda own: policy_sampler(".", own))


def _scorer(name: str) -> Described | None:
    if name not in SCORERS:
        return None
    kind = scorer_class(name)
    keys = [each.name for each in fields(kind) if each.init and each.name not in _OBJECTS]
    spelled = tuple(_KEY_OF.get(key, key) for key in keys)
    return Described(kind.__name__, spelled, _needed(kind), make=lambda own: scorer_from(name, own))


def _needed(kind: Any) -> tuple[str, ...]:
    needed = [
        each.name
        for each in fields(kind)
        if each.init and each.default is MISSING and each.default_factory is MISSING
    ]
    return tuple(needed)


def plan_for(method: str) -> tuple[Any, Mapping[str, Any]]:
    """The plan that selects for a training, and what differs from its own defaults.

    >>> plan_for("dpo")[0].kind
    'pairs'
    """
    if method == "dpo":
        return Pairs, {"chosen_min": None, "rejected_below": None}
    return BestOf, {}


def policy_sampler(policy: str, own: Mapping[str, Any]) -> Any:
    """The sampler of `policy`, a folder or hub id, from the keys of [sample] that are its own."""
    return sampler_from({"model": policy, **own})
