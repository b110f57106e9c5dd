"""Our own DuckDB connection: threads, memory, spill folder, and a fence. Never used on a connection handed to us."""

from __future__ import annotations

import contextlib
from pathlib import Path

import duckdb


def connect(
    *, temp_dir: Path, memory_bytes: int | None = None, threads: int | None = None, remote: bool = False
) -> duckdb.DuckDBPyConnection:
    """A fresh in-memory connection that spills to `temp_dir` and uses at most `memory_bytes` for its buffers.

    Extensions are neither loaded nor fetched unless `remote` inputs need them.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": remote,
        "autoload_known_extensions": remote,
        "allow_community_extensions": False,
    }
    con = duckdb.connect(config=config)
    con.execute("SET temp_directory = ?", [str(temp_dir)])
    con.execute("SET enable_progress_bar = false")
    # Positions come from the files and every result that has an order asks for it; keeping row order would cost parallelism.
    con.execute("SET preserve_insertion_order = false")
    # A run reads every byte range of a file once or twice; caching them only costs memory.
    con.execute("SET enable_external_file_cache = false")
    if not remote:  # prefetching hides a network's latency; of a local file it only holds 30 MB a thread
        con.execute("SET disable_parquet_prefetching = true")
    if threads is not None:
        con.execute("SET threads = ?", [threads])
    if memory_bytes is None:
        # Without a limit, memory that was freed is used again rather than handed back and faulted in anew.
        con.execute("SET allocator_flush_threshold = '64GB'")
        con.execute("SET allocator_bulk_deallocation_flush_threshold = '64GB'")
    else:
        con.execute("SET memory_limit = ?", [f"{memory_bytes}B"])
    return con


def release(con: duckdb.DuckDBPyConnection) -> None:
    """Hand back memory that `con` has freed but kept; DuckDB does so when its limit is set."""
    ((limit,),) = con.execute("SELECT current_setting('memory_limit')").fetchall()
    with contextlib.suppress(duckdb.OutOfMemoryException):  # the setting is printed rounded: below what is in use there is nothing to give
        con.execute("SET memory_limit = ?", [limit])


def quote(name: str) -> str:
    """`name` as an SQL identifier."""
    if "\0" in name:
        raise ValueError(f"a column name cannot hold a NUL character: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"
