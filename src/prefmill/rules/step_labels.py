"""Labels of the steps of records: TRL's stepwise rows, which process reward models are trained on.

    records ──listed──▶ paths: steps and their ratings, or the first error ──labelled──▶ rows

What a record is made of is told by `prefmill.table.step_words`; the same rule in SQL is
`sql/step_labels.sql`, the meaning is in `docs/semantics.md` ("Labels of steps"). Columns in: _pos,
and of the roles those that there are: _prompt, _steps, _rating, _first_error, _chosen, _written.
"""

from __future__ import annotations

import polars as pl

from prefmill.errors import BadInput
from prefmill.rules.step_cells import Place, rating_number, row_of, says_no_error
from prefmill.rules.step_texts import split_texts
from prefmill.table.numbers import number
from prefmill.table.step_words import STEP_REASONS, StepWords

_TEXTS = pl.List(pl.String)
_NUMBERS = pl.List(pl.Float64)
#: The columns of `labelled`.
COLUMNS = {
    "_pos": pl.Int64(),
    "prompt": pl.String(),
    "completions": _TEXTS,
    "labels": pl.List(pl.Boolean()),
    "_reason": pl.String(),
}


def listed(records: pl.DataFrame, words: StepWords, place: Place = row_of) -> pl.DataFrame:
    """The paths through records: _pos, _prompt, _steps (list of text), _reason, and _marks (list of
    numbers) or _first_error.

    A record is one path, or with `chosen` one for every candidate that ends one.
    Raises `BadInput` where steps and ratings are not side by side.
    """
    frame = records.with_columns(_reason=pl.lit(None, pl.String))
    kind = frame.schema["_steps"]
    if kind == pl.String:
        frame = split_texts(frame, words, place)
    elif words.chosen:
        return _paths(frame, words, place)
    elif isinstance(kind, pl.List) and isinstance(kind.inner, pl.List):
        # A step of several lines.
        frame = frame.with_columns(pl.col("_steps").list.eval(pl.element().list.join("\n")))
    frame = frame.with_columns(pl.col("_steps").cast(_TEXTS))
    if words.rating is None:
        return frame.select("_pos", "_prompt", "_steps", "_first_error", "_reason")
    _refuse_unequal(frame, "_steps", "_rating", place)
    marks = _marks(frame, "_rating", words)
    return frame.select("_pos", "_prompt", "_steps", "_reason", _marks=marks)


def labelled(paths: pl.DataFrame, words: StepWords) -> pl.DataFrame:
    """The rows of `COLUMNS`: of every path its row, or why it has none (`STEP_REASONS`)."""
    size = pl.col("_steps").list.len().cast(pl.Int64)
    if words.rating is None:
        paths = _from_first_error(paths, words, size)
    else:
        good = pl.element() > 0 if words.threshold is None else pl.element() >= words.threshold
        paths = paths.with_columns(_labels=pl.col("_marks").list.eval(good))
        paths = _after(paths, words, size)
    steps = pl.col("_steps")
    tests = {
        "null_prompt": pl.col("_prompt").is_null(),
        "no_steps": (size.fill_null(0) == 0) & pl.col("_reason").is_null(),
        "bad_index": pl.col("_bad_index") if words.rating is None else pl.lit(False),
        "null_step": steps.list.eval(pl.element().is_null()).list.any(),
        "unknown_rating": pl.col("_labels").is_null()
        | pl.col("_labels").list.eval(pl.element().is_null()).list.any(),
    }
    reason: pl.Expr = pl.lit(None, pl.String)
    for name in reversed(STEP_REASONS):
        holds = tests[name] | (pl.col("_reason") == name)
        reason = pl.when(holds).then(pl.lit(name)).otherwise(reason)
    rows = paths.select(
        "_pos",
        prompt="_prompt",
        completions="_steps",
        labels="_labels",
        _reason=reason,
    )
    return rows.cast(dict(COLUMNS))  # type: ignore[arg-type]


def _marks(frame: pl.DataFrame, name: str, words: StepWords) -> pl.Expr:
    """A column of ratings as numbers."""
    kind = frame.schema[name]
    if kind == pl.Null or (isinstance(kind, pl.List) and kind.inner == pl.Null):
        return pl.col(name).cast(_NUMBERS)
    assert isinstance(kind, pl.List)
    inner = kind.inner
    assert isinstance(inner, pl.DataType)
    return pl.col(name).list.eval(rating_number(pl.element(), inner, words.means))


def _refuse_unequal(frame: pl.DataFrame, one: str, other: str, place: Place) -> None:
    sizes = frame.select(
        "_pos", _one=pl.col(one).list.len(), _other=pl.col(other).list.len()
    ).filter(pl.col("_one") != pl.col("_other"))
    if sizes.height:
        position, steps, ratings = sizes.row(0)
        raise unequal(place(position), steps, ratings, other)


def unequal(where: str, steps: int, ratings: int, other: str = "_rating") -> BadInput:
    """The error for lists that are not side by side."""
    what = other.removeprefix("_")
    return BadInput(
        f"steps: {where}: steps and {what} are lists of unequal length; got {steps} and {ratings}.",
        hint="mend that row, or leave it out: they have to be side by side.",
    )


def _from_first_error(paths: pl.DataFrame, words: StepWords, size: pl.Expr) -> pl.DataFrame:
    """Labels, true up to the first error; which may lie at no step."""
    kind = paths.schema["_first_error"]
    position = number(pl.col("_first_error"), kind)
    none = says_no_error(pl.col("_first_error"), kind, words.no_error)
    whole = (position == position.floor()) & position.is_finite()
    index = pl.when(whole).then(position - (words.first_index or 0)).cast(pl.Int64, strict=False)
    inside = (index >= 0) & (index < size)
    paths = paths.with_columns(_none=none, _index=pl.when(inside).then(index))
    right = pl.when("_none").then(size).otherwise(pl.col("_index")).fill_null(0)
    wrong = pl.when("_none").then(0).otherwise(1)
    if words.after == "false":
        wrong = pl.when("_none").then(0).otherwise(size - right)
    paths = paths.with_columns(_right=right, _wrong=wrong.fill_null(0))
    labels = pl.concat_list(pl.lit(True).repeat_by("_right"), pl.lit(False).repeat_by("_wrong"))
    return paths.with_columns(
        _steps=pl.col("_steps").list.head(pl.col("_right") + pl.col("_wrong")),
        _bad_index=~pl.col("_none") & pl.col("_index").is_null(),
        _labels=labels,
    )


def _after(paths: pl.DataFrame, words: StepWords, size: pl.Expr) -> pl.DataFrame:
    """The steps after the first wrong one left out, or labelled false, as `after` says."""
    if words.after == "keep":
        return paths
    wrong = pl.element().eq(False).fill_null(False).arg_true().first()
    first = pl.col("_labels").list.eval(wrong).list.first()
    kept = (first.cast(pl.Int64) + 1).fill_null(size)
    paths = paths.with_columns(_kept=kept)
    labels = pl.col("_labels").list.head("_kept")
    if words.after == "drop":
        return paths.with_columns(pl.col("_steps").list.head("_kept"), _labels=labels)
    rest = pl.lit(False).repeat_by((size - pl.col("_kept")).clip(0).fill_null(0))
    return paths.with_columns(_labels=pl.concat_list(labels, rest))


# Candidates for each step


def _paths(frame: pl.DataFrame, words: StepWords, place: Place) -> pl.DataFrame:
    """One path for every candidate that is not chosen, and one to the end of those that are."""
    written = "_written" in frame.columns
    if not written:
        frame = frame.with_columns(_written=pl.lit(None, _TEXTS))
    for other in ("_rating", "_chosen", "_written")[: 2 + written]:
        _refuse_unequal(frame, "_steps", other, place)
    nodes = _nodes(frame, words, place)
    spine = (
        nodes.filter("_has_choice")
        .group_by("_pos", maintain_order=True)
        .agg(_texts=pl.col("_choice"), _numbers=pl.col("_choice_mark"))
    )
    leaves = _leaves(nodes).join(spine, on="_pos", how="left", maintain_order="left")
    before = pl.col("_step")
    told = leaves.select(
        "_pos",
        "_prompt",
        "_reason",
        _steps=pl.concat_list(pl.col("_texts").fill_null([]).list.head(before), "_text"),
        _marks=pl.concat_list(pl.col("_numbers").fill_null([]).list.head(before), "_mark"),
    )
    empty = _without_paths(frame, nodes, leaves)
    return pl.concat([told, empty]).sort("_pos", maintain_order=True)


def _nodes(frame: pl.DataFrame, words: StepWords, place: Place) -> pl.DataFrame:
    """A row for each step of a record: its candidates, and which of them leads on."""
    lists = ["_steps", "_rating", "_chosen", "_written"]
    size = pl.col("_steps").list.len()
    steps = (
        frame.filter(size > 0)
        .with_columns(
            pl.when(pl.col(name).is_null())
            .then(pl.lit(None).repeat_by(size))
            .otherwise(name)
            .alias(name)
            for name in lists[1:]
        )
        .with_columns(_step=pl.int_ranges(0, pl.col("_steps").list.len()))
        .explode(*lists, "_step")
    )
    _refuse_unequal(steps, "_steps", "_rating", place)
    steps = steps.with_columns(_marks=_marks(steps, "_rating", words))
    count = pl.col("_steps").list.len().fill_null(0).cast(pl.Int64)
    chosen = pl.col("_chosen")
    is_chosen, is_written = chosen.is_not_null(), pl.col("_written").is_not_null()
    steps = steps.with_columns(
        _bad=is_chosen & ~chosen.is_between(0, count - 1),
        _has_choice=is_chosen | is_written,
        _is_there=(count > 0) | is_chosen | is_written,
        _choice=pl.when(is_chosen)
        .then(pl.col("_steps").list.get(chosen.clip(0), null_on_oob=True))
        .otherwise("_written"),
        # What a person wrote is right, on every scale.
        _choice_mark=pl.when(is_chosen)
        .then(pl.col("_marks").list.get(chosen.clip(0), null_on_oob=True))
        .otherwise(float("inf")),
    )
    # A step that follows one without a choice belongs to no path.
    open_end = pl.col("_has_choice").not_().cum_max().shift(1, fill_value=False).over("_pos")
    bad = (pl.col("_bad") | (pl.col("_is_there") & open_end)).any().over("_pos")
    following = pl.col("_is_there").shift(-1, fill_value=False).over("_pos")
    return steps.with_columns(_bad=bad, _leads_on=following)


def _leaves(nodes: pl.DataFrame) -> pl.DataFrame:
    """The ends of paths: _pos, _prompt, _reason, _step, _text, _mark."""
    columns = ["_pos", "_prompt", "_reason", "_step"]
    fine = nodes.filter(~pl.col("_bad"))
    others = (
        fine.filter(pl.col("_steps").list.len() > 0)
        .with_columns(_place=pl.int_ranges(0, pl.col("_steps").list.len()))
        .explode("_steps", "_marks", "_place")
        .filter(pl.col("_place").ne_missing(pl.col("_chosen")))
        .select(*columns, "_place", _text="_steps", _mark="_marks")
    )
    last = fine.filter(pl.col("_has_choice") & ~pl.col("_leads_on")).select(
        *columns,
        # What was written comes after all candidates.
        _place=pl.coalesce(pl.col("_chosen").cast(pl.Int64), pl.lit(1 << 40)),
        _text="_choice",
        _mark="_choice_mark",
    )
    return pl.concat([others.cast({"_place": pl.Int64}), last]).sort("_pos", "_step", "_place")


def _without_paths(frame: pl.DataFrame, nodes: pl.DataFrame, leaves: pl.DataFrame) -> pl.DataFrame:
    """Records that have none: they are counted once."""
    bad = nodes.filter("_bad").select("_pos").unique()
    reason = pl.when(pl.col("_pos").is_in(bad["_pos"].implode())).then(pl.lit("bad_index"))
    rest = frame.join(leaves.select("_pos").unique(), on="_pos", how="anti", maintain_order="left")
    return rest.select(
        "_pos",
        "_prompt",
        _reason=reason.otherwise(pl.lit("no_steps")),
        _steps=pl.lit(None, _TEXTS),
        _marks=pl.lit(None, _NUMBERS),
    )
