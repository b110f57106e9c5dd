"""Small tables full of trouble, and every plan that can be made for them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pyarrow as pa
from hypothesis import strategies as st

from prefmill.plans import Advantage, BestOf, Pairs, Plan, Unpaired

MESSAGES = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
TEXT_PROMPTS = ["p", "p ", "caf\u00e9", "cafe\u0301", "", "🙂", "P"]
MESSAGE_PROMPTS = [
    [{"role": "user", "content": "p"}],
    [{"role": "user", "content": "p "}],
    [{"role": "user", "content": None}],
    [{"role": "user", "content": ""}],
    [{"role": "system", "content": "é"}, {"role": "user", "content": "p"}],
    [],
]
COMPLETIONS = ["a", "b", "c", "d", "a ", ""]
INTEGERS = [0, 1, 2, 3, 4, 5]
FLOATS = [
    0.0,
    -0.0,
    0.1,
    0.2,
    0.3,
    0.30000000000000004,
    1.0,
    2.0,
    2.5,
    4.0,
    5.0,
    -3.0,
    math.nan,
    math.inf,
    -math.inf,
]
NINE_DECIMALS = [
    0.001,
    0.010000001,
    0.252000001,
    0.5,
]  # their means end in a half at the ninth decimal
HUGE = [1e308, -1e308, 2.0**53]
TEXTS = [
    "1",
    " 2 ",
    "3.5",
    "4e0",
    "-.5",
    "5.",
    "0",
    "-0",
    "1e-3",
    "",
    "x",
    "1e999",
    "nan",
    "-inf",
    "1_0",
    "٣",
]
STAGES = [[1, 2, 3], [0, -1, 2**60], ["1", " 2 ", "3.0", "x", "1.5", "1e20"]]
CONCLUSIONS = [["7", "7", "8", "", "é"], [7, 8, 9], [True, False]]
KINDS = (Pairs, Unpaired, BestOf, Advantage)
POLICIES = {
    "weight": [1.0, 0.5, 0.0, 3.0, 0.1, 0.25, -1.0, math.nan],
    "logprob": [0.0, -0.5, -3.0, 2.0, -700.0, -1.25, math.inf],
}
SHARES = [0.07, 0.3, 0.5, 0.7, 1 / 3, 0.999, 1e-12]
WEIGHTS = [0, 0.1, 0.5, 1, 3, -1]


@dataclass
class Problem:
    """A table, a plan for it, and the names of its roles; prints as what rebuilds it."""

    columns: dict[str, list]
    plan: Plan
    roles: dict[str, object] = field(default_factory=dict)
    score_type: pa.DataType = field(default_factory=pa.float64)

    def table(self, keep: list[int] | None = None) -> pa.Table:
        """The rows, or those at the positions `keep`, in that order."""
        types = {
            "prompt": prompt_type(self.columns["prompt"]),
            "completion": pa.string(),
            "score": self.score_type,
            "other": self.score_type,
        }
        types |= {
            "who": pa.string(),
            "aspect": pa.string(),
            "id": id_type(self.columns.get("id", [])),
            "g1": pa.string(),
            "g2": pa.int64(),
            "pi": pa.float64(),
        }
        types["stage"] = id_type(self.columns.get("stage", []))
        types["final"] = pa.array(self.columns.get("final", []) or [""]).type
        chosen = {
            name: values if keep is None else [values[i] for i in keep]
            for name, values in self.columns.items()
        }
        return pa.table({name: pa.array(values, types[name]) for name, values in chosen.items()})

    @property
    def rows(self) -> int:
        return len(self.columns["prompt"])


def prompt_type(values: list) -> pa.DataType:
    return MESSAGES if any(isinstance(v, list) for v in values) else pa.string()


def id_type(values: list) -> pa.DataType:
    return pa.int64() if any(isinstance(v, int) for v in values) else pa.string()


@st.composite
def plans(draw: st.DrawFn, kinds: tuple[type, ...] = KINDS) -> Plan:
    """Any valid plan. Weights are of the columns `score` and `other` or of the aspects `score` and
    `other`: the same names.
    """
    bound = st.sampled_from([None, None, None, None, 0, 0.2, 0.5, 1, 2, 2.5, 4, -1])
    kind = draw(st.sampled_from(kinds))
    high, low = draw(bound), draw(bound)
    aggregate = draw(st.sampled_from(["none", "none", "mean", "median", "max", "min", "majority"]))
    values: dict[str, object] = {
        "aggregate": aggregate,
        "min_votes": 1 if aggregate == "none" else draw(st.sampled_from([1, 1, 2])),
        "normalize": draw(st.sampled_from(["none", "none", "none", "zscore", "rank"])),
        "weights": draw(
            st.none()
            | st.fixed_dictionaries(
                {"score": st.sampled_from(WEIGHTS), "other": st.sampled_from(WEIGHTS)}
            )
        ),
        "tie_break": draw(st.sampled_from(["position", "id"])),
        "seed": draw(st.sampled_from([0, 1, 2**63 - 1])),
    }
    if kind is Advantage:
        return Advantage(
            method=draw(st.sampled_from(["centered", "grpo", "rloo", "rank"])),
            epsilon=draw(st.sampled_from([1e-4, 0.5])),
            **values,
        )
    if kind is BestOf:
        values |= {
            "k": draw(st.integers(1, 5)),
            "pick": draw(st.sampled_from(["best", "median", "worst", "random", "rso", "majority"])),
        }
        values |= {
            "scope": draw(st.sampled_from(["prompt", "prompt", "pool"])),
            "stages": draw(st.sampled_from(["all", "all", "last"])),
        }
        values |= {
            "length_control": draw(st.sampled_from([False, False, True])),
            "beta": draw(st.sampled_from([0.5, 1e-9, 0.1, 3, 1e9])),
        }
        if values["pick"] == "rso":
            values["scope"] = "prompt"
        if values["pick"] == "majority":
            values["length_control"] = False
        return BestOf(min_score=high, **values)
    if kind is Pairs:
        count = st.none() | st.integers(1, 4)
        strategy = draw(
            st.sampled_from(
                ["best_worst", "best_random", "best_rest", "adjacent", "all", "threshold"]
            )
        )
        values |= {"strategy": strategy, "min_margin": draw(st.sampled_from([0, 0, 0.1, 1, 2.5]))}
        values |= {
            name: draw(count) if draw(st.booleans()) else None
            for name in ("max_pairs_per_prompt", "top_k", "bottom_k")
        }
    if kind is Unpaired or values["strategy"] == "threshold":
        high, low = high or 0, low or 0
        if kind is Unpaired:
            high, low = max(high, low), min(high, low)
    return kind(**draw(bounds_of(kind, high, low)), **values)


@st.composite
def bounds_of(draw: st.DrawFn, kind: type, high: float | None, low: float | None) -> dict:
    """The thresholds `high` and `low`, or quantiles of one side or of both."""
    sides = draw(st.sampled_from([(), (), (), ("chosen",), ("rejected",), ("chosen", "rejected")]))
    shares = sorted(draw(st.lists(st.sampled_from(SHARES), min_size=2, max_size=2)))
    at = dict(zip(("rejected", "chosen"), shares, strict=True))
    bounds = {f"{side}_quantile": at[side] for side in sides}
    # One quantile next to a number can cross it, which labels refuse: there it stands alone.
    alone = len(sides) == 1 and kind is Unpaired
    if not alone:
        bounds |= {} if "chosen" in sides else {"chosen_min": high}
        bounds |= {} if "rejected" in sides else {"rejected_below": low}
    return bounds


@st.composite
def problems(draw: st.DrawFn, kinds: tuple[type, ...] = KINDS, max_rows: int = 14) -> Problem:
    """A plan and a table with the roles that it needs."""
    plan = draw(plans(kinds))
    aspects = plan.weights is not None and plan.aggregate != "none" and draw(st.booleans())
    computed = (
        plan.weights is not None
        or plan.normalize != "none"
        or plan.aggregate in ("mean", "median", "majority")
    )
    controlled = isinstance(plan, BestOf) and plan.length_control
    computed = computed or controlled or isinstance(plan, Advantage)
    # Of scores that differ in their last bit only, the correlation with anything is that of
    # rounding.
    floats = [x for x in FLOATS if not (controlled and x == 0.3)]
    score_type, pool = draw(
        st.sampled_from(
            [
                (pa.int64(), INTEGERS),
                (pa.float64(), floats),
                (pa.float64(), NINE_DECIMALS),
                (
                    pa.float64(),
                    floats[:7] if computed else FLOATS + HUGE,
                ),  # sums of huge scores overflow: the page is silent
                (pa.string(), TEXTS),
                (pa.bool_(), [True, False]),
            ]
        )
    )
    n = draw(st.integers(0, 3) | st.integers(4, max_rows))
    prompts = draw(st.sampled_from([TEXT_PROMPTS, MESSAGE_PROMPTS]))
    pools: dict[str, list] = {
        "prompt": draw(st.lists(st.sampled_from(prompts), min_size=1, max_size=3)),
        "completion": COMPLETIONS[: draw(st.integers(1, len(COMPLETIONS)))],
        "score": pool,
    }
    roles: dict[str, object] = {}
    if plan.weights is not None and not aspects:
        pools["other"] = pool
    elif draw(st.sampled_from([False, False, True])):
        roles["score"] = "-score"
    if plan.normalize != "none":
        pools["who"], roles["annotator"] = ["x", "y", ""], "who"
    if aspects:
        pools["aspect"], roles["aspect"] = ["score", "other", "score", "other", "third"], "aspect"
    if plan.tie_break == "id":
        pools["id"], roles["id"] = (
            draw(st.sampled_from([["", "a", "B", "é", "10", "9"], [1, 9, 10, -2, 3, 2**62]])),
            "id",
        )
    if isinstance(plan, BestOf) and plan.stages == "last":
        pools["stage"], roles["stage"] = draw(st.sampled_from(STAGES)), "stage"
    if isinstance(plan, BestOf) and plan.pick == "majority":
        pools["final"], roles["conclusion"] = draw(st.sampled_from(CONCLUSIONS)), "final"
    if (
        isinstance(plan, Advantage)
        and plan.method != "rank"
        and (policy := draw(st.sampled_from([None, *POLICIES])))
    ):
        pools["pi"], roles[policy] = POLICIES[policy], "pi"
    if draw(st.sampled_from([False, False, False, True])):
        pools["g1"], pools["g2"] = ["a", "b", ""], [1, 12]
        roles["group"] = draw(st.sampled_from(["g1", ["g1"], ["g1", "g2"], ["g2", "g1"]]))
    columns = {
        name: draw(st.lists(st.sampled_from(values), min_size=n, max_size=n))
        for name, values in pools.items()
    }
    for name, i in (
        draw(st.lists(st.tuples(st.sampled_from(list(columns)), st.integers(0, n - 1)), max_size=3))
        if n
        else ()
    ):
        columns[name][i] = None
    return Problem(columns, plan, roles, score_type)
