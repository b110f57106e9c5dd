"""Why a row of output is there: `prefmill.why`."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import polars as pl
import pyarrow.parquet as pq

from prefmill.connection import connect, literal
from prefmill.disk import records
from prefmill.disk.targets import is_object
from prefmill.engines import sql
from prefmill.engines.macros import install_used
from prefmill.engines.steps import Step
from prefmill.errors import BadInput
from prefmill.progress import Progress
from prefmill.runs.causes.again import Run, run_of
from prefmill.runs.causes.ids import ids_of
from prefmill.runs.causes.rows import layouts, write_rows
from prefmill.runs.causes.told import Other, Side, WhyReport, bounds_of, rule_of
from prefmill.runs.incremental.output import ID
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading
from prefmill.telemetry.watch import watched

#: What was ranked, and what of it came out, as files in the folder of a job.
_RANKED = ("slots", "standing")


@watched("why")
def why(
    pair_id: str,
    run: str | Path,
    *,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> WhyReport:
    """Why the row of output `pair_id` is in `run`, the path of an output with its record.

    Names the file and the row of each answer, every score that was read, the number by which it was
    ranked, the scorer of the input where its record has one, the rule, the thresholds and how they
    came to be numbers, the draw if one decided, and what became of the other rows of the prompt.

    Cost: the run is ranked once more. The texts of one row of output are fetched where the output
    is a Parquet file with a column `pair_id`; else those of all, for their ids.

    Raises `BadInput` where no row has this id, and what `prefmill.diff` raises for a run that
    cannot be played again.

    >>> import prefmill as pm, polars as pl, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     rows = {"prompt": ["p", "p", "p"], "completion": list("abc"), "score": [5, 1, 4]}
    ...     pl.DataFrame(rows).write_parquet(f"{folder}/rows.parquet")
    ...     _ = pm.run(pm.Pairs(), f"{folder}/rows.parquet", f"{folder}/a.parquet", pair_id=True)
    ...     (name,) = pl.read_parquet(f"{folder}/a.parquet")["pair_id"]
    ...     report = pm.why(name, f"{folder}/a.parquet")
    >>> [side.values["score"] for side in report.sides], report.others[0].reason
    ([5, 1], 'not selected: rank 2 of 3')
    """
    known = run_of(run, "why")
    with known.opened(reading, progress) as job:
        job.rank()
        positions = _positions(job, known, pair_id)
        if positions is None:
            raise BadInput(
                f"why: no row of {known.output!r} has the id {pair_id!r}.",
                hint=_help(known, pair_id),
            )
        return _explained(job, known, pair_id, positions)


def _positions(job: Job, run: Run, pair_id: str) -> list[int] | None:
    """The positions of the answers of a row of output; None where there is no such row."""
    rows = job.home / "told.parquet"
    write_rows(job, layouts(job, job)[0], rows)
    _write_standing(job, rows)
    places = ", ".join(f"_p{n}" for n in range(len(job.output.texts)))
    standing = f"read_parquet({literal(str(job.home / 'standing.parquet'))})"
    known = _place_in(run.files, pair_id)
    if known == -1:
        return None
    wanted = f"SELECT slot FROM {standing}"
    if known is not None:
        wanted += f" ORDER BY slot LIMIT 1 OFFSET {known}"
    with closing(connect(temp_dir=job.home, reads=())) as con:
        ids = ids_of(job, rows, con, wanted)
        found = con.execute(
            f"SELECT {places} FROM {standing} JOIN read_parquet({literal(str(ids))}) USING (slot)"
            " WHERE pair_id = ?",
            [pair_id],
        ).fetchall()
    if known is not None and not found:
        raise run.another(f"another id in row {known}, expected {pair_id!r}")
    return list(found[0]) if found else None


def _write_standing(job: Job, rows: Path) -> None:
    """Files of what was ranked, and of what came out: `slot`, and the position of each answer."""
    sides = list(job.output.texts.values())
    places = [f"{side} AS _p{n}" for n, side in enumerate(sides)]
    slots, standing = (literal(str(job.home / f"{name}.parquet")) for name in _RANKED)
    job.con.execute(f"COPY (SELECT slot, {', '.join(places)} FROM slots) TO {slots}")
    query = f"SELECT s.* FROM read_parquet({slots}) AS s"
    if len(sides) == 2:
        text = f"(SELECT pos, text FROM read_parquet({literal(str(rows))}))"
        query += (
            f" JOIN {text} AS c ON c.pos = _p0 JOIN {text} AS r ON r.pos = _p1"
            " WHERE c.text <> r.text"
        )
    job.con.execute(f"COPY ({query}) TO {standing}")


def _place_in(files: list[Path], pair_id: str) -> int | None:
    """Which row of the output has the id; -1: none has; None: the output does not say."""
    if len(files) != 1 or files[0].suffix != ".parquet":
        return None
    if ID not in pq.read_schema(files[0]).names:
        return None
    place = pl.scan_parquet(files[0], glob=False).select(pl.col(ID)).with_row_index("n")
    rows = place.filter(pl.col(ID) == pair_id).collect()
    return int(rows["n"][0]) if rows.height else -1


def _help(run: Run, pair_id: str) -> str:
    """Another output in the folder may have the id."""
    if not is_object(run.parent):
        for folder in sorted(run.parent.glob(".*.prefmill")):
            other = records.output_of(folder)
            place = _place_in([other], pair_id) if other.is_file() else None
            if place is not None and place >= 0:
                return f"{other} has it: prefmill diff {other} {run.output} says why it went."
    return "prefmill diff OTHER_RUN RUN says why a row of another run is not here."


def _explained(job: Job, run: Run, pair_id: str, positions: list[int]) -> WhyReport:
    fates = _fates(job, positions)
    read = job.program.read.columns()
    shown = {ours: name for ours, name in read.items() if ours not in ("_prompt", "_completion")}
    listed = ", ".join(
        f"{ours}::VARCHAR AS {ours}" if ours in job.scalars else ours for ours in shown
    )
    sides = []
    places = ", ".join(map(str, positions))
    found = {
        row[0]: dict(zip(shown.values(), row[1:], strict=True))
        for row in job.con.execute(
            f"SELECT _pos{', ' if listed else ''}{listed} FROM numbered WHERE _pos IN ({places})"
        ).fetchall()
    }
    for role, position in zip(job.output.texts, positions, strict=True):
        _, score, votes, _ = fates[position]
        place = job.source.place_of(position, home=job.home)
        sides.append(Side(role, place, score, votes, found[position], _scorer(job, position)))
    others = [
        Other(job.source.place_of(position, home=job.home), score, reason)
        for position, (_, score, _, reason) in fates.items()
        if position not in positions
    ]
    return WhyReport(
        pair_id=pair_id,
        run=run.output,
        plan=job.plan.kind,
        sides=sides,
        rule=rule_of(job.plan),
        bounds=bounds_of(run.plan, job.plan),
        draw=_draw(job),
        others=others,
    )


def _scorer(job: Job, position: int) -> Mapping[str, Any] | None:
    """Who wrote the scores of a row: the record next to its file says so."""
    position //= job.source.width
    for label, rows in job.source.inputs:
        if position < rows:
            document = records.record_of(Path(label)) if Path(label).is_file() else None
            fingerprints = (document or {}).get("fingerprints") or {}
            return fingerprints.get("scorer")
        position -= rows
    return None


def _fates(job: Job, positions: list[int]) -> dict[int, tuple[int, float | None, int | None, str]]:
    """(position, score, votes, reason) of every row of the prompt, by position, in their order."""
    con, output = job.con, job.output
    con.execute(
        "CREATE TEMP TABLE mine AS SELECT * FROM counted WHERE _grp IS NOT DISTINCT FROM"
        f" (SELECT _grp FROM counted WHERE _pos = {positions[0]})"
    )
    con.execute(
        "CREATE TEMP TABLE mine_candidates AS SELECT * FROM candidates SEMI JOIN"
        " (SELECT DISTINCT _grp FROM mine) USING (_grp)"
    )
    tie_break = literal(job.plan.tie_break)
    query = (
        "SELECT n, rank, pref_key_position(_ranks[rank]) AS _pos FROM (SELECT _n AS n, _ranks,"
        " unnest(range(1, _n + 1)) AS rank"
        f" FROM pref_groups('mine_candidates', tie_break := {tie_break}))"
    )
    install_used(con, [query])
    con.execute(f"CREATE TEMP TABLE mine_ranks AS {query}")
    for name in _RANKED:
        rows_out = f"read_parquet({literal(str(job.home / f'{name}.parquet'))})"
        used = " UNION ".join(
            f"SELECT _p{n} AS _pos FROM {rows_out}" for n in range(len(positions))
        )
        query = f"SELECT _pos FROM ({used}) SEMI JOIN mine USING (_pos)"
        con.execute(f"CREATE TEMP TABLE mine_{name} AS {query}")
    merged = "CASE WHEN c._pos IS NULL THEN 'merged with other rows of the same answer' END"
    rows = con.execute(
        "SELECT m._pos, coalesce(c._score, m._value), c._votes, coalesce('dropped: ' || m._reason,"
        f" 'dropped: ' || c._reason, {merged},"
        " CASE WHEN u._pos IS NOT NULL THEN 'used' || $word"
        " WHEN s._pos IS NOT NULL THEN 'dropped: identical_text' END,"
        f" {_lost(job)}) FROM mine AS m LEFT JOIN mine_candidates AS c USING (_pos)"
        " LEFT JOIN mine_ranks AS r USING (_pos) LEFT JOIN mine_standing AS u USING (_pos)"
        " LEFT JOIN mine_slots AS s USING (_pos)"
        " ORDER BY m._pos",
        {"word": " in another pair" if output.paired else " too"},
    ).fetchall()
    return {row[0]: row for row in rows}


def _lost(job: Job) -> str:
    """Why a candidate is in no row of output, as an expression of its rank and score."""
    rank = "'not selected: rank ' || (n - rank + 1) || ' of ' || n"
    if getattr(job.plan, "scope", "") == "pool":
        rank = "'not selected of the whole table'"
    elif getattr(job.plan, "length_control", False):
        rank = "'not selected, by scores without what length explains'"
    if job.output.present:
        return literal(job.plan.passed_over)
    low = getattr(job.plan, "min_score", None)
    if low is not None:
        return f"CASE WHEN c._score < {low!r} THEN 'below_min_score' ELSE {rank} END"
    return rank


def _draw(job: Job) -> str | None:
    """The draw that decided, with how many there were to draw from."""
    plan: Any = job.plan
    con = job.con
    ((n,),) = con.execute("SELECT count(*) FROM mine_ranks").fetchall()
    if getattr(plan, "pick", "") in ("random", "rso"):
        pool = f"{n} answers of the prompt" if plan.scope == "prompt" else "all answers"
        return f"seed {plan.seed}, {plan.k} of {pool}"
    if getattr(plan, "strategy", "") == "best_random":
        return f"seed {plan.seed}, one of {_proposed(job, 'best_rest')} that could be rejected"
    cap = getattr(plan, "max_pairs_per_prompt", None)
    if cap is None:
        return None
    proposed = _proposed(job, plan.strategy)
    return f"seed {plan.seed}, {min(cap, proposed)} of {proposed} pairs of the prompt"


def _proposed(job: Job, strategy: str) -> int:
    """How many pairs of the prompt stand before one is drawn."""
    groups, pairs = job.plan.steps(job.roles)[-2:]
    con = job.con
    query = sql.call(_with(groups, ends_only=False), {"candidates": "mine_candidates"})
    con.execute(f"CREATE OR REPLACE TEMP TABLE mine_groups AS {query}")
    asked = _with(pairs, strategy=strategy, max_pairs_per_prompt=None)
    query = sql.call(asked, {"groups": "mine_groups"})
    install_used(con, [query])
    return int(con.execute(f"SELECT count(*) FROM ({query})").fetchall()[0][0])


def _with(step: Step, **args: object) -> Step:
    """A step with other arguments."""
    own = {name: value for name, value in args.items() if name in step.args}
    sqls = {name: value for name, value in args.items() if name not in step.args}
    return replace(step, args={**step.args, **own}, sql={**step.sql, **sqls})
