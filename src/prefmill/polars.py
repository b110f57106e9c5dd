"""Plans as lazy Polars expressions: the same steps and the same names as the macros in `sql/`.

    judged ──counted──▶ candidates ──groups──▶ pairs (positions and scores)  ──join──▶ texts
                                   ──pools───▶ picks
                                   ──────────▶ advantages

The rules of this engine are here and in modules beside: `polars_rows` (up to the candidates),
`polars_picks` (best-of-K), `advantages`.

`apply` composes and never collects; only `report` does. Texts meet the ranked positions in one join
at the end. Importing this module registers `lf.pref`, `df.pref` and `pl.col(...).pref`
(`polars_pref`), which are the functions `pairs`, `unpaired`, `best_of`, `pair_report` and `rank_in`
as methods.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Unpack, cast

import polars as pl

from prefmill.plans import (
    Advantage,
    BestOf,
    Kept,
    Pairs,
    Plan,
    Unpaired,
    kept_columns,
    output_columns,
    roles_of,
)
from prefmill.plans.thresholds import Scale, settled, unsettled
from prefmill.polars_pref import best_of, pair_report, pairs, unpaired
from prefmill.pools.frames import frame_of
from prefmill.rules.advantages import advantage_report, advantages
from prefmill.rules.picks import pick_report, picks, rank_in
from prefmill.rules.rows import (
    Candidates,
    check_types,
    drawn_from,
    first_that_holds,
    number,
    numbered,
)
from prefmill.table.chance import mix32
from prefmill.table.context import SYSTEM_OUT, asked, context_of, of_both
from prefmill.table.fits import fits_frame, fits_schema
from prefmill.table.messages import in_one_form, message_fields
from prefmill.table.report import PairReport
from prefmill.table.roles import Inputs, RoleNames, Roles

__all__ = ["Stages", "apply", "best_of", "pair_report", "pairs", "rank_in", "report", "unpaired"]


def apply(
    plan: Plan,
    frame: Inputs,
    *,
    keep: Sequence[str] = (),
    first: int = 0,
    trainer: bool | None = None,
    **names: Unpack[RoleNames],
) -> pl.LazyFrame:
    """`plan` over `frame` as a LazyFrame; `Plan.lazy` is this function. `first` is the position of
    the first row, for messages.

    Columns out: prompt, chosen, rejected (all text, or all messages), chosen_score, rejected_score
    (Float64);
    of labels: prompt, completion, label (Boolean), score; of best-of-K: prompt, completion, score,
    rank (Int64), with length control adjusted_score (Float64), and stage if that role is mapped; of
    advantages: prompt, completion, score, advantage (Float64). Then the prompt's context
    (`prefmill.table.context`) in rows for a `trainer`, which pairs and
    labels are, and the columns `keep`: of pairs `chosen_NAME` and `rejected_NAME`, else `NAME`.
    `frame` is one of Polars; files and whatever else `prefmill.run` takes are read at once
    (`prefmill.pools.frames`). Positions are the row order of `frame`. Cost: one narrow pass that
    ranks, one join that fetches texts.

    >>> feedback = pl.DataFrame({"question": ["p", "p"], "answer": ["a", "b"], "rating": [1, 5]})
    >>> apply(Pairs(), feedback).collect().row(0)
    ('p', 'b', 'a', 5.0, 1.0)
    """
    frame = frame_of(frame, "lazy")
    roles, schema = _resolved(plan, frame, names, "lazy")
    for_trainer = isinstance(plan, Pairs | Unpaired) if trainer is None else trainer
    context = (
        context_of(schema, roles, () if isinstance(plan, Pairs) else keep) if for_trainer else {}
    )
    kept = kept_columns(
        plan, keep, schema.names(), output_columns(plan, roles), where="lazy", context=context
    )
    places = {
        column: place for place, column in enumerate(dict.fromkeys(each.column for each in kept))
    }
    rows = _rows(plan, roles, frame, first, list(places))
    if isinstance(frame, pl.DataFrame):
        _warn_of_words(plan, roles, frame)
    stages = Stages(plan, roles, rows)
    carried = [f"_keep{place}" for place in places.values()]
    texts = rows.select("_pos", "_prompt", "_completion", *carried)
    extra = {each.name: _kept(each, places[each.column], schema, roles) for each in kept}
    if isinstance(plan, Unpaired):
        labels = stages.labels().filter(pl.col("_label").is_not_null()).sort("_turn", "_first")
        labelled = labels.join(texts, on="_pos", how="left", maintain_order="left").select(
            prompt="_prompt", completion="_completion", label="_label", score="_score", **extra
        )
        return _in_one_form(labelled, rows, ("completion",), extra)
    if isinstance(plan, BestOf):
        stage = {"stage": "_stage"} if roles.stage else {}
        more = {"adjusted_score": "_adjusted_score"} if plan.length_control else {}
        texts = rows.select("_pos", "_prompt", "_completion", *stage.values(), *carried).cache()
        picked = (
            picks(plan, stages.judged)
            .join(texts, on="_pos", how="left", maintain_order="left")
            .select(
                prompt="_prompt",
                completion="_completion",
                score="_score",
                rank="_rank",
                **more,
                **stage,
                **extra,
            )
        )
        return _in_one_form(picked, rows, ("completion",), extra) if trainer else picked
    if isinstance(plan, Advantage):
        found = advantages(plan, stages.judged).filter(pl.col("_reason").is_null())
        return found.join(texts, on="_pos", how="left", maintain_order="left").select(
            prompt="_prompt",
            completion="_completion",
            score="_score",
            advantage="_advantage",
            **extra,
        )
    told = (
        _told(stages.pairs().sort("_first", -pl.col("_c"), "_r"), texts)
        .filter(~pl.col("_same_text"))
        .select(
            prompt="_prompt",
            chosen="_completion",
            rejected="_worse",
            chosen_score="_chosen_score",
            rejected_score="_rejected_score",
            **extra,
        )
    )
    return _in_one_form(told, rows, ("chosen", "rejected"), extra)


def _warn_of_words(plan: Plan, roles: Roles, frame: pl.DataFrame) -> None:
    """Warn where a column of scores is text and none of it is a number: nothing can come out. A
    LazyFrame is not looked into.
    """
    for name in list(plan.weights) if plan.weights and not roles.aspect else [roles.score]:
        scores = frame[name].alias("scores").drop_nulls()  # a name like ^a$ is a pattern to Polars
        if scores.dtype.is_numeric() or not scores.len():
            continue
        if scores.to_frame().select(number(pl.first(), scores.dtype).is_null().all()).item():
            warnings.warn(
                f"prefmill: no score in the column {name!r} is a number; got {str(scores[0])[:40]!r}, and every row is bad_score."
                " Map the words to numbers first: pl.col(...).replace_strict({...}).",
                stacklevel=4,
            )


def report(plan: Plan, frame: Inputs, **names: Unpack[RoleNames]) -> PairReport:
    """What `plan` uses of `frame` and why it drops the rest: a second, narrow query with the same
    arguments; collects.

    >>> feedback = pl.DataFrame({"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [1, 5, 5]})
    >>> dict(report(Pairs(), feedback).dropped)
    {'single_completion': 1}
    """
    roles, rows = _numbered(plan, frame, names, "report")
    stages = Stages(plan, roles, rows)
    if isinstance(plan, Unpaired):
        return stages.label_report()
    if isinstance(plan, BestOf):
        return pick_report(plan, stages.judged, picks(plan, stages.judged))
    if isinstance(plan, Advantage):
        return advantage_report(stages.judged, advantages(plan, stages.judged))
    pairs = _told(stages.pairs(), rows.select("_pos", "_prompt", "_completion"))
    return stages.pair_report(pairs.select("_first", "_chosen", "_rejected", "_same_text"))


def _kept(each: Kept, place: int, schema: pl.Schema, roles: Roles) -> pl.Expr:
    """A column that comes along, of the row or of both sides of a pair."""
    if each.side == "both":
        both = pl.col(f"_keep{place}"), pl.col(f"_other{place}")
        return of_both(each.name, *both, schema[each.column], schema[roles.prompt])
    return pl.col(f"_other{place}" if each.side == "rejected" else f"_keep{place}")


def _in_one_form(
    out: pl.LazyFrame, rows: pl.LazyFrame, sides: Sequence[str], extra: Mapping[str, pl.Expr]
) -> pl.LazyFrame:
    """`out` with its prompt and `sides` all text or all messages, begun with the system prompt that
    `extra` may have.

    They hold what `rows` (of `numbered`) has as _prompt, _completion.
    """
    schema = rows.collect_schema()
    kinds: dict[str, pl.DataType] = {"prompt": schema["_prompt"]} | dict.fromkeys(
        sides, schema["_completion"]
    )
    if SYSTEM_OUT in extra:
        out = out.with_columns(asked(kinds).alias("prompt")).drop(SYSTEM_OUT)
        kinds["prompt"] = pl.List(pl.Struct(message_fields(kinds, "prompt")))
    if all(kind == pl.String for kind in kinds.values()):
        return out  # a filter on the prompt still sees a plain column
    return out.with_columns(**in_one_form(kinds, kinds))


def _told(pairs: pl.LazyFrame, texts: pl.LazyFrame) -> pl.LazyFrame:
    """`pairs` with their texts (_prompt, _completion of the chosen, _worse) and whether the two
    texts are the same.
    """
    others = {
        name.replace("_keep", "_other", 1): name
        for name in texts.collect_schema().names()
        if name.startswith("_keep")
    }
    worse = texts.select(_rejected="_pos", _worse="_completion", **others)
    return (
        pairs.join(
            texts.rename({"_pos": "_chosen"}), on="_chosen", how="left", maintain_order="left"
        )
        .join(worse, on="_rejected", how="left", maintain_order="left")
        .with_columns(_same_text=pl.col("_completion") == pl.col("_worse"))
    )


class Stages:
    """The steps of one plan over `rows` (the output of `numbered`), each a LazyFrame; what they
    mean is in `docs/semantics.md`.
    """

    def __init__(
        self, plan: Plan, roles: Roles, rows: pl.LazyFrame, never_null: frozenset[str] = frozenset()
    ) -> None:
        self.plan, self.roles = plan, roles
        self.judged = Candidates(plan, roles, rows, never_null)
        self.candidates = self.judged.candidates
        # Thresholds that wait for the scores become columns, the same in every row.
        self._limits = ("_chosen_min", "_rejected_below") if unsettled(plan) else ()

    def _settled(self, rows: pl.LazyFrame, scores: str) -> pl.LazyFrame:
        """`rows` with the columns `_limits`, which the column `scores` (numbers, or lists of them)
        of all rows decides.
        """
        if not self._limits:
            return rows

        def decide(column: pl.Series, **_: Any) -> pl.Series:  # Polars tells it the type again
            values = column.explode() if isinstance(column.dtype, pl.List) else column
            plan = cast(
                Pairs | Unpaired,
                settled(self.plan, scale_of(values), lambda: values.n_unique() == 2),
            )
            return pl.Series(
                [{"_chosen_min": plan.chosen_min, "_rejected_below": plan.rejected_below}],
                dtype=limits,
            )

        limits = pl.Struct(dict.fromkeys(self._limits, pl.Float64()))
        found = pl.col(scores).map_batches(decide, return_dtype=limits, returns_scalar=True)
        return rows.with_columns(_limits=found).unnest("_limits")

    def _bounds(self) -> tuple[pl.Expr | None, pl.Expr | None]:
        """chosen_min and rejected_below; None is no bound."""
        plan = cast(Pairs | Unpaired, self.plan)
        named = {"_chosen_min": plan.chosen_min, "_rejected_below": plan.rejected_below}
        high, low = (
            None
            if value is None
            else pl.col(name)
            if name in self._limits
            else pl.lit(value, pl.Float64)
            for name, value in named.items()
        )
        return high, low

    def groups(self) -> pl.LazyFrame:
        """Groups: _grp, _first, _votes, _n, and _scores and _positions in rank order, worst
        first.
        """
        order = ["_score", *(["_id"] if self.plan.tie_break == "id" else []), "_pos"]
        groups = (
            self.candidates.filter(pl.col("_reason").is_null())
            .group_by("_grp")
            .agg(
                _first=pl.col("_pos").min(),
                _votes=pl.col("_votes").sum(),
                _n=pl.len().cast(pl.Int64),
                _scores=pl.col("_score").sort_by(order),
                _positions=pl.col("_pos").sort_by(order),
            )
        )
        return self._settled(groups, "_scores")

    def _refusal(self) -> pl.Expr:
        """Why no pair of a group can stand, judged by its best and worst candidate; null if these
        two could pair.
        """
        plan = cast(Pairs, self.plan)
        best, worst = pl.col("_scores").list.last(), pl.col("_scores").list.first()
        reasons = [("single_completion", pl.col("_n") < 2), ("tie", best == worst)]
        high, low = self._bounds()
        if high is not None:
            reasons.append(("below_chosen_min", best < high))
        if low is not None:
            reasons.append(("not_below_rejected", worst >= low))
        return first_that_holds([*reasons, ("below_min_margin", best - worst < plan.min_margin)])

    def pairs(self) -> pl.LazyFrame:
        """Standing pairs: _first, _c, _r (ranks), _chosen, _rejected (positions), _chosen_score,
        _rejected_score.
        """
        plan = cast(Pairs, self.plan)
        drawn = plan.strategy == "best_random" or plan.max_pairs_per_prompt is not None
        chance = (
            {"_hash": drawn_from(pl.col("_grp"), plan.seed, bool(self.roles.group))}
            if drawn
            else {}
        )
        open_ = (
            self.groups()
            .filter(self._refusal().is_null())
            .select("_first", "_n", "_scores", "_positions", *self._limits, **chance)
        )
        proposed = (
            self._drawn(open_)
            if plan.strategy == "best_random"
            else open_.join(self._proposals(open_), on="_n")
        )
        c, r = pl.col("_c") - 1, pl.col("_r") - 1
        pairs = (
            proposed.select(
                "_first",
                *chance,
                *self._limits,
                "_c",
                "_r",
                _chosen=pl.col("_positions").list.gather(c),
                _rejected=pl.col("_positions").list.gather(r),
                _chosen_score=pl.col("_scores").list.gather(c),
                _rejected_score=pl.col("_scores").list.gather(r),
            )
            .explode(
                "_c",
                "_r",
                "_chosen",
                "_rejected",
                "_chosen_score",
                "_rejected_score",
                empty_as_null=False,
            )
            .filter(self._stands(pl.col("_chosen_score"), pl.col("_rejected_score")))
        )
        if plan.max_pairs_per_prompt is not None:
            h32 = pl.col("_hash") % 2**32
            draw = mix32(mix32(h32 ^ pl.col("_c").cast(pl.UInt64)) ^ pl.col("_r").cast(pl.UInt64))
            pairs = pairs.sort(draw, "_c", "_r").filter(
                pl.int_range(pl.len()).over("_first") < plan.max_pairs_per_prompt
            )
        return pairs.select(pl.all().exclude("_hash", *self._limits))

    def _stands(self, chosen: pl.Expr, rejected: pl.Expr) -> pl.Expr:
        plan = cast(Pairs, self.plan)
        rules = [chosen > rejected, chosen - rejected >= plan.min_margin]
        high, low = self._bounds()
        if high is not None:
            rules.append(chosen >= high)
        if low is not None:
            rules.append(rejected < low)
        return pl.all_horizontal(rules)

    def _proposals(self, open_: pl.LazyFrame) -> pl.LazyFrame:
        """The ranks that the strategy pairs in a group of _n candidates, as lists _c and _r: they
        depend on _n alone.
        """
        plan, n = cast(Pairs, self.plan), pl.col("_n")
        sizes = open_.select("_n").unique()
        if plan.strategy == "best_worst":
            return sizes.select(
                "_n", _c=pl.concat_list("_n"), _r=pl.concat_list(pl.lit(1, pl.Int64))
            )
        lowest = (
            n
            if plan.strategy == "best_rest"
            else pl.max_horizontal(pl.lit(2), n - (plan.top_k or n) + 1)
        )
        limit = pl.lit(plan.bottom_k, pl.Int64) if plan.bottom_k else n
        chosen = sizes.with_columns(_c=pl.int_ranges(lowest, n + 1)).explode(
            "_c", empty_as_null=False
        )
        if plan.strategy == "adjacent":
            ranks = chosen.with_columns(_r=pl.col("_c") - 1).filter(pl.col("_r") <= limit)
        else:
            ranks = chosen.with_columns(
                _r=pl.int_ranges(1, pl.min_horizontal(pl.col("_c") - 1, limit) + 1)
            ).explode("_r", empty_as_null=False)
        return ranks.group_by("_n").agg("_c", "_r")

    def _drawn(self, open_: pl.LazyFrame) -> pl.LazyFrame:
        """`best_random`: the best candidate against one of those that it may beat, drawn by the
        group's hash.
        """
        plan = cast(Pairs, self.plan)
        best = pl.col("_scores").list.last()
        # The allowed ranks are the first ones of the order; how many there are is a count of scores
        # under a bound.
        allowed = pl.col("_scores").list.head(
            pl.col("_n") - 1
            if plan.bottom_k is None
            else pl.min_horizontal(pl.col("_n") - 1, plan.bottom_k)
        )
        count = (
            open_.select("_first", best.alias("_best"), *self._limits, _low=allowed)
            .explode("_low", empty_as_null=False)
            .filter(self._stands(pl.col("_best"), pl.col("_low")))
            .group_by("_first")
            .agg(_m=pl.len().cast(pl.UInt64))
        )
        return open_.join(count, on="_first").with_columns(
            _c=pl.concat_list("_n"),
            _r=pl.concat_list(1 + (pl.col("_hash") % pl.col("_m")).cast(pl.Int64)),
        )

    def labels(self) -> pl.LazyFrame:
        """Candidates with _label (null between the thresholds), and _turn, _first that order the
        output.
        """
        high, low = self._bounds()
        label = (
            pl.when(pl.col("_score") >= high).then(True).when(pl.col("_score") < low).then(False)
        )
        return self._settled(self.candidates.filter(pl.col("_reason").is_null()), "_score").select(
            "_pos",
            "_score",
            "_votes",
            _label=label,
            _first=pl.col("_pos").min().over("_grp"),
            _turn=pl.col("_pos").rank("ordinal").over("_grp"),
        )

    def pair_report(self, paired: pl.LazyFrame) -> PairReport:
        """Account for every row; `paired` is _first, _chosen, _rejected and _same_text of every
        standing pair.
        """
        kept = ~pl.col("_same_text")
        per_group = paired.group_by("_first").agg(_standing=pl.len(), _kept=kept.sum())
        refused = self._refusal().fill_null("no_adjacent_pair")
        fate = (
            pl.when(pl.col("_kept") > 0)
            .then(None)
            .when(pl.col("_standing") > 0)
            .then(pl.lit("identical_text"))
            .otherwise(refused)
        )
        fates = (
            self.groups()
            .join(per_group, on="_first", how="left")
            .select("_votes", "_kept", _reason=fate)
        )
        positions = paired.filter(kept)
        used = pl.concat(
            [positions.select(_pos="_chosen"), positions.select(_pos="_rejected")]
        ).unique()
        by_fate, used_votes = pl.collect_all(
            [
                fates.group_by("_reason").agg(
                    pl.col("_votes").sum(), pl.col("_kept").sum(), _groups=pl.len()
                ),
                self.candidates.join(used, on="_pos", how="semi").select(pl.col("_votes").sum()),
            ]
        )
        stood = by_fate.filter(pl.col("_reason").is_null())
        rows_used = int(used_votes.item() or 0)
        dropped = self.judged.dropped() | dict(
            by_fate.filter(pl.col("_reason").is_not_null()).select("_reason", "_votes").iter_rows()
        )
        return PairReport(
            rows_in=self.judged.rows_in(),
            rows_used=rows_used,
            rows_not_selected=int(stood["_votes"].sum()) - rows_used,
            dropped=dict(sorted(dropped.items())),
            groups_in=int(by_fate["_groups"].sum()),
            groups_used=int(stood["_groups"].sum()),
            pairs_out=int(stood["_kept"].sum()),
        )

    def label_report(self) -> PairReport:
        """Account for every row of a plan of labels."""
        labels = self.labels().collect()
        told = labels.filter(pl.col("_label").is_not_null())
        dropped = self.judged.dropped()
        used = int(told["_votes"].sum())
        between = int(labels["_votes"].sum()) - used
        if between:
            dropped["between_thresholds"] = between
        return PairReport(
            rows_in=self.judged.rows_in(),
            rows_used=used,
            rows_not_selected=0,
            dropped=dict(sorted(dropped.items())),
            groups_in=labels["_first"].n_unique(),
            groups_used=told["_first"].n_unique(),
            pairs_out=told.height,
            labels={"true": int(told["_label"].sum()), "false": int((~told["_label"]).sum())},
        )


def scores_of(plan: Plan, frame: pl.DataFrame, **names: Unpack[RoleNames]) -> pl.Series:
    """The scores of all candidates of `frame`; collects."""
    roles, rows = _numbered(plan, frame, names, "scores")
    candidates = Stages(plan, roles, rows).candidates.filter(pl.col("_reason").is_null())
    return candidates.select(pl.col("_score").alias("score")).collect(engine="in-memory")["score"]


def scale_of(scores: pl.Series) -> Scale:
    """The smallest and the largest of `scores`."""
    return Scale(cast(float | None, scores.min()), cast(float | None, scores.max()))


def _numbered(
    plan: Plan, given: Inputs, names: RoleNames, where: str
) -> tuple[Roles, pl.LazyFrame]:
    frame = frame_of(given, where)
    roles, _ = _resolved(plan, frame, names, where)
    return roles, _rows(plan, roles, frame)


def _resolved(
    plan: Plan, frame: pl.LazyFrame | pl.DataFrame, names: RoleNames, where: str
) -> tuple[Roles, pl.Schema]:
    schema = frame.lazy().collect_schema()
    fits = fits_frame(frame) if isinstance(frame, pl.DataFrame) else fits_schema(schema)
    roles = roles_of(plan, names, schema.names(), where=where, fits=fits)
    check_types(plan, roles, schema, where)
    return roles, schema


def _rows(
    plan: Plan,
    roles: Roles,
    frame: pl.LazyFrame | pl.DataFrame,
    first: int = 0,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    rows = numbered(plan, roles, frame.lazy(), first=first, keep=keep)
    # Ranks and texts meet by position, so both must see one and the same execution of the input: a
    # join has no row order, a model is slow.
    return rows if isinstance(frame, pl.DataFrame) else rows.cache()
