"""The door to DuckDB: the macros of `sql/` on a connection, and plans as queries over its tables.

import duckdb, prefmill as pm, prefmill.duckdb

con = duckdb.connect()
prefmill.duckdb.install(con)
con.sql(pm.Pairs(chosen_min=4).sql("feedback"))
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefmill.engines.macros import install_all
from prefmill.engines.sql import query, report, report_query

if TYPE_CHECKING:
    import duckdb

__all__ = ["install", "query", "report", "report_query"]


def install(con: duckdb.DuckDBPyConnection, *, persistent: bool = False) -> None:
    """Make the macros of `sql/` known to `con`: for this connection, or with `persistent` in its
    database.

    No setting of the connection is changed. Cost: milliseconds.

    >>> import duckdb
    >>> con = duckdb.connect()
    >>> install(con)
    >>> con.execute("SELECT pref_number(' 4.5 '), pref_number('four')").fetchall()
    [(4.5, None)]
    """
    install_all(con, persistent=persistent)
