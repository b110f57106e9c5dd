"""The look at the data of a report: what kind of file it is, and all that is counted of it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from prefmill.connection import LOOK_BYTES, room_by_rows
from prefmill.disk import records
from prefmill.disk.targets import from_here, target_of
from prefmill.engines import sql
from prefmill.errors import ColumnMissing, ThresholdsUnfit
from prefmill.plans import Pairs
from prefmill.plans.expect import SOURCE
from prefmill.progress import Progress
from prefmill.reports import counts
from prefmill.reports.against import Benchmark
from prefmill.reports.against import against as against_them
from prefmill.reports.cut import Cutter, cut
from prefmill.reports.floors import floors
from prefmill.reports.found import Figures
from prefmill.reports.near import check_near
from prefmill.reports.near import near as near_texts
from prefmill.reports.tables import make_facts, make_pools, make_sides
from prefmill.runs.job.job import Job
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.looks.shaped import line_told, shape_told
from prefmill.shapes.sides import PAIRS
from prefmill.shapes.words import Rows
from prefmill.table.report import PairReport
from prefmill.table.roles import Inputs, RoleNames

if TYPE_CHECKING:
    from prefmill.reports.alike import Alikes

#: What people see of pairs, unless they want more.
PAIRS_SHOWN = 10
_ALL: Any = {"chosen_min": None, "rejected_below": None}
_COUNTS = ("rows_in", "rows_used", "rows_not_selected", "dropped", "groups_in", "groups_used")
#: How a file is read, beyond its words; and words that no pair has a use for.
_READING = ("encoding", "delimiter", "rejects")
_OTHERS = ("stage", "weight", "logprob", "conclusion")
#: Kinds whose rows are answers to choose among; judgements that repeat an answer are none.
_CANDIDATES = ("feedback", "scored pool", "judged pool")
_POOL = "a pool without scores"
#: Where several judges say which answer is better, what most of them say.
_MERGED = "majority"
_UNSCORED = "no column is the score; if there is one, name it: --score COLUMN (-COLUMN is a rank)"


def look(
    inputs: Inputs,
    *,
    plan: Pairs | None,
    roles: RoleNames | None,
    shown: int,
    near: bool,
    against: Sequence[str | Path] = (),
    cutter: Cutter | None = None,
    alikes: Alikes | None = None,
    progress: Progress | None,
    **reading: Unpack[Reading],
) -> Figures:
    """Count everything; raises what `prefmill.run` raises of inputs."""
    if near:
        check_near()
    known = [Benchmark(path) for path in against]
    by = "the default plan of pairs" if plan is None else "this plan of pairs"
    plan = plan or Pairs()
    told: dict[str, Any] = {"shown": shown, "near": near, "against": known, "cutter": cutter}
    told["alikes"] = alikes
    told |= {"scored": True, "refusal": "", "by": by}
    told["given"] = typed(roles or {}, reading)
    words: Any = dict(roles or {})
    asked: dict[str, Any] = {"progress": progress, "memory_bytes": None, "threads": None, **reading}
    try:
        try:
            return _opened(plan, inputs, words, told, asked)
        except ThresholdsUnfit as error:  # said, and pairs are those of any two scores
            told["refusal"] = f"{error.message} Hint: {error.hint}"
            told["by"] = f"{by}, without thresholds"
            return _opened(replace(plan, **_ALL), inputs, words, told, asked)
    except ColumnMissing as problem:
        if words.get("score") or words.get("winner"):
            raise
        # A pool has no score yet. A constant stands for it, and nothing is said of scores.
        told["scored"] = False
        try:
            unscored = replace(plan, **_ALL)
            words["score"] = "1"
            return _opened(unscored, inputs, words, told, asked)
        except ColumnMissing:
            raise problem from None


def _opened(
    plan: Pairs, inputs: Inputs, words: RoleNames, told: Mapping[str, Any], asked: Mapping[str, Any]
) -> Figures:
    options: dict[str, Any] = {"engine": "duckdb", "whole_rows": True, "merged": _MERGED}
    if asked["memory_bytes"] is None:
        options |= {"memory_bytes": LOOK_BYTES, "threads": asked["threads"] or os.cpu_count()}
    with opened(plan, inputs, roles=words, **{**asked, **options}) as job:
        if job.plan.aggregate != plan.aggregate:
            told = {**told, "by": f"{told['by']} with --aggregate {_MERGED}"}
        if asked["memory_bytes"] is None:
            room_by_rows(job.con, job.source.rows)
        job.rank()
        job.tell("counting", None)
        make_facts(job)
        return _figures(job, inputs, **told)


def _figures(
    job: Job,
    inputs: Inputs,
    *,
    shown: int,
    near: bool,
    against: Sequence[Benchmark],
    cutter: Cutter | None,
    alikes: Alikes | None,
    scored: bool,
    refusal: str,
    by: str,
    given: str,
) -> Figures:
    con = job.con
    record = _record(inputs)
    prompts, answers = counts.prompts_and_answers(con)
    scores = counts.scores(con) if scored else None
    unscored = () if scored else (_UNSCORED,)
    figures = Figures(
        name=named(inputs),
        kind=_kind(job, record, scored),
        shape=shape_told(job) if scored else _POOL,
        # A constant stands for the score of a pool.
        line=line_told(job) if scored else line_told(job).replace(" --score 1", ""),
        given=given,
        source=_source(job),
        files=len(job.records.inputs),
        records=job.records.rows,
        rows=job.source.rows,
        rejected=job.source.rejected,
        columns={field.name: str(field.type) for field in job.records.columns},
        prompts=prompts,
        answers=answers,
        scores=scores,
        answers_per_prompt=counts.answers_per_prompt(con),
        splits=counts.splits(con),
        overlaps=counts.overlaps(job),
        notes=[*(note for note in job.notes if not note.startswith("read as: ")), *unscored],
    )
    if near:
        job.tell("comparing texts", None)
        prompts_near = near_texts(job, "prompt", "_prompt")
        answers_near = near_texts(job, "answer", "_completion")
        figures = replace(figures, near_prompts=prompts_near, near_answers=answers_near)
    if alikes:
        job.tell("reading what prompts mean", 0.0)
        figures = replace(figures, alike=alikes.of(job))
    if against:
        job.tell("comparing with benchmarks", None)
        figures = replace(figures, against=against_them(job, against))
    make_sides(job)
    if cutter:
        job.tell("cutting texts", None)
        figures = replace(figures, cut=cut(job, cutter, unpaired=not scored))
    inside = job.rowed.inside_records
    repeats = counts.repeats(con, records=inside and scored)
    figures = replace(figures, repeats=repeats)
    if not scored:
        return figures
    make_pools(job)
    funnel, funnel_of = _funnel(job, by, record)
    # Columns of a chosen and a rejected answer hold no place.
    placed = job.rowed.recognised != PAIRS
    best_of = counts.best_of(con) if figures.kind in _CANDIDATES else []
    (pairs,) = con.execute("SELECT count(*) FROM sides WHERE NOT same").fetchall()[0]
    return replace(
        figures,
        funnel=funnel,
        funnel_of=funnel_of,
        made_from=_made_from(record) if _has_funnel(record) else "",
        made_by=_made_by(record),
        thresholds=job.plan.thresholds or {},
        refusal=refusal,
        sources=counts.parts(con, "source", scores),
        annotators=counts.agreeing(con, counts.parts(con, "annotator", scores)),
        gaps=counts.histogram(con, "gap", "sides WHERE NOT same AND isfinite(gap)"),
        ties=counts.ties(con),
        best_of=[] if figures.kind == "feedback" and repeats.conflicting else best_of,
        pairs=pairs,
        floors=floors(con, placed=placed) if pairs else (),
        shown=counts.shown(job, shown),
    )


def _funnel(job: Job, by: str, record: Mapping[str, Any]) -> tuple[PairReport, str]:
    """What became of rows: of the run that wrote the file, or by the plan over it."""
    if _has_funnel(record):
        report = record["report"]
        kept = {name: report[name] for name in _COUNTS}
        made = PairReport(**kept, pairs_out=report.get("pairs_out", 0))
        return made, f"its run (prefmill {record['command']})"
    # Which texts are the same is known by their MD5: no text is fetched for it.
    same = "SELECT s.*, d.same AS _same_text FROM slots s JOIN sides d ON d.slot = s.slot"
    job.con.execute(f"CREATE TEMP VIEW paired AS {same}")
    (row,) = job.con.execute(sql.call(job.output.report, {"told": "paired"})).fetchall()
    return PairReport.of_row(row), by


def _has_funnel(record: Mapping[str, Any]) -> bool:
    return bool(record.get("plan")) and set(_COUNTS) <= (record.get("report") or {}).keys()


def _made_from(record: Mapping[str, Any]) -> str:
    """The one file that a run read, or a word for several of them and for tables."""
    names = [str(each["path"]) for each in record.get("inputs") or ()]
    return from_here(names[0]) if len(names) == 1 and Path(names[0]).exists() else "a table"


def _made_by(record: Mapping[str, Any]) -> str:
    """The options by which a run read its input, as they are to be typed."""
    key = record.get("key") or {}
    weights = ((key.get("plan") or {}).get("weights") or {}).items()
    listed = ",".join(f"{name}={weight:g}" for name, weight in weights)
    words = typed(key.get("rows") or {}, key)
    return f"{words} --weights {shlex.quote(listed)}".strip() if listed else words


def typed(words: Mapping[str, Any], reading: Mapping[str, Any]) -> str:
    """How records are read, as options of every command that looks at pairs.

    >>> typed({"score": "-rank", "stage": "step"}, {"delimiter": ";"})
    "--score -rank --delimiter ';'"
    """
    asked = Rows(**{name: value for name, value in words.items() if name not in _OTHERS})
    files = [
        f"--{name} {shlex.quote(str(value))}"
        for name in _READING
        if (value := reading.get(name)) is not None
    ]
    return " ".join(filter(None, [asked.options(), *files]))


def _source(job: Job) -> str:
    """The column of the source, as an option names it."""
    words = job.rowed.shape.words.named() if job.rowed.shape else {}
    if source := words.get(SOURCE):
        return str(source if isinstance(source, str) else ",".join(map(str, source)))
    return SOURCE if SOURCE in job.keep else ""


def _record(inputs: Inputs) -> Mapping[str, Any]:
    """The record of the run that wrote the input, where it still stands as written."""
    if not isinstance(inputs, str | Path):
        if not isinstance(inputs, list | tuple) or len(inputs) != 1:
            return {}
        (inputs,) = inputs
    if not isinstance(inputs, str | Path) or str(inputs) == "-" or "://" in str(inputs):
        return {}
    found = records.standing(records.folder_of(target_of(inputs, "report")))
    return found[1] if found else {}


def _kind(job: Job, record: Mapping[str, Any], scored: bool) -> str:
    """What is in the file."""
    names = {name.lower() for name in job.records.columns.names}
    if not scored:
        return "pool"
    if job.rowed.inside_records:
        return "pairs"
    if job.roles.score.endswith("label"):
        return "labels"
    if f"{job.roles.score}_verdict" in names or f"{job.roles.score}_reason" in names:
        return "judged pool"
    return "scored pool" if record.get("command") == "score" else "feedback"


def named(inputs: Inputs) -> str:
    """What the data is called: its files, as they were named."""
    if isinstance(inputs, str | Path):
        return str(inputs)
    if isinstance(inputs, list | tuple) and all(isinstance(each, str | Path) for each in inputs):
        return ", ".join(map(str, inputs))
    return f"a {type(inputs).__name__}"
