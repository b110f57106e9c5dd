"""Plans: frozen descriptions of *what* is wanted.

What each field means exactly is in `docs/semantics.md`. A plan checks itself when it is made (every
problem at once), has a content hash, reads and writes TOML, and runs nowhere by itself:
`plan.lazy(frame)` gives a Polars LazyFrame, `plan.sql("table")` DuckDB SQL, `prefmill.run` files.
"""

from __future__ import annotations

from prefmill.plans import kinds
from prefmill.plans.advantage import AdvantageOptions, Method
from prefmill.plans.best_of import BestOfOptions, Pick, Scope, StagesUsed
from prefmill.plans.expect import Expect, Expectation
from prefmill.plans.feedback import (
    Aggregate,
    FeedbackOptions,
    FeedbackPlan,
    Normalize,
    OnInvalid,
    TieBreak,
)
from prefmill.plans.kinds import *  # noqa: F403
from prefmill.plans.kinds import FEEDBACK_KINDS, KINDS, read_plan
from prefmill.plans.pairs import PairsOptions, Strategy
from prefmill.plans.plan import Plan
from prefmill.plans.thresholds import ThresholdPlan
from prefmill.plans.unpaired import UnpairedOptions
from prefmill.plans.values import Policy
from prefmill.table.thresholds import Threshold

__all__ = [
    "FEEDBACK_KINDS",
    "KINDS",
    "AdvantageOptions",
    "Aggregate",
    "BestOfOptions",
    "Expect",
    "Expectation",
    "FeedbackOptions",
    "FeedbackPlan",
    "Method",
    "Normalize",
    "OnInvalid",
    "PairsOptions",
    "Pick",
    "Plan",
    "Policy",
    "Scope",
    "StagesUsed",
    "Strategy",
    "Threshold",
    "ThresholdPlan",
    "TieBreak",
    "UnpairedOptions",
    "read_plan",
]
__all__ += kinds.__all__
