"""The way from one run to another: the rows as they are after each change, and what they give.

    A ── rows left ── order ── rows came ── scores ──▶ B's rows ── plan ── thresholds ── seed ──▶ B

Each step between is a file of narrow rows, ranked by the plan's own steps. Rows of prompts that no
change touched are left out, where prompts do not depend on each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import duckdb
import pyarrow as pa

from prefmill.connection import literal, quote
from prefmill.plans.feedback import FeedbackPlan
from prefmill.progress import Progress
from prefmill.runs.causes.changes import CAME, CHANGED, LEFT, MOVED
from prefmill.runs.causes.rows import Layout
from prefmill.runs.incremental.rows import starts_of
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.table.roles import RoleNames

_BATCH = 50_000
_OF_ROWS = (LEFT, MOVED, CAME, CHANGED)


class Worlds:
    """Tables of two runs on one connection.

    a, b    the rows of each (`rows.write_rows`); `of_a`, `of_b` have the number of each answer
    link    the rows that both have: apos, bpos
    events  what happened to a row: cause, class, item, pos, told
    """

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        home: Path,
        rows: tuple[Path, Path],
        layouts: tuple[Layout, Layout],
        jobs: tuple[Job, Job],
    ) -> None:
        self.con, self.home, self.layouts = con, home, layouts
        for name, path in zip("ab", rows, strict=True):
            con.execute(f"CREATE VIEW {name} AS FROM read_parquet({literal(str(path))})")
        for name, job in zip("ab", jobs, strict=True):
            self._places(name, job)
        #: All rows are in every step: prompts depend on each other.
        self.whole = bool(layouts[0].plan.wide) or not layouts[0].grouped
        self._types = self._common_types()
        self._link()
        self._find_events(jobs)

    def _places(self, name: str, job: Job) -> None:
        """Where positions of a job begin in each input."""
        counts = [rows for _, rows in job.source.inputs]
        starts = starts_of(counts)
        places = {
            "start": pa.array(starts, pa.int64()),
            "stop": pa.array([s + n for s, n in zip(starts, counts, strict=True)], pa.int64()),
            "label": pa.array([label for label, _ in job.source.inputs], pa.string()),
        }
        self.con.register("_places", pa.table(places))
        self.con.execute(f"CREATE TABLE places_{name} AS FROM _places")
        self.con.unregister("_places")

    def _common_types(self) -> dict[str, str]:
        types = [
            {name: kind for name, kind, *_ in self.con.execute(f"DESCRIBE {side}").fetchall()}
            for side in "ab"
        ]
        common = {}
        for name in self.layouts[0].columns:
            there = [
                kinds[name]
                for kinds, layout in zip(types, self.layouts, strict=True)
                if layout.columns[name] is not None
            ]
            common[name] = there[0] if len(set(there)) == 1 else "VARCHAR"
        return common

    def _cell(self, side: str, name: str) -> str:
        return f"{side}.{quote(name)}::{self._types[name]}"

    def _link(self) -> None:
        self.con.execute(
            "CREATE TABLE items AS SELECT *, row_number() OVER () AS item"
            " FROM (SELECT who, twin FROM a UNION SELECT who, twin FROM b)"
        )
        for side in "ab":
            self.con.execute(
                f"CREATE TABLE of_{side} AS SELECT pos, class, text, item, vote,"
                " row_number() OVER (PARTITION BY vote ORDER BY pos) AS turn"
                f" FROM {side} JOIN items USING (who, twin)"
            )
        self.con.execute(
            "CREATE TABLE link AS SELECT of_a.pos AS apos, of_b.pos AS bpos"
            " FROM of_a JOIN of_b USING (vote, turn)"
        )

    def _find_events(self, jobs: tuple[Job, Job]) -> None:
        cells = [(self._cell("a", name), self._cell("b", name), name) for name in self._types]
        told = ", ".join(
            f"CASE WHEN {old} IS DISTINCT FROM {new} THEN {literal(name[2:])} || ' ' ||"
            f" coalesce({old}::VARCHAR, 'null') || ' -> ' || coalesce({new}::VARCHAR, 'null') END"
            for old, new, name in cells
        )
        differ = " OR ".join(f"{old} IS DISTINCT FROM {new}" for old, new, _ in cells) or "false"
        self.con.execute(
            f"CREATE TABLE happened AS SELECT {literal(LEFT)} AS cause, class, item, pos,"
            " 'a' AS side, '' AS told FROM of_a ANTI JOIN link ON apos = pos UNION ALL"
            f" SELECT {literal(CAME)}, class, item, pos, 'b', '' FROM of_b ANTI JOIN link"
            f" ON bpos = pos UNION ALL SELECT {literal(CHANGED)}, of_b.class, of_b.item, b.pos,"
            f" 'b', ': ' || array_to_string([{told or 'NULL'}], ', ')"
            " FROM link JOIN a ON a.pos = apos JOIN b ON b.pos = bpos"
            f" JOIN of_b ON of_b.pos = bpos WHERE {differ}"
        )
        # Windows over all rows, only where some row moved.
        ((moved,),) = self.con.execute(
            "SELECT coalesce(bool_or(bpos < before), false) FROM"
            " (SELECT bpos, lag(bpos) OVER (ORDER BY apos) AS before FROM link)"
        ).fetchall()
        if moved:
            self.con.execute(
                f"INSERT INTO happened SELECT {literal(MOVED)}, class, item, bpos, 'b', '' FROM"
                " (SELECT class, item, bpos, row_number() OVER (PARTITION BY class ORDER BY apos)"
                " <> row_number() OVER (PARTITION BY class ORDER BY bpos) AS moved"
                " FROM link JOIN of_b ON pos = bpos) WHERE moved"
            )
        self.con.execute(
            "CREATE TABLE events AS "
            + " UNION ALL ".join(
                "SELECT cause, class, item, pos,"
                " 'row ' || (record - start) || ' of ''' || label || '''' || told AS told"
                f" FROM (SELECT *, pos // {job.source.width} AS record FROM happened"
                f" WHERE side = {literal(side)}) JOIN places_{side}"
                " ON record >= start AND record < stop"
                for side, job in zip("ab", jobs, strict=True)
            )
        )

    def causes(self) -> list[str]:
        """What happened to rows, in the order of the way."""
        found = {
            cause for (cause,) in self.con.execute("SELECT DISTINCT cause FROM events").fetchall()
        }
        return [cause for cause in _OF_ROWS if cause in found]

    def write(self, cause: str, *, whole: bool) -> Path:
        """The rows after a change of rows as a file, in their order; its path."""
        path = self.home / f"{cause.replace(' ', '_')}_{'all' if whole else 'some'}.parquet"
        side = "a" if cause in (LEFT, MOVED) else "b"
        values = ", ".join(f"{self._value(cause, name)} AS {quote(name)}" for name in self._types)
        tables = "b JOIN of_b AS n ON n.pos = b.pos LEFT JOIN link ON bpos = b.pos"
        if side == "a":
            tables = "a JOIN of_a AS n ON n.pos = a.pos JOIN link ON apos = a.pos"
        elif cause == CAME:
            tables += " LEFT JOIN a ON a.pos = apos"
        some = ""
        if not whole:
            some = f"WHERE {side}.class IN (SELECT class FROM events)"
        order = {LEFT: "apos", MOVED: "bpos"}.get(cause, "b.pos")
        self.con.execute(
            f"COPY (SELECT n.item, {side}.text, {side}.prompt, {side}.completion"
            f"{', ' if values else ''}{values} FROM {tables} {some} ORDER BY {order})"
            f" TO {literal(str(path))} (FORMAT parquet, COMPRESSION snappy)"
        )
        return path

    def _value(self, cause: str, name: str) -> str:
        if cause in (LEFT, MOVED):
            return self._cell("a", name)
        if cause == CAME:
            old, new = self._cell("a", name), self._cell("b", name)
            return f"CASE WHEN apos IS NULL THEN {new} ELSE {old} END"
        return self._cell("b", name)

    def ranked(
        self,
        name: str,
        path: Path,
        plan: FeedbackPlan,
        names: RoleNames,
        reading: Reading,
        progress: Progress | None,
    ) -> None:
        """Make the table `name` of what `plan` gives over the rows of a file."""
        rows = (
            "(SELECT file_row_number AS pos, item, text FROM"
            f" read_parquet({literal(str(path))}, file_row_number = true))"
        )
        job_here = opened(
            plan,
            str(path),
            roles=names,
            engine="duckdb",
            trainer=False,
            progress=progress,
            **reading,
        )
        with job_here as job:
            self.take(name, job, rows)

    def take(self, name: str, job: Job, rows: str) -> None:
        """Make the table `name` (lo, hi, state, slot) of what a job gives.

        Of pairs `lo` and `hi` are the two answers and `state` says whether `lo` is the chosen one;
        of others `lo` is the answer, `hi` is 0, and `state` its label, its advantage, or 0.
        """
        job.rank()
        sides = list(job.output.texts.values())
        value = state_of(job)
        listed = ", ".join(
            ["slot", *(f"{side} AS _p{n}" for n, side in enumerate(sides)), f"{value} AS state"]
        )
        batches = job.con.cursor().sql(f"SELECT {listed} FROM slots").to_arrow_reader(_BATCH)
        self.con.register("_slots", batches)
        if len(sides) == 1:
            query = f"SELECT item AS lo, 0 AS hi, state, slot FROM _slots JOIN {rows} ON pos = _p0"
        else:
            # Where both texts are one there is no pair, as in a run, which compares the texts.
            query = (
                "SELECT least(c.item, r.item) AS lo, greatest(c.item, r.item) AS hi,"
                " (c.item < r.item)::DOUBLE AS state, slot FROM _slots"
                f" JOIN {rows} AS c ON c.pos = _p0 JOIN {rows} AS r ON r.pos = _p1"
                " WHERE c.text <> r.text"
            )
        self.con.execute(f"CREATE TABLE {name} AS {query}")
        self.con.unregister("_slots")


def state_of(job: Job) -> str:
    """What of a row of output that is no pair can change while it stays: an expression of slots."""
    present = job.output.present
    return f"{present}::DOUBLE" if present else "0::DOUBLE"


def assign(con: duckdb.DuckDBPyConnection, steps: Sequence[tuple[str, bool]]) -> None:
    """Give each row of `differences` the number of its step.

    `steps` are the tables before each change, and whether rows that nothing touched are missing
    there. The step of a difference is the last one that made it what it is in the second run.
    """
    for number in range(len(steps) - 1, -1, -1):
        table, partial = steps[number]
        before = "s.state"
        if partial:
            before = "CASE WHEN d.touched THEN s.state ELSE d.before END"
        con.execute(
            f"UPDATE differences SET step = {number} FROM (SELECT d.lo, d.hi FROM differences AS d"
            f" LEFT JOIN {table} AS s ON s.lo = d.lo AND s.hi = d.hi"
            f" WHERE d.step IS NULL AND {before} IS DISTINCT FROM d.after) AS found"
            " WHERE differences.lo = found.lo AND differences.hi = found.hi"
        )
