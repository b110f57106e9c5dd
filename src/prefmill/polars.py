"""Plans as lazy Polars expressions: the same steps and the same names as the macros in `sql/`.

    judged ──counted──▶ candidates ──groups──▶ pairs (positions and scores)  ──join──▶ texts

All rules of this engine are here, in the order of the picture, which is why the module is longer than others.

`apply` composes and never collects; only `report` does. Texts meet the ranked positions in one join at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Unpack, cast

import polars as pl
import polars.selectors as cs

from prefmill.errors import BadArgument, BadScore
from prefmill.hashing import prompt_hash
from prefmill.plans import Pairs, Plan, Unpaired, roles_of
from prefmill.report import PairReport
from prefmill.schema import RoleNames, Roles

_NUMBER = r"^(?i)[ \t-\r]*[+-]?(([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?|nan|inf|infinity)[ \t-\r]*$"
_UNUSABLE = ("null_prompt", "null_completion", "null_score", "bad_score", "non_finite_score")


def apply(plan: Plan, frame: pl.LazyFrame | pl.DataFrame, **names: Unpack[RoleNames]) -> pl.LazyFrame:
    """`plan` over `frame` as a LazyFrame; `Plan.lazy` is this function.

    Columns out: prompt, chosen, rejected (as they came in), chosen_score, rejected_score (Float64); of labels: prompt, completion, label
    (Boolean), score. Positions are the row order of `frame`. Cost: one narrow pass that ranks, one join that fetches texts.

    >>> feedback = pl.DataFrame({"question": ["p", "p"], "answer": ["a", "b"], "rating": [1, 5]})
    >>> apply(Pairs(), feedback).collect().row(0)
    ('p', 'b', 'a', 5.0, 1.0)
    """
    roles, rows = _numbered(plan, frame, names, "lazy")
    stages = Stages(plan, roles, rows)
    texts = rows.select("_pos", "_prompt", "_completion")
    if isinstance(plan, Unpaired):
        labels = stages.labels().filter(pl.col("_label").is_not_null()).sort("_turn", "_first")
        return labels.join(texts, on="_pos", how="left", maintain_order="left").select(
            prompt="_prompt", completion="_completion", label="_label", score="_score"
        )
    return (
        _told(stages.pairs().sort("_first", -pl.col("_c"), "_r"), texts)
        .filter(~pl.col("_same_text"))
        .select(prompt="_prompt", chosen="_completion", rejected="_worse", chosen_score="_chosen_score", rejected_score="_rejected_score")
    )


def report(plan: Plan, frame: pl.LazyFrame | pl.DataFrame, **names: Unpack[RoleNames]) -> PairReport:
    """What `plan` uses of `frame` and why it drops the rest: a second, narrow query with the same arguments; collects.

    >>> feedback = pl.DataFrame({"prompt": ["p", "p", "q"], "completion": ["a", "b", "c"], "score": [1, 5, 5]})
    >>> dict(report(Pairs(), feedback).dropped)
    {'single_completion': 1}
    """
    roles, rows = _numbered(plan, frame, names, "report")
    stages = Stages(plan, roles, rows)
    if isinstance(plan, Unpaired):
        return stages.label_report()
    pairs = _told(stages.pairs(), rows.select("_pos", "_prompt", "_completion"))
    return stages.pair_report(pairs.select("_first", "_chosen", "_rejected", "_same_text"))


def _told(pairs: pl.LazyFrame, texts: pl.LazyFrame) -> pl.LazyFrame:
    """`pairs` with their texts (_prompt, _completion of the chosen, _worse) and whether the two texts are the same."""
    worse = texts.select(_rejected="_pos", _worse="_completion")
    return (
        pairs.join(texts.rename({"_pos": "_chosen"}), on="_chosen", how="left", maintain_order="left")
        .join(worse, on="_rejected", how="left", maintain_order="left")
        .with_columns(_same_text=pl.col("_completion") == pl.col("_worse"))
    )


class Stages:
    """The steps of one plan over `rows` (the output of `numbered`), each a LazyFrame; what they mean is in `docs/semantics.md`."""

    def __init__(self, plan: Plan, roles: Roles, rows: pl.LazyFrame, never_null: frozenset[str] = frozenset()) -> None:
        self.plan, self.roles = plan, roles
        self.weights = plan.weights if roles.aspect else None
        self.counted = self._counted(rows, never_null)
        self.candidates = self._candidates() if plan.aggregate != "none" else self._rows_as_candidates()

    def _counted(self, rows: pl.LazyFrame, never_null: frozenset[str]) -> pl.LazyFrame:
        """Judgements: _pos, _grp, _text, _id, _annotator, _aspect, _value (normalised), _reason."""
        plan, roles, schema = self.plan, self.roles, rows.collect_schema()

        def present(column: str, name: str) -> pl.Expr:
            return pl.lit(True) if name in never_null else pl.col(column).is_not_null()

        groups = [f"_group{i}" for i in range(len(roles.group))]
        wide = plan.weights if plan.weights and not roles.aspect else None
        scores = [f"_score{i}" for i in range(len(wide or [roles.score]))]
        numbers = [number(pl.col(name), schema[name]) for name in scores]
        if wide:
            value = _rounded(pl.sum_horizontal([n * w for n, w in zip(numbers, wide.values(), strict=True)], ignore_nulls=False))
        else:
            value = -numbers[0] if roles.negate else numbers[0]
        reasons: list[tuple[str, pl.Expr]] = [
            ("null_prompt", ~pl.all_horizontal(present("_prompt", roles.prompt), *map(present, groups, roles.group))),
            ("null_completion", ~present("_completion", roles.completion)),
            ("null_score", pl.any_horizontal(pl.col(name).is_null() for name in scores)),
            ("bad_score", pl.col("_value").is_null()),
            ("non_finite_score", ~pl.col("_value").is_finite()),
        ]
        if plan.normalize != "none":
            reasons.append(("null_annotator", pl.col("_annotator").is_null()))
        if self.weights:
            reasons.append(("unweighted_aspect", ~pl.col("_aspect").cast(pl.String).is_in(list(self.weights)).fill_null(False)))
        if plan.tie_break == "id":
            reasons.append(("null_id", pl.col("_id").is_null()))
        reason = _first_that_holds(reasons)
        if plan.on_invalid == "raise":
            reason = pl.struct("_pos", reason.alias("reason")).map_batches(_raise_unusable, return_dtype=pl.String, is_elementwise=True)
        # Adding 0.0 makes -0.0 a plain zero, so that the two rank as equals whatever the sort does with signs.
        keep = ["_pos", *(c for c in ("_id", "_annotator", "_aspect") if c in schema.names())]
        if plan.aggregate != "none":
            keep.append("_text")
            rows = rows.with_columns(_text="_completion")
        key = pl.concat_list([pl.col(g).cast(pl.String) for g in groups]) if groups else pl.col("_prompt")
        counted = rows.with_columns(_value=value + 0.0).with_columns(_reason=reason).select(*keep, "_value", "_reason", _grp=key)
        return counted.with_columns(_value=self._normalized()) if plan.normalize != "none" else counted

    def _normalized(self) -> pl.Expr:
        scale = ["_annotator", *(["_aspect"] if self.roles.aspect else [])]
        value = pl.when(pl.col("_reason").is_null()).then("_value")
        if self.plan.normalize == "zscore":
            spread = pl.when(value.min().over(scale) == value.max().over(scale)).then(0.0)
            return spread.otherwise(_rounded((value - value.mean().over(scale)) / value.std(ddof=0).over(scale)))
        return _rounded((value.rank("average").over(scale) - 0.5) / value.count().over(scale))

    def _rows_as_candidates(self) -> pl.LazyFrame:
        id_ = pl.col("_id") if self.plan.tie_break == "id" else pl.lit(None).alias("_id")
        return self.counted.filter(pl.col("_reason").is_null()).select(
            "_grp", "_pos", id_, "_reason", _score="_value", _votes=pl.lit(1, pl.Int64)
        )

    def _candidates(self) -> pl.LazyFrame:
        """Candidates: _grp, _pos, _id, _score, _votes (rows), _reason."""
        plan, weights = self.plan, self.weights
        value = pl.col("_value")
        mode = value.mode()
        merged = {
            "mean": value.mean(),
            "median": value.median(),
            "max": value.max(),
            "min": value.min(),
            "majority": pl.when(mode.len() == 1).then(mode.first()),
        }[plan.aggregate]
        by_id = plan.tie_break == "id"
        head = ["_id", "_pos"] if by_id else ["_pos"]
        first = [pl.col(c).sort_by(head).first() for c in head]
        aspects = self.counted.filter(pl.col("_reason").is_null()).group_by("_grp", "_text", *(["_aspect"] if weights else [])).agg(
            merged.alias("_value"), *first, _votes=pl.len().cast(pl.Int64)
        )  # fmt: skip
        if weights:
            share = pl.col("_aspect").cast(pl.String).replace_strict(weights, default=None, return_dtype=pl.Float64)
            total = (value * share).sum()
        else:
            total = value.sum()
        exact = plan.aggregate in ("max", "min", "majority") and not weights
        candidates = aspects.group_by("_grp", "_text").agg(
            *first, pl.col("_votes").sum(), _score=total if exact else _rounded(total),
            _fewest=pl.col("_votes").min(), _aspects=pl.len(), _decided=value.count(),
        )  # fmt: skip
        reasons = [
            ("missing_aspect", pl.col("_aspects") < len(weights or [None])),
            ("too_few_votes", pl.col("_fewest") < plan.min_votes),
            ("no_majority", pl.col("_decided") < pl.col("_aspects")),
        ]
        id_ = pl.col("_id") if by_id else pl.lit(None).alias("_id")
        return candidates.select("_grp", "_pos", id_, "_score", "_votes", _reason=_first_that_holds(reasons))

    def groups(self) -> pl.LazyFrame:
        """Groups: _grp, _first, _votes, _n, and _scores and _positions in rank order, worst first."""
        order = ["_score", *(["_id"] if self.plan.tie_break == "id" else []), "_pos"]
        return self.candidates.filter(pl.col("_reason").is_null()).group_by("_grp").agg(
            _first=pl.col("_pos").min(), _votes=pl.col("_votes").sum(), _n=pl.len().cast(pl.Int64),
            _scores=pl.col("_score").sort_by(order), _positions=pl.col("_pos").sort_by(order),
        )  # fmt: skip

    def _refusal(self) -> pl.Expr:
        """Why no pair of a group can stand, judged by its best and worst candidate; null if these two could pair."""
        plan = cast(Pairs, self.plan)
        best, worst = pl.col("_scores").list.last(), pl.col("_scores").list.first()
        reasons = [("single_completion", pl.col("_n") < 2), ("tie", best == worst)]
        if plan.chosen_min is not None:
            reasons.append(("below_chosen_min", best < plan.chosen_min))
        if plan.rejected_below is not None:
            reasons.append(("not_below_rejected", worst >= plan.rejected_below))
        return _first_that_holds([*reasons, ("below_min_margin", best - worst < plan.min_margin)])

    def pairs(self) -> pl.LazyFrame:
        """Standing pairs: _first, _c, _r (ranks), _chosen, _rejected (positions), _chosen_score, _rejected_score."""
        plan = cast(Pairs, self.plan)
        drawn = plan.strategy == "best_random" or plan.max_pairs_per_prompt is not None
        chance = {"_hash": _hash(pl.col("_grp"), plan.seed, bool(self.roles.group))} if drawn else {}
        open_ = self.groups().filter(self._refusal().is_null()).select("_first", "_n", "_scores", "_positions", **chance)
        proposed = self._drawn(open_) if plan.strategy == "best_random" else open_.join(self._proposals(open_), on="_n")
        c, r = pl.col("_c") - 1, pl.col("_r") - 1
        pairs = (
            proposed.select(
                "_first", *chance, "_c", "_r",
                _chosen=pl.col("_positions").list.gather(c), _rejected=pl.col("_positions").list.gather(r),
                _chosen_score=pl.col("_scores").list.gather(c), _rejected_score=pl.col("_scores").list.gather(r),
            )
            .explode("_c", "_r", "_chosen", "_rejected", "_chosen_score", "_rejected_score", empty_as_null=False)
            .filter(self._stands(pl.col("_chosen_score"), pl.col("_rejected_score")))
        )  # fmt: skip
        if plan.max_pairs_per_prompt is not None:
            h32 = pl.col("_hash") % 2**32
            draw = mix32(mix32(h32 ^ pl.col("_c").cast(pl.UInt64)) ^ pl.col("_r").cast(pl.UInt64))
            pairs = pairs.sort(draw, "_c", "_r").filter(pl.int_range(pl.len()).over("_first") < plan.max_pairs_per_prompt)
        return pairs.select(pl.all().exclude("_hash"))

    def _stands(self, chosen: pl.Expr, rejected: pl.Expr) -> pl.Expr:
        plan = cast(Pairs, self.plan)
        rules = [chosen > rejected, chosen - rejected >= plan.min_margin]
        if plan.chosen_min is not None:
            rules.append(chosen >= plan.chosen_min)
        if plan.rejected_below is not None:
            rules.append(rejected < plan.rejected_below)
        return pl.all_horizontal(rules)

    def _proposals(self, open_: pl.LazyFrame) -> pl.LazyFrame:
        """The ranks that the strategy pairs in a group of _n candidates, as lists _c and _r: they depend on _n alone."""
        plan, n = cast(Pairs, self.plan), pl.col("_n")
        sizes = open_.select("_n").unique()
        if plan.strategy == "best_worst":
            return sizes.select("_n", _c=pl.concat_list("_n"), _r=pl.concat_list(pl.lit(1, pl.Int64)))
        lowest = n if plan.strategy == "best_rest" else pl.max_horizontal(pl.lit(2), n - (plan.top_k or n) + 1)
        limit = pl.lit(plan.bottom_k, pl.Int64) if plan.bottom_k else n
        chosen = sizes.with_columns(_c=pl.int_ranges(lowest, n + 1)).explode("_c", empty_as_null=False)
        if plan.strategy == "adjacent":
            ranks = chosen.with_columns(_r=pl.col("_c") - 1).filter(pl.col("_r") <= limit)
        else:
            ranks = chosen.with_columns(_r=pl.int_ranges(1, pl.min_horizontal(pl.col("_c") - 1, limit) + 1)).explode(
                "_r", empty_as_null=False
            )
        return ranks.group_by("_n").agg("_c", "_r")

    def _drawn(self, open_: pl.LazyFrame) -> pl.LazyFrame:
        """`best_random`: the best candidate against one of those that it may beat, drawn by the group's hash."""
        plan = cast(Pairs, self.plan)
        best = pl.col("_scores").list.last()
        # The allowed ranks are the first ones of the order; how many there are is a count of scores under a bound.
        allowed = pl.col("_scores").list.head(
            pl.col("_n") - 1 if plan.bottom_k is None else pl.min_horizontal(pl.col("_n") - 1, plan.bottom_k)
        )
        count = (
            open_.select("_first", best.alias("_best"), _low=allowed)
            .explode("_low", empty_as_null=False)
            .filter(self._stands(pl.col("_best"), pl.col("_low")))
            .group_by("_first")
            .agg(_m=pl.len().cast(pl.UInt64))
        )
        return open_.join(count, on="_first").with_columns(
            _c=pl.concat_list("_n"), _r=pl.concat_list(1 + (pl.col("_hash") % pl.col("_m")).cast(pl.Int64))
        )

    def labels(self) -> pl.LazyFrame:
        """Candidates with _label (null between the thresholds), and _turn, _first that order the output."""
        plan = self.plan
        label = pl.when(pl.col("_score") >= plan.chosen_min).then(True).when(pl.col("_score") < plan.rejected_below).then(False)
        return self.candidates.filter(pl.col("_reason").is_null()).select(
            "_pos", "_score", "_votes", _label=label,
            _first=pl.col("_pos").min().over("_grp"), _turn=pl.col("_pos").rank("ordinal").over("_grp"),
        )  # fmt: skip

    def pair_report(self, paired: pl.LazyFrame) -> PairReport:
        """Account for every row; `paired` is _first, _chosen, _rejected and _same_text of every standing pair."""
        kept = ~pl.col("_same_text")
        per_group = paired.group_by("_first").agg(_standing=pl.len(), _kept=kept.sum())
        refused = self._refusal().fill_null("no_adjacent_pair")
        fate = pl.when(pl.col("_kept") > 0).then(None).when(pl.col("_standing") > 0).then(pl.lit("identical_text")).otherwise(refused)
        fates = self.groups().join(per_group, on="_first", how="left").select("_votes", "_kept", _reason=fate)
        positions = paired.filter(kept)
        used = pl.concat([positions.select(_pos="_chosen"), positions.select(_pos="_rejected")]).unique()
        by_fate, used_votes = pl.collect_all(
            [
                fates.group_by("_reason").agg(pl.col("_votes").sum(), pl.col("_kept").sum(), _groups=pl.len()),
                self.candidates.join(used, on="_pos", how="semi").select(pl.col("_votes").sum()),
            ]
        )
        stood = by_fate.filter(pl.col("_reason").is_null())
        rows_used = int(used_votes.item() or 0)
        dropped = self._dropped() | dict(by_fate.filter(pl.col("_reason").is_not_null()).select("_reason", "_votes").iter_rows())
        return PairReport(
            rows_in=self._rows_in(), rows_used=rows_used, rows_not_selected=int(stood["_votes"].sum()) - rows_used,
            dropped=dict(sorted(dropped.items())), groups_in=int(by_fate["_groups"].sum()), groups_used=int(stood["_groups"].sum()),
            pairs_out=int(stood["_kept"].sum()),
        )  # fmt: skip

    def label_report(self) -> PairReport:
        """Account for every row of a plan of labels."""
        labels = self.labels().collect()
        told = labels.filter(pl.col("_label").is_not_null())
        dropped = self._dropped()
        used = int(told["_votes"].sum())
        between = int(labels["_votes"].sum()) - used
        if between:
            dropped["between_thresholds"] = between
        return PairReport(
            rows_in=self._rows_in(), rows_used=used, rows_not_selected=0, dropped=dict(sorted(dropped.items())),
            groups_in=labels["_first"].n_unique(), groups_used=told["_first"].n_unique(), pairs_out=told.height,
        )  # fmt: skip

    def _rows_in(self) -> int:
        return int(self.counted.select(pl.len()).collect().item())

    def _dropped(self) -> dict[str, int]:
        """Rows that never became candidates, by reason."""
        rows = self.counted.filter(pl.col("_reason").is_not_null()).group_by("_reason").agg(_votes=pl.len().cast(pl.Int64))
        merged = self.candidates.filter(pl.col("_reason").is_not_null()).group_by("_reason").agg(pl.col("_votes").sum())
        return {reason: int(n) for frame in pl.collect_all([rows, merged]) for reason, n in frame.iter_rows()}


def numbered(plan: Plan, roles: Roles, frame: pl.LazyFrame, position: str | None = None) -> pl.LazyFrame:
    """The role columns of `frame` under our own names, and `_pos` (Int64): the row order, or the column `position`."""
    columns = {"_prompt": roles.prompt, "_completion": roles.completion}
    scores: Sequence[str] = list(plan.weights) if plan.weights and not roles.aspect else [roles.score]
    columns |= {f"_score{i}": name for i, name in enumerate(scores)}
    columns |= {f"_{role}": name for role in ("id", "annotator", "aspect") if (name := getattr(roles, role))}
    columns |= {f"_group{i}": name for i, name in enumerate(roles.group)}
    # By selector: `pl.col` reads a name like "^a.*$" or "*" as a pattern.
    named = [cs.by_name(name).alias(ours) for ours, name in columns.items()]
    if position:
        return frame.select(pl.col(position).alias("_pos"), *named)
    return frame.select(*named).with_row_index("_pos").cast({"_pos": pl.Int64})


def number(score: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The number that a score of type `dtype` means (Float64), null if it means none."""
    if dtype in (pl.String, pl.Categorical) or isinstance(dtype, pl.Enum):
        text = score.cast(pl.String)
        stripped = text.str.strip_chars(" \t\n\r\x0b\x0c")
        value = pl.when(stripped.str.contains("(?i)nan")).then(float("nan")).otherwise(stripped.cast(pl.Float64, strict=False))
        return pl.when(text.str.contains(_NUMBER)).then(value)
    return score.cast(pl.Float64, strict=False)


def mix32(x: pl.Expr) -> pl.Expr:
    """The 32-bit integer hash of `docs/semantics.md` over UInt64 values below 2**32."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B), (16, 1)):
        x = ((x ^ (x // 2**shift)) * factor) % 2**32
    return x


def check_types(plan: Plan, roles: Roles, schema: pl.Schema, where: str) -> None:
    """Raise `BadArgument` for a role whose column has a type that it cannot have."""

    def refuse(role: str, name: str, expected: str) -> BadArgument:
        said = f"{where}: the column {name!r} cannot be the role {role!r}; got type {schema[name]}, expected {expected}."
        return BadArgument(said, hint=f"name another column: {role}=COLUMN (--{role} COLUMN).")

    for role in ("prompt", "completion"):
        dtype = schema[getattr(roles, role)]
        messages = isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
        if not (dtype in (pl.String, pl.Categorical, pl.Null) or isinstance(dtype, pl.Enum) or messages):
            raise refuse(role, getattr(roles, role), "text or a list of messages {role, content}")
    for name in plan.weights if plan.weights and not roles.aspect else [roles.score]:
        dtype = schema[name]
        if not (dtype.is_numeric() or dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Null) or isinstance(dtype, pl.Enum)):
            raise refuse("score", name, "numbers, booleans, or text that holds numbers")
    for role, names in (("group", roles.group), ("id", (roles.id,)), ("annotator", (roles.annotator,)), ("aspect", (roles.aspect,))):
        for name in filter(None, names):
            dtype = schema[name]
            plain = dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Date, pl.Null) or isinstance(dtype, pl.Enum) or dtype.is_integer()
            if not plain:
                raise refuse(role, name, "text, whole numbers, booleans or dates (cast it)")


def _numbered(plan: Plan, frame: pl.LazyFrame | pl.DataFrame, names: RoleNames, where: str) -> tuple[Roles, pl.LazyFrame]:
    lazy = frame.lazy()
    schema = lazy.collect_schema()
    roles = roles_of(plan, names, schema.names(), where=where)
    check_types(plan, roles, schema, where)
    return roles, numbered(plan, roles, lazy)


def _first_that_holds(reasons: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    """The name of the first condition that is true; null if none is."""
    return pl.coalesce(*[pl.when(holds).then(pl.lit(name)) for name, holds in reasons], pl.lit(None, pl.String))


def _rounded(value: pl.Expr) -> pl.Expr:
    """`value` to 9 decimals, half away from zero; the why is in `sql/pref_round.sql`."""
    away: Literal["half_away_from_zero"] = "half_away_from_zero"
    whole = (value * 1e9).round(3, mode=away).round(0, mode=away)
    # Polars divides by a constant by multiplying with its reciprocal; the last rounding takes off what that adds.
    return pl.when(value.abs() < 4e6).then((whole / 1e9).round(9, mode=away)).otherwise(value)


def _hash(key: pl.Expr, seed: int, columns: bool) -> pl.Expr:
    if columns:
        text = pl.element()
        key = key.list.eval(pl.concat_str(text.str.len_bytes().cast(pl.String), pl.lit(":"), text)).list.join("")
    prefix = f"{seed}:".encode()
    return key.map_batches(lambda s: prompt_hash(s, prefix), return_dtype=pl.UInt64, is_elementwise=True)


def _raise_unusable(rows: pl.Series) -> pl.Series:
    reasons = rows.struct.field("reason")
    if reasons.is_in(_UNUSABLE).any():
        first = rows.struct.unnest().filter(pl.col("reason").is_in(_UNUSABLE)).row(0)
        raise BadScore(f"prefmill: row {first[0]} cannot be used; got {first[1]}, and on_invalid is raise.")
    return reasons
