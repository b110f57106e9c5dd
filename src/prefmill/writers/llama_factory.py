"""The columns that LLaMA-Factory reads, and the conversations that its converter skips.

Its ShareGPT form knows five tags. A conversation is an optional `system`, then `human` or
`observation` and `gpt` or `function_call` in turn, an odd number of them; an answer is `gpt` or
`function_call`. Anything else is skipped there with a warning in the log, and fields beside
`from` and `value` are not read. So both are refused here (its `data/converter.py`, version of
2026-08-18).
"""

from __future__ import annotations

import polars as pl

from prefmill.errors import BadArgument, BadInput
from prefmill.table.messages import message_fields, messages
from prefmill.table.roles import PARTS_OUT

_SIDES = ("chosen", "rejected")
#: What a message's role is called there: a tool's result is an observation, a developer is the
#: system.
_TAGS = {
    "user": "human",
    "assistant": "gpt",
    "tool": "observation",
    "function": "observation",
    "developer": "system",
}
_TURNS = {"human": "h", "observation": "h", "gpt": "g", "function_call": "g", "system": "s"}


def columns(frame: pl.DataFrame, chat: bool) -> dict[str, pl.Expr]:
    """Expressions of its columns: the alpaca form for text, the ShareGPT ranking form for messages.

    A prompt that was joined of two columns is these two in the alpaca form.

    Raises `BadArgument` for contents that are no text, `BadInput` for pairs that its converter
    would skip, or that hold what it does not read.
    """
    if not chat:
        texts = {side: pl.col(side) for side in _SIDES}
        asked = {"instruction": pl.col("prompt"), "input": pl.lit("")}
        if set(PARTS_OUT) <= set(frame.columns):
            parts = (pl.col(part).cast(pl.String).fill_null("") for part in PARTS_OUT)
            asked = dict(zip(asked, parts, strict=True))
        return asked | texts
    schema = frame.schema
    for name in ("prompt", *_SIDES):
        content = message_fields(schema, name)["content"]
        if content not in (pl.String, pl.Null):
            raise BadArgument(
                f"format: 'llama-factory' needs messages whose content is text; got {content}."
            )
    held = frame.select(messages(schema, name).alias(name) for name in ("prompt", *_SIDES))
    _refuse_fields(held)
    tagged = held.with_columns(pl.all().list.eval(_tagged(pl.element())))
    _refuse_turns(tagged)
    said = {side: _tagged(messages(schema, side).list.first()) for side in _SIDES}
    return {"conversations": messages(schema, "prompt").list.eval(_tagged(pl.element()))} | said


def _tagged(message: pl.Expr) -> pl.Expr:
    """A message in its names."""
    tag = message.struct.field("role").replace(_TAGS)
    return pl.struct(tag.alias("from"), message.struct.field("content").alias("value"))


def _refuse_fields(held: pl.DataFrame) -> None:
    """Refuse messages that say something beside role and content, and those that say nothing."""
    for name in held.columns:
        message = held[name].explode(empty_as_null=False, keep_nulls=False).struct.unnest()
        for key in message.columns:
            if key == "role":
                continue
            filled = message[key].is_not_null()
            if isinstance(message[key].dtype, pl.List):
                filled &= message[key].list.len().fill_null(0) > 0
            if key == "content" and not filled.all():
                raise BadInput(
                    "format: 'llama-factory' needs a text in every message; got"
                    f" {(~filled).sum()} messages of {name!r} without content.",
                    hint="use --format trl or openrlhf, or leave these rows out of the input.",
                )
            if key != "content" and filled.any():
                raise BadInput(
                    f"format: 'llama-factory' reads role and content only; got {key!r} in"
                    f" {filled.sum()} messages of {name!r}.",
                    hint="use --format trl or openrlhf, which keep it, or drop that field in the"
                    " input.",
                )


def _refuse_turns(tagged: pl.DataFrame) -> None:
    """Refuse conversations whose tags do not take turns as its converter wants them."""

    def turns(name: str) -> pl.Expr:
        tags = pl.col(name).list.eval(pl.element().struct.field("from"))
        letters = tags.list.eval(pl.element().replace_strict(_TURNS, default="x"))
        return letters.list.join("", ignore_nulls=False)

    good = turns("prompt").str.contains("^s?h(gh)*$")
    answers = [turns(side) == "g" for side in _SIDES]
    bad = tagged.filter(~pl.all_horizontal(good, *answers).fill_null(False))
    if bad.is_empty():
        return
    first = bad.row(0, named=True)
    tags = {name: [message["from"] for message in first[name]] for name in first}
    raise BadInput(
        f"format: the converter of LLaMA-Factory skips {bad.height} of {tagged.height} pairs; got"
        " the"
        f" turns {tags} in the first, expected an optional system, then human or observation and"
        " gpt or"
        " function_call in turn, human or observation last, and one gpt or function_call as an"
        " answer.",
        hint="use --format trl or openrlhf, or leave these rows out of the input.",
    )
