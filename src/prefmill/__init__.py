"""prefmill: raw feedback in, checked preference data out.

    import prefmill as pm

    plan = pm.Pairs(chosen_min=4, rejected_below=4)               # what
    report = pm.run(plan, "feedback/*.parquet", "pairs.parquet")  # files, out of core
    plan.lazy(frame)                                              # a Polars LazyFrame
    plan.sql("feedback")                                          # DuckDB SQL
    prefmill.datasets.apply(plan, ds)                             # a Hugging Face dataset
    pm.sample("prompts.jsonl", "pool.parquet", sampler=pm.LocalSampler(model="org/policy"), n=8)
    pm.score("pool.parquet", "scored.parquet", scorer=pm.RewardModel(model="org/rm"))
    pm.run(pm.BestOf(k=4), "scored.parquet", "best.parquet")

Importing this package loads none of Polars, DuckDB, datasets, transformers, torch: each is loaded
where it is first used.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from prefmill._version import __version__
from prefmill.errors import PrefmillError
from prefmill.plans import kinds as _kinds
from prefmill.plans.expect import Expect
from prefmill.plans.kinds import *  # noqa: F403
from prefmill.shapes.words import Rows
from prefmill.table.roles import Roles

if TYPE_CHECKING:
    from prefmill.isolation import isolated
    from prefmill.loops.looked import StagesReport, loop_report
    from prefmill.loops.loop import LoopReport, loop
    from prefmill.proxies.label_next import NextReport, label_next
    from prefmill.proxies.told import WorthReport
    from prefmill.proxies.worth import worth
    from prefmill.reports.report import Report, report
    from prefmill.rules.rollouts import step_values, stepwise
    from prefmill.rules.step_records import step_labels
    from prefmill.runs.account.report import RunReport
    from prefmill.runs.causes.diff import diff
    from prefmill.runs.causes.report import DiffReport
    from prefmill.runs.causes.told import WhyReport
    from prefmill.runs.causes.why import why
    from prefmill.runs.judges.audit import audit
    from prefmill.runs.judges.audit_report import AuditReport
    from prefmill.runs.judges.votes import VotesReport, votes
    from prefmill.runs.looks.calibrate import CalibrateReport, calibrate
    from prefmill.runs.looks.curve import Curve, curve
    from prefmill.runs.plan import run
    from prefmill.runs.resumable.sample import sample
    from prefmill.runs.resumable.sample_report import SampleReport
    from prefmill.runs.resumable.score import score
    from prefmill.runs.resumable.score_report import ScoreReport
    from prefmill.runs.rows import RowsReport, rows
    from prefmill.runs.run import pair_report
    from prefmill.runs.steps import StepsReport, label_steps
    from prefmill.runs.values import ValuesReport, values
    from prefmill.runs.workers.workers import Workers
    from prefmill.sampling import (
        BatchSampler,
        EndpointSampler,
        LocalSampler,
        Sampler,
        VllmSampler,
    )
    from prefmill.scoring import (
        ChoiceScorer,
        Criterion,
        EndpointScorer,
        Ensemble,
        ImplicitReward,
        JudgeScorer,
        LogProb,
        RewardModel,
        Rubric,
        Scorer,
        Verifier,
        VllmReward,
    )
    from prefmill.scoring.stream import score_stream
    from prefmill.table.report import PairReport
    from prefmill.training.report import TrainReport
    from prefmill.training.train import train_policy, train_reward

_ABSENT = [name for name in ("fcntl", "resource") if importlib.util.find_spec(name) is None]
if _ABSENT:
    raise ImportError(
        "prefmill needs a POSIX system (Linux, macOS, or WSL on Windows);"
        f" this one has no {_ABSENT}."
    )

# Before a fork, if it can be: it sees what stays behind.
importlib.import_module("prefmill.forks")

__all__ = [
    "AuditReport",
    "BatchSampler",
    "CalibrateReport",
    "ChoiceScorer",
    "Criterion",
    "Curve",
    "DiffReport",
    "EndpointSampler",
    "EndpointScorer",
    "Ensemble",
    "Expect",
    "ImplicitReward",
    "JudgeScorer",
    "LocalSampler",
    "LogProb",
    "LoopReport",
    "NextReport",
    "PairReport",
    "PrefmillError",
    "Report",
    "RewardModel",
    "Roles",
    "Rows",
    "RowsReport",
    "Rubric",
    "RunReport",
    "SampleReport",
    "Sampler",
    "ScoreReport",
    "Scorer",
    "StagesReport",
    "StepsReport",
    "TrainReport",
    "ValuesReport",
    "Verifier",
    "VllmReward",
    "VllmSampler",
    "VotesReport",
    "WhyReport",
    "Workers",
    "WorthReport",
    "__version__",
    "audit",
    "calibrate",
    "curve",
    "diff",
    "isolated",
    "label_next",
    "label_steps",
    "loop",
    "loop_report",
    "pair_report",
    "report",
    "rows",
    "run",
    "sample",
    "score",
    "score_stream",
    "step_labels",
    "step_values",
    "stepwise",
    "train_policy",
    "train_reward",
    "values",
    "votes",
    "why",
    "worth",
]
__all__ += _kinds.__all__

_HOMES = {
    "proxies.label_next": ("NextReport", "label_next"),
    "proxies.told": ("WorthReport",),
    "proxies.worth": ("worth",),
    "reports.report": ("Report", "report"),
    "isolation": ("isolated",),
    "rules.rollouts": ("step_values", "stepwise"),
    "rules.step_records": ("step_labels",),
    "runs.judges.audit": ("audit",),
    "runs.judges.audit_report": ("AuditReport",),
    "runs.looks.calibrate": ("CalibrateReport", "calibrate"),
    "runs.causes.diff": ("diff",),
    "runs.causes.report": ("DiffReport",),
    "runs.causes.told": ("WhyReport",),
    "runs.causes.why": ("why",),
    "runs.workers.workers": ("Workers",),
    "runs.looks.curve": ("Curve", "curve"),
    "runs.plan": ("run",),
    "runs.rows": ("RowsReport", "rows"),
    "runs.account.report": ("RunReport",),
    "runs.run": ("pair_report",),
    "runs.resumable.sample": ("sample",),
    "runs.resumable.sample_report": ("SampleReport",),
    "runs.resumable.score": ("score",),
    "runs.resumable.score_report": ("ScoreReport",),
    "runs.steps": ("StepsReport", "label_steps"),
    "runs.values": ("ValuesReport", "values"),
    "runs.judges.votes": ("VotesReport", "votes"),
    "sampling": ("BatchSampler", "EndpointSampler", "LocalSampler", "Sampler", "VllmSampler"),
    "scoring": (
        "ChoiceScorer",
        "Criterion",
        "EndpointScorer",
        "Ensemble",
        "ImplicitReward",
        "JudgeScorer",
        "LogProb",
        "RewardModel",
        "Rubric",
        "Scorer",
        "Verifier",
        "VllmReward",
    ),
    "scoring.stream": ("score_stream",),
    "table.report": ("PairReport",),
    "training.report": ("TrainReport",),
    "training.train": ("train_policy", "train_reward"),
    "loops.looked": ("StagesReport", "loop_report"),
    "loops.loop": ("LoopReport", "loop"),
}
_LAZY = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> object:
    if name in _LAZY:
        return getattr(importlib.import_module(f"prefmill.{_LAZY[name]}"), name)
    raise AttributeError(f"module 'prefmill' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
