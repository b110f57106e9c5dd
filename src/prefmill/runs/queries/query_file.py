"""What `prefmill sql -o` runs: the rows of a query in a file, with a record next to it.

A query is the same again where its text, the files that it reads, and the files' sizes and times
are. One that asks for the time, for chance, or for what is outside of files is never known to be.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from prefmill.disk.targets import check_free, staging, target_of
from prefmill.readers.find import is_url
from prefmill.runs.queries import query
from prefmill.runs.queries.fence import ASIDE, files_in
from prefmill.runs.records.commands import sweep_for
from prefmill.runs.records.inputs import STDIN, Known, known_of, stat_of
from prefmill.runs.records.recorded import key_of
from prefmill.runs.records.recording import recording
from prefmill.writers.spreadsheets import told

#: What gives other rows at another time: functions of DuckDB, words, and samples.
_UNSTABLE = re.compile(
    r"\b(?:random|setseed|gen_random_uuid|uuid|uuidv[47]|now|today|age|nextval|currval|setval"
    r"|current_connection_id|current_query|current_query_id|current_transaction_id|txid_current"
    r"|current_database|current_schemas?|current_setting|in_search_path|getvariable|stats"
    r"|get_current_time|get_current_timestamp|transaction_timestamp|vector_type|write_log"
    r"|sleep_ms|error|glob|getenv|duckdb_\w+|pragma_\w+)\"?\s*\("
    r"|\b(?:current_date|current_time|current_timestamp|current_localtime"
    r"|current_localtimestamp|localtime|localtimestamp|tablesample|sample)\b",
    re.IGNORECASE,
)
_OUTSIDE = "what is not in files"


@dataclass(frozen=True)
class QueryReport:
    """What a query wrote."""

    rows: int
    output: str
    seconds: float
    notes: Sequence[str] = ()

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return asdict(self)


def to_file(
    text: str,
    files: Sequence[str],
    output: str,
    *,
    overwrite: bool = False,
    allow_external: bool = False,
    spreadsheet_safe: bool = False,
    **reading: Any,
) -> QueryReport:
    """Run the statements of `text` over `files` and write the rows of the last one.

    The file appears whole or not at all; its ending says the kind. The same query over the same
    files does nothing again. `reading` are options of `query.session`. Raises `BadArgument` (an
    unknown ending, no rows to write), `TargetExists`, `RunDiffers`, `RunBusy`.
    """
    started = time.perf_counter()
    target = target_of(output, "sql")
    sweep_for(output, reading)  # also where nothing is to do
    query.check_target(text, target, spreadsheet_safe=spreadsheet_safe)
    views = [query.named(given) for given in files]
    key: dict[str, Any] = {}
    if recorded := all(path != STDIN for _, path in views):
        key = key_of(
            inputs=_known(text, views, target, allow_external=allow_external),
            command="sql",
            query=text,
            views=[list(view) for view in views],
            encoding=reading.get("encoding"),
            delimiter=reading.get("delimiter"),
            spreadsheet_safe=spreadsheet_safe,
        )
    with recording("sql", [target] if recorded else [], key, overwrite=overwrite) as record:
        if record.done:
            return record.restored(QueryReport)
        check_free(target, overwrite=overwrite, where="sql")
        asked = query.session(files, outputs=[output], allow_external=allow_external, **reading)
        with asked as session, staging([target], where="sql") as stage:
            path = stage.path(target)
            rows, columns = query.write(
                session, text, target, path, spreadsheet_safe=spreadsheet_safe
            )
            notes = [told(None)] if spreadsheet_safe else []
            seconds = round(time.perf_counter() - started, 3)
            report = QueryReport(rows, output, seconds, notes)
            record.publish_files(
                stage,
                overwrite=overwrite,
                report=asdict(report),
                rows=rows,
                schema={column.name: str(column.type) for column in columns},
            )
        return report


def _known(
    text: str, views: Sequence[tuple[str, str]], target: Path, *, allow_external: bool
) -> list[Known]:
    """The files of a query; and that it reads something else, where that may be."""
    known = [each for _, path in views for each in known_of(path, without=[str(target)])]
    named = [path for path in files_in(text) if os.path.isfile(path)]
    known += [[os.path.abspath(path), *stat_of(path)] for path in dict.fromkeys(named)]
    if allow_external or is_unstable(text) or any(is_url(path) for _, path in views):
        known.append([_OUTSIDE, None])
    return known


def is_unstable(text: str) -> bool:
    """Whether a query may give other rows over the same files.

    >>> is_unstable("SELECT now()"), is_unstable("SELECT 'now()', day FROM rows")
    (True, False)
    """
    # Names in quotes stay: "random"() is the function.
    words = ASIDE.sub(lambda found: found[0] if found[0][0] == '"' else " ", text)
    return bool(_UNSTABLE.search(words))
