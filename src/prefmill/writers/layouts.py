"""Pairs, labels and picks as frames with the columns that a trainer reads. No files here.

`LAYOUTS` has the columns of every format; what else is known of one is in
`prefmill.writers.formats`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import polars as pl

from prefmill.errors import BadArgument
from prefmill.table.context import SYSTEM_OUT, asked
from prefmill.table.messages import held_as_messages, in_one_form, message, message_fields, messages
from prefmill.table.roles import PARTS_OUT
from prefmill.writers import llama_factory
from prefmill.writers.formats import FORMATS, Format, Rows, formats_for

Columns = dict[str, pl.Expr]

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
LABEL_COLUMNS = ("prompt", "completion", "label", "score")
#: The last two are in no layout, so that columns named so can be kept.
PICK_COLUMNS = ("prompt", "completion", "_score", "_rank")
_OWN: Mapping[Rows, tuple[str, ...]] = {
    "pairs": PAIR_COLUMNS,
    "labels": LABEL_COLUMNS,
    "rows": PICK_COLUMNS,
}
_TEXTS = ("prompt", "chosen", "rejected", "completion")
_SIDES = ("chosen", "rejected")
_CALLED: Mapping[Rows, str] = {"pairs": "pairs", "labels": "labels", "rows": "picks"}


def convert(
    frame: pl.DataFrame,
    *,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
) -> pl.DataFrame:
    """Lay a frame of pairs, labels or picks out as a trainer wants it.

    Pairs come as `prompt, chosen, rejected, chosen_score, rejected_score`, then kept columns
    `chosen_NAME, rejected_NAME`; labels as `prompt, completion, label, score`, then `NAME`; picks
    (best-of-K) as `prompt, completion, _score, _rank`, then `NAME`. Texts are String, conversations
    lists of `{role, content, ...}` or `{from, value, ...}`; the prompt may be of one kind and the
    completions of the other. `prefmill.writers.formats` has the columns of each format; `kto` of
    pairs is all chosen, then all rejected.

    One frame is text throughout or messages throughout: as soon as one column holds messages, or
    with `chat`, a text prompt becomes `[{user}]` and a text completion `[{assistant}]`. Messages
    come out as `role, content` and then any further fields they had, with the role names `human`,
    `gpt` and `prompter` as `user`, `assistant` and `user`. A column `_system` becomes the first
    message of the prompt. Columns `_instruction` and `_input` are the two that a prompt was joined
    of, for the layout that has both.

    Args:
        format: by default the first of `formats_for` such rows; `pool` leaves all as it is.
        chat: messages even where everything is text.
        margin_scale: adds `margin` = (chosen_score - rejected_score) * margin_scale after the
            scores, in units of the reward (TRL's RewardTrainer uses it); only with `trl` and
            `trl-implicit`.

    Scores are Float64, labels Boolean. Order: that of the rows (`kto` of pairs as above).
    Cost: texts are never copied except where prompt and completion are joined (`trl-implicit` of
    text). Raises `BadArgument` where the format cannot hold such columns, `BadInput` for pairs that
    the converter of LLaMA-Factory skips or does not read whole, with `llama-factory`.

    >>> texts = {"prompt": ["p"], "chosen": ["a"], "rejected": ["b"]}
    >>> pairs = pl.DataFrame(texts | {"chosen_score": [5.0], "rejected_score": [1.0]})
    >>> convert(pairs, margin_scale=0.25).select("chosen_score", "margin").to_dicts()
    [{'chosen_score': 5.0, 'margin': 1.0}]
    >>> convert(pairs, format="trl-implicit", chat=True)["chosen"].to_list()
    [[{'role': 'user', 'content': 'p'}, {'role': 'assistant', 'content': 'a'}]]
    """
    if format == "pool":
        _refuse_changes(chat, margin_scale)
        return frame
    rows = _rows_of(frame.schema)
    name = format or formats_for(rows)[0]
    _check(rows, name, margin_scale)
    if SYSTEM_OUT in frame.columns:
        frame = frame.with_columns(prompt=asked(frame.schema)).drop(SYSTEM_OUT)
    if rows == "pairs" and name == "kto":
        frame, rows = _unpaired(frame), "labels"
    texts = [column for column in _OWN[rows] if column in _TEXTS]
    chat = held_as_messages(frame.schema, texts) or chat
    columns = LAYOUTS[name](frame, chat)
    if margin_scale is not None:
        difference = pl.col("chosen_score") - pl.col("rejected_score")
        columns["margin"] = difference * float(margin_scale)
    kept = [column for column in frame.columns if column not in (*_OWN[rows], *PARTS_OUT)]
    for column in kept:
        if column in columns:
            raise _clash(column, name)
    return frame.select(*(value.alias(column) for column, value in columns.items()), *kept)


def output_schema(
    schema: pl.Schema,
    *,
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
) -> pl.Schema:
    """The schema of `convert` for frames of `schema`, with what it raises about columns.

    >>> texts, label = {"prompt": pl.String, "completion": pl.String}, {"label": pl.Boolean}
    >>> output_schema(pl.Schema(texts | label | {"score": pl.Float64, "id": pl.Int64})).names()
    ['prompt', 'completion', 'label', 'score', 'id']
    """
    empty = pl.DataFrame(schema=schema)
    return convert(empty, format=format, chat=chat, margin_scale=margin_scale).schema


# --- the columns of each format


def _as_they_are(frame: pl.DataFrame, chat: bool, *names: str) -> Columns:
    """Texts in one form, then the other columns."""
    texts = [name for name in names if name in _TEXTS]
    others = {name: pl.col(name) for name in names if name not in _TEXTS}
    return in_one_form(frame.schema, texts, chat=chat) | others


def _implicit(frame: pl.DataFrame, chat: bool) -> Columns:
    if chat:
        texts = {side: _conversation(frame.schema, side) for side in _SIDES}
    else:
        texts = {side: pl.col("prompt") + pl.col(side) for side in _SIDES}
    return texts | {name: pl.col(name) for name in PAIR_COLUMNS[3:]}


def _instruction(frame: pl.DataFrame, chat: bool) -> Columns:
    if chat:
        raise BadArgument(
            "format: 'instruction' holds text only; got message lists (or chat).",
            hint="use --format trl, or map columns of text.",
        )
    responses = {f"{side}_response": pl.col(side) for side in _SIDES}
    return {"instruction": pl.col("prompt")} | responses


def _openrlhf(frame: pl.DataFrame, chat: bool) -> Columns:
    rewards = {f"{side}_reward": pl.col(f"{side}_score") for side in _SIDES}
    return in_one_form(frame.schema, PAIR_COLUMNS[:3], chat=chat) | rewards


def _messages(frame: pl.DataFrame, chat: bool) -> Columns:
    return {"messages": _conversation(frame.schema, "completion")}


#: The columns of a frame in each format, and whether its texts are messages.
LAYOUTS: Mapping[str, Callable[[pl.DataFrame, bool], Columns]] = {
    "trl": lambda frame, chat: _as_they_are(frame, chat, *PAIR_COLUMNS),
    "trl-implicit": _implicit,
    "kto": lambda frame, chat: _as_they_are(frame, chat, *LABEL_COLUMNS),
    "instruction": _instruction,
    "openrlhf": _openrlhf,
    "llama-factory": llama_factory.columns,
    "prompt-completion": lambda frame, chat: _as_they_are(frame, chat, *PICK_COLUMNS[:2]),
    "messages": _messages,
}


def _unpaired(frame: pl.DataFrame) -> pl.DataFrame:
    """Pairs as labels: all chosen first, since KTO reads neighbours and a prompt's two answers must
    not be any.
    """
    more = [name for name in frame.columns if name not in PAIR_COLUMNS]
    names = [name.removeprefix("chosen_") for name in more if name.startswith("chosen_")]
    kept = [name for name in names if f"rejected_{name}" in more]
    of_sides = [f"{side}_{name}" for name in kept for side in _SIDES]
    shared = [name for name in more if name not in of_sides]
    for name in (*kept, *shared):
        if name in LABEL_COLUMNS:
            raise _clash(name, "kto")
    halves = [
        frame.select(
            "prompt",
            pl.col(side).alias("completion"),
            pl.lit(side == "chosen").alias("label"),
            pl.col(f"{side}_score").alias("score"),
            *(pl.col(f"{side}_{name}").alias(name) for name in kept),
            *shared,
        )
        for side in _SIDES
    ]
    return pl.concat(halves)


def _conversation(schema: Mapping[str, pl.DataType], side: str) -> pl.Expr:
    """Prompt and completion as one message list.

    A field that only one of them has is null in the other's messages.
    """
    mine, theirs = message_fields(schema, "prompt"), message_fields(schema, side)
    for key in mine:
        if key in theirs and mine[key] != theirs[key]:
            other = "prompt-completion" if side == "completion" else "trl"
            raise BadArgument(
                "format: prompt and completion cannot be one conversation: their messages'"
                f" {key!r} differ; got {mine[key]} and {theirs[key]}.",
                hint=f"use --format {other}, which keeps them apart.",
            )
    fields = mine | theirs
    # Two messages in every row are 20 times as fast so as by joining lists.
    if schema["prompt"] == schema[side] == pl.String:
        both = message(schema, "prompt", fields).append(message(schema, side, fields))
        alternating = pl.int_range(pl.len() * 2) // 2 + pl.int_range(pl.len() * 2) % 2 * pl.len()
        return both.gather(alternating).reshape((-1, 2)).arr.to_list()
    return pl.concat_list(messages(schema, "prompt", fields), messages(schema, side, fields))


# --- what is refused


def _rows_of(schema: pl.Schema) -> Rows:
    """What the rows of a frame are. Raises `BadArgument` for neither pairs, labels nor picks."""
    if tuple(schema)[:4] == PICK_COLUMNS:
        return "rows"
    rows: Rows = "labels" if "completion" in schema else "pairs"
    missing = [name for name in _OWN[rows] if name not in schema]
    if missing:
        raise BadArgument(
            f"format: neither pairs nor labels: no column {missing[0]!r}; got {list(schema)}."
        )
    return rows


def _check(rows: Rows, format: str, margin_scale: float | None) -> None:
    if format not in FORMATS:
        raise BadArgument(f"format: unknown; got {format!r}, expected one of {tuple(FORMATS)}.")
    if rows not in FORMATS[format].rows:
        if rows == "labels":
            raise BadArgument(
                f"format: labels have no chosen and rejected side; got {format!r}, expected 'kto'.",
                hint="use --format kto, or make pairs.",
            )
        wanted = formats_for(rows)
        raise BadArgument(f"format: got {format!r} for {_CALLED[rows]}, expected one of {wanted}.")
    if margin_scale is None:
        return
    if not FORMATS[format].margin:
        held = repr(format) if rows == "pairs" else _CALLED[rows]
        raise BadArgument(
            f"margin: got {held}, expected pairs in the format 'trl' or 'trl-implicit'.",
            hint="leave the margin out.",
        )
    if isinstance(margin_scale, bool) or not math.isfinite(margin_scale):
        raise BadArgument(f"margin: the scale must be a finite number; got {margin_scale!r}.")


def _refuse_changes(chat: bool, margin_scale: float | None) -> None:
    if chat or margin_scale is not None:
        what = "chat" if chat else "a margin"
        raise BadArgument(
            f"format: 'pool' leaves every column as it is; got {what} next to it.",
            hint="use prompt-completion or messages.",
        )


def _clash(name: str, format: str) -> BadArgument:
    return BadArgument(
        f"format: a kept column has the name {name!r}, which {format!r} uses itself.",
        hint="rename the column in the input, do not keep it, or use another format.",
    )
