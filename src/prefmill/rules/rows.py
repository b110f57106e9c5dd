"""From rows to candidates as lazy Polars expressions: the half of the rules that every plan shares.

judged ──counted──▶ candidates
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl
import polars.selectors as cs

from prefmill.errors import BadArgument, BadScore
from prefmill.plans import Advantage, BestOf, Plan
from prefmill.table.chance import prompt_hash
from prefmill.table.messages import is_json_text
from prefmill.table.numbers import number, rounded
from prefmill.table.roles import Roles

_UNUSABLE = ("null_prompt", "null_completion", "null_score", "bad_score", "non_finite_score")


class Candidates:
    """The rows of one plan and what they merge to, over `rows` (the output of `numbered`); what
    they mean is in `docs/semantics.md`.

    `counted` are judgements with the reason why one does not count, `candidates` have a reason
    where they are none: LazyFrames.
    """

    def __init__(
        self, plan: Plan, roles: Roles, rows: pl.LazyFrame, never_null: frozenset[str] = frozenset()
    ) -> None:
        self.plan, self.roles, self.rows = plan, roles, rows
        self.weights = plan.weights if roles.aspect else None
        self.counted = self._counted(rows, never_null)
        self.candidates = (
            self._candidates() if plan.aggregate != "none" else self._rows_as_candidates()
        )

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
            value = rounded(
                pl.sum_horizontal(
                    [n * w for n, w in zip(numbers, wide.values(), strict=True)], ignore_nulls=False
                )
            )
        else:
            value = -numbers[0] if roles.negate else numbers[0]
        reasons: list[tuple[str, pl.Expr]] = [
            (
                "null_prompt",
                ~pl.all_horizontal(
                    present("_prompt", roles.prompt), *map(present, groups, roles.group)
                ),
            ),
            ("null_completion", ~present("_completion", roles.completion)),
            ("null_score", pl.any_horizontal(pl.col(name).is_null() for name in scores)),
            ("bad_score", pl.col("_value").is_null()),
            ("non_finite_score", ~pl.col("_value").is_finite()),
        ]
        if plan.normalize != "none":
            reasons.append(("null_annotator", pl.col("_annotator").is_null()))
        if self.weights:
            reasons.append(
                (
                    "unweighted_aspect",
                    ~pl.col("_aspect").cast(pl.String).is_in(list(self.weights)).fill_null(False),
                )
            )
        if plan.tie_break == "id":
            reasons.append(("null_id", pl.col("_id").is_null()))
        if isinstance(plan, BestOf) and plan.stages == "last":
            stage = _whole(pl.col("_stage"), schema["_stage"])
            reasons += [("null_stage", stage.is_null()), ("earlier_stage", stage < stage.max())]
        if plan.tie_break == "id" and (
            isinstance(schema["_id"], pl.Enum) or schema["_id"] == pl.Categorical
        ):
            rows = rows.with_columns(
                pl.col("_id").cast(pl.String)
            )  # in the order of its bytes, not of its categories
        keep = ["_pos", *(c for c in ("_id", "_annotator", "_aspect") if c in schema.names())]
        if "_weight" in schema.names():
            keep.append("_weight")
            rows = rows.with_columns(_weight=number(pl.col("_weight"), schema["_weight"]))
            fits = (
                pl.col("_weight").is_finite()
                if roles.logprob
                else pl.col("_weight").is_finite() & (pl.col("_weight") >= 0)
            )
            reasons.append(("bad_weight", ~fits.fill_null(False)))
        reason = first_that_holds(reasons)
        if plan.on_invalid == "raise":
            reason = pl.struct("_pos", reason.alias("reason")).map_batches(
                _raise_unusable, return_dtype=pl.String, is_elementwise=True
            )
        # Adding 0.0 makes -0.0 a plain zero, so that the two rank as equals whatever the sort does
        # with signs.
        if plan.aggregate != "none":
            keep.append("_text")
            rows = rows.with_columns(_text="_completion")
        key = (
            pl.concat_list([pl.col(g).cast(pl.String) for g in groups])
            if groups
            else pl.col("_prompt")
        )
        counted = (
            rows.with_columns(_value=value + 0.0)
            .with_columns(_reason=reason)
            .select(*keep, "_value", "_reason", _grp=key)
        )
        return (
            counted.with_columns(_value=self._normalized()) if plan.normalize != "none" else counted
        )

    def _normalized(self) -> pl.Expr:
        scale = ["_annotator", *(["_aspect"] if self.roles.aspect else [])]
        value = pl.when(pl.col("_reason").is_null()).then("_value")
        if self.plan.normalize == "zscore":
            spread = pl.when(value.min().over(scale) == value.max().over(scale)).then(0.0)
            return spread.otherwise(
                rounded((value - value.mean().over(scale)) / value.std(ddof=0).over(scale))
            )
        return rounded((value.rank("average").over(scale) - 0.5) / value.count().over(scale))

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
        aspects = (
            self.counted.filter(pl.col("_reason").is_null())
            .group_by("_grp", "_text", *(["_aspect"] if weights else []))
            .agg(merged.alias("_value"), *first, _votes=pl.len().cast(pl.Int64))
        )
        if weights:
            share = (
                pl.col("_aspect")
                .cast(pl.String)
                .replace_strict(weights, default=None, return_dtype=pl.Float64)
            )
            total = (value * share).sum()
        else:
            total = value.sum()
        exact = plan.aggregate in ("max", "min", "majority") and not weights
        candidates = aspects.group_by("_grp", "_text").agg(
            *first,
            pl.col("_votes").sum(),
            _score=total if exact else rounded(total),
            _fewest=pl.col("_votes").min(),
            _aspects=pl.len(),
            _decided=value.count(),
        )
        reasons = [
            ("missing_aspect", pl.col("_aspects") < len(weights or [None])),
            ("too_few_votes", pl.col("_fewest") < plan.min_votes),
            ("no_majority", pl.col("_decided") < pl.col("_aspects")),
        ]
        id_ = pl.col("_id") if by_id else pl.lit(None).alias("_id")
        return candidates.select(
            "_grp", "_pos", id_, "_score", "_votes", _reason=first_that_holds(reasons)
        )

    def rows_in(self) -> int:
        return int(self.counted.select(pl.len()).collect().item())

    def dropped(self) -> dict[str, int]:
        """Rows that never became candidates, by reason."""
        rows = (
            self.counted.filter(pl.col("_reason").is_not_null())
            .group_by("_reason")
            .agg(_votes=pl.len().cast(pl.Int64))
        )
        merged = (
            self.candidates.filter(pl.col("_reason").is_not_null())
            .group_by("_reason")
            .agg(pl.col("_votes").sum())
        )
        return {
            reason: int(n)
            for frame in pl.collect_all([rows, merged])
            for reason, n in frame.iter_rows()
        }


def numbered(
    plan: Plan,
    roles: Roles,
    frame: pl.LazyFrame,
    position: str | None = None,
    first: int = 0,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    """The role columns of `frame` under our own names, and `_pos` (Int64): the row order from
    `first` on, or the column `position`.

    The columns `keep` are `_keep0`, `_keep1` ...
    """
    columns = {"_prompt": roles.prompt, "_completion": roles.completion}
    scores: Sequence[str] = (
        list(plan.weights) if plan.weights and not roles.aspect else [roles.score]
    )
    columns |= {f"_score{i}": name for i, name in enumerate(scores)}
    columns |= {
        f"_{role}": name
        for role in ("id", "annotator", "aspect", "stage")
        if (name := getattr(roles, role))
    }
    if isinstance(plan, Advantage) and (policy := roles.weight or roles.logprob):
        columns["_weight"] = policy
    columns |= {f"_group{i}": name for i, name in enumerate(roles.group)}
    columns |= {f"_keep{i}": name for i, name in enumerate(keep)}
    # By selector: `pl.col` reads a name like "^a.*$" or "*" as a pattern.
    named = [cs.by_name(name).alias(ours) for ours, name in columns.items()]
    if position:
        return frame.select(pl.col(position).alias("_pos"), *named)
    return frame.select(*named).with_row_index("_pos", first).cast({"_pos": pl.Int64})


def _whole(stage: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The whole number that a stage is, or null; the rule is in `sql/rows/pref_stage.sql`."""
    if dtype.is_integer():
        return stage
    value = number(stage, dtype)
    return pl.when(value.abs() < 2**53, value == value.floor()).then(value).cast(pl.Int64)


def check_types(plan: Plan, roles: Roles, schema: pl.Schema, where: str) -> None:
    """Raise `BadArgument` for a role whose column has a type that it cannot have."""

    def refuse(role: str, name: str, expected: str) -> BadArgument:
        said = f"{where}: the column {name!r} cannot be the role {role!r}; got type {schema[name]}, expected {expected}."
        return BadArgument(said, hint=f"name another column: {role}=COLUMN (--{role} COLUMN).")

    for role in ("prompt", "completion"):
        dtype = schema[getattr(roles, role)]
        if is_json_text(dtype) or _holds_extension(dtype):
            raise BadArgument(
                f"{where}: the column {getattr(roles, role)!r} cannot be {role!r}; got JSON text, expected values.",
                hint="prefmill.run reads files, and prefmill.datasets a Dataset, with such columns; or cast it to text or messages.",
            )
        messages = isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
        if not (
            dtype in (pl.String, pl.Categorical, pl.Null) or isinstance(dtype, pl.Enum) or messages
        ):
            raise refuse(role, getattr(roles, role), "text or a list of messages {role, content}")
    policy = roles.weight or roles.logprob if isinstance(plan, Advantage) else None
    scores = list(plan.weights) if plan.weights and not roles.aspect else [roles.score]
    for role, name in [
        *(("score", name) for name in scores),
        *([("weight" if roles.weight else "logprob", policy)] if policy else []),
    ]:
        dtype = schema[name]
        texts = (
            dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Null)
            or isinstance(dtype, pl.Enum)
            or is_json_text(dtype)
        )
        if not (dtype.is_numeric() or texts):
            raise refuse(role, name, "numbers, booleans, or text that holds numbers")
    for role, names in (
        ("group", roles.group),
        ("id", (roles.id,)),
        ("annotator", (roles.annotator,)),
        ("aspect", (roles.aspect,)),
    ):
        for name in filter(None, names):
            dtype = schema[name]
            plain = (
                dtype in (pl.String, pl.Boolean, pl.Categorical, pl.Date, pl.Null)
                or isinstance(dtype, pl.Enum)
                or dtype.is_integer()
            )
            if not plain and dtype != pl.Decimal(38, 0):  # the type of whole numbers beyond 64 bits
                raise refuse(role, name, "text, whole numbers, booleans or dates (cast it)")
    if roles.stage:
        dtype = schema[roles.stage]
        if not (
            dtype.is_integer()
            or dtype in (pl.String, pl.Categorical, pl.Null)
            or isinstance(dtype, pl.Enum)
        ):
            raise refuse("stage", roles.stage, "whole numbers, or text that holds them (cast it)")


def _holds_extension(dtype: pl.DataType) -> bool:
    """Whether an extension type, whose storage is not its value, is inside."""
    if isinstance(dtype, pl.Struct):
        return any(_holds_extension(field.dtype) for field in dtype.fields)  # type: ignore[arg-type]
    inner = getattr(dtype, "inner", None)
    return isinstance(dtype, pl.BaseExtension) or (inner is not None and _holds_extension(inner))


def first_that_holds(reasons: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    """The name of the first condition that is true; null if none is."""
    return pl.coalesce(
        *[pl.when(holds).then(pl.lit(name)) for name, holds in reasons], pl.lit(None, pl.String)
    )


def drawn_from(key: pl.Expr, seed: int, columns: bool) -> pl.Expr:
    """The hash of a group key under a seed (UInt64); `columns`: the key is a list of group
    columns.
    """
    if columns:
        text = pl.element()
        key = key.list.eval(
            pl.concat_str(text.str.len_bytes().cast(pl.String), pl.lit(":"), text)
        ).list.join("")
    prefix = f"{seed}:".encode()
    return key.map_batches(
        lambda s: prompt_hash(s, prefix), return_dtype=pl.UInt64, is_elementwise=True
    )


def _raise_unusable(rows: pl.Series) -> pl.Series:
    reasons = rows.struct.field("reason")
    if reasons.is_in(_UNUSABLE).any():
        first = rows.struct.unnest().filter(pl.col("reason").is_in(_UNUSABLE)).row(0)
        raise BadScore(
            f"prefmill: row {first[0]} cannot be used; got {first[1]}, and on_invalid is raise."
        )
    return reasons
