"""The scorers by name. The command line, the loop's recipe and Python make them from here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from prefmill.errors import BadArgument, nearest
from prefmill.models.described import loaded
from prefmill.sampling.kinds import sampler_from

#: where each stands; nothing is loaded before it is asked for
SCORERS: Mapping[str, str] = {
    "reward": "prefmill.scoring.reward:RewardModel",
    "logprob": "prefmill.scoring.likelihood:LogProb",
    "implicit": "prefmill.scoring.likelihood:ImplicitReward",
    "choice": "prefmill.scoring.choice:ChoiceScorer",
    "judge": "prefmill.scoring.judge:JudgeScorer",
    "endpoint": "prefmill.scoring.endpoint:EndpointScorer",
    "ensemble": "prefmill.scoring.ensemble:Ensemble",
    "verify": "prefmill.scoring.verify.verifier:Verifier",
    "vllm": "prefmill.scoring.vllm:VllmReward",
}

#: A scorer's field `kind` is a table's `server`: the table has a `kind` of its own.
FIELD_OF: Mapping[str, str] = {"server": "kind"}


def scorer_class(kind: str) -> Any:
    """The class of a kind, a `Described`: its fields are what it takes."""
    return loaded(SCORERS[kind])


def kind_for(kind: str, backend: str | None) -> str:
    """The kind that a backend makes of another one: vLLM has a class of its own.

    >>> kind_for("reward", "vllm"), kind_for("judge", "vllm"), kind_for("reward", None)
    ('vllm', 'judge', 'reward')
    """
    if (kind, backend) == ("reward", "vllm"):
        return "vllm"
    return kind


def scorer_from(kind: str, own: Mapping[str, Any]) -> Any:
    """The scorer of a kind from its keys, as a recipe has them.

    A judge's `sampler` is a table of its own, with the keys of [sample] that are a sampler's.
    """
    values = {FIELD_OF.get(key, key): value for key, value in own.items()}
    sampler = values.get("sampler")
    if isinstance(sampler, Mapping):
        values["sampler"] = sampler_from(sampler)
    return scorer_class(kind)(**values)


def scorer_in(table: Mapping[str, Any], where: str) -> Any:
    """The scorer that a table describes: its `kind` (default reward), and its fields.

    Raises `BadArgument` for a kind and a key that there is not.

    >>> scorer_in({"kind": "logprob", "model": "base"}, "score").model
    'base'
    """
    own = dict(table)
    kind = str(own.pop("kind", "reward"))
    if kind not in SCORERS:
        raise BadArgument(f"{where}: kind {kind!r} is none; expected one of {list(SCORERS)}.")
    taken = {field.name for field in fields(scorer_class(kind)) if field.init}
    for key in own:
        if FIELD_OF.get(key, key) in taken:
            continue
        near = nearest(key, sorted(taken))
        hint = f"did you mean {near[0]!r}?" if near else f"there are {sorted(taken)}."
        raise BadArgument(f"{where}: {kind} has no {key!r}.", hint=hint)
    try:
        return scorer_from(kind, own)
    except TypeError as error:  # a field that it needs is not there
        raise BadArgument(f"{where}: {error}.") from None
