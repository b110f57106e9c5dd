"""What became of the rows of each class, so that some of them can be taken out of the report.

A file of (class, reason, early, rows): rows that were dropped, by reason, `early` before there were
candidates; and with the reason NULL the rows that were used. Later files go before earlier ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import duckdb

from prefmill.connection import literal
from prefmill.engines.sql import value
from prefmill.engines.steps import Output
from prefmill.runs.job.job import Job
from prefmill.table.report import PairReport

#: Late drops, of each step whose rows come out: rows of (pos, reason, rows).
_LATE = {
    "pairs": "SELECT _first, CASE WHEN _first IN (SELECT _first FROM paired) THEN 'identical_text'"
    " ELSE coalesce(pref_refusal(_n, pref_key_score(_ranks[-1]), pref_key_score(_ranks[1]),"
    " {chosen_min}, {rejected_below}, {min_margin}), 'no_adjacent_pair') END, _votes FROM groups"
    " WHERE _first NOT IN (SELECT _first FROM paired WHERE NOT _same_text)",
    "labels": "SELECT _pos, 'between_thresholds', _votes FROM labels WHERE _label IS NULL",
    "picks": "SELECT _pos, 'below_min_score', _votes FROM candidates"
    " WHERE _reason IS NULL AND _score < {min_score}",
    "advantages": "SELECT _pos, _reason, _votes FROM advantages WHERE _reason IS NOT NULL",
}


def write(job: Job, index: str, classes: str, path: Path) -> None:
    """Write the accounts of `classes`, all that a job has and may be more.

    `index` is a relation of pos and class of all rows of the job, `classes` one of class. The job's
    report was made, and it has the table `tracked`.
    """
    output, con = job.output, job.con
    args = {**output.report.args, **output.report.sql}
    late = _LATE[output.step].format(**{name: value(each) for name, each in args.items()})
    merged = job.plan.aggregate != "none"
    drops = ["SELECT _pos, _reason, true, 1 FROM counted WHERE _reason IS NOT NULL"]
    if merged:
        drops.append("SELECT _pos, _reason, true, _votes FROM candidates WHERE _reason IS NOT NULL")
    drops.append(f"SELECT * EXCLUDE (n), false, n FROM ({late}) AS late(pos, reason, n)")
    con.execute(
        "CREATE OR REPLACE TEMP VIEW dropped_rows AS"
        f" SELECT * FROM ({' UNION ALL '.join(drops)}) AS d(pos, reason, early, n)"
    )
    columns = "class, reason::VARCHAR AS reason, early, sum(n)::BIGINT AS rows"
    con.execute(
        f"COPY (SELECT {columns} FROM dropped_rows JOIN {index} AS i USING (pos)"
        f" GROUP BY class, reason, early UNION ALL {_used(output, merged)}"
        f" UNION ALL SELECT DISTINCT class, NULL, false, 0 FROM {classes})"
        f" TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd)"
    )


def _used(output: Output, merged: bool) -> str:
    """The rows of candidates that are in the output, by class."""
    sides = ", ".join(output.texts.values())
    rows, kept = "slots", ""
    if output.paired:
        rows, kept = "paired", " WHERE NOT _same_text"
    used = (
        f"SELECT DISTINCT class, unnest([{sides}]) AS pos"
        f" FROM {rows} JOIN tracked USING (slot){kept}"
    )
    if not merged:
        return f"SELECT class, NULL, false, count(*) FROM ({used}) GROUP BY class"
    return (
        f"SELECT class, NULL, false, sum(_votes)::BIGINT FROM ({used}) AS u"
        " JOIN candidates AS c ON c._pos = u.pos GROUP BY class"
    )


def latest(paths: Sequence[Path], some: str = "") -> str:
    """The accounts of each class in the last of these files that has it, joined to `some`."""
    union = " UNION ALL ".join(
        f"SELECT {number} AS run, * FROM read_parquet({literal(str(path))})"
        for number, path in enumerate(paths)
    )
    return (
        f"SELECT * EXCLUDE (run) FROM (SELECT * FROM ({union}){some}"
        " QUALIFY run = max(run) OVER (PARTITION BY class))"
    )


def of_affected(
    con: duckdb.DuckDBPyConnection, paths: Sequence[Path], index: str, slots: Sequence[Path]
) -> PairReport:
    """The account of the classes in the table `affected`, without labels.

    `paths` are the accounts, the latest last; `index` has the class of every row, and `slots` that
    of every row of output.
    """
    latest_some = latest(paths, " SEMI JOIN affected USING (class)")
    con.execute(f"CREATE OR REPLACE TEMP TABLE accounts AS {latest_some}")
    dropped = con.execute(
        "SELECT reason, sum(rows)::BIGINT FROM accounts WHERE reason IS NOT NULL GROUP BY 1"
    ).fetchall()
    ((used,),) = con.execute(
        "SELECT coalesce(sum(rows), 0)::BIGINT FROM accounts WHERE reason IS NULL"
    ).fetchall()
    ((rows, groups),) = con.execute(
        "SELECT coalesce(sum(n), 0)::BIGINT, count(*) FILTER (n > coalesce(early, 0)) FROM"
        f" (SELECT class, count(*) AS n FROM ({index}) SEMI JOIN affected USING (class) GROUP BY 1)"
        " LEFT JOIN (SELECT class, sum(rows) AS early FROM accounts WHERE early GROUP BY 1)"
        " USING (class)"
    ).fetchall()
    files = ", ".join(literal(str(path)) for path in slots)
    ((out, groups_out),) = con.execute(
        f"SELECT count(*), count(DISTINCT class) FROM read_parquet([{files}])"
        " SEMI JOIN affected USING (class)"
    ).fetchall()
    reasons = {str(reason): int(count) for reason, count in dropped if count}
    return PairReport(
        rows_in=rows,
        rows_used=used,
        rows_not_selected=rows - used - sum(reasons.values()),
        dropped=reasons,
        groups_in=groups,
        groups_used=groups_out,
        pairs_out=out,
    )


def of_all(
    con: duckdb.DuckDBPyConnection,
    before: Mapping[str, Any],
    *,
    lost: PairReport,
    new: PairReport,
    removed: str,
) -> PairReport:
    """The account of all rows: that of the report `before`, without `lost`, with `new`.

    `removed` is a relation of the rows of output that went.
    """
    names = {each.name for each in fields(PairReport)}
    told = {name: value for name, value in before.items() if name in names}
    if new.labels is not None:
        counts = con.execute(
            f"SELECT count(*) FILTER (label), count(*) FILTER (NOT label) FROM {removed}"
        ).fetchall()
        lost = replace(lost, labels=dict(zip(("true", "false"), counts[0], strict=True)))
    return PairReport.total([PairReport(**told).without(lost), new])
