"""Inputs: whatever is named becomes Parquet files.

Parquet is used in place; all else is staged to Parquet once, streaming. CSV is split by Arrow's
parser and JSON by DuckDB's, block by block. Which bytes make up a record, and whether it may be
read at all, is decided here: so a malformed row has its line in every format, and reading can go on
after it.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path

from prefmill.errors import BadArgument, BadInput
from prefmill.objects import is_object
from prefmill.readers.blame import blamed_on
from prefmill.readers.columnar import local_parquet, stage_ipc
from prefmill.readers.csv_text import stage_csv
from prefmill.readers.excel import stage_excel
from prefmill.readers.find import ENDINGS, Input, check_partitions, find_files, is_url
from prefmill.readers.in_place import left_in_place
from prefmill.readers.json_engine import JsonEngine
from prefmill.readers.json_lines import (
    JsonFile,
    kinds_together,
    look_at_json,
    stage_json,
    types_together,
)
from prefmill.readers.json_many import Many, look_at_many, runs_of, with_inputs
from prefmill.readers.packing import packed
from prefmill.readers.rejects import Rejects
from prefmill.readers.remote import fetched, find_objects
from prefmill.readers.source import Source, spelled_out, unite
from prefmill.readers.staging import Context, Part
from prefmill.readers.tables import stage_table
from prefmill.readers.urls import remote_parquet, stage_url
from prefmill.readers.utf8 import check_encoding

__all__ = ["ENDINGS", "Source", "blamed_on", "is_url", "open_source"]


def open_source(
    inputs: Sequence[str],
    *,
    temp_dir: Path,
    encoding: str | None = None,
    rejects: Path | None = None,
    delimiter: str | None = None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    progress: Callable[[str], None] | None = None,
    columns: Iterable[str] | None = None,
    without: Sequence[str] = (),
    needs: Callable[[Sequence[str]], Collection[str] | None] = frozenset,
    named: Collection[str] = (),
    in_place: bool = False,
    stay: bool = False,
    apart: bool = False,
) -> Source:
    """Find, check and (where they are not Parquet) stage all `inputs`: one table.

    Args:
        inputs: paths, globs, folders (searched for files of known formats, sorted; `key=value`
            folders become columns), URLs of objects (also with globs, and folders), other URLs for
            DuckDB, tables (`delta:PATH`, ... `prefmill.warehouse`), or `-` for JSON Lines on stdin.
            `FILE#NAME` is the sheet NAME of a workbook, or
            the list under the key NAME of a JSON object. A path that exists is itself, whatever
            characters it holds. Of a folder of `datasets` only the data is read, READMEs and
            licenses are not data, and a folder with several splits is refused.
        temp_dir: folder for staged files; who passes it removes it.
        encoding: of text files, a Python codec; by default UTF-8, or UTF-16/32 with a byte order
            mark.
        rejects: a JSON Lines file for malformed rows (file, line, reason, raw). Without it the
            first malformed row is an error.
        delimiter: of CSV; by default a comma, in .tsv a tab.
        memory_bytes, threads: smaller blocks for less memory; how many are parsed at a time.
        progress: called with a line of text now and then.
        columns: stage only these; names that a file lacks are ignored. By default all.
        without: outputs: where an input is a folder or a pattern, these files and folders are not
            read, and a note says so. An input that names one itself is refused, but a single one
            that may be rewritten `in_place`.
        needs: of the columns of a CSV file those that a row must have: one that is too short for
            others is filled up with nulls. By default all, and so where it gives None, since nobody
            knows yet.
        named: columns, or paths into them, that somebody spelled. A JSON file of one object that
            has such a key is one record; records inside of it are not looked for.
        stay: Parquet objects stay where they are, and their files are samples (`Source.stays`).
        apart: each input is a file of its own. By default many small ones next to each other become
            one (`Source.inputs` has them all): engines take a time for each file, and memory.

    CSV columns are text: an empty field is null, a quoted empty field the empty string; a column
    without a name is `column_N`. Blank lines are skipped. JSON types are unified over the whole
    file: integers (int64) and other numbers are double together, and so are integers beyond int64;
    values of different kinds are text, strings as they are and all else as its JSON; an object that
    no struct can hold (no keys, keys that differ only in case, over 1000 keys) is its JSON; of a
    key that is twice in an object the first counts. A list of messages stays a list of structs.

    Files are united by the names of their columns. A column that is text in one and numbers in
    another is text in all, spelled as in JSON (5, but 5.0 in a file where the column also holds
    fractions).

    A line, in messages and rejects, ends in LF (in CR where the header of a CSV does); a record is
    named by the line in which it starts.

    Costs one pass over a CSV file, two over JSON (types, then values), none over Parquet (only the
    footers are read). A file whose numbers become text is staged once more.

    Raises `BadArgument` (an unknown ending, encoding or delimiter, duplicate column names) and
    `BadInput` (missing, empty or broken files, text in another encoding with the byte's offset,
    malformed rows with their line, files whose types do not fit together).

    >>> import pyarrow.parquet as pq
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "a.csv").write_text("prompt,score\\nhi,007\\n")
    >>> source = open_source([str(folder / "a.csv")], temp_dir=folder)
    >>> source.rows, pq.read_table(source.files[0]).to_pylist()
    (1, [{'prompt': 'hi', 'score': '007'}])
    """
    if isinstance(inputs, str) or not inputs:
        raise BadArgument(f"inputs: got {inputs!r}, expected one or more paths.")
    if delimiter is not None:
        delimiter = {"\\t": "\t", "tab": "\t"}.get(delimiter, delimiter)
        if len(delimiter) != 1 or not delimiter.isascii() or delimiter in '"\r\n\0':
            raise BadArgument(
                f"delimiter: got {delimiter!r}, expected one ASCII character that is no quote and"
                " no line end."
            )
    if encoding is not None:
        encoding = check_encoding(encoding, "encoding")
    notes: list[str] = []
    once = in_place and len(inputs) == 1
    items: list[Input] = []
    for given in inputs:
        # A single file may be rewritten: then its output is no other file to leave out.
        outputs = () if once and os.path.isfile(given) else without
        find = find_objects if is_object(given) else find_files
        items += find(given, outputs, notes)
    check_partitions(items)
    Path(temp_dir).mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="source-", dir=os.path.abspath(temp_dir)))
    workers = max(1, min(8, threads if threads is not None else os.cpu_count() or 1))
    engine = JsonEngine(folder)
    with Rejects(rejects) as bad, contextlib.closing(engine):
        context = Context(
            folder=folder,
            rejects=bad,
            encoding=encoding,
            delimiter=delimiter,
            memory=memory_bytes,
            workers=workers,
            columns=None if columns is None else frozenset(columns),
            progress=progress or (lambda text: None),
            json=engine,
            needs=needs,
            named=named,
            stay=stay,
            apart=apart,
        )
        opened = [part for run in runs_of(items, apart) for part in _open_all(run, context)]
        # JSON files have their types together: what one lacks, or has as another kind, another may
        # hold.
        texts = [part for part in opened if isinstance(part, JsonFile)]
        shape, elements = types_together(texts)
        parts: list[Part] = []
        for part in opened:
            if isinstance(part, JsonFile):
                staged = stage_json(part, shape, elements, context)
                if isinstance(part.many, Many):
                    staged = with_inputs(staged, part.many)
            else:
                staged = part
            if staged is not None:
                parts.append(staged)
        if not parts:
            raise BadInput(f"inputs: no rows and no columns in {[item.label for item in items]}.")
        schema, nulls = unite(parts)
        parts = packed([spelled_out(part, schema, context) for part in parts], schema, context)
        stays = tuple(part.stays for part in parts)
        claims = {part.together for part in parts}
        return Source(
            files=tuple(part.file for part in parts),
            columns=schema,
            rows=sum(part.rows for part in parts),
            file_rows=tuple(part.rows for part in parts),
            nulls=nulls,
            rejected=bad.count,
            remote=any(part.remote for part in parts),
            hive=any(part.partition for part in parts),
            labels=tuple(part.label for part in parts),
            mixed=kinds_together(texts),
            notes=(*notes, *context.notes),
            stays=stays if any(stays) else (),
            inputs=tuple(each for part in parts for each in part.inputs),
            together=claims.pop() if len(claims) == 1 else None,
        )


def _open_all(run: Sequence[Input], context: Context) -> Iterator[Part | JsonFile]:
    """One input, or many small ones that are read as one."""
    if len(run) == 1:
        yield from _open(run[0], context)
    else:
        yield look_at_many(run, context)


def _open(item: Input, context: Context) -> Iterator[Part | JsonFile]:
    if item.object and item.format == "parquet" and context.stay:
        part = left_in_place(item, context)
        if part is not None:
            yield part
            return
    if item.object:
        item = fetched(item, context)
    context.progress(f"reading {item.label}")
    if item.format == "parquet" and item.url:
        yield from remote_parquet(item, context)
    elif item.format == "parquet":
        yield local_parquet(item, context)
    elif item.url:
        yield stage_url(item, context)
    else:
        openers: dict[str, Callable[[Input, Context], Part | JsonFile]] = {
            "csv": stage_csv,
            "json": look_at_json,
            "jsonl": look_at_json,
            "ipc": stage_ipc,
            "excel": stage_excel,
            "table": stage_table,
        }
        yield openers[item.format](item, context)
