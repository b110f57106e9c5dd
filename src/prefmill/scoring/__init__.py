"""Scoring: what turns candidates into numbers.

Arrow, NumPy and torch only, so that it runs wherever a GPU is; each is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefmill.models.described import loaded

if TYPE_CHECKING:
    from prefmill.scoring.choice import ChoiceScorer
    from prefmill.scoring.endpoint import EndpointScorer
    from prefmill.scoring.ensemble import Ensemble
    from prefmill.scoring.judge import JudgeScorer
    from prefmill.scoring.judging.criteria import Criterion
    from prefmill.scoring.judging.rubrics import Rubric
    from prefmill.scoring.likelihood import ImplicitReward, LogProb
    from prefmill.scoring.reward import RewardModel
    from prefmill.scoring.scorers import FunctionScorer, Scored, Scorer
    from prefmill.scoring.verify.verifier import Verifier
    from prefmill.scoring.vllm import VllmReward

__all__ = [
    "ChoiceScorer",
    "Criterion",
    "EndpointScorer",
    "Ensemble",
    "FunctionScorer",
    "ImplicitReward",
    "JudgeScorer",
    "LogProb",
    "RewardModel",
    "Rubric",
    "Scored",
    "Scorer",
    "Verifier",
    "VllmReward",
]

_HOMES = {
    "choice": ("ChoiceScorer",),
    "endpoint": ("EndpointScorer",),
    "ensemble": ("Ensemble",),
    "judge": ("JudgeScorer",),
    "judging.criteria": ("Criterion",),
    "judging.rubrics": ("Rubric",),
    "likelihood": ("ImplicitReward", "LogProb"),
    "reward": ("RewardModel",),
    "scorers": ("FunctionScorer", "Scored", "Scorer"),
    "verify.verifier": ("Verifier",),
    "vllm": ("VllmReward",),
}


def __getattr__(name: str) -> object:
    for module, names in _HOMES.items():
        if name in names:
            return loaded(f"prefmill.scoring.{module}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
