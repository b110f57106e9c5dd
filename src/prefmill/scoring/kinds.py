"""The scorers by name. The command line, the loop's recipe and Python make them from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefmill.models.described import loaded

#: where each stands; nothing is loaded before it is asked for
SCORERS: Mapping[str, str] = {
    "reward": "prefmill.scoring.reward:RewardModel",
    "logprob": "prefmill.scoring.reward:LogProb",
    "implicit": "prefmill.scoring.reward:ImplicitReward",
    "judge": "prefmill.scoring.judge:JudgeScorer",
    "endpoint": "prefmill.scoring.endpoint:EndpointScorer",
}


def scorer_class(kind: str) -> Any:
    """The class of a kind, a `Described`: its fields are what it takes."""
    return loaded(SCORERS[kind])
