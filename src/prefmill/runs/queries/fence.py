"""What a query of `prefmill sql` may do: read the files that are named, and nothing else.

A file is named where it stands after the query, or in it, as a text with the ending of data.
DuckDB itself keeps a query from every other file; statements that write files, or bring code in,
are told by their kind. `--allow-external` lifts both.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from prefmill.connection import fence
from prefmill.errors import BadArgument
from prefmill.readers.find import ENDINGS

if TYPE_CHECKING:
    from _duckdb import Statement

#: Texts, quoted names and comments.
ASIDE = re.compile(
    r"\b[eE]'(?:[^'\\]|''|\\.)*'|'(?:[^']|'')*'|\"(?:[^\"]|\"\")*\"|\$(\w*)\$.*?\$\1\$"
    r"|--[^\n]*|/\*.*?\*/",
    re.DOTALL,
)
_DATA = re.compile(rf"({'|'.join(map(re.escape, ENDINGS))})(\.(gz|zst))?$", re.IGNORECASE)
_HINT = "--allow-external lets a query do all that DuckDB can; -o FILE writes rows."
_KIND = duckdb.StatementType
#: Kinds that stay within the session; its settings are locked, so SET sets variables.
_HERE = frozenset(
    kind
    for name in (
        *("SELECT", "EXPLAIN", "RELATION", "CREATE", "CREATE_FUNC", "INSERT", "UPDATE", "DELETE"),
        *(
            "DROP",
            "ALTER",
            "TRANSACTION",
            "ANALYZE",
            "SET",
            "VARIABLE_SET",
            "CALL",
            "PRAGMA",
            "MERGE_INTO",
            "MULTI",
        ),
    )
    if (kind := getattr(_KIND, name, None)) is not None
)
#: What may be inside of others: EXPLAIN ANALYZE does it, and a PIVOT can be in it.
_ACTS = re.compile(r"\b(COPY|EXPORT|IMPORT|ATTACH|DETACH|INSTALL|LOAD|EXECUTE)\b", re.IGNORECASE)


def texts_of(query: str) -> list[str]:
    r"""The texts and quoted names of a query.

    >>> texts_of("FROM 'a''b.csv' AS \"x\"")
    ["a'b.csv", 'x']
    """
    found = [each[0] for each in ASIDE.finditer(query)]
    quoted = [each for each in found if each[0] in "'\""]
    return [each[1:-1].replace(each[0] * 2, each[0]) for each in quoted]


def files_in(query: str) -> list[str]:
    """The data files that a query names, globs and what they match.

    >>> files_in("FROM read_text('/etc/passwd'), 'rows.parquet'")
    ['rows.parquet']
    """
    named = [text for text in texts_of(query) if _DATA.search(text) and "\0" not in text]
    files = list(dict.fromkeys(named))
    for pattern in named:
        files += glob.glob(pattern, recursive=True)
    return files


def refuse_acts(statement: Statement) -> None:
    """Raise `BadArgument` for a statement that reaches out of its session."""
    words = ASIDE.sub(" ", statement.query)
    acts = None
    if statement.type.name in ("EXPLAIN", "MULTI"):
        acts = _ACTS.search(words)
    if statement.type in _HERE and acts is None:
        return
    first = acts[0] if acts else (words.split() or ["nothing"])[0]
    raise BadArgument(f"sql: {first.upper()} is not a query of the session.", hint=_HINT)


def fence_query(
    con: duckdb.DuckDBPyConnection, query: str, *, files: Collection[str], folder: Path
) -> None:
    """From here on `con` reads these files, those that `query` names, and what is in `folder`."""
    fence(con, folder=folder, files=[*files, *files_in(query)])
    con.execute("SET lock_configuration = true")
