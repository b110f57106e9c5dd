"""Files behind URLs, through DuckDB, which knows the schemes and the credentials.

Parquet stays where it is, only footers are fetched; text is fetched once and staged. Malformed rows
are errors without a line of ours, and cannot be set aside.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from prefmill.connection import connect, literal, quote
from prefmill.errors import BadArgument, BadInput
from prefmill.readers.columnar import local_parquet
from prefmill.readers.find import Input
from prefmill.readers.json_engine import Lines
from prefmill.readers.json_lines import JsonFile, look_at_lines
from prefmill.readers.rejects import Bad
from prefmill.readers.staging import Context, Part, check_names, first_line, plain_schema


def remote_parquet(item: Input, context: Context) -> Iterator[Part]:
    """The files behind a URL or a glob of URLs, by their footers, which DuckDB fetches."""
    con = connect(temp_dir=context.folder, reads=(), memory_bytes=context.memory, remote=True)
    try:
        counts = con.sql(
            f"SELECT file_name, num_rows FROM parquet_file_metadata({literal(item.path)}) ORDER BY"
            " file_name"
        ).fetchall()
        for name, rows in counts:
            url = str(name)
            schema = (
                con.sql(
                    f"SELECT * FROM read_parquet({literal(url)}, hive_partitioning = false) LIMIT 0"
                )
                .to_arrow_table()
                .schema
            )
            flat = [field.name for field in schema if not pa.types.is_nested(field.type)]
            clean = con.sql(
                "SELECT path_in_schema FROM parquet_metadata("
                + literal(url)
                + ") GROUP BY 1 HAVING bool_and(stats_null_count = 0)"
            ).fetchall()
            without = {str(row[0]) for row in clean} & set(flat)
            nulls = frozenset(schema.names) - without
            if not rows:
                nulls = frozenset()
            check_names(schema.names, url)
            yield Part(
                url,
                url,
                plain_schema(schema, context.wanted(schema.names)),
                int(rows),
                nulls,
                remote=True,
            )
    except duckdb.Error as error:
        raise _unreadable(item, error) from None  # its text has the URL
    finally:
        con.close()
    if not counts:
        raise BadInput(f"{item.label}: no file matches.")


def _unreadable(item: Input, error: duckdb.Error) -> BadInput:
    """The error for a URL that DuckDB could not read.

    Without a network it fails before it looks at the URL.
    """
    if "extension" in str(error):
        return BadInput(
            f"{item.label}: cannot be read; DuckDB reads URLs with its extension httpfs, which is"
            " not installed, and could not fetch it.",
            hint="connect to the network, or download the file and name the copy.",
        )
    return BadInput(f"{item.label}: cannot be read; {first_line(error)}.")


def stage_url(item: Input, context: Context) -> Part | JsonFile:
    """Text behind a URL, read by DuckDB; of JSON the first pass.

    Malformed rows are errors without a line of ours, and cannot be set aside.
    """
    if context.encoding not in (None, "utf_8", "utf_8_sig") or context.rejects.path is not None:
        raise BadArgument(
            f"{item.label}: encoding and rejects need a local file.",
            hint="download the file first.",
        )
    path = context.new_path(item.partition)
    con = connect(
        temp_dir=context.folder,
        reads=(),
        memory_bytes=context.memory,
        threads=context.workers,
        remote=True,
    )
    try:
        # A row's position is its place in the file.
        con.execute("SET preserve_insertion_order = true")
        if item.format == "csv":
            delimiter = context.delimiter or ("\t" if item.tab else ",")
            table = (
                f"read_csv({literal(item.path)}, header = true, all_varchar = true, "
                f"""delim = {literal(delimiter)}, quote = '"', escape = '"', """
                "strict_mode = true, allow_quoted_nulls = false, max_line_size = 134217728)"
            )
            names = con.sql(f"SELECT * FROM {table} LIMIT 0").columns
            chosen = ", ".join(quote(name) for name in context.kept(names))
        else:
            form = "auto" if item.format == "json" else "newline_delimited"
            how = f"format = '{form}', maximum_object_size = 134217728"
            table = f"read_json_objects({literal(item.path)}, {how})"
            chosen = "json::VARCHAR AS line"
        how = "FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE 20480"
        con.execute(f"COPY (SELECT {chosen} FROM {table}) TO {literal(str(path))} ({how})")
    except duckdb.Error as error:
        raise _unreadable(item, error) from None  # its text has the URL
    finally:
        con.close()
    if item.format == "csv":
        return local_parquet(replace(item, path=str(path), format="parquet"), context)

    def read() -> Iterator[Lines | Bad]:
        with pq.ParquetFile(path) as file:
            for number, batch in enumerate(file.iter_batches(4096)):
                yield Lines(batch.column(0), None, None, number)

    return look_at_lines(item, context, read)
