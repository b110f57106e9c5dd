"""The door to Polars: plans as functions over frames, and `lf.pref`, `df.pref`, `pl.col().pref`.

    import polars as pl, prefmill.polars

    pl.scan_parquet("feedback/*.parquet").pref.pairs(chosen_min=4).sink_parquet("pairs.parquet")
    pool.with_columns(rank=pl.col("score").pref.rank_in("prompt"))

Every kind of plan is a function of this module and a method of `lf.pref` and `df.pref`, by its
word: `pairs`, `unpaired`, `best_of`, `advantages`. The arguments are the fields of the plan, the
words of `prefmill.Rows` (columns of roles, those not given being found by the names that the field
uses, and how raw records become rows), and `keep`, further columns: of pairs `chosen_NAME` and
`rejected_NAME`, of the others `NAME`. `rows` gives the rows that raw records become themselves.

Functions and `lf.pref` give a LazyFrame and collect nothing; `df.pref` gives a DataFrame. The input
is executed once, and only columns of roles are read. Order of rows: `docs/semantics.md`. Errors
(`PlanError`, `ColumnMissing`, `BadArgument`) come at once, before anything runs.

>>> feedback = pl.LazyFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "rating": [5, 1]})
>>> feedback.pipe(pairs, min_margin=2).collect().rows()
[('p', 'a', 'b', 5.0, 1.0)]
>>> unpaired(feedback).collect().rows()
[('p', 'a', True, 5.0), ('p', 'b', False, 1.0)]
>>> feedback.pref.best_of(score="-rating").collect().rows()
[('p', 'b', -1.0, 1)]
>>> feedback.collect().pref.advantages(method="rloo")["advantage"].to_list()
[4.0, -4.0]
>>> records = pl.LazyFrame({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[5, 1]]})
>>> records.pref.pairs(each="responses,scores", min_margin=2).collect().rows()
[('p', 'a', 'b', 5.0, 1.0)]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, Unpack

import polars as pl

from prefmill.arguments import closed
from prefmill.engines.frames import apply, report
from prefmill.plans import FEEDBACK_KINDS, FeedbackPlan, Method, Pairs
from prefmill.plans.signature import function_of
from prefmill.rules.advantages import advantage
from prefmill.rules.picks import rank_in
from prefmill.rules.step_records import lazy_step_labels
from prefmill.shapes.source import words_in
from prefmill.shapes.tables import long_form
from prefmill.shapes.words import Rows
from prefmill.table.roles import RoleNames
from prefmill.table.step_words import StepOptions

if TYPE_CHECKING:
    from prefmill.plans import AdvantageOptions, BestOfOptions, PairsOptions, UnpairedOptions
    from prefmill.table.report import PairReport

    Frame: TypeAlias = pl.LazyFrame | pl.DataFrame

    # What editors and type checkers see of the functions that the loop below makes.
    def pairs(frame: Frame, **options: Unpack[PairsOptions]) -> pl.LazyFrame: ...
    def unpaired(frame: Frame, **options: Unpack[UnpairedOptions]) -> pl.LazyFrame: ...
    def best_of(frame: Frame, **options: Unpack[BestOfOptions]) -> pl.LazyFrame: ...
    def advantages(frame: Frame, **options: Unpack[AdvantageOptions]) -> pl.LazyFrame: ...
    def pair_report(frame: Frame, **options: Unpack[PairsOptions]) -> PairReport:
        """What `pairs` with the same arguments uses, and why it drops the rest; collects."""


__all__ = ["apply", "pair_report", "rank_in", "report", "rows", "step_labels", *FEEDBACK_KINDS]


@closed("step_labels")
def step_labels(frame: Frame, **words: Unpack[StepOptions]) -> pl.LazyFrame:
    """Records of steps as rows of a process reward model: `prefmill.step_labels`, lazily.

    What ratings mean is decided by all rows, so the whole frame is read when it is collected, and
    what cannot be decided is refused then.

    >>> records = pl.LazyFrame({"prompt": ["p"], "steps": [["a", "b"]], "ratings": [[1, 0]]})
    >>> records.pref.step_labels().collect().rows()
    [('p', ['a', 'b'], [True, False])]
    """
    return lazy_step_labels(frame.lazy(), **words)


def _long(frame: pl.LazyFrame | pl.DataFrame, rows: Rows | None, words: RoleNames) -> pl.LazyFrame:
    return long_form(frame, words_in(rows, words), where="rows").rows(frame).long()


def rows(
    frame: pl.LazyFrame | pl.DataFrame, *, rows: Rows | None = None, **words: Unpack[RoleNames]
) -> pl.LazyFrame:
    """The rows that the raw records of `frame` become, in order; nothing is collected.

    Args:
        rows: words of `prefmill.Rows`, as a whole.
        words: words of `prefmill.Rows`, one by one; they win over `rows`.

    Columns: prompt, completion, score and the other roles that are named, then the columns of
    `frame` whose values are not in these. Where scores compare inside one record only, its number
    is the last one, `record`: give it as `group` to a plan. A score that no column holds is left
    out. Raises `ColumnMissing`, `BadArgument`;
    `BadInput`, when it is collected, for lists of unequal length.

    >>> records = pl.LazyFrame({"prompt": ["p"], "responses": [["a", "b"]], "scores": [[5, 1]]})
    >>> rows(records, each="responses,scores").collect().rows()
    [('p', 'a', 5), ('p', 'b', 1)]
    """
    return _long(frame, rows, words)


class LazyPref:
    """`lf.pref`: the functions of this module as methods."""

    def __init__(self, frame: pl.LazyFrame) -> None:
        self._frame = frame

    def step_labels(self, **words: Unpack[StepOptions]) -> pl.LazyFrame:
        """As `step_labels` of this module."""
        return step_labels(self._frame, **words)

    def rows(self, *, rows: Rows | None = None, **words: Unpack[RoleNames]) -> pl.LazyFrame:
        """As `rows`: what raw records become."""
        return _long(self._frame, rows, words)


class FramePref:
    """`df.pref`: the functions of this module as methods, collected."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self._frame = frame

    def step_labels(self, **words: Unpack[StepOptions]) -> pl.DataFrame:
        """As `step_labels` of this module, collected."""
        return step_labels(self._frame, **words).collect()

    def rows(self, *, rows: Rows | None = None, **words: Unpack[RoleNames]) -> pl.DataFrame:
        """As `rows`: what raw records become."""
        return _long(self._frame, rows, words).collect()


class ExprPref:
    """`pl.col(...).pref`: what can be said of one column of scores."""

    def __init__(self, expr: pl.Expr) -> None:
        self._expr = expr

    def rank_in(self, *over: str | pl.Expr) -> pl.Expr:
        """As `rank_in`: 1 for the best of its group, later rows first among equal scores.

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
        """How much better than its group's other scores each one is.

        >>> pool = pl.DataFrame({"prompt": ["p", "p"], "score": [1.0, 3.0]})
        >>> how_much = pl.col("score").pref.advantage(over="prompt", kind="rloo")
        >>> pool.select(how_much).to_series().to_list()
        [-2.0, 2.0]
        """
        return advantage(
            self._expr, over=over, kind=kind, weight=weight, logprob=logprob, epsilon=epsilon
        )


def _lazy(
    plan: FeedbackPlan, frame: Frame, roles: RoleNames, *, keep: Sequence[str]
) -> pl.LazyFrame:
    return apply(plan, frame, keep=keep, **roles)


def _report(plan: FeedbackPlan, frame: Frame, roles: RoleNames) -> PairReport:
    return report(plan, frame, **roles)


def _define(kind: type[FeedbackPlan], work: Callable[..., Any], name: str, **more: Any) -> None:
    """Make the function `name` of this module, and the methods of that name."""

    def of_lazy(plan: FeedbackPlan, pref: LazyPref, roles: RoleNames, **options: Any) -> Any:
        return work(plan, pref._frame, roles, **options)

    def of_frame(plan: FeedbackPlan, pref: FramePref, roles: RoleNames, **options: Any) -> Any:
        result = work(plan, pref._frame, roles, **options)
        return result.collect() if isinstance(result, pl.LazyFrame) else result

    def made(work: Callable[..., Any], data: str) -> Callable[..., Any]:
        return function_of(kind, work, module=__name__, name=name, data=data, more=more)

    globals()[name] = made(work, "frame")
    setattr(LazyPref, name, made(of_lazy, "self"))
    setattr(FramePref, name, made(of_frame, "self"))


for _word, _kind in FEEDBACK_KINDS.items():
    _define(_kind, _lazy, _word, keep=())
_define(Pairs, _report, "pair_report")


def _register(
    host: type, register: Callable[[str], Callable[[type[Any]], type[Any]]], namespace: type[Any]
) -> None:
    """Give `host` the namespace `pref`.

    When this module is loaded anew the old one makes room: Polars warns of a second registration.
    """
    there = getattr(host, "pref", None)
    if getattr(there, "__module__", None) == __name__:
        delattr(host, "pref")
    register("pref")(namespace)


_register(pl.LazyFrame, pl.api.register_lazyframe_namespace, LazyPref)
_register(pl.DataFrame, pl.api.register_dataframe_namespace, FramePref)
_register(pl.Expr, pl.api.register_expr_namespace, ExprPref)
