"""Which columns of an input are read: prompt and completion, and others that are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from prefmill.errors import BadArgument
from prefmill.readers import Source
from prefmill.table.roles import Fits, Roles

TEXTS = ("prompt", "completion")


def text_roles(
    columns: Sequence[str],
    named: Mapping[str, Any],
    *,
    where: str,
    required: Sequence[str] = TEXTS,
    fits: Fits | None = None,
) -> Roles:
    """The columns of prompt and completion (and id).

    A score that is named is not read: it is what is yet to be made.
    """
    texts: Any = {**named, "score": None}
    return Roles.resolve(columns, texts, required=required, needed=("id",), where=where, fits=fits)


def others_of(reads: Sequence[str] | None, columns: Sequence[str], roles: Roles) -> list[str]:
    """Those of `columns` that are wanted besides prompt and completion: of `reads`; None: all."""
    ours = {roles.prompt, roles.completion, *TEXTS, "group"}
    return [name for name in columns if name not in ours and (reads is None or name in reads)]


def check_texts(source: Source, roles: Roles, *, where: str) -> None:
    """Raise for a column of prompt or completion that holds neither text nor messages."""
    source.refuse_mixed(roles, where=where)
    for role in TEXTS:
        name = getattr(roles, role)
        if name and not _is_text(kind := source.columns.field(name).type):
            raise BadArgument(
                f"{where}: the column {name!r} cannot be the role {role!r}; got {kind},"
                " expected text or a list of messages {role, content}.",
                hint=f"name another column: {role}=COLUMN (--{role} COLUMN).",
            )


def _is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds texts, messages, or nulls only."""
    types = pa.types
    if types.is_list(kind) or types.is_large_list(kind):
        return bool(types.is_struct(kind.value_type))
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_null(kind))
