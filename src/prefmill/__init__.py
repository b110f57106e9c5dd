"""prefmill: raw feedback in, checked preference data out.

    import prefmill as pm

    plan = pm.Pairs(chosen_min=4, rejected_below=4)               # what
    report = pm.run(plan, "feedback/*.parquet", "pairs.parquet")  # files, out of core
    plan.lazy(frame)                                              # a Polars LazyFrame
    plan.sql("feedback")                                          # DuckDB SQL
    plan.dataset(ds)                                              # a Hugging Face dataset
    pm.sample("prompts.jsonl", "pool.parquet", sampler=pm.LocalSampler(model="org/policy"), n=8)
    pm.score("pool.parquet", "scored.parquet", scorer=pm.RewardModel(model="org/rm"))
    pm.run(pm.BestOf(k=4), "scored.parquet", "best.parquet")

Importing this package loads none of Polars, DuckDB, datasets, transformers, torch: each is loaded where it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from prefmill._version import __version__
from prefmill.errors import PrefmillError
from prefmill.plans import Advantage, BestOf, Pairs, Unpaired, Values
from prefmill.schema import Roles

if TYPE_CHECKING:
    from prefmill.bellman import values
    from prefmill.curves import Curve, curve
    from prefmill.loops import LoopReport, loop
    from prefmill.report import PairReport, pair_report
    from prefmill.rollouts import step_values, stepwise
    from prefmill.runs import RunReport, run
    from prefmill.sample_runs import SampleReport, sample
    from prefmill.sampling import EndpointSampler, LocalSampler, Sampler
    from prefmill.score_runs import ScoreReport, score
    from prefmill.scoring import EndpointScorer, Ensemble, ImplicitReward, JudgeScorer, LogProb, RewardModel, Scorer
    from prefmill.stream import score_stream
    from prefmill.train_report import TrainReport
    from prefmill.training import train_policy, train_reward

importlib.import_module("prefmill.forks")  # before a fork, if it can be: it sees what stays behind

__all__ = [
    "Advantage",
    "BestOf",
    "Curve",
    "EndpointSampler",
    "EndpointScorer",
    "Ensemble",
    "ImplicitReward",
    "JudgeScorer",
    "LocalSampler",
    "LogProb",
    "LoopReport",
    "PairReport",
    "Pairs",
    "PrefmillError",
    "RewardModel",
    "Roles",
    "RunReport",
    "SampleReport",
    "Sampler",
    "ScoreReport",
    "Scorer",
    "TrainReport",
    "Unpaired",
    "Values",
    "__version__",
    "curve",
    "loop",
    "pair_report",
    "run",
    "sample",
    "score",
    "score_stream",
    "step_values",
    "stepwise",
    "train_policy",
    "train_reward",
    "values",
]

_LAZY = {
    "Curve": "curves",
    "curve": "curves",
    "LoopReport": "loops",
    "loop": "loops",
    "PairReport": "report",
    "pair_report": "report",
    "RunReport": "runs",
    "run": "runs",
    **dict.fromkeys(("SampleReport", "sample"), "sample_runs"),
    **dict.fromkeys(("EndpointSampler", "LocalSampler", "Sampler"), "sampling"),
    "ScoreReport": "score_runs",
    "score": "score_runs",
    "score_stream": "stream",
    "TrainReport": "train_report",
    **dict.fromkeys(("train_policy", "train_reward"), "training"),
    "values": "bellman",
    **dict.fromkeys(("step_values", "stepwise"), "rollouts"),
    **dict.fromkeys(("EndpointScorer", "Ensemble", "ImplicitReward", "JudgeScorer", "LogProb", "RewardModel", "Scorer"), "scoring"),
}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(f"prefmill.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'prefmill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
