"""The macros of `sql/`: their texts, and those of them that a query needs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import duckdb

_MAKE = "CREATE OR REPLACE MACRO "
_CALL = re.compile(r"(\w+)\(")
#: The statements of texts: to parse them takes twice as long as to execute them.
_parsed: dict[str, list[Any]] = {}


@cache
def macro_texts() -> dict[str, str]:
    """The SQL of every file by its name, in the order in which they load."""
    # A checkout keeps the folder at its top.
    packaged = Path(str(resources.files("prefmill"))) / "sql"
    folder = packaged if packaged.is_dir() else Path(__file__).parents[3] / "sql"
    lines = (folder / "prefmill.sql").read_text().splitlines()
    files = [line.removeprefix(".read sql/") for line in lines if line.startswith(".read ")]
    return {Path(file).stem: (folder / file).read_text() for file in files}


def script() -> str:
    """All macros as one script of SQL, which a shell reads from any folder."""
    return "\n".join(text.strip() for text in macro_texts().values()) + "\n"


def install_all(con: duckdb.DuckDBPyConnection, *, persistent: bool = False) -> None:
    """Make all macros: for this connection, or with `persistent` in its database."""
    kind = "MACRO" if persistent else "TEMP MACRO"
    for text in macro_texts().values():
        _run(con, text.replace(_MAKE, f"CREATE OR REPLACE {kind} "))


def install_used(con: duckdb.DuckDBPyConnection, queries: Iterable[str]) -> None:
    """Make the macros that `queries` call, and those that these call: all take 0.1 s."""
    texts = macro_texts()
    home = {
        part.partition("(")[0]: name
        for name, text in texts.items()
        for part in text.split(_MAKE)[1:]
    }

    def called(text: str) -> set[str]:
        return {home[call] for call in _CALL.findall(text) if call in home}

    wanted: set[str] = set()
    fresh = called("\n".join(queries))
    while fresh:
        wanted |= fresh
        fresh = called("\n".join(texts[name] for name in fresh)) - wanted
    for name, text in texts.items():
        if name in wanted:
            _run(con, text)


def _run(con: duckdb.DuckDBPyConnection, text: str) -> None:
    """Execute the statements of a text; they belong to no connection, so each is parsed once."""
    if text not in _parsed:
        _parsed[text] = con.extract_statements(text)
    for statement in _parsed[text]:
        con.execute(statement)
