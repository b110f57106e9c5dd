"""Run a plan from files to files: rank narrow, gather once, publish whole."""

from __future__ import annotations

import os
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import polars as pl
import pyarrow as pa

from prefmill import duckdb as sqlengine
from prefmill import polars as frames
from prefmill import writers
from prefmill._engine import connect, literal, quote
from prefmill.errors import BadArgument, BadScore
from prefmill.formats import Format
from prefmill.gather import Fetch
from prefmill.plans import Pairs, Plan, Unpaired, check_roles
from prefmill.readers import Source, open_source
from prefmill.report import PairReport
from prefmill.schema import RoleNames, Roles

Engine = Literal["auto", "polars", "duckdb"]
Progress = Callable[[str, float | None], None]

MB = 1 << 20
_FRAME_ROWS = 50_000
_MOST_PROPOSALS = 1_000_000_000


@dataclass(frozen=True)
class RunReport:
    """What a run did. The counts are those of `PairReport`; `rows_rejected` are malformed rows that never became rows.

    `seconds` of wall time, `peak_rss_mb` the largest resident size of this process so far, in MiB.
    """

    rows_in: int
    rows_used: int
    rows_not_selected: int
    dropped: Mapping[str, int]
    groups_in: int
    groups_used: int
    pairs_out: int
    rows_rejected: int
    seconds: float
    peak_rss_mb: float
    engine: str
    output: Mapping[str, str]
    split_rows: Mapping[str, int]
    plan_hash: str
    roles: Roles
    score_range: tuple[float, float] | None

    def as_json(self) -> dict[str, object]:
        """The report with plain values only; `output` is a path, or with splits a mapping of split to path."""
        out = asdict(self)
        out["output"] = self.output.get("", dict(self.output)) if self.output else None
        out["roles"] = {key: value for key, value in asdict(self.roles).items() if value}
        return out


def run(
    plan: Plan,
    inputs: str | Path | Sequence[str | Path],
    output: str | Path | None,
    *,
    roles: RoleNames | None = None,
    engine: Engine = "auto",
    format: Format | None = None,
    chat: bool = False,
    margin_scale: float | None = None,
    keep: Sequence[str] = (),
    split: Mapping[str, float] | None = None,
    overwrite: bool = False,
    encoding: str | None = None,
    delimiter: str | None = None,
    rejects: str | Path | None = None,
    memory_bytes: int | None = None,
    threads: int | None = None,
    temp_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> RunReport:
    """Run `plan` over files and write its pairs or labels; `output=None` only reports.

    Args:
        inputs: files, globs, directories or URLs, in the order of positions (`prefmill.readers`).
        output: the target; its extension says the kind of file (`prefmill.writers`). It appears whole or not at all.
        roles: the column of each role; those not named are found by the names that the field uses.
        engine: `duckdb` ranks out of core, `polars` in memory; `auto` is duckdb. The texts are gathered the same way.
        keep: columns to carry along, as `chosen_NAME` and `rejected_NAME` (labels: `NAME`).
        memory_bytes: bound of the resident size, as near as the engines can keep it; None: as much as is useful.

    The rows of output, and their order, depend on the plan and the input alone: not on engine, threads or memory.
    Raises `PrefmillError`s; nothing is left behind then.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [5, 1]}).write_parquet(f"{folder}/feedback.parquet")
    ...     report = run(Pairs(), f"{folder}/feedback.parquet", f"{folder}/pairs.jsonl")
    ...     Path(f"{folder}/pairs.jsonl").read_text()
    '{"prompt":"p","chosen":"a","rejected":"b","chosen_score":5.0,"rejected_score":1.0}\\n'
    """
    started = time.perf_counter()
    tell = progress or (lambda phase, share: None)
    named = [str(i) for i in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    format = format or ("kto" if isinstance(plan, Unpaired) else "trl")
    if output is not None:
        pass  # CHECKTARGET
    home = Path(tempfile.mkdtemp(prefix="prefmill-", dir=temp_dir))
    try:
        limits = {"memory_bytes": memory_bytes, "threads": threads}
        source = open_source(named, temp_dir=home, encoding=encoding, delimiter=delimiter, progress=(lambda phase: tell(phase, None)),
                             rejects=Path(rejects) if rejects else None, **limits)  # fmt: skip
        job = _Job(plan, source, roles or {}, keep, home, engine, tell, **limits)
        if output is None:
            report, written = job.report(), None
        else:
            written = writers.write(job.frames(), job.schema(), output, format=format, chat=chat, margin_scale=margin_scale,
                                    split=split, seed=plan.seed, overwrite=overwrite)  # fmt: skip
            report = job.report()
        scores = None if report.pairs_out else job.score_range()
    finally:
        shutil.rmtree(home, ignore_errors=True)
    return RunReport(
        **asdict(report),
        rows_rejected=source.rejected,
        seconds=round(time.perf_counter() - started, 3),
        peak_rss_mb=peak_rss_mb(),
        engine=job.engine,
        output=written.paths if written else {},
        split_rows=written.rows if written and split else {},
        plan_hash=plan.hash(),
        roles=job.roles,
        score_range=scores,
    )


class _Job:
    """One plan over one source: ranks on first use, then gathers; the report is ready when all frames have been taken."""

    def __init__(self, plan: Plan, source: Source, names: RoleNames, keep: Sequence[str], home: Path, engine: Engine, tell: Progress,
                 *, memory_bytes: int | None, threads: int | None) -> None:  # fmt: skip
        self.plan, self.source, self.home, self.tell = plan, source, home, tell
        columns = source.columns.names
        wide = plan.weights if plan.weights and not names.get("aspect") else ()
        self.roles = Roles.resolve(columns, names, score_columns=wide, where="pairs" if isinstance(plan, Pairs) else "unpair")
        check_roles(plan, self.roles, where="run")
        self.dtypes = pl.Schema({name: pl.DataFrame(source.columns.empty_table().select([name])).dtypes[0] for name in columns})
        frames.check_types(plan, self.roles, self.dtypes, where="run")
        missing = [c for c in keep if c not in columns]
        if missing:
            raise BadArgument(f"run: --keep names no column of the input; got {missing}, expected some of {columns}.")
        self.keep = list(dict.fromkeys(keep))
        self.engine = "duckdb" if engine == "auto" else engine
        if self.engine == "polars" and source.remote:
            raise BadArgument("run: the polars engine reads local files; got a URL.", hint="use --engine duckdb.")
        self.memory = memory_bytes
        # About 300 MB are Python and its libraries; the rest is shared between DuckDB's buffers, the parts of text and the encoder.
        self.con = connect(temp_dir=home, memory_bytes=max(64 * MB, int((memory_bytes - 300 * MB) * 0.55)) if memory_bytes else None,
                           threads=threads, remote=source.remote)  # fmt: skip
        sqlengine.install(self.con, persistent=True)  # our own database in memory: cursors see no temporary objects
        self._create_views()
        self._ranked = self._gathered = False
        self._same_text: list[int] = []
        self._stages: frames.Stages | None = None

    # -- rank ---------------------------------------------------------------------------------------------------------------------------

    def _create_views(self) -> None:
        files = ", ".join(literal(f) for f in self.source.files)
        starts = [sum(self.source.file_rows[:i]) for i in range(len(self.source.files))]
        position = "file_row_number" if len(starts) < 2 else f"{starts}[file_index + 1] + file_row_number"
        hive = "true" if self.source.hive else "false"
        relation = f"read_parquet([{files}], union_by_name = true, hive_partitioning = {hive})"
        inner = sqlengine.numbered(self.plan, self.roles, relation, position)
        self.con.execute(f"CREATE VIEW numbered AS {inner}")
        kept = "".join(f", {quote(name)} AS _keep{i}" for i, name in enumerate(self.keep))
        self.con.execute(
            f"CREATE VIEW texts AS SELECT {position} AS _pos, {quote(self.roles.prompt)} AS _prompt,"
            f" {quote(self.roles.completion)} AS _completion{kept} FROM {relation}"
        )

    def rank(self) -> None:
        """Make the table `slots`: what becomes row 0, 1, 2 ... of the output."""
        if self._ranked:
            return
        self._ranked = True
        self.tell("ranking", None)
        never_null = frozenset(self.source.columns.names) - self.source.nulls
        steps = dict(sqlengine.stages(self.plan, self.roles)) | {"judged": sqlengine.judged(self.plan, self.roles, never_null)}
        kept = {"groups", "labels"} | ({"candidates"} if self.plan.aggregate != "none" else set())
        for name in ("judged", "counted", "candidates"):
            self._make(name, steps[name], table=name in kept and self.engine == "duckdb")
        if self.plan.on_invalid == "raise":
            self._refuse_unusable()
        if self.engine == "polars":
            self._rank_in_polars(never_null)
        elif isinstance(self.plan, Unpaired):
            self._make("labels", steps["labels"], table=True)
            self._make("slots", f"{_slotted('_turn, _first')} FROM labels WHERE _label IS NOT NULL", table=True)
        else:
            self._make("groups", steps["groups"], table=True)
            self._refuse_explosion()
            self._make("slots", f"{_slotted('_first, _c DESC, _r')} FROM ({steps['pairs']})", table=True)

    def _make(self, name: str, query: str, *, table: bool) -> None:
        if table and os.environ.get("PMPROF"): self.tell("before " + name, None)
        self.con.execute(f"CREATE {'TABLE' if table else 'VIEW'} {name} AS {query}")

    def scan(self) -> pl.LazyFrame:
        """The source as one lazy frame, columns united by name."""
        scans = [pl.scan_parquet(f, hive_partitioning=self.source.hive, glob=False) for f in self.source.files]
        return scans[0] if len(scans) == 1 else pl.concat(scans, how="diagonal_relaxed")

    def _rank_in_polars(self, never_null: frozenset[str]) -> None:
        self._stages = frames.Stages(self.plan, self.roles, frames.numbered(self.plan, self.roles, self.scan()), never_null)
        if isinstance(self.plan, Unpaired):
            ranked = self._stages.labels().filter(pl.col("_label").is_not_null()).sort("_turn", "_first").collect()
        else:
            ranked = self._stages.pairs().sort("_first", -pl.col("_c"), "_r").collect()
        self.con.register("ranked", ranked.with_row_index("slot").to_arrow())
        self._make("slots", "SELECT * FROM ranked", table=True)
        self.con.unregister("ranked")

    def _refuse_unusable(self) -> None:
        found = self.con.execute(
            "SELECT arg_min(_reason, _pos), min(_pos) FROM pref_rows('judged') WHERE _reason IS NOT NULL"
        ).fetchall()
        if found[0][0]:
            reason, position = found[0]
            raise BadScore(f"run: row {position} cannot be used; got {reason}, and on_invalid is raise.", hint="on_invalid='drop' counts such rows.")

    def _refuse_explosion(self) -> None:
        plan = self.plan
        assert isinstance(plan, Pairs)
        if plan.strategy not in ("all", "threshold"):
            return
        top, low = f"least(_n, {plan.top_k or '_n'})::HUGEINT", f"least(_n, {plan.bottom_k or '_n'})::HUGEINT"
        ((proposals, largest),) = self.con.execute(f"SELECT coalesce(sum(least({top} * {low}, _n::HUGEINT * (_n - 1) // 2)), 0), max(_n) FROM groups").fetchall()
        if proposals > _MOST_PROPOSALS:
            raise BadArgument(
                f"run: strategy {plan.strategy!r} would propose {proposals:,} pairs (largest prompt: {largest:,} answers); expected at most {_MOST_PROPOSALS:,}.",
                hint="set top_k and bottom_k, or use best_rest, best_random or adjacent.",
            )

    # -- gather -------------------------------------------------------------------------------------------------------------------------

    def schema(self) -> pl.Schema:
        """Columns and dtypes of `frames()`."""
        prompt, completion = self.dtypes[self.roles.prompt], self.dtypes[self.roles.completion]
        kept = [(name, self.dtypes[name]) for name in self.keep]
        if isinstance(self.plan, Unpaired):
            return pl.Schema([("prompt", prompt), ("completion", completion), ("label", pl.Boolean()), ("score", pl.Float64()), *kept])
        sides = [(f"{side}_{name}", dtype) for name, dtype in kept for side in ("chosen", "rejected")]
        texts = [("prompt", prompt), ("chosen", completion), ("rejected", completion)]
        return pl.Schema([*texts, ("chosen_score", pl.Float64()), ("rejected_score", pl.Float64()), *sides])

    def frames(self) -> Iterator[pl.DataFrame]:
        """The output, in order, as frames of `schema()`."""
        self.rank()
        self.tell("reading texts", None)
        pairs = isinstance(self.plan, Pairs)
        # Where the prompt is the group key, ranking has read it already: it comes with the slots, and the scan decodes a column less.
        from_rank = self.engine == "duckdb" and not self.roles.group
        ((slots,),) = self.con.execute("SELECT count(*) FROM slots").fetchall()
        sides = ["_chosen", "_rejected"] if pairs else ["_pos"]
        budget = (self.memory - 300 * MB) // 8 if self.memory else 3072 * MB
        fetch = Fetch(
            con=self.con.cursor(), source="texts", columns=[*([] if from_rank else ["_prompt"]), "_completion", *(f"_keep{i}" for i in range(len(self.keep)))],
            wanted="slots", sides=sides, slots=slots, rows=self.source.rows,
            text_bytes=self._text_bytes(slots * len(sides)), part_bytes=budget, spill=self.home / "texts.arrow",
        )  # fmt: skip
        for first, last, rows, where in fetch.parts():
            numbers = pl.DataFrame(self.con.sql(f"SELECT * EXCLUDE (slot) FROM slots WHERE slot >= {first} AND slot < {last} ORDER BY slot").to_arrow_table())
            for lo in range(0, numbers.height, _FRAME_ROWS):
                self.tell("writing", (first + lo) / slots)
                yield self._assemble(first + lo, numbers[lo : lo + _FRAME_ROWS], rows, where, from_rank)
        self._gathered = True

    def _assemble(self, first: int, numbers: pl.DataFrame, rows: pl.DataFrame, where: object, from_rank: bool) -> pl.DataFrame:
        def take(column: str, side: str) -> pl.Series:
            return rows[column].gather(pl.Series(where[numbers[side].to_numpy()]))  # type: ignore[index]

        if isinstance(self.plan, Unpaired):
            columns = {"prompt": numbers["_grp"] if from_rank else take("_prompt", "_pos"), "completion": take("_completion", "_pos"),
                       "label": numbers["_label"], "score": numbers["_score"]}  # fmt: skip
            columns |= {name: take(f"_keep{i}", "_pos") for i, name in enumerate(self.keep)}
            return pl.DataFrame(columns).cast(dict(self.schema()))  # type: ignore[arg-type]
        columns = {
            "prompt": numbers["_grp"] if from_rank else take("_prompt", "_chosen"),
            "chosen": take("_completion", "_chosen"), "rejected": take("_completion", "_rejected"),
            "chosen_score": numbers["_chosen_score"], "rejected_score": numbers["_rejected_score"],
        }  # fmt: skip
        for i, name in enumerate(self.keep):
            columns |= {f"{side}_{name}": take(f"_keep{i}", f"_{side}") for side in ("chosen", "rejected")}
        frame = pl.DataFrame(columns).cast(dict(self.schema()))  # type: ignore[arg-type]
        same = frame["chosen"] == frame["rejected"]
        if same.any():
            self._same_text += (first + same.arg_true()).to_list()
            frame = frame.filter(~same)
        return frame

    def _text_bytes(self, rows: int) -> int:
        """An estimate of the texts of `rows` rows, from a sample spread over the source."""
        ((width,),) = self.con.execute(
            "SELECT coalesce(avg(strlen(_completion::VARCHAR)), 0) FROM (SELECT _completion FROM texts LIMIT 20000)"
        ).fetchall()
        return int(rows * (width + 16))

    # -- report -------------------------------------------------------------------------------------------------------------------------

    def report(self) -> PairReport:
        """Account for every row, after `frames()` was exhausted (or without texts, when it was never begun: then same texts are read here)."""
        self.rank()
        if isinstance(self.plan, Pairs):
            if not self._gathered:
                for _ in self.frames():
                    pass
            self.con.register("_same", pa.table({"slot": pa.array(self._same_text, pa.int64())}))
            self.con.execute("CREATE OR REPLACE VIEW paired AS SELECT s.*, s.slot IN (SELECT slot FROM _same) AS _same_text FROM slots s")
        if self._stages is None:
            (row,) = self.con.execute(f"FROM {sqlengine.report_call(self.plan, 'paired')}").fetchall()
            return PairReport.of_row(row)
        if isinstance(self.plan, Unpaired):
            return self._stages.label_report()
        paired = pl.DataFrame(self.con.sql("SELECT _first, _chosen, _rejected, _same_text FROM paired").to_arrow_table())
        return self._stages.pair_report(paired.lazy())

    def score_range(self) -> tuple[float, float] | None:
        """Smallest and largest score of a candidate, for hints."""
        if self._stages is not None:
            low, high = self._stages.candidates.filter(pl.col("_reason").is_null()).select(low=pl.col("_score").min(), high=pl.col("_score").max()).collect().row(0)
            return None if low is None else (low, high)
        (row,) = self.con.execute("SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL").fetchall()
        return None if row[0] is None else (row[0], row[1])


def explain(
    plan: Plan, inputs: str | Path | Sequence[str | Path], *, roles: RoleNames | None = None, engine: Engine = "auto",
    encoding: str | None = None, delimiter: str | None = None, rejects: str | Path | None = None,
    memory_bytes: int | None = None, threads: int | None = None, temp_dir: str | Path | None = None,
) -> str:  # fmt: skip
    """What `run` would do with these arguments: files, roles, the plan, and the query of its engine. Reads the inputs, writes nothing."""
    named = [str(i) for i in ([inputs] if isinstance(inputs, str | Path) else inputs)]
    home = Path(tempfile.mkdtemp(prefix="prefmill-", dir=temp_dir))
    try:
        source = open_source(named, temp_dir=home, encoding=encoding, delimiter=delimiter, memory_bytes=memory_bytes, threads=threads,
                             rejects=home / "rejects.jsonl" if rejects else None)  # fmt: skip
        job = _Job(plan, source, roles or {}, (), home, engine, lambda phase, share: None, memory_bytes=memory_bytes, threads=threads)
        columns = {role: value for role, value in asdict(job.roles).items() if value and role != "negate"}
        if job.roles.negate:
            columns["score"] = f"-{columns['score']}"
        if job.engine == "polars":
            query = plan.lazy(job.scan(), **columns).explain()
        else:
            query = plan.sql(named[0] if len(named) == 1 else "feedback", **columns)
        told = f"inputs: {named} ({source.rows:,} rows)\nroles: {job.roles}\nengine: {job.engine}\nplan {plan.hash()}:\n{plan.to_toml()}\n{query}\n"
        return told.replace(str(home), "TEMP")
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _slotted(order: str) -> str:
    return f"SELECT row_number() OVER (ORDER BY {order}) - 1 AS slot, *"


def peak_rss_mb() -> float:
    """The largest resident size of this process so far, in MiB."""
    scale = 1 if sys.platform == "darwin" else 1024  # macOS counts bytes, Linux KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / MB, 1)
