"""Which columns of an input are read: prompt and completion, and others that are wanted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from prefmill.errors import BadArgument, ColumnMissing
from prefmill.readers import Source
from prefmill.shapes.source import Rowed, reshaped
from prefmill.shapes.words import Rows
from prefmill.table.fits import fits_files
from prefmill.table.roles import Fits, RoleNames, Roles

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


def rows_of_texts(
    source: Source,
    words: Rows,
    home: Path,
    *,
    where: str,
    extra: Sequence[str] = (),
    required: Sequence[str] = TEXTS,
    side_by_side: bool = False,
    **limits: Any,
) -> Rowed:
    """`source` with its records made rows of prompt and completion, where the words say so.

    `side_by_side`: answers that stand so win over another column that could be the completion.
    """
    fits = fits_files(source.files)
    columns = source.columns.names

    def attempt(names: RoleNames) -> Roles:
        if side_by_side:
            text_roles(columns, names, where=where, required=("prompt",), fits=fits)
            raise ColumnMissing(f"{where}: no column for the role 'completion'; got {columns}.")
        return text_roles(columns, names, where=where, required=required, fits=fits)

    return reshaped(
        source,
        words,
        home=home,
        where=where,
        attempt=attempt,
        score=words.score is not None or words.winner is not None,
        completion="completion" in required,
        extra=[name for name in extra if name not in TEXTS],
        system_in_prompt=True,
        **limits,
    )


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
