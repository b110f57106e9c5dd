"""What a prompt was asked in: system prompt, tools, template arguments and images, as columns.

The names are TRL's. A row for a trainer keeps them under their own names; a system prompt begins
the conversation. The rule is in `docs/semantics.md` (Context).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import polars as pl

from prefmill.errors import BadArgument, BadInput
from prefmill.table.messages import Schema, is_text, message_fields, messages
from prefmill.table.roles import Roles

#: Columns that the DPO, Reward, KTO and SFTTrainer of TRL 1.16 read as well as the texts.
CARRIED = ("tools", "chat_template_kwargs", "images", "image")
SYSTEM = ("system", "system_prompt")
#: A system prompt on its way into the conversation; no layout has a column of this name.
SYSTEM_OUT = "_system"


def context_of(schema: Schema, roles: Roles, keep: Sequence[str] = ()) -> dict[str, str]:
    """The columns of `schema` that belong to a prompt, by the name that they have in the output.

    A column that is a role is none, but for one that groups; nor is one that `keep` names already.

    >>> context_of({"prompt": pl.String(), "system": pl.String(), "tools": pl.String()}, Roles())
    {'_system': 'system', 'tools': 'tools'}
    """
    taken = {value for value in vars(roles).values() if isinstance(value, str)}
    there = [name for name in schema if name not in taken]
    system = next((name for name in SYSTEM if name in there and is_text(schema[name])), None)
    carried = {name: name for name in CARRIED if name in there and name not in keep}
    if system is None:
        return carried
    return {SYSTEM_OUT: system} | carried


def of_both(
    name: str, chosen: pl.Expr, rejected: pl.Expr, dtype: pl.DataType, prompt: pl.DataType
) -> pl.Expr:
    """The context `chosen` of a pair, after a check that it is `rejected`'s too; raises `BadInput`.

    `prompt` is the type of the prompt: whether a group can be made of it and of this column.
    """
    both = pl.struct(chosen.alias("chosen"), rejected.alias("rejected"))

    def checked(pairs: pl.Series) -> pl.Series:
        sides = pairs.struct.unnest()
        refuse_different(name, sides["chosen"], sides["rejected"], prompt)
        return sides["chosen"].alias(pairs.name)

    return both.map_batches(checked, return_dtype=dtype, is_elementwise=True)


def refuse_different(
    name: str, chosen: pl.Series, rejected: pl.Series, prompt: pl.DataType
) -> None:
    """Raise `BadInput` if a context of the chosen answers is not that of the rejected ones."""
    unlike = int(chosen.ne_missing(rejected).sum())
    if unlike:
        groups = is_text(prompt) and is_text(chosen.dtype)
        column = {SYSTEM_OUT: "system"}.get(name, name)
        raise _different(column, unlike, groups)


def _different(column: str, unlike: int, groups: bool) -> BadInput:
    """The error for pairs whose two answers were asked in different ways."""
    options = f"--group prompt --group {column} (group=['prompt', {column!r}])"
    hint = f"{options} pairs only answers that share it."
    if not groups and column == "system":
        hint = "make it the first message of each prompt, and leave the column out."
    elif not groups:
        hint = "add a column of text that tells them apart, and --group it as well as the prompt."
    what = {"system": "names a model"}.get(column, "belongs to the answers")
    hint += f" A column that {what} wants another name than {column!r}."
    return BadInput(
        f"pairs: the column {column!r} differs between the two answers of a pair; got {unlike} such"
        " pairs or more, expected answers that were asked in one way.",
        hint=hint,
    )


def asked(schema: Mapping[str, pl.DataType]) -> pl.Expr:
    """The prompt as messages that begin with the system prompt in `SYSTEM_OUT`.

    A prompt that begins with a system message already keeps its own; a null adds none.
    """
    fields = message_fields(schema, "prompt")
    parts = {"role": pl.lit("system"), "content": _content(fields["content"])}
    first = pl.struct(
        parts.get(key, pl.lit(None, dtype=kind)).alias(key) for key, kind in fields.items()
    )
    prompt = messages(schema, "prompt")
    own = prompt.list.first().struct.field("role").is_in(["system", "developer"]).fill_null(False)
    begun = pl.concat_list(pl.concat_list(first), prompt)
    return pl.when(pl.col(SYSTEM_OUT).is_null() | own).then(prompt).otherwise(begun)


def _content(dtype: pl.DataType) -> pl.Expr:
    """The system prompt as a message's content: text, or one part of text."""
    text = pl.col(SYSTEM_OUT).cast(pl.String)
    if dtype in (pl.String, pl.Null):
        return text
    inner = dtype.inner if isinstance(dtype, pl.List) else None
    names = [field.name for field in inner.fields] if isinstance(inner, pl.Struct) else []
    if not {"type", "text"} <= set(names):
        raise BadArgument(
            f"pairs: a system prompt cannot begin messages with such contents; got {dtype}.",
            hint="make it the first message of the prompt.",
        )
    parts = {"type": pl.lit("text"), "text": text}
    part = pl.struct(
        parts.get(field.name, pl.lit(None, dtype=field.dtype)).alias(field.name)
        for field in inner.fields  # type: ignore[union-attr]
    )
    return pl.concat_list(part)
