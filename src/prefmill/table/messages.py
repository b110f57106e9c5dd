"""Texts and message lists: what a column holds, and the messages that a trainer reads of it.

The rule is in `docs/semantics.md` (Conversations); in SQL it is the macro `pref_conversations`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import polars as pl

from prefmill.table.chance import message_keys
from prefmill.table.conversations import ROLES
from prefmill.table.json_values import JSON_FIELD

SPEAKERS = {
    "prompt": "user",
    "completion": "assistant",
    "chosen": "assistant",
    "rejected": "assistant",
}

Schema = Mapping[str, pl.DataType]


def is_text(dtype: pl.DataType) -> bool:
    """Whether a column of this type holds text; a column of nothing but nulls does."""
    return dtype in (pl.String, pl.Categorical, pl.Null) or isinstance(dtype, pl.Enum)


def is_json_text(dtype: pl.DataType) -> bool:
    """Whether a column of this type holds JSON texts (`prefmill.table.json_values`)."""
    return isinstance(dtype, pl.Struct) and [field.name for field in dtype.fields] == [JSON_FIELD]


def held_as_messages(schema: Schema, names: Iterable[str]) -> bool:
    """Whether one of these columns holds messages: then all of them are written as messages.

    Raises `BadArgument` for a column that is neither text nor messages.

    >>> chat = pl.List(pl.Struct({"role": pl.String, "content": pl.String}))
    >>> held_as_messages({"prompt": chat, "completion": pl.String()}, ["prompt", "completion"])
    True
    """
    held = [name for name in names if not is_text(schema[name])]
    for name in held:
        message_keys(schema[name], name)
    return bool(held)


def in_one_form(schema: Schema, names: Iterable[str], *, chat: bool = False) -> dict[str, pl.Expr]:
    """These columns as all text, or (where one holds messages, or with `chat`) as all messages.

    >>> prompt = [[{"role": "user", "content": "hi"}]]
    >>> frame = pl.DataFrame({"prompt": prompt, "chosen": ["yes"]})
    >>> frame.with_columns(**in_one_form(frame.schema, frame.columns))["chosen"].to_list()
    [[{'role': 'assistant', 'content': 'yes'}]]
    """
    names = list(names)
    if held_as_messages(schema, names) or chat:
        return {name: messages(schema, name) for name in names}
    return {name: pl.col(name).cast(pl.String) for name in names}


def message_fields(schema: Schema, name: str) -> dict[str, pl.DataType]:
    """Fields of the messages that column `name` becomes: role, content, then the others."""
    dtype = schema[name]
    if is_text(dtype):
        return {"role": pl.String(), "content": pl.String()}
    role, content = message_keys(dtype, name)
    inner = {field.name: field.dtype for field in dtype.inner.fields}  # type: ignore[attr-defined]
    ours = (role, content, "role", "content")
    others = {key: kind for key, kind in inner.items() if key not in ours}
    return {"role": pl.String(), "content": inner[content], **others}


def messages(schema: Schema, name: str, fields: Schema | None = None) -> pl.Expr:
    """Column `name` as message lists with exactly `fields` (its own by default), or null."""
    one = message(schema, name, fields or message_fields(schema, name))
    if is_text(schema[name]):
        return pl.concat_list(one)
    return pl.col(name).list.eval(one)


def message(schema: Schema, name: str, fields: Schema) -> pl.Expr:
    """The one message that a text is; or, for `list.eval`, each message of a list."""
    if is_text(schema[name]):
        parts = {"role": pl.lit(SPEAKERS[name]), "content": pl.col(name).cast(pl.String)}
    else:
        role, content = message_keys(schema[name], name)
        keys = [key for key in message_fields(schema, name) if key not in ("role", "content")]
        parts = {key: pl.element().struct.field(key) for key in keys}
        parts["role"] = pl.element().struct.field(role).cast(pl.String).replace(ROLES)
        parts["content"] = pl.element().struct.field(content)
    return pl.struct(
        parts.get(key, pl.lit(None, dtype=kind)).alias(key) for key, kind in fields.items()
    )
