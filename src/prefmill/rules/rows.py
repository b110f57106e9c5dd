"""From rows to candidates as lazy Polars expressions: the rules that every plan shares.

    numbered ──judged──▶ judgements ──rows──▶ counted ──candidates──▶ candidates

Only `numbered` knows the columns of the input. The other functions have the names and the arguments
of the macros in `sql/`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl
import polars.selectors as cs

from prefmill.errors import BadArgument, BadScore
from prefmill.table.chance import prompt_hash
from prefmill.table.messages import is_json_text, is_text
from prefmill.table.numbers import number, plain_zero, rounded
from prefmill.table.older import estimable
from prefmill.table.roles import Read

#: The reasons that `on_invalid="raise"` refuses; others say that a row is not meant to count.
UNUSABLE = ("null_prompt", "null_completion", "null_score", "bad_score", "non_finite_score")


def numbered(
    rows: Read,
    frame: pl.LazyFrame,
    position: str | None = None,
    first: int = 0,
    keep: Sequence[str] = (),
) -> pl.LazyFrame:
    """The columns that `rows` reads under our own names, `_keep0`, `_keep1` ... of `keep`, and
    `_pos` (Int64): the row order from `first` on, or the column `position`.
    """
    columns = rows.columns() | {f"_keep{place}": name for place, name in enumerate(keep)}
    # By selector: `pl.col` reads a name like "^a.*$" or "*" as a pattern.
    named = [cs.by_name(name).alias(ours) for ours, name in columns.items()]
    frame = estimable(frame)
    if position:
        return frame.select(pl.col(position).alias("_pos"), *named)
    return frame.select(*named).with_row_index("_pos", first).cast({"_pos": pl.Int64})


def judged(
    numbered: pl.LazyFrame, rows: Read, never_null: frozenset[str] = frozenset()
) -> pl.LazyFrame:
    """The narrow relation that `rows` takes: _pos, _grp, _value, and whether what it needs is there
    (_has_prompt, _has_completion, _null_score, _refusal: a further reason, tried last).

    Columns in `never_null` are not tested for nulls.
    """
    roles, schema = rows.roles, numbered.collect_schema()

    def present(ours: str, name: str) -> pl.Expr:
        return pl.lit(True) if name in never_null else pl.col(ours).is_not_null()

    groups = [f"_group{place}" for place in range(len(roles.group))]
    scores = [f"_score{place}" for place in range(len(rows.scores))]
    numbers = [number(pl.col(name), schema[name]) for name in scores]
    value = numbers[0]
    if roles.negate:
        value = -value
    # A weighted sum is rounded, so that engines which add in another order give the same number.
    if rows.weights:
        weighed = [n * weight for n, weight in zip(numbers, rows.weights.values(), strict=True)]
        value = rounded(pl.sum_horizontal(weighed, ignore_nulls=False))
    key = pl.col("_prompt")
    if groups:
        key = pl.concat_list([pl.col(group).cast(pl.String) for group in groups])
    columns = {
        "_grp": key,
        "_has_prompt": pl.all_horizontal(
            present("_prompt", roles.prompt), *map(present, groups, roles.group)
        ),
        "_has_completion": present("_completion", roles.completion),
        "_null_score": pl.any_horizontal(pl.col(name).is_null() for name in scores),
        "_value": plain_zero(value),
    }
    if roles.id:
        by_bytes = schema["_id"] == pl.Categorical or isinstance(schema["_id"], pl.Enum)
        columns["_id"] = pl.col("_id")
        if by_bytes:  # and not in the order of its categories
            columns["_id"] = pl.col("_id").cast(pl.String)
    columns |= {c: pl.col(c) for c in ("_annotator", "_aspect") if c in schema}
    if rows.merged:
        columns["_text"] = pl.col("_completion")
    refusals: list[tuple[str, pl.Expr]] = []
    if rows.last_stage:
        stage = _whole(pl.col("_stage"), schema["_stage"])
        refusals += [("null_stage", stage.is_null()), ("earlier_stage", stage < stage.max())]
    if rows.conclusion:
        said = pl.col("_conclusion").cast(pl.String)
        refusals.append(("no_conclusion", said.is_null() | (said == "")))
    if refusals:
        columns["_refusal"] = first_that_holds(refusals)
    if rows.policy:
        weight = number(pl.col("_weight"), schema["_weight"])
        usable = weight.is_finite() & (pl.lit(rows.logs) | (weight >= 0))
        columns["_refusal"] = first_that_holds([("bad_weight", ~usable.fill_null(False))])
    return numbered.select("_pos", **columns)


def rows(
    judged: pl.LazyFrame,
    *,
    normalize: str = "none",
    tie_break: str = "position",
    weights: Mapping[str, float] | None = None,
    on_invalid: str = "drop",
) -> pl.LazyFrame:
    """Judgements with `_reason`, null for one that counts, and `_value` on one scale."""
    names = judged.collect_schema().names()
    value = pl.col("_value")
    reasons: list[tuple[str, pl.Expr]] = [
        ("null_prompt", ~pl.col("_has_prompt")),
        ("null_completion", ~pl.col("_has_completion")),
        ("null_score", pl.col("_null_score")),
        ("bad_score", value.is_null()),
        ("non_finite_score", ~value.is_finite()),
    ]
    if normalize != "none":
        reasons.append(("null_annotator", pl.col("_annotator").is_null()))
    if weights is not None:
        known = pl.col("_aspect").cast(pl.String).is_in(list(weights)).fill_null(False)
        reasons.append(("unweighted_aspect", ~known))
    if tie_break == "id":
        reasons.append(("null_id", pl.col("_id").is_null()))
    reason = first_that_holds(reasons)
    if "_refusal" in names:
        reason = pl.coalesce(reason, "_refusal")
    if on_invalid == "raise":
        reason = pl.struct("_pos", reason.alias("reason")).map_batches(
            _raise_unusable, return_dtype=pl.String, is_elementwise=True
        )
    kept = [n for n in ("_pos", "_grp", "_text", "_id", "_annotator", "_aspect") if n in names]
    counted = judged.with_columns(_reason=reason).select(*kept, "_value", "_reason")
    if normalize == "none":
        return counted
    scale: list[str] = [name for name in ("_annotator", "_aspect") if name in names]
    return counted.with_columns(_value=_normalized(normalize, scale))


def _normalized(how: str, scale: list[str]) -> pl.Expr:
    value = pl.when(pl.col("_reason").is_null()).then("_value")
    if how == "rank":
        return rounded((value.rank("average").over(scale) - 0.5) / value.count().over(scale))
    flat = value.min().over(scale) == value.max().over(scale)
    gap = value - value.mean().over(scale)
    return pl.when(flat).then(0.0).otherwise(rounded(gap / value.std(ddof=0).over(scale)))


def candidates(
    counted: pl.LazyFrame,
    *,
    aggregate: str = "none",
    min_votes: int = 1,
    weights: Mapping[str, float] | None = None,
    tie_break: str = "position",
) -> pl.LazyFrame:
    """Candidates: _grp, _pos, _id, _score, _votes (rows), _reason (null: it is one)."""
    head = in_head(tie_break)
    # Without ids every row of the column is null: the other rules find it there in any case.
    id_ = pl.lit(None).alias("_id")
    if "_id" in head:
        id_ = pl.col("_id")
    counting = counted.filter(pl.col("_reason").is_null())
    if aggregate == "none":
        one = pl.lit(1, pl.Int64)
        return counting.select("_grp", "_pos", id_, "_reason", _score="_value", _votes=one)
    value = pl.col("_value")
    mode = value.mode()
    merged = {
        "mean": value.mean(),
        "median": value.median(),
        "max": value.max(),
        "min": value.min(),
        "majority": pl.when(mode.len() == 1).then(mode.first()),
    }[aggregate]
    first = [pl.col(column).sort_by(head).first() for column in head]
    votes = pl.len().cast(pl.Int64)
    key, total = ["_grp", "_text"], value.sum()
    exact = aggregate in ("max", "min", "majority") and weights is None
    if weights is not None:
        key.append("_aspect")
        aspect = pl.col("_aspect").cast(pl.String)
        share = aspect.replace_strict(weights, default=None, return_dtype=pl.Float64)
        total = (value * share).sum()
    if not exact:
        total = rounded(total)
    aspects = counting.group_by(key).agg(merged.alias("_value"), *first, _votes=votes)
    grouped = aspects.group_by("_grp", "_text").agg(
        *first,
        pl.col("_votes").sum(),
        _score=total,
        _fewest=pl.col("_votes").min(),
        _aspects=pl.len(),
        _decided=value.count(),
    )
    reasons = [
        ("missing_aspect", pl.col("_aspects") < len(weights or [None])),
        ("too_few_votes", pl.col("_fewest") < min_votes),
        ("no_majority", pl.col("_decided") < pl.col("_aspects")),
    ]
    return grouped.select(
        "_grp", "_pos", id_, "_score", "_votes", _reason=first_that_holds(reasons)
    )


def first_that_holds(reasons: Sequence[tuple[str, pl.Expr]]) -> pl.Expr:
    """The name of the first condition that is true; null if none is."""
    named = [pl.when(holds).then(pl.lit(name)) for name, holds in reasons]
    return pl.coalesce(*named, pl.lit(None, pl.String))


def standing(candidates: pl.LazyFrame) -> pl.LazyFrame:
    """The candidates without a reason against them."""
    return candidates.filter(pl.col("_reason").is_null())


def rows_in(counted: pl.LazyFrame) -> int:
    """How many rows went in; collects."""
    return int(counted.select(pl.len()).collect().item())


def dropped(counted: pl.LazyFrame, candidates: pl.LazyFrame) -> dict[str, int]:
    """Rows that never became candidates, by reason; collects."""
    against = pl.col("_reason").is_not_null()
    votes = pl.len().cast(pl.Int64)
    single = counted.filter(against).group_by("_reason").agg(_votes=votes)
    merged = candidates.filter(against).group_by("_reason").agg(pl.col("_votes").sum())
    parts = pl.collect_all([single, merged])
    return {reason: int(number) for part in parts for reason, number in part.iter_rows()}


def in_head(tie_break: str) -> list[str]:
    """The columns that say which row of several is the first."""
    return ["_id", "_pos"] if tie_break == "id" else ["_pos"]


def in_rank_order(tie_break: str) -> list[str]:
    """The columns that order the candidates of a group, worst first."""
    return ["_score", *in_head(tie_break)]


def drawn(groups: pl.LazyFrame, seed: int, key: pl.Expr | None = None) -> pl.Expr:
    """The hash of the key of each of `groups` under a seed (UInt64); `key`, or its `_grp`.

    Raises nothing; several group columns are one text, each with its length before it.
    """
    prefix = f"{seed}:".encode()
    if key is None:
        key = pl.col("_grp")
        if groups.collect_schema()["_grp"] == pl.List(pl.String):
            text = pl.element()
            size = text.str.len_bytes().cast(pl.String)
            key = key.list.eval(pl.concat_str(size, pl.lit(":"), text)).list.join("")
    return key.map_batches(
        lambda keys: prompt_hash(keys, prefix), return_dtype=pl.UInt64, is_elementwise=True
    )


def _whole(stage: pl.Expr, dtype: pl.DataType) -> pl.Expr:
    """The whole number that a stage is, or null; the rule is in `pref_stage`."""
    if dtype.is_integer():
        return stage
    value = number(stage, dtype)
    return pl.when(value.abs() < 2**53, value == value.floor()).then(value).cast(pl.Int64)


def _raise_unusable(rows: pl.Series) -> pl.Series:
    reasons = rows.struct.field("reason")
    unusable = rows.struct.unnest().filter(pl.col("reason").is_in(UNUSABLE))
    if unusable.height:
        position, reason = unusable.row(0)
        raise BadScore(
            f"prefmill: row {position} cannot be used; got {reason}, and on_invalid is raise."
        )
    return reasons


def check_types(rows: Read, schema: pl.Schema, where: str) -> None:
    """Raise `BadArgument` for a role whose column has a type that it cannot have."""
    roles = rows.roles

    def refuse(role: str, name: str, expected: str) -> BadArgument:
        hint = f"name another column: {role}=COLUMN (--{role} COLUMN)."
        if role == "score" and isinstance(schema[name], pl.List):
            hint = (
                "a list holds a score for each step or label: name the column of one number."
                f" Where it holds ratings of the answer: --each {name} --aggregate mean."
            )
        return BadArgument(
            f"{where}: the column {name!r} cannot be the role {role!r}; got type {schema[name]}, "
            f"expected {expected}.",
            hint=hint,
        )

    for role, name in (("prompt", roles.prompt), ("completion", roles.completion)):
        dtype = schema[name]
        if is_json_text(dtype) or _holds_extension(dtype):
            raise BadArgument(
                f"{where}: the column {name!r} cannot be {role!r}; got JSON text, expected values.",
                hint="prefmill.run reads files, and prefmill.datasets a Dataset, with such columns;"
                " or cast it to text or messages.",
            )
        messages = isinstance(dtype, pl.List) and isinstance(dtype.inner, pl.Struct)
        if not (is_text(dtype) or messages):
            raise refuse(role, name, "text or a list of messages {role, content}")
    numeric = [("score", name) for name in rows.scores]
    if rows.policy:
        numeric.append(("logprob" if rows.logs else "weight", rows.policy))
    for role, name in numeric:
        dtype = schema[name]
        spelled = is_text(dtype) or dtype == pl.Boolean or is_json_text(dtype)
        if not (dtype.is_numeric() or spelled):
            raise refuse(role, name, "numbers, booleans, or text that holds numbers")
    keys = [("group", name) for name in roles.group]
    optional = {"id": roles.id, "annotator": roles.annotator, "aspect": roles.aspect}
    optional["conclusion"] = rows.conclusion
    keys += [(role, name) for role, name in optional.items() if name]
    for role, name in keys:
        dtype = schema[name]
        plain = is_text(dtype) or dtype in (pl.Boolean, pl.Date) or dtype.is_integer()
        if not plain and dtype != pl.Decimal(38, 0):  # the type of whole numbers beyond 64 bits
            raise refuse(role, name, "text, whole numbers, booleans or dates (cast it)")
    if roles.stage and not (schema[roles.stage].is_integer() or is_text(schema[roles.stage])):
        raise refuse("stage", roles.stage, "whole numbers, or text that holds them (cast it)")


def _holds_extension(dtype: pl.DataType) -> bool:
    """Whether an extension type, whose storage is not its value, is inside."""
    if isinstance(dtype, pl.Struct):
        inside = [field.dtype for field in dtype.fields]
        return any(map(_holds_extension, inside))  # type: ignore[arg-type]
    inner = getattr(dtype, "inner", None)
    return isinstance(dtype, pl.BaseExtension) or (inner is not None and _holds_extension(inner))
