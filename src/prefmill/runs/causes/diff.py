"""What two runs differ in, each difference with its cause: `prefmill.diff`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Unpack

import duckdb
import polars as pl

from prefmill.connection import connect, literal, share_of
from prefmill.disk.hidden import temporary
from prefmill.engines.steps import Output
from prefmill.errors import BadArgument
from prefmill.progress import Progress, silent
from prefmill.runs.causes.again import Run, run_of
from prefmill.runs.causes.changes import CAUSES, CHANGED, changes_between
from prefmill.runs.causes.ids import FILES, ids_of
from prefmill.runs.causes.report import KINDS, DiffReport
from prefmill.runs.causes.rows import layouts, write_rows
from prefmill.runs.causes.worlds import Worlds, assign
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading
from prefmill.runs.records.commands import recorded
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

_SCHEMA = pl.Schema(dict.fromkeys(("pair_id", "kind", "cause", "details"), pl.String()))
_FRAME_ROWS = 50_000


@dataclass(frozen=True)
class _Step:
    """A change on the way: its cause, its words, and the table before it."""

    cause: str
    told: str
    before: str
    partial: bool


@watched("diff")
def diff(
    a: str | Path,
    b: str | Path,
    output: str | Path | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> DiffReport:
    """What became of the rows of run `a` in run `b`, and why.

    A run is the path of its output, which has a record next to it. The inputs of both runs are read
    again, as the records name them; they have to be what they were. Both are runs of one kind of
    plan: pairs, labels, best-of-K or advantages.

    A row is `appeared`, `vanished`, `flipped` (a pair with chosen and rejected exchanged, an answer
    with the other label) or `changed` (an advantage); a pair that is scored anew has `stayed`. Each
    difference has one cause. The changes are applied to `a` one after the other, in this order, and
    the cause is the last one at which the row became what it is in `b`:

    | cause | what is changed |
    |---|---|
    | row left | rows that only `a` has go |
    | order changed | rows take the order of `b`, which decides between equal scores |
    | row came | rows that only `b` has come |
    | score changed | scores, and what else is read of a row, become those of `b` |
    | plan changed | columns of roles, and fields of the plan, one by one |
    | threshold changed | `chosen_min`, `rejected_below`, `min_score`, as numbers |
    | draw | the seed |

    Args:
        output: a file for the differences: pair_id, kind, cause, details, in the order of `a`, then
            of `b`. A flipped pair has its id of `b`.
        overwrite: replace the output. One of the same runs is left as it is.

    Cost: each run is ranked once more, and each change over the rows of the prompts that it
    touches. Texts are hashed once, and fetched for the differences alone, for their ids.

    Raises `BadInput` where a record or an input is missing or is another than it was, and
    `BadArgument` for plans of two kinds.

    >>> import prefmill as pm, polars as pl, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = {"prompt": ["p", "p", "p"], "completion": list("abc"), "score": [5, 1, 4]}
    ...     pl.DataFrame(rows).write_parquet(f"{folder}/rows.parquet")
    ...     for name, least in (("a", 4), ("b", 5)):
    ...         plan = pm.Pairs(strategy="all", chosen_min=least)
    ...         _ = pm.run(plan, f"{folder}/rows.parquet", f"{folder}/{name}.parquet")
    ...     report = pm.diff(f"{folder}/a.parquet", f"{folder}/b.parquet")
    >>> report.stayed, dict(report.causes)
    (1, {'threshold changed': {'vanished': 1}})
    """
    started = time.perf_counter()
    runs = run_of(a, "diff"), run_of(b, "diff")
    if runs[0].plan.kind != runs[1].plan.kind:
        kinds = " and ".join(run.plan.kind for run in runs)
        raise BadArgument(
            f"diff: the runs are of two kinds; got {kinds}, expected one kind.",
            hint="compare pairs with pairs, labels with labels.",
        )
    keys = [run.document["run_key"] for run in runs]
    inputs = [path for each, run in zip((a, b), runs, strict=True) for path in _read(each, run)]
    recording = recorded("diff", inputs, output, reading, overwrite=overwrite, runs=keys)
    with recording as record:
        if record.done:
            return record.restored(DiffReport)
        with compared(runs, reading, progress) as found:
            causes = _counted(found.con)

            def report(written: object) -> DiffReport:
                seconds = time.perf_counter() - started
                return _report(runs, found, causes, output, seconds)

            if output is None:
                return report(None)
            writers.write(
                found.frames(),
                _SCHEMA,
                output,
                format="pool",
                overwrite=overwrite,
                publish=record.publisher(report),
            )
            return record.made or report(None)


def _read(output: str | Path, run: Run) -> list[str]:
    """An output as inputs are named; of a folder its files, for splits are read one by one."""
    if not Path(output).is_dir():
        return [str(output)]
    return [str(path) for path in run.files if path.suffix != ".json"]


class Compared:
    """Two runs side by side: the table `differences`, with the step of each."""

    def __init__(
        self,
        con: duckdb.DuckDBPyConnection,
        jobs: tuple[Job, Job],
        rows: tuple[Path, Path],
        steps: list[_Step],
        totals: tuple[int, int],
    ) -> None:
        self.con, self.jobs, self.rows = con, jobs, rows
        self.steps, self.totals = steps, totals

    def frames(self) -> Iterator[pl.DataFrame]:
        """The differences, told, in frames of `_SCHEMA`."""
        for number, (job, path) in enumerate(zip(self.jobs, self.rows, strict=True)):
            slot = "slot_b" if number else "slot_a"
            wanted = "after IS NOT NULL" if number else "after IS NULL"
            ids = ids_of(job, path, self.con, f"SELECT {slot} FROM differences WHERE {wanted}")
            self.con.execute(
                f"CREATE OR REPLACE TABLE ids_{slot} AS SELECT * FROM"
                f" read_parquet({literal(str(ids))})"
            )
            query = (
                f"SELECT i.pair_id, t.kind, t.cause, t.details FROM told AS t"
                f" JOIN ids_{slot} AS i ON i.slot = t.{slot} WHERE t.{wanted} ORDER BY t.{slot}"
            )
            for batch in self.con.cursor().sql(query).to_arrow_reader(_FRAME_ROWS):
                frame = pl.DataFrame(batch)
                yield frame.cast(_SCHEMA)


@contextmanager
def compared(
    runs: tuple[Run, Run], reading: Reading, progress: Progress | None
) -> Iterator[Compared]:
    """Play two runs of one kind again, and find the cause of each difference."""
    tell = progress or silent
    with (
        temporary(reading.get("temp_dir"), reading.get("temp_bytes")) as home,
        runs[0].opened(reading, progress) as job_a,
        runs[1].opened(reading, progress) as job_b,
    ):
        jobs = (job_a, job_b)
        for job in jobs:
            job.rank()
        paths = (job_a.home / "told.parquet", job_b.home / "told.parquet")
        own = layouts(job_a, job_b)
        tell("reading rows", None)
        for job, layout, path in zip(jobs, own, paths, strict=True):
            write_rows(job, layout, path)
        shared = [*paths, *(job.home / name for job in jobs for name in FILES)]
        with closing(_connection(home, shared, reading)) as con:
            tell("comparing", None)
            worlds = Worlds(con, home, paths, own, jobs)
            totals = []
            for side, job, run in zip("ab", jobs, runs, strict=True):
                worlds.take(f"out_{side}", job, f"of_{side}")
                ((rows,),) = con.execute(f"SELECT count(*) FROM out_{side}").fetchall()
                run.check_rows(rows)
                totals.append(int(rows))
            _find_differences(con)
            steps = _way(worlds, reading, progress)
            assign(con, [(step.before, step.partial) for step in steps])
            _tell_causes(con, steps, jobs[0].output)
            yield Compared(con, jobs, paths, steps, (totals[0], totals[1]))


def _connection(home: Path, reads: Sequence[Path], reading: Reading) -> duckdb.DuckDBPyConnection:
    memory = reading.get("memory_bytes")
    share = share_of(memory) if memory else None
    return connect(
        temp_dir=home,
        reads=[str(path) for path in reads],
        memory_bytes=share,
        threads=reading.get("threads"),
    )


def _find_differences(con: duckdb.DuckDBPyConnection) -> None:
    con.execute(
        "CREATE TABLE differences AS SELECT lo, hi, a.state AS before, b.state AS after,"
        " a.slot AS slot_a, b.slot AS slot_b, NULL::INTEGER AS step"
        " FROM out_a AS a FULL JOIN out_b AS b USING (lo, hi)"
        " WHERE a.state IS DISTINCT FROM b.state"
    )
    con.execute(
        "CREATE TABLE classes AS SELECT item, any_value(class) AS class FROM"
        " (SELECT item, class FROM of_a UNION ALL SELECT item, class FROM of_b) GROUP BY item"
    )
    con.execute(
        "CREATE OR REPLACE TABLE differences AS SELECT d.*, class,"
        " class IN (SELECT class FROM events) AS touched"
        " FROM differences AS d JOIN classes ON item = lo"
    )


def _way(worlds: Worlds, reading: Reading, progress: Progress | None) -> list[_Step]:
    """The changes from A to B, and the tables before each: what A gives, then what is between."""
    layouts = worlds.layouts
    plans = changes_between(*layouts)
    causes = worlds.causes()
    steps: list[_Step] = []
    before, partial = "out_a", False
    tell = progress or silent
    whole = worlds.whole
    for place, cause in enumerate(causes):
        steps.append(_Step(cause, "", before, partial))
        if place + 1 < len(causes) or plans:
            tell("comparing", None)
            before, partial = f"step_{len(steps)}", not whole
            path = worlds.write(cause, whole=whole)
            worlds.ranked(before, path, layouts[0].plan, layouts[0].names, reading, progress)
    rows = None
    for place, change in enumerate(plans):
        steps.append(_Step(change.cause, change.told, before, partial))
        if place + 1 < len(plans):
            rows = rows or worlds.write(CHANGED, whole=True)
            before, partial = f"step_{len(steps)}", False
            worlds.ranked(before, rows, change.plan, change.names, reading, progress)
    return steps


def _tell_causes(con: duckdb.DuckDBPyConnection, steps: list[_Step], output: Output) -> None:
    """Make the view `told`: the kind, the cause and the details of each difference."""
    names = pl.DataFrame(
        {
            "step": range(len(steps)),
            "cause": [step.cause for step in steps],
            "told": [step.told for step in steps],
        },
        schema={"step": pl.Int32, "cause": pl.String, "told": pl.String},
    )
    con.register("_steps", names.to_arrow())
    con.execute("CREATE TABLE steps AS FROM _steps")
    con.unregister("_steps")
    paired, labels = output.paired, any(column.dtype == "Boolean" for column in output.columns)
    both = "'flipped'" if paired or labels else "'changed'"
    chosen, rejected = "better", "worse"
    word = "chosen: " if paired else ""
    con.execute(
        "CREATE TABLE of_prompt AS SELECT cause, class, arg_min(told, pos) AS told, count(*) AS n"
        " FROM events GROUP BY cause, class"
    )
    con.execute(
        "CREATE TABLE of_item AS SELECT cause, item, arg_min(told, pos) AS told"
        " FROM events GROUP BY cause, item"
    )
    con.execute(
        "CREATE VIEW sided AS SELECT *,"
        f" CASE WHEN coalesce(after, before) = 0 AND hi > 0 THEN hi ELSE lo END AS {chosen},"
        f" CASE WHEN coalesce(after, before) = 0 AND hi > 0 THEN lo ELSE hi END AS {rejected}"
        " FROM differences"
    )
    con.execute(
        "CREATE TABLE told AS SELECT slot_a, slot_b, after,"
        f" CASE WHEN before IS NULL THEN 'appeared' WHEN after IS NULL THEN 'vanished'"
        f" ELSE {both} END AS kind, s.cause,"
        " CASE WHEN s.told <> '' THEN s.told"
        f" WHEN c.told IS NOT NULL THEN {literal(word)} || c.told"
        " WHEN r.told IS NOT NULL THEN 'rejected: ' || r.told"
        " WHEN g.told IS NOT NULL THEN 'of the same prompt: ' || g.told ||"
        " CASE WHEN g.n > 1 THEN ' and ' || (g.n - 1) || ' more' ELSE '' END"
        " ELSE 'rows of other prompts' END AS details"
        " FROM sided AS d JOIN steps AS s USING (step)"
        f" LEFT JOIN of_item AS c ON c.cause = s.cause AND c.item = d.{chosen}"
        f" LEFT JOIN of_item AS r ON r.cause = s.cause AND r.item = d.{rejected}"
        " LEFT JOIN of_prompt AS g ON g.cause = s.cause AND g.class = d.class"
    )


def _counted(con: duckdb.DuckDBPyConnection) -> dict[str, dict[str, int]]:
    """Differences by cause and kind, in the order of causes."""
    rows = con.execute("SELECT cause, kind, count(*) FROM told GROUP BY ALL").fetchall()
    counts: dict[str, dict[str, int]] = {}
    for cause, kind, n in sorted(rows, key=lambda row: (CAUSES.index(row[0]), KINDS.index(row[1]))):
        counts.setdefault(cause, {})[kind] = n
    return counts


def _report(
    runs: tuple[Run, Run],
    found: Compared,
    causes: Mapping[str, Mapping[str, int]],
    output: str | Path | None,
    seconds: float,
) -> DiffReport:
    kinds: Any = {kind: sum(c.get(kind, 0) for c in causes.values()) for kind in KINDS}
    gone = kinds["vanished"] + kinds["flipped"] + kinds["changed"]
    return DiffReport(
        a=runs[0].output,
        b=runs[1].output,
        plan=runs[0].plan.kind,
        rows_are=runs[0].plan.rows_are,
        rows_a=found.totals[0],
        rows_b=found.totals[1],
        stayed=found.totals[0] - gone,
        **kinds,
        causes=causes,
        changes=[step.told or step.cause for step in found.steps],
        output=None if output is None else str(output),
        seconds=round(seconds, 3),
    )
