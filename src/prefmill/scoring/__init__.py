"""Scoring: what turns candidates into numbers. Arrow, NumPy and torch only, so that it runs
wherever a GPU is; torch is loaded on first use.

    tokens.py     conversations to token ids          packing.py    token rows to flat streams,
    prompts once templates.py  chat templates, bounded, on a date  functions.py  what decides a
    function's values attention.py  attention over streams              engine.py     runs a model
    over streams or batches; the probe; memory heads.py      what is read off a model
    models.py     loads models and names them by content reward.py     RewardModel, LogProb,
    ImplicitReward    scorers.py    the protocol, functions, Ensemble    cache.py  scores by content
    judge.py      a language model as a judge       rubrics.py    what it is asked, and what its
    answers mean endpoint.py   reward models behind a server     parity.py     what is wrong with a
    server's scores
"""

from __future__ import annotations

from prefmill.scoring.endpoint import EndpointScorer
from prefmill.scoring.judge import JudgeScorer
from prefmill.scoring.reward import ImplicitReward, LogProb, RewardModel
from prefmill.scoring.scorers import Ensemble, FunctionScorer, Scored, Scorer

__all__ = [
    "EndpointScorer",
    "Ensemble",
    "FunctionScorer",
    "ImplicitReward",
    "JudgeScorer",
    "LogProb",
    "RewardModel",
    "Scored",
    "Scorer",
]
