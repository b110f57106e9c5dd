"""Plans as functions over frames, `lf.pref`, `df.pref`, `pl.col(...).pref`: signatures written out,
so that editors complete them.

Importing `prefmill.polars` imports this module, and this module registers the three namespaces
once.

    import polars as pl, prefmill.polars

    pl.scan_parquet("feedback/*.parquet").pref.pairs(chosen_min=4).sink_parquet("pairs.parquet")
    pool.with_columns(rank=pl.col("score").pref.rank_in("prompt"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import polars as pl

from prefmill.plans import (
    Aggregate,
    BestOf,
    Method,
    Normalize,
    OnInvalid,
    Pairs,
    Pick,
    Scope,
    StagesUsed,
    Strategy,
    Threshold,
    TieBreak,
    Unpaired,
    plan_and_roles,
)
from prefmill.rules.advantages import advantage
from prefmill.rules.picks import rank_in

if TYPE_CHECKING:
    from prefmill.table.report import PairReport


def pairs(
    frame: pl.LazyFrame | pl.DataFrame,
    *,
    chosen_min: Threshold = "auto",
    rejected_below: Threshold = "auto",
    strategy: Strategy = "best_worst",
    min_margin: float = 0,
    max_pairs_per_prompt: int | None = None,
    top_k: int | None = None,
    bottom_k: int | None = None,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    """Preference pairs of a frame: the plan `Pairs` and the roles as arguments.

    | prompt | completion | score |      | prompt | chosen | rejected | chosen_score | rejected_score |
    |   p    |     a      |   5   |  ->  |   p    |   a    |    b     |      5       |       1        |
    |   p    |     b      |   1   |

    What the arguments mean: `prefmill.Pairs`; roles are column names, found by the names that the
    field uses where they are not given.
    `keep` are columns to carry along: of pairs `chosen_NAME` and `rejected_NAME`, of the others
    `NAME`. Nothing is collected; the input is executed once; of it only the columns of roles are
    read. Order of rows: `docs/semantics.md`. Raises `PlanError`, `ColumnMissing`, `BadArgument` at
    once, before anything runs.

    >>> feedback = pl.LazyFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "rating": [5, 1]})
    >>> feedback.pipe(pairs, min_margin=2).collect().rows()
    [('p', 'a', 'b', 5.0, 1.0)]
    """
    return _lazy(Pairs, frame, locals())


def unpaired(
    frame: pl.LazyFrame | pl.DataFrame,
    *,
    chosen_min: Threshold = "auto",
    rejected_below: Threshold = "auto",
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    """Labels for KTO (prompt, completion, label, score): the plan `Unpaired` and the roles as
    arguments; else as `pairs`.

    >>> feedback = pl.LazyFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]})
    >>> unpaired(feedback).collect().rows()
    [('p', 'a', True, 5.0), ('p', 'b', False, 1.0)]
    """
    return _lazy(Unpaired, frame, locals())


def best_of(
    frame: pl.LazyFrame | pl.DataFrame,
    *,
    k: int = 1,
    pick: Pick = "best",
    scope: Scope = "prompt",
    min_score: float | None = None,
    stages: StagesUsed = "all",
    beta: float = 0.5,
    length_control: bool = False,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    """The k best of every prompt (prompt, completion, score, rank): the plan `BestOf` and the roles
    as arguments; else as `pairs`.

    >>> pool = pl.LazyFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [0.2, 0.9]})
    >>> best_of(pool).collect().rows()
    [('p', 'b', 0.9, 1)]
    """
    return _lazy(BestOf, frame, locals())


def pair_report(
    frame: pl.LazyFrame | pl.DataFrame,
    *,
    chosen_min: Threshold = "auto",
    rejected_below: Threshold = "auto",
    strategy: Strategy = "best_worst",
    min_margin: float = 0,
    max_pairs_per_prompt: int | None = None,
    top_k: int | None = None,
    bottom_k: int | None = None,
    aggregate: Aggregate = "none",
    normalize: Normalize = "none",
    weights: Mapping[str, float] | None = None,
    min_votes: int = 1,
    tie_break: TieBreak = "position",
    on_invalid: OnInvalid = "drop",
    seed: int = 0,
    prompt: str | None = None,
    completion: str | None = None,
    score: str | None = None,
    id: str | None = None,
    annotator: str | None = None,
    aspect: str | None = None,
    stage: str | None = None,
    group: str | Sequence[str] | None = None,
) -> PairReport:
    """What `pairs` with the same arguments uses of the frame, and why it drops the rest; collects.
    Of other plans: `prefmill.pair_report`.

    >>> feedback = pl.LazyFrame({"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [5, 1, 5]})
    >>> dict(pair_report(feedback).dropped)
    {'single_completion': 1}
    """
    return _report(Pairs, frame, locals())


def _lazy(
    kind: type[Pairs] | type[Unpaired] | type[BestOf],
    frame: pl.LazyFrame | pl.DataFrame,
    given: Mapping[str, Any],
) -> pl.LazyFrame:
    plan, roles = plan_and_roles(kind, given)
    return plan.lazy(frame, keep=given["keep"], **roles)


def _report(
    kind: type[Pairs], frame: pl.LazyFrame | pl.DataFrame, given: Mapping[str, Any]
) -> PairReport:
    from prefmill.engines.frames import report

    plan, roles = plan_and_roles(kind, given)
    return report(plan, frame, **roles)


class LazyPref:
    """`lf.pref`: the functions of this module as methods."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def pairs(
        self,
        *,
        chosen_min: Threshold = "auto",
        rejected_below: Threshold = "auto",
        strategy: Strategy = "best_worst",
        min_margin: float = 0,
        max_pairs_per_prompt: int | None = None,
        top_k: int | None = None,
        bottom_k: int | None = None,
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> pl.LazyFrame:
        """As `prefmill.polars.pairs`."""
        return _lazy(Pairs, self._frame, locals())

    def unpaired(
        self,
        *,
        chosen_min: Threshold = "auto",
        rejected_below: Threshold = "auto",
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> pl.LazyFrame:
        """As `prefmill.polars.unpaired`."""
        return _lazy(Unpaired, self._frame, locals())

    def best_of(
        self,
        *,
        k: int = 1,
        pick: Pick = "best",
        scope: Scope = "prompt",
        min_score: float | None = None,
        stages: StagesUsed = "all",
        beta: float = 0.5,
        length_control: bool = False,
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> pl.LazyFrame:
        """As `prefmill.polars.best_of`."""
        return _lazy(BestOf, self._frame, locals())

    def pair_report(
        self,
        *,
        chosen_min: Threshold = "auto",
        rejected_below: Threshold = "auto",
        strategy: Strategy = "best_worst",
        min_margin: float = 0,
        max_pairs_per_prompt: int | None = None,
        top_k: int | None = None,
        bottom_k: int | None = None,
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
    ) -> PairReport:
        """As `prefmill.polars.pair_report`; collects."""
        return _report(Pairs, self._frame, locals())


class FramePref:
    """`df.pref`: the functions of this module as methods, collected."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def pairs(
        self,
        *,
        chosen_min: Threshold = "auto",
        rejected_below: Threshold = "auto",
        strategy: Strategy = "best_worst",
        min_margin: float = 0,
        max_pairs_per_prompt: int | None = None,
        top_k: int | None = None,
        bottom_k: int | None = None,
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> pl.DataFrame:
        """As `prefmill.polars.pairs`."""
        return _lazy(Pairs, self._frame, locals()).collect()

    def unpaired(
        self,
        *,
        chosen_min: Threshold = "auto",
        rejected_below: Threshold = "auto",
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> pl.DataFrame:
        """As `prefmill.polars.unpaired`."""
        return _lazy(Unpaired, self._frame, locals()).collect()

    def best_of(
        self,
        *,
        k: int = 1,
        pick: Pick = "best",
        scope: Scope = "prompt",
        min_score: float | None = None,
        stages: StagesUsed = "all",
        beta: float = 0.5,
        length_control: bool = False,
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
        keep: Sequence[str] = (),
    ) -> pl.DataFrame:
        """As `prefmill.polars.best_of`."""
        return _lazy(BestOf, self._frame, locals()).collect()

    def pair_report(
        self,
        *,
        chosen_min: Threshold = "auto",
        rejected_below: Threshold = "auto",
        strategy: Strategy = "best_worst",
        min_margin: float = 0,
        max_pairs_per_prompt: int | None = None,
        top_k: int | None = None,
        bottom_k: int | None = None,
        aggregate: Aggregate = "none",
        normalize: Normalize = "none",
        weights: Mapping[str, float] | None = None,
        min_votes: int = 1,
        tie_break: TieBreak = "position",
        on_invalid: OnInvalid = "drop",
        seed: int = 0,
        prompt: str | None = None,
        completion: str | None = None,
        score: str | None = None,
        id: str | None = None,
        annotator: str | None = None,
        aspect: str | None = None,
        stage: str | None = None,
        group: str | Sequence[str] | None = None,
    ) -> PairReport:
        """As `prefmill.polars.pair_report`; collects."""
        return _report(Pairs, self._frame, locals())


class ExprPref:
    """`pl.col(...).pref`: what can be said of one column of scores."""

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def rank_in(self, *over: str | pl.Expr) -> pl.Expr:
        """As `prefmill.polars.rank_in`: 1 for the best of its group, later rows first among equal
        scores.

        >>> pool = pl.DataFrame({"prompt": ["p", "p", "q"], "score": [0.2, 0.9, 0.1]})
        >>> pool.with_columns(rank=pl.col("score").pref.rank_in("prompt"))["rank"].to_list()
        [2, 1, 1]
        """
        return rank_in(self._expr, *over)

    def advantage(
        self,
        *,
        over: str | Sequence[str],
        kind: Method = "centered",
        weight: pl.Expr | None = None,
        logprob: pl.Expr | None = None,
        epsilon: float = 1e-4,
    ) -> pl.Expr:
        """As `prefmill.rules.advantages.advantage`: how much better than its group's other scores
        each one is.

        >>> pool = pl.DataFrame({"prompt": ["p", "p"], "score": [1.0, 3.0]})
        >>> pool.with_columns(advantage=pl.col("score").pref.advantage(over="prompt", kind="rloo"))["advantage"].to_list()
        [-2.0, 2.0]
        """
        return advantage(
            self._expr, over=over, kind=kind, weight=weight, logprob=logprob, epsilon=epsilon
        )


def _register(
    host: type, register: Callable[[str], Callable[[type[Any]], type[Any]]], namespace: type[Any]
) -> None:
    """Give `host` the namespace `pref`. When this module is loaded anew the old one makes room:
    Polars warns of a second registration.
    """
    there = getattr(host, "pref", None)
    if getattr(there, "__module__", None) == __name__:
        delattr(host, "pref")
    register("pref")(namespace)


_register(pl.LazyFrame, pl.api.register_lazyframe_namespace, LazyPref)
_register(pl.DataFrame, pl.api.register_dataframe_namespace, FramePref)
_register(pl.Expr, pl.api.register_expr_namespace, ExprPref)
