"""Steps as lazy Polars frames. Nothing is collected, but by `report`.

    numbered ──▶ judged ──▶ the steps, each a function of `prefmill.rules` ──join──▶ texts

Texts meet the ranked positions in one join at the end.
"""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Unpack

import polars as pl

from prefmill.arguments import closed
from prefmill.engines.steps import Asks, Kept, Output, Program, Step, kept_columns
from prefmill.pools.frames import frame_of
from prefmill.rules.rows import check_types, judged, numbered, standing
from prefmill.shapes.source import words_in
from prefmill.shapes.tables import RowedFrame, fits_of, rows_of
from prefmill.table.context import SYSTEM_OUT, asked, context_of, of_both
from prefmill.table.messages import in_one_form, message_fields
from prefmill.table.numbers import number
from prefmill.table.report import PairReport
from prefmill.table.roles import NO_RECORDS, Inputs, OfRecords, Read, RoleNames, Roles

Relations = dict[str, pl.LazyFrame]


def run(step: Step, relations: Mapping[str, pl.LazyFrame]) -> Any:
    """What the rule of `step` gives: a LazyFrame, or for a report a `PairReport`."""
    module, function = step.function
    rule = getattr(importlib.import_module(f"prefmill.rules.{module}"), function)
    return rule(*(relations[name] for name in step.over), **step.args)


def relations(
    program: Program, rows: pl.LazyFrame, never_null: frozenset[str] = frozenset()
) -> Relations:
    """Every relation by its name, over `rows` (the output of `numbered`)."""
    made = {"numbered": rows, "judged": judged(rows, program.read, never_null)}
    for step in program.steps:
        made[step.name] = run(step, made)
    return made


def last(output: Output, made: Mapping[str, pl.LazyFrame]) -> pl.LazyFrame:
    """The rows of the last step that come out, in order."""
    rows = made[output.step]
    if output.present:
        rows = rows.filter(pl.col(output.present).is_not_null())
    names = [name.removeprefix("-") for name in output.order]
    return rows.sort(names, descending=[name[0] == "-" for name in output.order])


@closed("lazy")
def apply(
    plan: Asks,
    frame: Inputs,
    *,
    keep: Sequence[str] = (),
    first: int = 0,
    position: str | None = None,
    order: Sequence[str] = (),
    trainer: bool | None = None,
    of_records: OfRecords = NO_RECORDS,
    **names: Unpack[RoleNames],
) -> pl.LazyFrame:
    """`plan` over `frame` as a LazyFrame.

    Args:
        frame: one of Polars; files and whatever else `prefmill.run` takes are read at once.
        keep: further columns: of pairs `chosen_NAME` and `rejected_NAME`, else `NAME`.
        first: the position of the first row, for messages.
        position: a column of whole numbers, all different, that are the positions of rows instead.
        order: names of further columns, which hold what orders the rows (`Output.order`).
        trainer: whether the prompt's context comes along (`prefmill.table.context`) and texts have
            one form; pairs and labels are a trainer's by default.
        of_records: what is known of the records that `frame` has the rows of.

    Columns out: those of the plan's output, then the context, then `keep`. Positions are the row
    order of `frame`. Cost: one narrow pass that ranks, one join that fetches texts.
    """
    given = frame_of(frame, "lazy")
    wanted = [*plan.wide_scores(names), *keep]
    plan, rowed = in_rows(plan, given, names, where="lazy", extra=wanted, first=first)
    frame = rowed.frame
    roles, schema = _resolved(plan, frame, rowed.names, "lazy")
    program = plan.program(roles)
    output = program.output
    check_types(program.read, schema, "lazy")
    for_trainer = output.for_trainer if trainer is None else trainer
    context: Mapping[str, str] = {}
    if for_trainer:
        context = context_of(schema, roles, () if output.paired else keep)
    kept = kept_columns(
        output,
        keep,
        schema.names(),
        output.names,
        where="lazy",
        context=context,
        of_records=(rowed.of_records or of_records).for_layout(parts=bool(of_records.parts)),
    )
    places = list(dict.fromkeys(each.column for each in kept))
    rows = _rows(program, frame, first, places, position)
    if isinstance(frame, pl.DataFrame):
        _warn_of_words(program.read, frame)
    carried = [f"_keep{place}" for place in range(len(places))]
    of_row = [column.ours for column in output.columns if column.of_row]
    texts = rows.select("_pos", "_prompt", "_completion", *of_row, *carried)
    ranked = last(output, relations(program, rows))
    columns = {column.name: column.ours for column in output.columns}
    ordering = {
        name: pl.col(ours.removeprefix("-")).cast(pl.Int64)
        for name, ours in zip(order, output.order, strict=bool(order))
    }
    extra = {each.name: _kept(each, places, schema, roles) for each in kept}
    if output.paired:
        told = _with_texts(output, ranked, texts).filter(~pl.col("_same_text"))
        sides = dict(zip(output.texts, ("_completion", "_worse"), strict=True))
    else:
        (of_text,) = output.texts.values()
        told = ranked.join(
            texts, left_on=of_text, right_on="_pos", how="left", maintain_order="left"
        )
        sides = dict.fromkeys(output.texts, "_completion")
    rows_out = told.select(prompt="_prompt", **sides, **columns, **extra, **ordering)
    if not output.layouts or not (for_trainer or output.for_trainer):
        return rows_out
    return _in_one_form(rows_out, rows, list(sides), extra)


@closed("report")
def report(
    plan: Asks, frame: Inputs, *, position: str | None = None, **names: Unpack[RoleNames]
) -> PairReport:
    """What `plan` uses of `frame` and why it drops the rest: a second, narrow query; collects.

    `position` is as `apply` takes it.
    """
    program, rows, rowed = _program(plan, frame, names, "report", position)
    made = relations(program, rows)
    if program.output.paired:
        texts = rows.select("_pos", "_prompt", "_completion")
        told = _with_texts(program.output, made[program.output.step], texts)
        made["told"] = told.select(
            *program.output.also, *program.output.texts.values(), "_same_text"
        )
    done = account(program.output, made)
    return replace(done, records=rowed.report()) if rowed.shape else done


def account(output: Output, made: Mapping[str, pl.LazyFrame]) -> PairReport:
    """The report of `output` over its relations; collects."""
    done: PairReport = run(output.report, made)
    if not output.length:
        return done
    return replace(done, length=made[output.length].collect().row(0, named=True))


def scores_of(
    plan: Asks, frame: pl.DataFrame, *, position: str | None = None, **names: Unpack[RoleNames]
) -> pl.Series:
    """The scores of all candidates of `frame`; collects. `position` is as `apply` takes it."""
    program, rows, _ = _program(plan, frame, names, "scores", position)
    return scores(relations(program, rows)["candidates"])


def scores(candidates: pl.LazyFrame) -> pl.Series:
    """The scores of the candidates that stand; collects."""
    chosen = standing(candidates).select(pl.col("_score").alias("score"))
    return chosen.collect(engine="in-memory")["score"]


def _resolved(
    plan: Asks, frame: pl.LazyFrame | pl.DataFrame, names: RoleNames, where: str
) -> tuple[Roles, pl.Schema]:
    schema = frame.lazy().collect_schema()
    return plan.roles(names, schema.names(), where=where, fits=fits_of(frame)), schema


def in_rows(
    plan: Asks,
    frame: pl.LazyFrame | pl.DataFrame,
    names: RoleNames,
    *,
    where: str,
    extra: Sequence[str] = (),
    first: int = 0,
) -> tuple[Asks, RowedFrame]:
    """The plan and its frame, once records have become rows."""
    fits = fits_of(frame)

    def attempt(names: RoleNames) -> object:
        columns = frame.lazy().collect_schema().names()
        return plan.roles(names, columns, where=where, fits=fits)

    rowed = rows_of(
        frame,
        words_in(plan.rows, names),
        where=where,
        attempt=attempt,
        score=not plan.wide_scores(names),
        extra=extra,
        first=first,
    )
    if rowed.shape is not None:
        inside, votes = rowed.shape.own_group, rowed.shape.votes
        plan = plan.over_records(inside=inside, votes=votes, where=where)
    return plan, rowed


def _program(
    plan: Asks, data: Inputs, names: RoleNames, where: str, position: str | None = None
) -> tuple[Program, pl.LazyFrame, RowedFrame]:
    wanted = plan.wide_scores(names)
    plan, rowed = in_rows(plan, frame_of(data, where), names, where=where, extra=wanted)
    roles, schema = _resolved(plan, rowed.frame, rowed.names, where)
    program = plan.program(roles)
    check_types(program.read, schema, where)
    return program, _rows(program, rowed.frame, position=position), rowed


def _rows(
    program: Program,
    frame: pl.LazyFrame | pl.DataFrame,
    first: int = 0,
    keep: Sequence[str] = (),
    position: str | None = None,
) -> pl.LazyFrame:
    rows = numbered(program.read, frame.lazy(), position, first=first, keep=keep)
    # Ranks and texts meet by position, so both must see one and the same execution of the input: a
    # join has no row order, and a model is slow.
    return rows if isinstance(frame, pl.DataFrame) else rows.cache()


def _kept(each: Kept, columns: Sequence[str], schema: pl.Schema, roles: Roles) -> pl.Expr:
    """A column that comes along, of the row or of both sides of a pair."""
    place = columns.index(each.column)
    if each.side == "both":
        both = pl.col(f"_keep{place}"), pl.col(f"_other{place}")
        return of_both(each.name, *both, schema[each.column], schema[roles.prompt])
    return pl.col(f"_other{place}" if each.side == "rejected" else f"_keep{place}")


def _with_texts(output: Output, pairs: pl.LazyFrame, texts: pl.LazyFrame) -> pl.LazyFrame:
    """`pairs` with their texts (_prompt, _completion of the better, _worse) and whether the two
    completions are one text.
    """
    better, worse = output.texts.values()
    kept = [name for name in texts.collect_schema().names() if name.startswith("_keep")]
    others = {name.replace("_keep", "_other", 1): name for name in kept}
    other = texts.select(pl.col("_pos").alias(worse), _worse="_completion", **others)
    one = texts.rename({"_pos": better})
    return (
        pairs.join(one, on=better, how="left", maintain_order="left")
        .join(other, on=worse, how="left", maintain_order="left")
        .with_columns(_same_text=pl.col("_completion") == pl.col("_worse"))
    )


def _in_one_form(
    out: pl.LazyFrame, rows: pl.LazyFrame, sides: Sequence[str], extra: Mapping[str, pl.Expr]
) -> pl.LazyFrame:
    """`out` with its prompt and `sides` all text or all messages, begun with the system prompt that
    `extra` may have. They hold what `rows` has as _prompt, _completion.
    """
    schema = rows.collect_schema()
    kinds: dict[str, pl.DataType] = dict.fromkeys(sides, schema["_completion"])
    kinds = {"prompt": schema["_prompt"], **kinds}
    if SYSTEM_OUT in extra:
        out = out.with_columns(asked(kinds).alias("prompt")).drop(SYSTEM_OUT)
        kinds["prompt"] = pl.List(pl.Struct(message_fields(kinds, "prompt")))
    if all(kind == pl.String for kind in kinds.values()):
        return out  # a filter on the prompt still sees a plain column
    return out.with_columns(**in_one_form(kinds, kinds))


def _warn_of_words(rows: Read, frame: pl.DataFrame) -> None:
    """Warn where a column of scores is text and none of it is a number: nothing can come out. A
    LazyFrame is not looked into.
    """
    for name in rows.scores:
        scores = frame[name].alias("scores").drop_nulls()  # a name like ^a$ is a pattern to Polars
        if scores.dtype.is_numeric() or not scores.len():
            continue
        if scores.to_frame().select(number(pl.first(), scores.dtype).is_null().all()).item():
            warnings.warn(
                f"prefmill: no score in the column {name!r} is a number; "
                f"got {str(scores[0])[:40]!r}, and every row is bad_score."
                " Say what the words mean: values={'WORD': NUMBER, ...}.",
                stacklevel=4,
            )
