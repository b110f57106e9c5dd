"""Our own DuckDB connection: threads, memory, spill folder, and a fence.

Never used on a connection handed to us.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import duckdb

from prefmill.errors import BadArgument, BadInput
from prefmill.room import room_of

MB = 1 << 20
#: DuckDB asks for 125 MB a thread; with less it gives up where one thread alone would get through.
_THREAD_BYTES = 125 * MB
#: What a look takes where no limit is named and rows are not too many.
LOOK_BYTES, _ROW_BYTES = 1_600_000_000, 100
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")


def connect(
    *,
    temp_dir: Path,
    reads: Collection[str] | None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    remote: bool = False,
    ordered: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A fresh connection that spills to `temp_dir`; its buffers take at most `memory_bytes`.

    It opens the files of `reads` and what lies in `temp_dir`, and nothing else: the rest of the
    disk is fenced off, extensions are neither loaded nor fetched. With None the caller puts the
    `fence` up later. Where inputs are `remote` DuckDB
    needs an extension and the network, and there is no fence. Rows keep their order where
    `ordered`; elsewhere positions come from the files, every result that has an order asks for it,
    and keeping it would cost parallelism.
    """
    config: dict[str, str | bool | int | float | list[str]] = {
        "autoinstall_known_extensions": remote,
        "autoload_known_extensions": remote,
        "allow_community_extensions": False,
    }
    con = duckdb.connect(config=config)
    con.execute("SET temp_directory = ?", [str(temp_dir)])
    # Given to `connect`, DuckDB 2.0 ignores this without a word.
    if room := room_of(temp_dir):
        con.execute("SET max_temp_directory_size = ?", [f"{room.left}B"])
    # In Jupyter without ipywidgets DuckDB shows no bar, and refuses to be told so.
    with contextlib.suppress(duckdb.InvalidInputException):
        con.execute("SET enable_progress_bar = false")
    con.execute(f"SET preserve_insertion_order = {ordered}")
    # A run reads every byte range of a file once or twice; caching them only costs memory.
    con.execute("SET enable_external_file_cache = false")
    if not remote:
        # Prefetching hides a network's latency; of a local file it only holds 30 MB a thread.
        con.execute("SET disable_parquet_prefetching = true")
    if threads is None and memory_bytes is not None:
        threads = threads_in(memory_bytes)
    if threads is not None:
        con.execute("SET threads = ?", [threads])
    if memory_bytes is not None:
        con.execute("SET memory_limit = ?", [f"{memory_bytes}B"])
    else:
        # Memory that was freed is used again, rather than handed back and faulted in anew.
        con.execute("SET allocator_flush_threshold = '64GB'")
        con.execute("SET allocator_bulk_deallocation_flush_threshold = '64GB'")
    if not remote and reads is not None:
        fence(con, folder=temp_dir, files=reads)
    return con


def fence(con: duckdb.DuckDBPyConnection, *, folder: Path, files: Collection[str]) -> None:
    """From here on `con` opens what lies in `folder`, these files, and nothing else.

    A name with a slash at its end is a folder. There is no way back. It may also write to what it
    may open: whoever runs SQL of others looks at the statements first. Raises nothing for a file
    that is not there.
    """
    folders = [str(folder), *(each for each in files if each.endswith("/"))]
    con.execute("SET allowed_directories = ?", [folders])
    con.execute("SET allowed_paths = ?", [list(files)])
    con.execute("SET enable_external_access = false")


def share_of(memory_bytes: int) -> int:
    """What of a limit on the whole process is DuckDB's.

    Python and its libraries take about 300 MB, parts of text the rest.
    """
    return max(64 * MB, int((memory_bytes - 300 * MB) * 0.55))


def ranking_share_of(memory_bytes: int) -> int:
    """What is DuckDB's as long as only numbers are ranked, and no texts are put together.

    Ranking in the share that is left next to texts gave up at inputs of ten times the limit, when
    half of the limit was free.
    """
    return max(share_of(memory_bytes), memory_bytes - 300 * MB)


def lower_limit(con: duckdb.DuckDBPyConnection, memory_bytes: int) -> None:
    """From here on `con` holds at most so much; what it cannot hand back it keeps."""
    with contextlib.suppress(duckdb.OutOfMemoryException):
        con.execute("SET memory_limit = ?", [f"{memory_bytes}B"])


def room_by_rows(con: duckdb.DuckDBPyConnection, rows: int) -> None:
    """From here on `con` holds 100 bytes a row, and at least what `LOOK_BYTES` leaves it.

    For who looks at many rows beside other work, and named no limit. Aggregates of 10 million rows
    got through with 40 bytes a row, and without a bound they were no faster than with 100.
    """
    con.execute("RESET memory_limit")
    asked = "SELECT current_setting('threads'), current_setting('memory_limit')"
    ((threads, limit),) = con.execute(asked).fetchall()
    number, unit = limit.split()  # 18.8 GiB: what the machine has room for
    room = int(float(number) * 1024 ** _UNITS.index(unit))
    least = ranking_share_of(LOOK_BYTES)
    lower_limit(con, min(room, max(least, _ROW_BYTES * rows, _THREAD_BYTES * threads)))


def threads_in(memory_bytes: int) -> int:
    """How many threads have room.

    Each one holds the row group that it reads, and its own part of what is sorted or hashed.
    """
    return max(1, min(os.cpu_count() or 1, memory_bytes // _THREAD_BYTES))


@contextlib.contextmanager
def memory_told(
    where: str, memory_bytes: int | None, temp_dir: Path | None = None
) -> Iterator[None]:
    """DuckDB's out-of-memory errors as ours, with the limit to give."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        first = str(error).strip().splitlines()[0]
        if "temp_directory" in first and temp_dir and (room := room_of(temp_dir)):
            raise room.full() from error
        if "temp_directory" in first or memory_bytes is None:
            raise BadInput(
                f"{where}: neither memory nor the temporary folder has room; {first}.",
                hint="name a disk with more room (--temp-dir), or more memory (--memory-limit).",
            ) from error
        limit, share = memory_bytes // 1_000_000, ranking_share_of(memory_bytes) // 1_000_000
        raise BadArgument(
            f"{where}: the memory limit is too small for this input; got {limit} MB,"
            f" of which {share} MB are for sorting and hashing its rows.",
            hint=f"--memory-limit {2 * memory_bytes // 1_000_000}MB"
            f" (memory_bytes={2 * memory_bytes}), or no limit.",
        ) from error


def spilled_by(con: duckdb.DuckDBPyConnection) -> int:
    """The bytes that `con` keeps on disk at the moment."""
    query = "SELECT coalesce(sum(size), 0)::BIGINT FROM duckdb_temporary_files()"
    return int(con.cursor().execute(query).fetchall()[0][0])


def release(con: duckdb.DuckDBPyConnection) -> None:
    """Hand back memory that `con` has freed but kept; DuckDB does so when its limit is set."""
    ((limit,),) = con.execute("SELECT current_setting('memory_limit')").fetchall()
    # The setting is printed rounded: below what is in use there is nothing to give.
    with contextlib.suppress(duckdb.OutOfMemoryException):
        con.execute("SET memory_limit = ?", [limit])


def quote(name: str) -> str:
    """`name` as an SQL identifier."""
    if "\0" in name:
        raise ValueError(f"a column name cannot hold a NUL character: {name!r}")
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """`text` as an SQL string."""
    return "'" + text.replace("'", "''") + "'"


def folded(name: str) -> str:
    """How SQL compares names: without the case of ASCII letters."""
    return "".join(c.lower() if c.isascii() else c for c in name)
