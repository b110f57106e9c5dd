"""One plan over one source, on our own DuckDB connection: rank narrow, then gather once."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, get_args
from urllib.parse import unquote

import polars as pl
import pyarrow as pa

from prefmill.connection import (
    MB,
    connect,
    lower_limit,
    memory_told,
    quote,
    ranking_share_of,
    release,
    share_of,
    threads_in,
)
from prefmill.disk.hidden import temporary
from prefmill.engines import frames, sql
from prefmill.engines.macros import install_used
from prefmill.engines.steps import Output, Step
from prefmill.errors import BadArgument, BadScore, ColumnMissing, PlanError, either
from prefmill.forks import refuse_fork
from prefmill.plans.feedback import FeedbackPlan
from prefmill.pools.stream import paths_of
from prefmill.progress import Progress, machine_bytes, silent
from prefmill.readers import Source, blamed_on, open_source
from prefmill.rules.explosion import EXPLOSION_HINT, refuse_hot_prompt
from prefmill.rules.limits import scale_of, scores_in
from prefmill.rules.rows import UNUSABLE, check_types, numbered
from prefmill.runs.job.assembly import assembly_of
from prefmill.runs.job.excluding import moved, rows_excluded
from prefmill.runs.job.gather import Fetch
from prefmill.runs.job.order import order_columns
from prefmill.shapes import sql as shapes_sql
from prefmill.shapes.shape import Variant
from prefmill.shapes.source import (
    Rowed,
    columns_of,
    is_plain,
    plain_names,
    record_told,
    reshaped,
    spelled,
    words_in,
)
from prefmill.table.fits import fits_files
from prefmill.table.json_values import JSON_FIELD
from prefmill.table.messages import is_json_text
from prefmill.table.report import PairReport
from prefmill.table.roles import NO_RECORDS, Inputs, OfRecords, RoleNames, named
from prefmill.table.thresholds import QUANTILES, Scale, Scores

if TYPE_CHECKING:
    pass

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
    temp_bytes: int | None
    without: Sequence[str]


@contextmanager
def opened(
    plan: FeedbackPlan,
    inputs: Inputs,
    *,
    roles: RoleNames | None = None,
    engine: Engine = "auto",
    keep: Sequence[str] = (),
    whole_rows: bool = False,
    trainer: bool = True,
    of_records: OfRecords = NO_RECORDS,
    parts: bool = False,
    each_vote: bool = False,
    stay: bool = False,
    apart: bool = False,
    ordered: bool = False,
    excluded: frozenset[str] = frozenset(),
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Iterator[Job]:
    """A `Job` over files; its temporary folder goes when the context ends.

    `each_vote`: votes of several judges stay rows of their own. `of_records`: what is known
    of the records that the input has the rows of. `parts`: the two columns that a prompt was joined
    of come along. `stay`: objects may stay where they are (`Source.stays`); then nobody but workers
    may ask the job for all rows. `apart`: small files stay
    files of their own. `ordered`: slots have the numbers that order them, `_o0` ... `excluded`: ids
    of pairs that do not come out.
    """

    words = words_in(plan.rows, roles or {})

    def needs(columns: Sequence[str]) -> Sequence[str] | None:
        if not is_plain(words, columns):
            return columns_of(words, columns)
        try:
            rows = plan.program(plan.roles(plain_names(words), columns, where="roles")).read
            return list(dict.fromkeys(rows.columns().values()))
        except (ColumnMissing, PlanError):  # said of all files together, or not at all
            return None

    source_and_home = opened_source(
        "run",
        inputs,
        needs=needs,
        named=spelled(words),
        in_place=plan.every_row,
        stay=stay,
        progress=progress,
        apart=apart or bool(words.file_as),
        **reading,
    )
    with source_and_home as (source, home):
        fits = fits_files(source.files)
        columns = source.columns.names
        wide = plan.wide_scores(words.named())
        rowed = reshaped(
            source,
            words,
            home=home,
            where="roles",
            attempt=lambda names: plan.roles(names, columns, where="roles", fits=fits),
            score=not wide,
            extra=[*wide, *keep],
            check_later=True,
            memory_bytes=reading.get("memory_bytes"),
            threads=reading.get("threads"),
        )
        if rowed.shape is not None:
            inside, votes = rowed.shape.own_group, rowed.shape.votes and not each_vote
            plan = plan.over_records(inside=inside, votes=votes, where="run")
            plan = replace(plan, rows=None)  # from here on rows are read as they are
        with record_told(rowed.source, rowed.shape, home, "run"):
            yield Job(
                plan,
                rowed,
                keep,
                home,
                engine,
                progress or silent,
                whole_rows=whole_rows,
                trainer=trainer,
                of_records=(rowed.of_records or of_records).for_layout(parts),
                memory_bytes=reading.get("memory_bytes"),
                threads=reading.get("threads"),
                ordered=ordered,
                excluded=excluded,
            )


@contextmanager
def opened_source(
    where: str,
    inputs: Inputs,
    *,
    needs: Callable[[Sequence[str]], Collection[str] | None] = frozenset,
    named: Collection[str] = (),
    in_place: bool = False,
    stay: bool = False,
    apart: bool = False,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> Iterator[tuple[Source, Path]]:
    """`inputs` as one table of files, and a temporary folder that goes when the context ends.

    In here an engine's errors about memory, or about a file, say what to do.
    """
    refuse_fork(where)
    tell = progress or silent
    rejects, memory_bytes = reading.get("rejects"), reading.get("memory_bytes")
    with (
        temporary(reading.get("temp_dir"), reading.get("temp_bytes")) as home,
        memory_told(where, memory_bytes, home),
    ):
        source = open_source(
            _paths(inputs, home),
            temp_dir=home,
            encoding=reading.get("encoding"),
            delimiter=reading.get("delimiter"),
            rejects=Path(rejects) if rejects else None,
            memory_bytes=memory_bytes,
            threads=reading.get("threads"),
            progress=lambda phase: tell(phase, None),
            needs=needs,
            named=named,
            without=[*reading.get("without", ()), *([str(rejects)] if rejects else [])],
            in_place=in_place,
            stay=stay,
            apart=apart,
        )
        with blamed_on(source):
            yield source, home


def scalar(name: str) -> str:
    """The text of a JSON scalar as a score; the same as in `prefmill.table.numbers`."""
    text = f"{quote(name)}.{quote(JSON_FIELD)}"
    return f"CASE {text} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE trim({text}, '\"') END"


def _paths(inputs: Inputs, home: Path) -> list[str]:
    """`inputs` as paths; what is not in files goes to files in `home`."""
    if isinstance(inputs, str | Path):
        return [str(inputs)]
    if isinstance(inputs, list | tuple) and all(isinstance(each, str | Path) for each in inputs):
        return [str(each) for each in inputs]
    return paths_of(inputs, home)


class Job:
    """One plan over one source: ranks on first use, then gathers.

    The report is ready when all frames have been taken.
    """

    def __init__(
        self,
        plan: FeedbackPlan,
        rowed: Rowed,
        keep: Sequence[str],
        home: Path,
        engine: Engine,
        tell: Progress,
        *,
        whole_rows: bool = False,
        trainer: bool = True,
        of_records: OfRecords,
        memory_bytes: int | None,
        threads: int | None,
        ordered: bool = False,
        excluded: frozenset[str] = frozenset(),
    ) -> None:
        source = rowed.source
        self.plan, self.source, self.home, self.tell = plan, source, home, tell
        self.rowed = rowed
        #: Slots have the numbers that order them, too.
        self._ordered = ordered
        fits = fits_files(source.files) if rowed.shape is None else None
        self.roles = plan.roles(rowed.names, source.columns.names, where="roles", fits=fits)
        self._ask()
        # Arrow imports pandas, where it is installed, for `empty_table()`, `pa.array` and
        # `pa.table`: a fifth of a second and 45 MB.
        self.dtypes = pl.DataFrame(pa.Table.from_batches([], schema=source.columns)).schema
        self.scalars = {
            name: scalar(name) for name, dtype in self.dtypes.items() if is_json_text(dtype)
        }
        source.refuse_mixed(self.roles, where="roles")
        check_types(self.program.read, self.dtypes, where="roles")
        self.engine = _engine_of(engine, source)
        # Where the prompt is the group key, ranking has read it already: it comes with the slots,
        # and the scan decodes a column less. Where every row is wanted the scan reads prompts
        # anyway, in its own order.
        output = self.output
        key_is_prompt = not self.roles.group and output.keyed and not plan.every_row
        self.assembly = assembly_of(
            output,
            rowed,
            self.roles,
            self.dtypes,
            keep=keep,
            whole_rows=whole_rows,
            trainer=trainer,
            of_records=of_records,
            aggregated=plan.aggregate != "none",
            key_is_prompt=self.engine == "duckdb" and key_is_prompt,
            excluded=excluded,
        )
        # Picks are few and ranked over many: small parts and frames keep a run of them within half
        # a gigabyte, and cost it nothing.
        self._part_bytes, self._frame_rows = _PART_BYTES, _FRAME_ROWS
        if output.few:
            self._part_bytes = min(_PART_BYTES, 16 * MB)
            self._frame_rows = max(1, _FRAME_ROWS // 3)
        # About 300 MB are Python and its libraries; the rest is shared between DuckDB's buffers,
        # the parts of text and the encoder.
        share = None
        if memory_bytes:
            self._part_bytes = min(self._part_bytes, (memory_bytes - 300 * MB) // 8)
            share = ranking_share_of(memory_bytes)
            # Of two threads each would have too little.
            threads = threads or threads_in(share_of(memory_bytes))
        self.con = connect(
            temp_dir=home,
            reads=source.reads,
            memory_bytes=share,
            threads=threads,
            remote=source.remote,
        )
        more = [step for step in (output.report, output.scale, output.proposals) if step]
        queries = [query for _, _, query in sql.relations(self.program)]
        install_used(self.con, [*queries, *map(sql.call, more)])
        self._create_views()
        self._ranked = self._gathered = False
        self._checked = not any(len(each.lists) > 1 for each in self._variants)
        #: Of all candidates, where thresholds waited for it.
        self.scale = Scale(None, None)
        self._same_text: list[int] = []
        self._excluded: list[int] = []
        #: The ids by which pairs were left out.
        self.ids_met: set[str] = set()
        self._relations: frames.Relations | None = None
        self._account: PairReport | None = None
        self.memory_bytes = memory_bytes

    @property
    def _variants(self) -> tuple[Variant, ...]:
        return self.rowed.shape.variants if self.rowed.shape else ()

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of how the input was read."""
        shape = self.rowed.shape
        read = [f"read as: {shape.words.options()}", *self.rowed.lines] if shape else []
        return (*self.source.notes, *read)

    def _ask(self) -> None:
        """What the plan, as it is now, asks of an engine."""
        self.program = self.plan.program(self.roles)

    @property
    def output(self) -> Output:
        """What the rows of the last step become."""
        return self.program.output

    # Rank

    def _create_views(self) -> None:
        relation, position = self.source.relation, self.source.position
        rows = sql.numbered(self.program.read, relation, position, self.scalars)
        self._make("numbered", rows, table=False)
        if self.rowed.checked:
            relation = f"({self.rowed.checked})"
        self._make("texts", self.assembly.texts(relation, position), table=False)

    def rank(self) -> None:
        """Make the table `slots`: what becomes row 0, 1, 2 ... of the output."""
        if self._ranked:
            return
        self._ranked = True
        self.tell("ranking", None)
        self._make_ranks()
        self._hand_back()

    def _hand_back(self) -> None:
        """Rows of records are made of whole records, again by each query: that takes much, and
        DuckDB keeps what it has freed.
        """
        if self.rowed.shape is not None:
            release(self.con)

    def _make_ranks(self) -> None:
        done = self._narrow()
        if self.engine == "polars":
            self._rank_in_polars()
            return
        self._settle(done)
        while steps := [step for step in self.program.steps if step.name not in done]:
            self._make_step(steps[0])
            done.append(steps[0].name)
            self._settle(done)
        if step := self.output.proposals:
            ((proposals, largest),) = self.con.execute(sql.call(step)).fetchall()
            refuse_explosion(step, proposals, largest)
        rows = self.output.step
        if self.output.present:
            rows = f"{rows} WHERE {self.output.present} IS NOT NULL"
        columns = self.assembly.slot_columns()
        if self._ordered:
            columns += order_columns(self.output.order)
        self._make_slots(", ".join(columns), rows)
        for step in self.program.steps:
            for column in step.spare:
                self.con.execute(f"ALTER TABLE {step.name} DROP COLUMN {column}")
            if step.spare:
                release(self.con)

    def narrow(self) -> list[str]:
        """Make the relations up to `candidates`, of records whose lists are in order."""
        self._check_lists()
        return self._narrow()

    def _narrow(self) -> list[str]:
        """Make the relations up to `candidates`; their names."""
        assert not self.source.stays, "the rows of a sample are not those of the input"
        done = []
        for step, name, query in sql.relations(self.program, self.never_null):
            table = step is not None and step.table and self.engine == "duckdb"
            self._make(name, query, table=table)
            # Before a table is made, whose macro would raise without a hint.
            if name == "judged" and self.plan.on_invalid == "raise":
                self._refuse_unusable()
            done.append(name)
            if name == "candidates":
                break
        return done

    @property
    def records(self) -> Source:
        """The files as they are, also where their records become rows."""
        return self.rowed.records or self.source

    @property
    def never_null(self) -> frozenset[str]:
        """Columns that need no look for nulls."""
        return frozenset(self.source.columns.names) - self.source.nulls

    def _make_step(self, step: Step) -> None:
        query = sql.call(step)
        if step.spare and not step.drawn and not self.assembly.key_is_prompt:
            nothing = ", ".join(f"NULL AS {column}" for column in step.spare)
            query = f"SELECT * REPLACE ({nothing}) FROM ({query})"
        self._make(step.name, query, table=step.table)
        if step.release:
            release(self.con)

    def _settle(self, done: Sequence[str]) -> None:
        """Put numbers for thresholds that wait for the scores, as soon as these are there."""
        scale = self.output.scale
        if not self.plan.waits or scale is None or scale.over[0] not in done:
            return
        self.scale = Scale(*self.con.execute(sql.call(scale)).fetchall()[0])
        self.plan = self.settled(self.plan)
        self._ask()

    def settled(self, plan: FeedbackPlan) -> FeedbackPlan:
        """`plan` with numbers for its thresholds."""
        return plan.settled(self.scores_for(plan))

    def scores_for(self, plan: FeedbackPlan) -> Scores:
        """What the thresholds of `plan` ask of the scores of all candidates."""
        if self._relations is not None:
            return scores_in(frames.scores(self._relations["candidates"]))
        at: dict[float, float] = {}
        if step := plan.output(self.roles).quantiles:
            query = sql.call(step)
            install_used(self.con, [query])
            (found,) = self.con.execute(query).fetchall()
            shares = plan.quantiles
            pairs = zip(QUANTILES, found, strict=True)
            at = {shares[name]: score for name, score in pairs if name in shares}
        scale = self.scale
        if scale.low is None:  # nothing waited for it so far
            scale = Scale(*(self.score_range() or (None, None)))
        return Scores(scale, self._only, lambda quantile: at[quantile.share])

    def count(self, step: Step) -> int:
        """How many rows `step` gives, over what was ranked."""
        if self._relations is not None:
            rows = frames.run(step, self._relations).select(pl.len()).collect()
            return int(rows.item())
        return int(self.con.sql(sql.call(step)).count("*").fetchall()[0][0])

    def contrast(self) -> int:
        """How many groups have answers with different scores."""
        if self._relations is not None:
            ends = pl.col("_scores").list
            differ = self._relations["groups"].filter(ends.first() != ends.last())
            return int(differ.select(pl.len()).collect().item())
        query = (
            "SELECT count(*) FROM groups"
            " WHERE pref_key_score(_ranks[1]) <> pref_key_score(_ranks[-1])"
        )
        return int(self.con.execute(query).fetchall()[0][0])

    def _only(self, some: Sequence[float]) -> bool:
        """Whether every score of a candidate is one of these."""
        listed = ", ".join(f"{score!r}::DOUBLE" for score in some)
        query = f"SELECT bool_and(_score IN ({listed})) FROM candidates WHERE _reason IS NULL"
        return bool(self.con.execute(query).fetchall()[0][0])

    def _make(self, name: str, query: str, *, table: bool) -> None:
        kind = "TABLE" if table else "VIEW"
        self.con.execute(f"CREATE {kind} {name} AS {query}")

    @contextmanager
    def _in_order(self) -> Iterator[None]:
        """Statements here keep the order of rows, which `connect` turned off for speed."""
        self.con.execute("SET preserve_insertion_order = true")
        yield
        self.con.execute("SET preserve_insertion_order = false")

    def _make_slots(self, columns: str, rows: str) -> None:
        """Slots in output order; the table keeps it, so that no part has to be sorted again."""
        order = (f"{n[1:]} DESC" if n[0] == "-" else n for n in self.output.order)
        ordered = f"SELECT {columns} FROM {rows} ORDER BY {', '.join(order)}"
        with self._in_order():
            slots = f"SELECT row_number() OVER () - 1 AS slot, * FROM ({ordered})"
            self._make("slots", slots, table=True)

    def scan(self) -> pl.LazyFrame:
        """The source as one lazy frame, columns united by name, with the position of each row as
        `_POSITION`.
        """
        if self.rowed.shape is not None:
            return self._scan_rows()
        starts = list(accumulate(self.source.file_rows[:-1], initial=0))
        folders = (part for file in self.source.files for part in Path(file).parts if "=" in part)
        names = {unquote(part.split("=")[0]) for part in folders}
        hive: dict[str, Any] = {"hive_partitioning": self.source.hive}
        if self.source.hive:
            hive["hive_schema"] = {name: pl.String for name in self.dtypes if name in names}
        scans = [
            pl.scan_parquet(
                file, glob=False, row_index_name=_POSITION, row_index_offset=start, **hive
            )
            for file, start in zip(self.source.files, starts, strict=True)
        ]
        scan = scans[0]
        if len(scans) > 1:
            scan = pl.concat(scans, how="diagonal_relaxed")
        return scan.cast({_POSITION: pl.Int64})

    def _scan_rows(self) -> pl.LazyFrame:
        """The columns that are ranked, of records that were made rows."""
        names = dict.fromkeys(self.program.read.columns().values())
        columns = ", ".join([f"{self.source.position} AS {_POSITION}", *map(quote, names)])
        rows = self.con.sql(f"SELECT {columns} FROM {self.source.relation}")
        return pl.DataFrame(rows.to_arrow_table()).lazy()

    def _rank_in_polars(self) -> None:
        rows = numbered(self.program.read, self.scan(), position=_POSITION)
        self._relations = frames.relations(self.program, rows, self.never_null)
        if self.plan.waits:
            scores = self.scores_for(self.plan)
            self.scale = scores.scale
            self.plan = self.plan.settled(scores)
            self._ask()
            self._relations = frames.relations(self.program, rows, self.never_null)
        ranked = (
            frames.last(self.output, self._relations).select(self.assembly.slot_columns()).collect()
        )
        self.con.register("ranked", ranked.with_row_index("slot").to_arrow())
        with self._in_order():
            self._make("slots", "SELECT * FROM ranked", table=True)
        self.con.unregister("ranked")

    def _refuse_unusable(self) -> None:
        ((reason, position),) = self.con.execute(
            "SELECT arg_min(_reason, _pos), min(_pos)"
            f" FROM pref_rows('judged') WHERE _reason IN {UNUSABLE}"
        ).fetchall()
        if not reason:
            return
        if reason == "bad_score":
            reason = " ".join([reason, *self.bad_scores()[:1]])
        raise BadScore(
            f"run: row {position} cannot be used; got {reason}, and on_invalid is raise.",
            hint="on_invalid='drop' counts such rows.",
        )

    def bad_scores(self) -> tuple[str, ...]:
        """The first three different texts that are no score, as Python writes them, cut to size."""
        columns = [f"_score{place}" for place in range(len(self.program.read.scores))]
        texts = " UNION ALL ".join(
            f"SELECT {name}::VARCHAR AS word, _pos FROM numbered"
            f" WHERE {name} IS NOT NULL AND pref_number({name}) IS NULL"
            for name in columns
        )
        query = f"SELECT word FROM ({texts}) GROUP BY word ORDER BY min(_pos) LIMIT 3"
        words = [word for (word,) in self.con.execute(query).fetchall()]
        return tuple(map(word_told, words))

    def explain(self) -> str:
        """The query that ranks and gathers: SQL of the macros, or the optimised Polars plan."""
        columns = named(self.roles)
        if (shape := self.rowed.shape) is not None:
            rows = shapes_sql.rows(shape, shapes_sql.records(shape, "feedback"))
            return f"CREATE TEMP VIEW rows AS\n{rows};\n\n{self.plan.sql('rows', **columns)}"
        if self.engine == "polars":
            return self.plan.lazy(self.scan(), **columns).explain().replace(str(self.home), "TEMP")
        return self.plan.sql("feedback", **columns)

    # Gather

    @property
    def keep(self) -> Sequence[str]:
        """The columns of the input that come along, as `_keep0`, `_keep1` ... of `texts`."""
        return self.assembly.keep

    def frames(self) -> Iterator[pl.DataFrame]:
        """The output, in order, as frames of the assembly's schema."""
        for frame, _ in self.frames_and_slots():
            yield frame

    def frames_and_slots(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        """`frames`, each with the slots of its rows."""
        self.rank()
        self.tell("reading texts", None)
        yield from self._gathered_frames()
        self._check_lists()
        self._gathered = True

    def _gathered_frames(self) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
        ((slots,),) = self.con.execute("SELECT count(*) FROM slots").fetchall()
        sides = tuple(self.output.texts.values())
        fetch = Fetch(
            con=self.con.cursor(),
            source="texts",
            columns=self.assembly.columns_read(),
            wanted="slots",
            sides=sides,
            slots=slots,
            rows=self.source.positions,
            text_bytes=slots * len(sides) * self.row_bytes(),
            part_bytes=self._part_bytes,
            spill=self.home / "texts.arrow",
            of_records=self.rowed.shape is not None,
        )
        done = 0
        for first, last, rows, where in fetch.parts():
            if not done and self.memory_bytes:
                # The encoder, and parts of text, need what ranking had.
                lower_limit(self.con, share_of(self.memory_bytes))
            for numbers in self._slots(first, last):
                frame, why = self.assembly.frame(numbers, rows, where)
                height = numbers.height
                if why is not None:
                    self._left_out(numbers["slot"], why)
                    numbers = numbers.filter(why.is_null())
                yield frame, numbers
                done += height
                self.tell("writing", done / slots)
        if slots:
            self._checked = True

    def _left_out(self, slots: pl.Series, why: pl.Series) -> None:
        """Remember the pairs that have no row, and `why` (`Assembly.frame`)."""
        self._same_text += slots.filter(why == "").to_list()
        excluded = why.fill_null("") != ""
        self._excluded += slots.filter(excluded).to_list()
        self.ids_met.update(*(ids.split() for ids in why.filter(excluded)))

    @property
    def pairs_excluded(self) -> int:
        """How many pairs a file of ids left out, once all frames were taken."""
        return len(self._excluded)

    def _check_lists(self) -> None:
        """Look whether lists have equal lengths, if texts were not read: that is a look."""
        if self._checked:
            return
        self._checked = True
        self.con.execute("SELECT count(_pos) FROM texts").fetchall()

    def _slots(self, first: int, last: int) -> Iterator[pl.DataFrame]:
        """Slots `first` to `last` (exclusive), in order, as the table keeps them, some at a
        time.
        """
        with self._in_order():
            query = f"SELECT * FROM slots WHERE slot >= {first} AND slot < {last}"
            for batch in self.con.cursor().sql(query).to_arrow_reader(self._frame_rows):
                yield pl.DataFrame(pa.Table.from_batches([batch]))

    def row_bytes(self) -> int:
        """The mean size of a row's texts that are gathered, from the first 20,000 rows."""
        return self._mean_bytes("texts", self.assembly.columns_read())

    def narrow_bytes(self) -> int:
        """The mean size of what is kept of a row to rank it, from the first 20,000 rows."""
        read = self.program.read
        columns = list(read.columns())
        if not read.merged:
            columns.remove("_completion")
        return self._mean_bytes("numbered", columns)

    def _mean_bytes(self, view: str, columns: Sequence[str]) -> int:
        sizes = ", ".join(f"coalesce(strlen({column}::VARCHAR), 0)" for column in columns)
        ((width,),) = self.con.execute(
            f"SELECT avg(list_sum([{sizes}]::BIGINT[])) FROM (SELECT * FROM {view} LIMIT 20000)"
        ).fetchall()
        self._hand_back()
        return int(width or 0) + 32

    # Report

    def report(self) -> PairReport:
        """Account for every row.

        Pairs of equal texts are known once `frames()` was exhausted; if it was not begun, that is
        done here.
        """
        if self._account is None:
            self._account = self._accounted()
        return self._account

    def accounted(self, account: PairReport) -> None:
        """Every row is accounted for: `runs/job/together.py` ranked and fetched them."""
        self._account, self.engine = account, "polars"

    def _accounted(self) -> PairReport:
        self.rank()
        self._check_lists()
        output = self.output
        views = {}
        if output.paired:
            if not self._gathered:
                for _ in self.frames():
                    pass
            gone = {"slot": [*self._same_text, *self._excluded]}
            same = pl.DataFrame(gone, schema={"slot": pl.Int64})
            self.con.register("_same", same.to_arrow())
            is_same = "false"
            if same.height:
                is_same = "slot IN (SELECT slot FROM _same)"
            view = f"SELECT *, {is_same} AS _same_text FROM slots"
            self.con.execute(f"CREATE OR REPLACE VIEW paired AS {view}")
            views["told"] = "paired"
        elif not output.present:  # every row of the last step has a slot
            views[output.step] = "slots"
        if self._relations is not None:
            tables = {name: self.con.sql(f"FROM {view}") for name, view in views.items()}
            read = {n: pl.DataFrame(t.to_arrow_table()).lazy() for n, t in tables.items()}
            done = self._with_excluded(frames.account(output, self._relations | read))
            return replace(done, records=self.rowed.report())
        (row,) = self.con.execute(sql.call(output.report, views)).fetchall()
        account = self._with_excluded(PairReport.of_row(row))
        account = replace(account, records=self.rowed.report())
        if not output.length:
            return account
        return replace(account, length=sql.length_fit(self.con, self.program))

    def _with_excluded(self, account: PairReport) -> PairReport:
        """`account`, where rows whose pairs were excluded have that reason."""
        if not self._excluded:
            return account
        groups = "groups"
        if self._relations is not None:
            narrow = self._relations["groups"].select("_first", "_votes").collect()
            self.con.register(groups := "_groups", narrow.to_arrow())
        excluded = pl.DataFrame({"slot": self._excluded}, schema={"slot": pl.Int64})
        self.con.register("_gone", excluded.to_arrow())
        told = "(SELECT *, slot IN (SELECT slot FROM _gone) AS _excluded FROM paired)"
        rows = rows_excluded(self.con, told, groups)
        return replace(account, dropped=moved(account.dropped, rows))

    def scale_told(self) -> Scale:
        """The scale, where a number of the plan is in its units."""
        if not self.plan.in_units:
            return self.scale
        return Scale(*(self.score_range() or (None, None)))

    def score_range(self) -> tuple[float, float] | None:
        """Smallest and largest score of a candidate, for hints."""
        if self._relations is not None:
            scale = scale_of(frames.scores(self._relations["candidates"]))
        else:
            query = "SELECT min(_score), max(_score) FROM candidates WHERE _reason IS NULL"
            scale = Scale(*self.con.execute(query).fetchall()[0])
        return None if scale.low is None or scale.high is None else (scale.low, scale.high)


def word_told(word: str) -> str:
    """A text that is no score, as Python writes it, cut to size."""
    return repr(word if len(word) <= _WORD else f"{word[:_WORD]}…")


def refuse_explosion(step: Step, proposals: int, largest: int) -> None:
    """Raise `BadArgument` where more pairs are proposed than anybody can want.

    `largest` are the answers of the largest prompt: it proposes the most.
    """
    bounds: Any = step.args
    # First what one prompt proposes: its hint says more.
    refuse_hot_prompt("run", largest or 0, bounds["top_k"], bounds["bottom_k"])
    if proposals > _MOST_PROPOSALS:
        raise BadArgument(
            f"run: {step.name} would propose {proposals:,} pairs"
            f" (largest prompt: {largest:,} answers);"
            f" expected at most {_MOST_PROPOSALS:,}.",
            hint=EXPLOSION_HINT,
        )


def _engine_of(engine: Engine, source: Source) -> Literal["polars", "duckdb"]:
    if engine not in get_args(Engine):
        raise BadArgument(f"run: no engine {engine!r}; expected {either(get_args(Engine))}.")
    reserved = ("file_row_number", "file_index", _POSITION)
    taken = [name for name in source.columns.names if name.lower() in reserved]
    if taken:
        raise BadArgument(
            f"run: the column name {taken[0]!r} has a meaning of its own to the engines.",
            hint="rename that column.",
        )
    if engine == "polars" and source.remote:
        raise BadArgument(
            "run: the polars engine reads local files; got a URL.", hint="use --engine duckdb."
        )
    return "duckdb" if engine == "auto" else engine
