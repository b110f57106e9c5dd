"""Column layouts of trainers: from pairs, labels and picks to the frames that TRL, OpenRLHF or
LLaMA-Factory read. No files here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Literal, get_args

import polars as pl
import pyarrow as pa

from prefmill.errors import BadArgument
from prefmill.table.context import SYSTEM_OUT, asked
from prefmill.table.json_values import in_types, is_json
from prefmill.table.messages import held_as_messages, in_one_form, message, message_fields, messages
from prefmill.writers import llama_factory

Format = Literal[
    "trl",
    "trl-implicit",
    "kto",
    "instruction",
    "openrlhf",
    "llama-factory",
    "pool",
    "prompt-completion",
    "messages",
]
FORMATS: tuple[str, ...] = get_args(Format)

PAIR_COLUMNS = ("prompt", "chosen", "rejected", "chosen_score", "rejected_score")
LABEL_COLUMNS = ("prompt", "completion", "label", "score")
PICK_COLUMNS = (
    "prompt",
    "completion",
    "_score",
    "_rank",
)  # the last two are in no layout, so that columns named so can be kept
_SFT = ("prompt-completion", "messages")
PAIR_FORMATS = tuple(name for name in FORMATS if name not in ("pool", *_SFT))


def convert(
    frame: pl.DataFrame,
    *,
    format: Format = "trl",
    chat: bool = False,
    margin_scale: float | None = None,
) -> pl.DataFrame:
    """Lay a frame of pairs, labels or picks out as a trainer wants it.

    Pairs come as `prompt, chosen, rejected, chosen_score, rejected_score`, then kept columns
    `chosen_NAME, rejected_NAME`; labels as `prompt, completion, label, score`, then `NAME`; picks
    (best-of-K) as `prompt, completion, _score, _rank`, then `NAME`. Texts are String, conversations
    lists of `{role, content, ...}` or `{from, value, ...}`; the prompt may be of one kind and the
    completions of the other.

    | format          | columns, before the kept ones                                                                    |
    |-----------------|--------------------------------------------------------------------------------------------------|
    | `trl`           | prompt, chosen, rejected, chosen_score, rejected_score; for labels the same as `kto`              |
    | `trl-implicit`  | chosen, rejected (each with the prompt in front), chosen_score, rejected_score                    |
    | `kto`           | prompt, completion, label, score; of a frame of pairs all chosen, then all rejected               |
    | `instruction`   | instruction, chosen_response, rejected_response (text only)                                       |
    | `openrlhf`      | prompt, chosen, rejected, chosen_reward, rejected_reward                                          |
    | `llama-factory` | messages: conversations, chosen, rejected as `{from, value}`; text: instruction, input, chosen, rejected |
    | `prompt-completion` | of picks: prompt, completion                                                                     |
    | `messages`      | of picks: messages, the conversation of prompt and completion                                    |
    | `pool`          | whatever columns there are, as they are                                                          |

    One frame is text throughout or messages throughout: as soon as one column holds messages, or
    with `chat`, a text prompt becomes `[{user}]` and a text completion `[{assistant}]`. Messages
    come out as `role, content` and then any further fields they had, with the role names `human`,
    `gpt` and `prompter` as `user`, `assistant` and `user`. A column `_system` becomes the first
    message of the prompt.

    Args:
        chat: messages even where everything is text.
        margin_scale: adds `margin` = (chosen_score - rejected_score) * margin_scale after the
            scores, in units of the reward (TRL's RewardTrainer uses it); only with `trl` and
            `trl-implicit`.

    Scores are Float64, labels Boolean. Order: that of the rows (`kto` of pairs as above).
    Cost: texts are never copied except where prompt and completion are joined (`trl-implicit` of
    text). Raises `BadArgument` where the format cannot hold such columns, `BadInput` for pairs that
    the converter of LLaMA-Factory skips or does not read whole, with `llama-factory`.

    >>> pairs = pl.DataFrame({"prompt": ["p"], "chosen": ["a"], "rejected": ["b"], "chosen_score": [5.0], "rejected_score": [1.0]})
    >>> convert(pairs, format="trl", margin_scale=0.25).to_dicts()
    [{'prompt': 'p', 'chosen': 'a', 'rejected': 'b', 'chosen_score': 5.0, 'rejected_score': 1.0, 'margin': 1.0}]
    >>> convert(pairs, format="trl-implicit", chat=True)["chosen"].to_list()
    [[{'role': 'user', 'content': 'p'}, {'role': 'assistant', 'content': 'a'}]]
    """
    kind = _check(frame.schema, format, chat, margin_scale)
    if format == "pool":
        return frame
    if SYSTEM_OUT in frame.columns:
        frame = frame.with_columns(prompt=asked(frame.schema)).drop(SYSTEM_OUT)
    if format in _SFT:
        return _picks(frame, format, chat)
    if kind == "labels":
        return _labels(frame, chat)
    if format == "kto":
        return _labels(_unpaired(frame), chat)
    schema = frame.schema
    chat = held_as_messages(schema, PAIR_COLUMNS[:3]) or chat
    scores = {"chosen_score": pl.col("chosen_score"), "rejected_score": pl.col("rejected_score")}
    if margin_scale is not None:
        scores["margin"] = (pl.col("chosen_score") - pl.col("rejected_score")) * float(margin_scale)
    if format == "trl":
        columns = in_one_form(schema, PAIR_COLUMNS[:3], chat=chat) | scores
    elif format == "trl-implicit":
        columns = {
            side: _conversation(schema, side) if chat else pl.col("prompt") + pl.col(side)
            for side in ("chosen", "rejected")
        } | scores
    elif format == "openrlhf":
        columns = in_one_form(schema, PAIR_COLUMNS[:3], chat=chat)
        columns |= {
            "chosen_reward": pl.col("chosen_score"),
            "rejected_reward": pl.col("rejected_score"),
        }
    elif format == "llama-factory":
        columns = llama_factory.columns(frame, chat)
    else:
        columns = _instruction(chat)
    return _with_kept(frame, columns, [name for name in schema if name not in PAIR_COLUMNS], format)


def output_schema(
    schema: pl.Schema,
    *,
    format: Format = "trl",
    chat: bool = False,
    margin_scale: float | None = None,
) -> pl.Schema:
    """The schema of `convert` for frames of `schema`; raises what it raises about columns, without
    any rows.

    >>> columns = {"prompt": pl.String, "completion": pl.String, "label": pl.Boolean, "score": pl.Float64, "id": pl.Int64}
    >>> output_schema(pl.Schema(columns), format="kto").names()
    ['prompt', 'completion', 'label', 'score', 'id']
    """
    return convert(
        pl.DataFrame(schema=schema), format=format, chat=chat, margin_scale=margin_scale
    ).schema


def arrow_schema(schema: pl.Schema) -> pa.Schema:
    """`schema` in the Arrow types that other tools expect: `string` and `list`, where Polars says
    `large_string` and `large_list`.

    >>> arrow_schema(pl.Schema({"prompt": pl.List(pl.Struct({"role": pl.String, "content": pl.String}))})).field("prompt").type
    ListType(list<item: struct<role: string, content: string>>)
    """
    wide = pl.DataFrame(schema=schema).to_arrow(compat_level=pl.CompatLevel.oldest()).schema
    return pa.schema([pa.field(field.name, _narrow(field.type)) for field in wide])


def arrow_tables(frame: pl.DataFrame, schema: pa.Schema, most_bytes: int) -> Iterator[pa.Table]:
    """`frame` in the Arrow types of `schema`, in slices of at most about `most_bytes`, however rows
    differ in size.

    The 32-bit offsets of `string` reach 2 GB. A mean says nothing of the largest slice, so each is
    measured.
    """
    for part in frame.iter_slices(rows_in(most_bytes, frame)):
        waiting = [part.to_arrow(compat_level=pl.CompatLevel.oldest())]
        while waiting:
            table = waiting.pop()
            if table.nbytes > 2 * most_bytes and table.num_rows > 1:
                half = table.num_rows // 2
                waiting += [table.slice(half), table.slice(0, half)]
            else:
                yield in_types(table, schema)


def rows_in(size_bytes: int, frame: pl.DataFrame) -> int:
    """How many rows like those of `frame` fill so many bytes, at least 1; by 500 of them in Arrow's
    form.
    """
    sample = frame.gather_every(max(1, frame.height // 500)).head(500)
    size = int(sample.to_arrow(compat_level=pl.CompatLevel.oldest()).nbytes)
    return max(1, size_bytes * sample.height // max(1, size))


def _narrow(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_large_string(kind):
        return pa.string()
    if pa.types.is_large_binary(kind):
        return pa.binary()
    if pa.types.is_large_list(kind) or pa.types.is_list(kind):
        return pa.list_(_narrow(kind.value_type))
    if is_json(kind):
        return pa.json_()
    if pa.types.is_struct(kind):
        return pa.struct([pa.field(field.name, _narrow(field.type)) for field in kind])
    if pa.types.is_dictionary(kind):
        return _narrow(kind.value_type)
    return kind


def _check(schema: pl.Schema, format: str, chat: bool, margin_scale: float | None) -> str:
    """What `schema` is the one of (pairs, labels, picks, or a pool of any columns), after all
    checks that need no rows.
    """
    if format not in FORMATS:
        raise BadArgument(f"format: unknown; got {format!r}, expected one of {FORMATS}.")
    if format == "pool":
        if chat or margin_scale is not None:
            what = "chat" if chat else "a margin"
            raise BadArgument(
                f"format: 'pool' leaves every column as it is; got {what} beside it.",
                hint="use prompt-completion or messages.",
            )
        return "pool"
    picks = tuple(schema)[:4] == PICK_COLUMNS
    if picks != (format in _SFT):
        made, wanted = ("picks", ("pool", *_SFT)) if picks else ("pairs or labels", PAIR_FORMATS)
        raise BadArgument(f"format: got {format!r} for {made}, expected one of {wanted}.")
    if picks:
        if margin_scale is not None:
            raise BadArgument(
                "margin: got picks, expected pairs in the format 'trl' or 'trl-implicit'.",
                hint="leave the margin out.",
            )
        return "picks"
    labels = "completion" in schema
    missing = [name for name in (LABEL_COLUMNS if labels else PAIR_COLUMNS) if name not in schema]
    if missing:
        raise BadArgument(
            f"format: neither pairs nor labels: no column {missing[0]!r}; got {list(schema)}."
        )
    if labels and format not in ("trl", "kto"):
        raise BadArgument(
            f"format: labels have no chosen and rejected side; got {format!r}, expected 'kto' (or 'trl', which is the same for labels).",
            hint="use --format kto, or make pairs.",
        )
    if margin_scale is not None:
        if labels or format not in ("trl", "trl-implicit"):
            kind = "labels" if labels else repr(format)
            raise BadArgument(
                f"margin: got {kind}, expected pairs in the format 'trl' or 'trl-implicit'.",
                hint="leave the margin out.",
            )
        if isinstance(margin_scale, bool) or not math.isfinite(margin_scale):
            raise BadArgument(f"margin: the scale must be a finite number; got {margin_scale!r}.")
    return "labels" if labels else "pairs"


def _labels(frame: pl.DataFrame, chat: bool) -> pl.DataFrame:
    columns = in_one_form(frame.schema, LABEL_COLUMNS[:2], chat=chat)
    columns |= {name: pl.col(name) for name in LABEL_COLUMNS[2:]}
    return _with_kept(
        frame, columns, [name for name in frame.columns if name not in LABEL_COLUMNS], "kto"
    )


def _picks(frame: pl.DataFrame, format: str, chat: bool) -> pl.DataFrame:
    schema, kept = frame.schema, list(frame.columns[len(PICK_COLUMNS) :])
    if format == "messages":
        return _with_kept(frame, {"messages": _conversation(schema, "completion")}, kept, format)
    return _with_kept(frame, in_one_form(schema, PICK_COLUMNS[:2], chat=chat), kept, format)


def _unpaired(frame: pl.DataFrame) -> pl.DataFrame:
    """Pairs as labels: all chosen first, so that the two completions of a prompt do not sit
    together (KTO reads neighbours).
    """
    kept = [
        name.removeprefix("chosen_")
        for name in frame.columns
        if name not in PAIR_COLUMNS and name.startswith("chosen_")
    ]
    shared = [
        name
        for name in frame.columns
        if name not in PAIR_COLUMNS and not name.startswith(("chosen_", "rejected_"))
    ]
    clash = [name for name in [*kept, *shared] if name in LABEL_COLUMNS]
    if clash:
        raise _clash(clash[0], "kto")
    halves = [
        frame.select(
            "prompt",
            pl.col(side).alias("completion"),
            pl.lit(side == "chosen").alias("label"),
            pl.col(f"{side}_score").alias("score"),
            *(pl.col(f"{side}_{name}").alias(name) for name in kept),
            *shared,
        )
        for side in ("chosen", "rejected")
    ]
    return pl.concat(halves)


def _with_kept(
    frame: pl.DataFrame, columns: Mapping[str, pl.Expr], kept: list[str], format: str
) -> pl.DataFrame:
    clash = [name for name in kept if name in columns]
    if clash:
        raise _clash(clash[0], format)
    return frame.select(*(column.alias(name) for name, column in columns.items()), *kept)


def _clash(name: str, format: str) -> BadArgument:
    hint = "rename the column in the input, do not keep it, or use another format."
    return BadArgument(
        f"format: a kept column has the name {name!r}, which {format!r} uses itself.", hint=hint
    )


def _conversation(schema: Mapping[str, pl.DataType], side: str) -> pl.Expr:
    """Prompt and completion as one message list; a field that only one of them has is null in the
    other's messages.
    """
    mine, theirs = message_fields(schema, "prompt"), message_fields(schema, side)
    unlike = [key for key in mine if key in theirs and mine[key] != theirs[key]]
    if unlike:
        key = unlike[0]
        raise BadArgument(
            f"format: prompt and completion cannot be one conversation: their messages' {key!r} differ; got {mine[key]} and {theirs[key]}.",
            hint=f"use --format {'prompt-completion' if side == 'completion' else 'trl'}, which keeps them apart.",
        )
    fields = mine | theirs
    if (
        schema["prompt"] == schema[side] == pl.String
    ):  # two messages in every row: 20 times as fast as joining lists
        both = message(schema, "prompt", fields).append(message(schema, side, fields))
        alternating = pl.int_range(pl.len() * 2) // 2 + pl.int_range(pl.len() * 2) % 2 * pl.len()
        return both.gather(alternating).reshape((-1, 2)).arr.to_list()
    return pl.concat_list(messages(schema, "prompt", fields), messages(schema, side, fields))


def _instruction(chat: bool) -> dict[str, pl.Expr]:
    if chat:
        raise BadArgument(
            "format: 'instruction' holds text only; got message lists (or chat).",
            hint="use --format trl, or map columns of text.",
        )
    return {
        "instruction": pl.col("prompt"),
        "chosen_response": pl.col("chosen"),
        "rejected_response": pl.col("rejected"),
    }
