"""One plan over one source, on our own DuckDB connection: rank narrow, then gather once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args
from urllib.parse import unquote

import polars as pl
import pyarrow as pa

from prefmill import duckdb as sqlengine
from prefmill import polars as frames
from prefmill.connection import MB, connect, memory_told, quote, release, share_of
from prefmill.disk.hidden import temporary
from prefmill.errors import BadArgument, BadInput, BadScore, ColumnMissing, PlanError
from prefmill.forks import refuse_fork
from prefmill.plans import (
    Advantage,
    BestOf,
    Kept,
    Pairs,
    Plan,
    Unpaired,
    kept_columns,
    kept_names,
    named,
    roles_of,
    used_columns,
)
from prefmill.plans.thresholds import Scale, settled, unsettled
from prefmill.progress import Progress, machine_bytes, silent
from prefmill.readers import Source, blamed_on, open_source
from prefmill.rules import picks as polars_picks
from prefmill.rules import rows as polars_rows
from prefmill.rules.advantages import advantage_report, advantages
from prefmill.runs.gather import Fetch
from prefmill.table.context import context_of, refuse_different
from prefmill.table.fits import fits_files
from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text
from prefmill.table.report import PairReport
from prefmill.table.roles import Inputs, RoleNames

if TYPE_CHECKING:
    from prefmill.runs.gather import Where

Engine = Literal["auto", "polars", "duckdb"]

_POSITION = "__prefmill_position"
_FRAME_ROWS = 50_000
_WORD = 40  # characters of a text that is no score, in a message
# Texts held at a time without a memory limit; what is more than this is spilled.
_PART_BYTES = min(3072 * MB, machine_bytes() // 8)
_MOST_PROPOSALS = 1_000_000_000


class Reading(TypedDict, total=False):
    """How inputs are read; meaning in `prefmill.run`."""

    encoding: str | None
    delimiter: str | None
    rejects: str | Path | None
    memory_bytes: int | None
    threads: int | None
    temp_dir: str | Path | None
    without: Sequence[str]


@contextmanager
def opened(
    plan: Plan,
    inputs: Inputs,
    *,
    roles: RoleNames | None = None,
    engine: Engine = "auto",
    keep: Sequence[str] = (),
    whole_rows: bool = False,
    trainer: bool = True,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Iterator[Job]:
    """A `Job` over files; its temporary folder goes when the context ends."""
    refuse_fork("run")
    tell = progress or silent
    rejects = reading.get("rejects")
    memory_bytes, threads = reading.get("memory_bytes"), reading.get("threads")

    def needs(columns: Sequence[str]) -> Sequence[str]:
        try:
            return used_columns(plan, roles_of(plan, roles or {}, columns, where="roles"))
        except (ColumnMissing, PlanError):  # said of all files together, or not at all
            return columns

    with memory_told("run", memory_bytes), temporary(reading.get("temp_dir")) as home:
        source = open_source(
            _paths(inputs, home),
            temp_dir=home,
            encoding=reading.get("encoding"),
            delimiter=reading.get("delimiter"),
            rejects=Path(rejects) if rejects else None,
            memory_bytes=memory_bytes,
            threads=threads,
            progress=lambda phase: tell(phase, None),
            needs=needs,
            without=[*reading.get("without", ()), *([str(rejects)] if rejects else [])],
            in_place=isinstance(plan, Advantage),
        )
        with blamed_on(source):
            yield Job(
                plan,
                source,
                roles or {},
                keep,
                home,
                engine,
                tell,
                whole_rows=whole_rows,
                trainer=trainer,
                memory_bytes=memory_bytes,
                threads=threads,
            )


def _scalar(name: str) -> str:
    """The text of a JSON scalar as a score; the same as in `polars_rows.number`."""
    text = f"{quote(name)}.{quote(JSON_FIELD)}"
    return f"CASE {text} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE trim({text}, '\"') END"


def _paths(inputs: Inputs, home: Path) -> list[str]:
    """`inputs` as paths; what is not in files goes to files in `home`."""
    if isinstance(inputs, str | Path):
        return [str(inputs)]
    if isinstance(inputs, list | tuple) and all(isinstance(each, str | Path) for each in inputs):
        return [str(each) for each in inputs]
    from prefmill.pools.stream import paths_of

    return paths_of(inputs, home)


class Job:
    """One plan over one source: ranks on first use, then gathers; the report is ready when all
    frames have been taken.
    """

    def __init__(
        self,
        plan: Plan,
        source: Source,
        names: RoleNames,
        keep: Sequence[str],
        home: Path,
        engine: Engine,
        tell: Progress,
        *,
        whole_rows: bool = False,
        trainer: bool = True,
        memory_bytes: int | None,
        threads: int | None,
    ) -> None:
        self.plan, self.source, self.home, self.tell = plan, source, home, tell
        columns = source.columns.names
        self.roles = roles_of(plan, names, columns, where="roles", fits=fits_files(source.files))
        # Arrow imports pandas, where it is installed, for `empty_table()`, `pa.array` and
        # `pa.table`: a fifth of a second and 45 MB.
        self.dtypes = pl.DataFrame(pa.Table.from_batches([], schema=source.columns)).schema
        self._scalars = {
            name: _scalar(name) for name, dtype in self.dtypes.items() if is_json_text(dtype)
        }
        source.refuse_mixed(self.roles, where="roles")
        polars_rows.check_types(plan, self.roles, self.dtypes, where="roles")
        # Whole rows are all columns kept; of the prompt and the completion there is then no second
        # copy.
        self.whole_rows = whole_rows
        kept_names(keep, columns, where="run")  # whole rows have all of them, and no other
        self.keep: list[str] = columns if whole_rows else []
        self.kept: list[Kept] = []
        if not whole_rows:
            rows_of_a_trainer = trainer and not isinstance(plan, Advantage)
            context = (
                context_of(self.dtypes, self.roles, () if isinstance(plan, Pairs) else keep)
                if rows_of_a_trainer
                else {}
            )
            output = [name for name, _ in self._columns_out()]
            self.kept = kept_columns(plan, keep, columns, output, where="run", context=context)
            self.keep = list(dict.fromkeys(kept.column for kept in self.kept))
        # A column that is ours stands under its own name; one of the input that had it (an earlier
        # rank, say) beside it under another.
        ours = (
            {name.removeprefix("_") for name, _ in self._added()} - {self.roles.prompt}
            if whole_rows
            else set()
        )
        self.renamed = {name: f"{name}_in" for name in columns if name in ours}
        names_out = [name for name, _ in self._columns_out()]
        twice = sorted({name for name in names_out if names_out.count(name) > 1})
        if twice:
            raise BadArgument(
                f"run: the input has a column {twice[0]!r}, and the output would have it twice.",
                hint="rename it, or use --format prompt-completion and --keep the columns that you need.",
            )
        if engine not in get_args(Engine):
            raise BadArgument(f"run: no engine {engine!r}; expected one of {get_args(Engine)}.")
        taken = [c for c in columns if c.lower() in ("file_row_number", "file_index", _POSITION)]
        if taken:
            raise BadArgument(
                f"run: the column name {taken[0]!r} has a meaning of its own to the engines.",
                hint="rename that column.",
            )
        self.engine = "duckdb" if engine == "auto" else engine
        if self.engine == "polars" and source.remote:
            raise BadArgument(
                "run: the polars engine reads local files; got a URL.", hint="use --engine duckdb."
            )
        # Where the prompt is the group key, ranking has read it already: it comes with the slots,
        # and the scan decodes a column less.
        whole_table = isinstance(plan, BestOf) and plan.scope == "pool"
        # Of advantages every row is wanted: then the scan reads prompts anyway, in its own order.
        every_row = isinstance(plan, Advantage)
        self._key_is_prompt = (
            self.engine == "duckdb" and not self.roles.group and not whole_table and not every_row
        )
        # Picks are few and ranked over many: small parts and frames keep a run of them within half
        # a gigabyte, and cost it nothing.
        few = isinstance(plan, BestOf)
        most = min(_PART_BYTES, 16 * MB) if few else _PART_BYTES
        self._frame_rows = max(1, _FRAME_ROWS // 3) if few else _FRAME_ROWS
        self._part_bytes = min(most, (memory_bytes - 300 * MB) // 8) if memory_bytes else most
        # About 300 MB are Python and its libraries; the rest is shared between DuckDB's buffers,
        # the parts of text and the encoder.
        self.con = connect(
            temp_dir=home,
            memory_bytes=share_of(memory_bytes) if memory_bytes else None,
            threads=threads,
            remote=source.remote,
        )
        steps = (query for _, query in sqlengine.stages(plan, self.roles))
        sqlengine.install_used(self.con, [*steps, sqlengine.report_call(plan, "")])
        self._starts = [sum(source.file_rows[:i]) for i in range(len(source.files))]
        self._create_views()
        self._ranked = self._gathered = False
        #: Of all candidates, where thresholds waited for it.
        self.scale = Scale(None, None)
        self._same_text: list[int] = []
        self._stages: frames.Stages | None = None

    # -- rank
    # ---------------------------------------------------------------------------------------------------------------------------

    def _create_views(self) -> None:
        position = (
            "file_row_number"
            if len(self._starts) < 2
            else f"({self._starts}::BIGINT[])[(file_index + 1)::BIGINT] + file_row_number"
        )
        relation = self.source.relation
        self._make(
            "numbered",
            sqlengine.numbered(self.plan, self.roles, relation, position, self._scalars),
            table=False,
        )
        kept = "".join(f", {quote(name)} AS _keep{i}" for i, name in enumerate(self.keep))
        texts = f"{position} AS _pos, {quote(self.roles.prompt)} AS _prompt, {quote(self.roles.completion)} AS _completion{kept}"
        self._make("texts", f"SELECT {texts} FROM {relation}", table=False)

    def rank(self) -> None:
        """Make the table `slots`: what becomes row 0, 1, 2 ... of the output."""
        if self._ranked:
            return
        self._ranked = True
        self.tell("ranking", None)
        never_null = frozenset(self.source.columns.names) - self.source.nulls
        steps = self.narrow()
        if self.plan.on_invalid == "raise":
            self._refuse_unusable()
        if self.engine == "polars":
            self._rank_in_polars(never_null)
        elif isinstance(self.plan, Unpaired):
            self._settle("SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL")
            self._make("labels", self._step("labels"), table=True)
            self._make_slots(
                "_grp, _pos, _label, _score", "labels WHERE _label IS NOT NULL", "_turn, _first"
            )
        elif isinstance(self.plan, Advantage):
            self._make("acting", steps["acting"], table=False)
            self._make("advantages", steps["advantages"], table=True)
            release(self.con)
            self._make_slots("_pos, _score, _advantage", "advantages WHERE _reason IS NULL", "_pos")
        elif isinstance(self.plan, BestOf):
            adjusted = ", _adjusted_score" if self.plan.length_control else ""
            for name in ("measured", "fit", "adjusted") if adjusted else ():
                self._make(name, steps[name], table=name == "fit")
            narrow = (
                ""
                if self._key_is_prompt or self.plan.pick in ("random", "rso")
                else " REPLACE (NULL AS _grp)"
            )
            self._make("pools", f"SELECT *{narrow} FROM ({steps['pools']})", table=True)
            release(self.con)
            if adjusted:
                self._make("ranked", steps["ranked"], table=False)
            key = "_grp, " if self._key_is_prompt else ""
            self._make_slots(
                f"{key}_pos, _score, _rank{adjusted}", f"({steps['picks']})", "_first, _rank"
            )
            self.con.execute(
                "ALTER TABLE pools DROP COLUMN _grp"
            )  # the report counts pools, and no longer needs their prompts
            release(self.con)
        else:
            self._make("groups", steps["groups"], table=True)
            self._settle(
                "SELECT min(pref_key_score(_ranks[1])), max(pref_key_score(_ranks[-1])) FROM groups"
            )
            self._refuse_explosion()
            columns = "_first, _grp, _chosen, _rejected, _chosen_score, _rejected_score"
            self._make_slots(columns, f"({self._step('pairs')})", "_first, _c DESC, _r")

    def narrow(self) -> dict[str, str]:
        """Make `judged`, `counted` and `candidates`; the queries of all steps by name."""
        never_null = frozenset(self.source.columns.names) - self.source.nulls
        steps = dict(sqlengine.stages(self.plan, self.roles)) | {
            "judged": sqlengine.judged(self.plan, self.roles, never_null)
        }
        kept = {"candidates"} if self.plan.aggregate != "none" else set()
        for name in ("judged", "counted", "candidates"):
            self._make(name, steps[name], table=name in kept and self.engine == "duckdb")
        return steps

    def _settle(self, extremes: str) -> None:
        """Put numbers for thresholds that wait for the scores; `extremes` is a query of the
        smallest and the largest one.
        """
        if not unsettled(self.plan):
            return
        ((low, high),) = self.con.execute(extremes).fetchall()
        distinct = "SELECT count(DISTINCT _score) = 2 FROM candidates WHERE _reason IS NULL"
        self.scale = Scale(low, high)
        self.plan = settled(
            self.plan, self.scale, lambda: bool(self.con.execute(distinct).fetchall()[0][0])
        )

    def _step(self, name: str) -> str:
        """The query of one step of the plan as it is now."""
        return dict(sqlengine.stages(self.plan, self.roles))[name]

    def _make(self, name: str, query: str, *, table: bool) -> None:
        self.con.execute(f"CREATE {'TABLE' if table else 'VIEW'} {name} AS {query}")

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        """Statements here keep the order of rows, which `connect` turned off for speed."""
        self.con.execute("SET preserve_insertion_order = true")
        yield
        self.con.execute("SET preserve_insertion_order = false")

    def _make_slots(self, columns: str, relation: str, order: str) -> None:
        """Slots in output order; the table keeps it, so that no part has to be sorted again."""
        with self._in_order():
            ordered = f"SELECT {columns} FROM {relation} ORDER BY {order}"
            self._make(
                "slots", f"SELECT row_number() OVER () - 1 AS slot, * FROM ({ordered})", table=True
            )

    def scan(self) -> pl.LazyFrame:
        """The source as one lazy frame, columns united by name, with the position of each row as
        `_POSITION`.
        """
        names = {
            unquote(part.split("=")[0])
            for file in self.source.files
            for part in Path(file).parts
            if "=" in part
        }
        hive: dict[str, Any] = {"hive_partitioning": self.source.hive}
        if self.source.hive:
            hive["hive_schema"] = {name: pl.String for name in self.dtypes if name in names}
        scans = [
            pl.scan_parquet(
                file, glob=False, row_index_name=_POSITION, row_index_offset=start, **hive
            )
            for file, start in zip(self.source.files, self._starts, strict=True)
        ]
        scan = scans[0] if len(scans) == 1 else pl.concat(scans, how="diagonal_relaxed")
        return scan.cast({_POSITION: pl.Int64})

    def _rank_in_polars(self, never_null: frozenset[str]) -> None:
        rows = polars_rows.numbered(self.plan, self.roles, self.scan(), position=_POSITION)
        self._stages = frames.Stages(self.plan, self.roles, rows, never_null)
        if unsettled(self.plan):
            scores = (
                self._stages.candidates.filter(pl.col("_reason").is_null())
                .select("_score")
                .collect()["_score"]
            )
            self.scale = frames.scale_of(scores)
            self.plan = settled(self.plan, self.scale, lambda: scores.n_unique() == 2)
            self._stages = frames.Stages(self.plan, self.roles, rows, never_null)
        if isinstance(self.plan, Unpaired):
            labels = (
                self._stages.labels().filter(pl.col("_label").is_not_null()).sort("_turn", "_first")
            )
            ranked = labels.select("_pos", "_label", "_score").collect()
        elif isinstance(self.plan, BestOf):
            adjusted = ["_adjusted_score"] if self.plan.length_control else []
            ranked = (
                polars_picks.picks(self.plan, self._stages.judged)
                .select("_pos", "_score", "_rank", *adjusted)
                .collect()
            )
        elif isinstance(self.plan, Advantage):
            found = advantages(self.plan, self._stages.judged).filter(pl.col("_reason").is_null())
            ranked = found.select("_pos", "_score", "_advantage").collect()
        else:
            pairs = self._stages.pairs().sort("_first", -pl.col("_c"), "_r")
            ranked = pairs.select(
                "_first", "_chosen", "_rejected", "_chosen_score", "_rejected_score"
            ).collect()
        self.con.register("ranked", ranked.with_row_index("slot").to_arrow())
        with self._in_order():
            self._make("slots", "SELECT * FROM ranked", table=True)
        self.con.unregister("ranked")

    def _refuse_unusable(self) -> None:
        found = self.con.execute(
            "SELECT arg_min(_reason, _pos), min(_pos) FROM pref_rows('judged') WHERE _reason IS NOT NULL"
        ).fetchall()
        if found[0][0]:
            reason, position = found[0]
            words = self.bad_scores() if reason == "bad_score" else ()
            shown = f" {words[0]}" if words else ""
            raise BadScore(
                f"run: row {position} cannot be used; got {reason}{shown}, and on_invalid is raise.",
                hint="on_invalid='drop' counts such rows.",
            )

    def bad_scores(self) -> tuple[str, ...]:
        """The first three different texts that are no score, as Python writes them, long ones
        cut.
        """
        columns = [f"_score{i}" for i in range(len(sqlengine.score_columns(self.plan, self.roles)))]
        texts = " UNION ALL ".join(
            f"SELECT {name}::VARCHAR AS word, _pos FROM numbered WHERE {name} IS NOT NULL AND pref_number({name}) IS NULL"
            for name in columns
        )
        query = f"SELECT word FROM ({texts}) GROUP BY word ORDER BY min(_pos) LIMIT 3"
        return tuple(
            repr(word if len(word) <= _WORD else f"{word[:_WORD]}…")
            for (word,) in self.con.execute(query).fetchall()
        )

    def _refuse_explosion(self) -> None:
        plan = self.plan
        assert isinstance(plan, Pairs)
        if plan.strategy not in ("all", "threshold"):
            return
        top, low = (
            f"least(_n, {plan.top_k or '_n'})::HUGEINT",
            f"least(_n, {plan.bottom_k or '_n'})::HUGEINT",
        )
        ((proposals, largest),) = self.con.execute(
            f"SELECT coalesce(sum(least({top} * {low}, _n::HUGEINT * (_n - 1) // 2)), 0), max(_n) FROM groups"
        ).fetchall()
        if proposals > _MOST_PROPOSALS:
            raise BadArgument(
                f"run: strategy {plan.strategy!r} would propose {proposals:,} pairs (largest prompt: {largest:,} answers);"
                f" expected at most {_MOST_PROPOSALS:,}.",
                hint="set top_k and bottom_k, or use best_rest, best_random or adjacent.",
            )

    def explain(self) -> str:
        """The query that ranks and gathers, as text: SQL of the macros, or the optimised Polars
        plan.
        """
        columns = named(self.roles)
        if self.engine == "polars":
            return self.plan.lazy(self.scan(), **columns).explain().replace(str(self.home), "TEMP")
        return self.plan.sql("feedback", **columns)

    # -- gather
    # -------------------------------------------------------------------------------------------------------------------------

    def schema(self) -> pl.Schema:
        """Columns and dtypes of `frames()`."""
        return pl.Schema(self._columns_out())

    def _columns_out(self) -> list[tuple[str, pl.DataType]]:
        prompt, completion = self.dtypes[self.roles.prompt], self.dtypes[self.roles.completion]
        kept = [(each.name, self.dtypes[each.column]) for each in self.kept]
        if isinstance(self.plan, Unpaired):
            return [
                ("prompt", prompt),
                ("completion", completion),
                ("label", pl.Boolean()),
                ("score", pl.Float64()),
                *kept,
            ]
        if isinstance(self.plan, BestOf | Advantage) and self.whole_rows:
            added = ((name.removeprefix("_"), dtype) for name, dtype in self._added())
            return [
                *((self.renamed.get(name, name), self.dtypes[name]) for name in self.keep),
                *added,
            ]
        if isinstance(self.plan, Advantage):
            return [
                ("prompt", prompt),
                ("completion", completion),
                ("_score", pl.Float64()),
                ("_advantage", pl.Float64()),
                *kept,
            ]
        if isinstance(self.plan, BestOf):
            adjusted = [("_adjusted_score", pl.Float64())] if self.plan.length_control else []
            return [
                ("prompt", prompt),
                ("completion", completion),
                ("_score", pl.Float64()),
                ("_rank", pl.Int64()),
                *adjusted,
                *kept,
            ]
        texts = [("prompt", prompt), ("chosen", completion), ("rejected", completion)]
        return [*texts, ("chosen_score", pl.Float64()), ("rejected_score", pl.Float64()), *kept]

    def _added(self) -> list[tuple[str, pl.DataType]]:
        """What whole rows have behind their own columns: the columns of `slots`, which begin with
        an underscore.
        """
        added: list[tuple[str, pl.DataType]] = [
            ("_rank", pl.Int64()) if isinstance(self.plan, BestOf) else ("_advantage", pl.Float64())
        ]
        if isinstance(self.plan, BestOf) and self.plan.length_control:
            added.append(("_adjusted_score", pl.Float64()))
        return (
            added
            if self.plan.aggregate == "none"
            else [*added, ("_aggregated_score", pl.Float64())]
        )

    def frames(self) -> Iterator[pl.DataFrame]:
        """The output, in order, as frames of `schema()`."""
        self.rank()
        self.tell("reading texts", None)
        ((slots,),) = self.con.execute("SELECT count(*) FROM slots").fetchall()
        sides = ("_chosen", "_rejected") if isinstance(self.plan, Pairs) else ("_pos",)
        columns = self._columns_read()
        fetch = Fetch(
            con=self.con.cursor(),
            source="texts",
            columns=columns,
            wanted="slots",
            sides=sides,
            slots=slots,
            rows=self.source.rows,
            text_bytes=slots * len(sides) * self._row_bytes(),
            part_bytes=self._part_bytes,
            spill=self.home / "texts.arrow",
        )
        done = 0
        for first, last, rows, where in fetch.parts():
            for numbers in self._slots(first, last):
                yield self._assemble(numbers, rows, where)
                done += numbers.height
                self.tell("writing", done / slots)
        self._gathered = True

    def _columns_read(self) -> list[str]:
        """The columns of the view `texts` that are gathered."""
        kept = [
            f"_keep{i}"
            for i, name in enumerate(self.keep)
            if not (self.whole_rows and self._known(name))
        ]
        if self.whole_rows:
            return kept
        return [*([] if self._key_is_prompt else ["_prompt"]), "_completion", *kept]

    def _known(self, name: str) -> bool:
        return self._key_is_prompt and name == self.roles.prompt

    def _slots(self, first: int, last: int) -> Iterator[pl.DataFrame]:
        """Slots `first` to `last` (exclusive), in order, as the table keeps them, some at a
        time.
        """
        with self._in_order():
            query = f"SELECT * FROM slots WHERE slot >= {first} AND slot < {last}"
            for batch in self.con.cursor().sql(query).to_arrow_reader(self._frame_rows):
                yield pl.DataFrame(pa.Table.from_batches([batch]))

    def _assemble(self, slots: pl.DataFrame, rows: pl.DataFrame, where: Where) -> pl.DataFrame:
        """The rows of output for `slots`; pairs of equal texts are left out and noted."""

        def take(column: str, side: str) -> pl.Series:
            return rows[column].gather(pl.Series(where(slots[side].to_numpy())))

        pairs = isinstance(self.plan, Pairs)
        if self.whole_rows:
            columns = [
                slots["_grp"] if self._known(name) else take(f"_keep{i}", "_pos")
                for i, name in enumerate(self.keep)
            ]
            columns += [
                slots["_score" if name == "_aggregated_score" else name]
                for name, _ in self._added()
            ]
        else:
            columns = [
                slots["_grp"]
                if self._key_is_prompt
                else take("_prompt", "_chosen" if pairs else "_pos")
            ]
            if pairs:
                columns += [take("_completion", "_chosen"), take("_completion", "_rejected")]
            else:
                columns += [take("_completion", "_pos")]
            told = {
                "pairs": ("_chosen_score", "_rejected_score"),
                "unpaired": ("_label", "_score"),
                "best_of": ("_score", "_rank"),
            }
            told["advantages"] = ("_score", "_advantage")
            columns += [slots[name] for name in told[self.plan.kind]]
            columns += (
                [slots["_adjusted_score"]]
                if isinstance(self.plan, BestOf) and self.plan.length_control
                else []
            )
            side = {"chosen": "_chosen", "rejected": "_rejected", "row": "_pos", "both": "_chosen"}
            columns += [
                take(f"_keep{self.keep.index(each.column)}", side[each.side]) for each in self.kept
            ]
        schema = self.schema()
        frame = pl.DataFrame(
            [
                column.alias(name).cast(dtype)
                for column, (name, dtype) in zip(columns, schema.items(), strict=True)
            ]
        )
        self._refuse_nulls(frame)
        if pairs:
            same = frame["chosen"] == frame["rejected"]
            if same.any():
                self._same_text += slots["slot"].filter(same).to_list()
                frame = frame.filter(~same)
            for each in (each for each in self.kept if each.side == "both"):
                other = (
                    take(f"_keep{self.keep.index(each.column)}", "_rejected")
                    .cast(frame.schema[each.name])
                    .filter(~same)
                )
                refuse_different(each.name, frame[each.name], other, self.dtypes[self.roles.prompt])
        return frame

    def _refuse_nulls(self, frame: pl.DataFrame) -> None:
        """A text that is null was not to be ranked: the statistics of a file say that its column
        has no nulls, and it has.
        """
        texts = (
            ("prompt", "chosen", "rejected")
            if isinstance(self.plan, Pairs)
            else ("prompt", "completion")
        )
        for name in (self.roles.prompt, self.roles.completion) if self.whole_rows else texts:
            if frame[name].null_count():
                raise BadInput(
                    f"{', '.join(dict.fromkeys(self.source.labels))}: the statistics of a file say that no {name} is null, and some are.",
                    hint="write the file anew with another writer.",
                )

    def _row_bytes(self) -> int:
        """The mean size of a row's texts that are gathered, from the first 20,000 rows."""
        sizes = ", ".join(
            f"coalesce(strlen({column}::VARCHAR), 0)" for column in self._columns_read()
        )
        ((width,),) = self.con.execute(
            f"SELECT avg(list_sum([{sizes}]::BIGINT[])) FROM (SELECT * FROM texts LIMIT 20000)"
        ).fetchall()
        return int(width or 0) + 32

    # -- report
    # -------------------------------------------------------------------------------------------------------------------------

    def report(self) -> PairReport:
        """Account for every row. Pairs of equal texts are known once `frames()` was exhausted; if
        it was not begun, that is done here.
        """
        self.rank()
        if isinstance(self.plan, Pairs):
            if not self._gathered:
                for _ in self.frames():
                    pass
            self.con.register(
                "_same",
                pl.DataFrame({"slot": self._same_text}, schema={"slot": pl.Int64}).to_arrow(),
            )
            same = "slot IN (SELECT slot FROM _same)" if self._same_text else "false"
            self.con.execute(
                f"CREATE OR REPLACE VIEW paired AS SELECT *, {same} AS _same_text FROM slots"
            )
        if self._stages is None:
            out = "slots" if isinstance(self.plan, BestOf) else "paired"
            (row,) = self.con.execute(f"FROM {sqlengine.report_call(self.plan, out)}").fetchall()
            told = PairReport.of_row(row)
            fitted = isinstance(self.plan, BestOf) and self.plan.length_control
            return replace(told, length=sqlengine.length_fit(self.con)) if fitted else told
        if isinstance(self.plan, Unpaired):
            return self._stages.label_report()
        if isinstance(self.plan, Advantage):
            return advantage_report(self._stages.judged, advantages(self.plan, self._stages.judged))
        if isinstance(self.plan, BestOf):
            picked = pl.DataFrame(self.con.sql("SELECT _pos FROM slots").to_arrow_table())
            return polars_picks.pick_report(self.plan, self._stages.judged, picked.lazy())
        paired = pl.DataFrame(
            self.con.sql(
                "SELECT _first, _chosen, _rejected, _same_text FROM paired"
            ).to_arrow_table()
        )
        return self._stages.pair_report(paired.lazy())

    def scale_told(self) -> Scale:
        """The scale, where a number of the plan is in its units."""
        if isinstance(self.plan, BestOf) and self.plan.pick == "rso":
            return Scale(*(self.score_range() or (None, None)))
        return self.scale

    def score_range(self) -> tuple[float, float] | None:
        """Smallest and largest score of a candidate, for hints."""
        if self._stages is not None:
            scores = (
                self._stages.candidates.filter(pl.col("_reason").is_null())
                .select(pl.col("_score"))
                .collect()["_score"]
            )
            row: tuple[float | None, float | None] = (scores.min(), scores.max())  # type: ignore[assignment]
        else:
            (row,) = self.con.execute(
                "SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL"
            ).fetchall()
        return None if row[0] is None or row[1] is None else (row[0], row[1])
