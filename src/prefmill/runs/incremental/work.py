"""What an incremental run computes, and how it appears.

    inputs ──index──▶ groups whose rows differ ──▶ their rows ──the same steps──▶ their output
    old output ──▶ without the rows of these groups ──▶ merged with the new ones, in order

Where one prompt depends on others, or nothing is known of what stands, all is computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path

import polars as pl

from prefmill.connection import literal
from prefmill.disk.targets import staging
from prefmill.disk.whole import linked
from prefmill.errors import ThresholdsUnfit
from prefmill.plans.expect import Counted
from prefmill.runs.account.expecting import checked, counted
from prefmill.runs.account.report import RunReport, run_report
from prefmill.runs.cluster.identity import identity_of
from prefmill.runs.incremental import accounts, affected, scores
from prefmill.runs.incremental.affected import Plan, index_of
from prefmill.runs.incremental.asked import Asked, everything
from prefmill.runs.incremental.merge import Moves, OldPart, in_order, merge, old_parts
from prefmill.runs.incremental.output import ID, Writer, refuse_taken, sources, with_ids
from prefmill.runs.incremental.publication import Publication
from prefmill.runs.incremental.rows import Files, connection, positions_of, write_index, write_rows
from prefmill.runs.incremental.state import InputFile, State, fits_of, fresh
from prefmill.runs.incremental.subset import Changed, rows_at, subset
from prefmill.runs.job.job import Job
from prefmill.runs.job.order import numbers
from prefmill.runs.records.recording import Recording
from prefmill.shown import amount
from prefmill.table.report import PairReport
from prefmill.table.thresholds import Scale
from prefmill.writers.layouts import convert, output_schema
from prefmill.writers.sinks import sink_maker

#: Rows of a part of the output, and what share of the rows is as good as all.
PART_ROWS = 50_000
MOST = 0.4


class Incremental:
    """One incremental run: `main` has read what the input is, `record` what stands."""

    def __init__(
        self, asked: Asked, main: Job, make: Callable[..., Job], record: Recording
    ) -> None:
        self.asked, self.main, self.record, self._make = asked, main, record, make
        unwritten, columns = main.assembly.unwritten, main.assembly.schema()
        given = pl.Schema({name: kind for name, kind in columns.items() if name not in unwritten})
        self.lay_out = partial(convert, **asked.layout)
        laid_out = output_schema(given, **asked.layout)
        refuse_taken(laid_out)
        self.schema = pl.Schema({**laid_out, ID: pl.String()})
        self.sink = sink_maker("parquet", "uncompressed", self.schema)
        self.order = main.output.order
        memory, threads = asked.reading.get("memory_bytes"), asked.reading.get("threads")
        self.con = connection(main, memory_bytes=memory, threads=threads)
        self.files = Files(main, self.con)
        told = identity_of(main, asked.reading)["files"]
        self.known = [(str(name), int(rows), list(known)) for name, rows, *known in told]
        self.home = main.home / "incremental"
        self.home.mkdir()
        #: The files of the input with their indexes, and where these are, once they are made.
        self._known_rows: tuple[list[InputFile], dict[str, Path]] | None = None
        #: Of the scores that the thresholds waited for.
        self._scale = Scale(None, None)
        #: Of the rows that are ranked again, those whose score is no number.
        self._ranked_bad = 0
        self.notes: list[str] = []
        self.accounts: list[str] = []

    def run(self) -> RunReport:
        """Publish the output, the change file, the record and the state; the report."""
        asked = self.asked
        with ExitStack() as stack:
            stage = stack.enter_context(staging([asked.target, asked.changes], where="run"))
            writer = Writer(stage.path(asked.target), asked.parts, self.sink, PART_ROWS, self.home)
            stack.enter_context(writer.closing())
            state = State.read(self.record)
            made = None
            if state is not None:
                made = self._part(state, writer)
            if made is None:
                made = self._all(state, writer)
            report, files, before, now = made
            checked(asked.plan, report.counted)
            if not (report.pairs_out or asked.allow_empty):
                return replace(report, output={})
            publication = Publication(
                asked, self.main, self.record, self.con, self.schema, self.home
            )
            return publication.publish(
                stage, writer, report, files, self.accounts, before=before, now=now
            )

    # All

    def _all(
        self, state: State | None, writer: Writer
    ) -> tuple[RunReport, list[InputFile], str | None, str]:
        """Compute everything."""
        job = self.main
        scored = ""
        if self._known_rows is None:
            scored = fresh("scores") if self._keeps_scores else ""
            self._known_rows = self._index_of_all(scored)
        files, homes = self._known_rows
        there = index_of(dict(enumerate(files)), homes, "row, class, text")
        index = positions_of(self.files, f"({there})")
        for rows in with_ids(job, self.con, index, self.lay_out):
            writer.write(rows)
        writer.close(self._nothing())
        if scored:
            scores.write(job, self.home / scored)
        before = None
        if state is not None:
            before = sources([self._old(part.name) for part in state.parts])
        now = sources([writer.path(part.name) for part in writer.parts])
        report = run_report(
            self.asked.plan,
            job,
            job,
            None,
            figures=counted(self.asked.plan, job),
            engine=job.engine,
            started=self.asked.started,
            plan_hash=self.asked.plan_hash,
            notes=[f"incremental: {why}, so all were" for why in self.notes]
            or [f"incremental: all {job.source.rows:,} rows were read"],
        )
        if not everything(self.asked.plan, job):
            self._account(job, index, index)
        return report, files, before, now

    def _index_of_all(self, scored: str) -> tuple[list[InputFile], dict[str, Path]]:
        """The files of now with a new index of all."""
        name, starts = fresh("rows"), self.files.starts
        self.main.tell("indexing", None)
        write_index(self.files, self.files.relation(range(len(starts))), self.home / name)
        files = [
            InputFile(label, rows, known, name, number, starts[number], scored)
            for number, (label, rows, known) in enumerate(self.known)
        ]
        return files, {name: self.home / name}

    @property
    def _keeps_scores(self) -> bool:
        """Whether the next run will ask for the scores of all rows."""
        return self.asked.plan.waits and not everything(self.asked.plan, self.main)

    def _account(self, job: Job, index: str, classes: str) -> None:
        """Keep what became of the rows of `job`, by class."""
        self.accounts.append(fresh("accounts"))
        accounts.write(job, index, classes, self.home / self.accounts[-1])

    def _nothing(self) -> tuple[pl.DataFrame, pl.DataFrame]:
        keys = {"class": pl.UInt64, **dict.fromkeys(numbers(self.order), pl.Int64)}
        return pl.DataFrame(schema=self.schema), pl.DataFrame(schema=keys)

    def _old(self, name: str) -> Path:
        parts = self.asked.parts
        return self.asked.target / name if parts else self.asked.target

    # What changed

    def _part(
        self, state: State, writer: Writer
    ) -> tuple[RunReport, list[InputFile], str | None, str] | None:
        """Compute what changed; None where all has to be computed."""
        plan = self._fitting(state)
        if plan is None:
            return None
        files, homes = self._indexed(state, plan)
        # The job's own connection opens what lies in its folder.
        for name in {file.index for file in files if file.index in state.homes}:
            linked(homes[name], self.home / name)
            homes[name] = self.home / name
        self._known_rows = files, homes
        if not self._settle(state, files, homes):
            return None
        changed = self._changed(state, plan, files, homes)
        if changed is None:
            return None
        parts = self._old_parts(state, plan)
        if parts is None:
            return None
        lost = accounts.of_affected(
            self.con,
            [homes[name] for name in state.accounts],
            "SELECT class FROM kept UNION ALL SELECT class FROM was",
            [homes[part.slots] for part in state.parts],
        )
        new, account = self._ranked(changed.path, state)
        gone = sources([self._merged(writer, state, parts, new)])
        told = (self.record.previous or {})["report"]
        account = accounts.of_all(self.con, told, lost=lost, new=account, removed=gone)
        note = (
            f"incremental: {amount(changed.groups, 'group')} changed; {changed.rows:,} of"
            f" {self.main.source.rows:,} rows were read,"
            f" and {changed.unread} of {len(files)} files were not"
        )
        return self._told(account, [note]), files, gone, sources([new[0]])

    def _fitting(self, state: State) -> Plan | None:
        """What becomes of the files of a state; None, with a note, where it does not fit."""
        if why := everything(self.asked.plan, self.main):
            self.notes.append(why)
            return None
        if self.record.differences(("inputs",)):  # overwritten
            self.notes.append("the plan or its options changed")
            return None
        if state.fits != fits_of(self.main, state.fits["thresholds"], self.schema):
            self.notes.append("columns or versions changed")
            return None
        plan = affected.compared(state, self.known)
        if plan is None or not plan.in_order:
            self.notes.append("the files have another order, or one is there twice")
            return None
        return plan

    def _indexed(self, state: State, plan: Plan) -> tuple[list[InputFile], dict[str, Path]]:
        """The files of now with their indexes: those of new and changed files are made."""
        homes = dict(state.homes)
        index, scored = fresh("rows"), fresh("scores") if self._keeps_scores else ""
        if plan.fresh:
            homes |= {name: self.home / name for name in (index, scored) if name}
            come = self.home / "come.parquet"
            write_rows(self.con, self.files.relation(plan.fresh), come)
            write_index(self.files, f"FROM read_parquet({literal(str(come))})", homes[index])
            if scored:
                job = self._make(rows_at(come, self.main), self.home.name)
                job.narrow()
                scores.write(job, homes[scored])
        was = {new: old for old, new in plan.kept.items()}
        files = []
        for number, (name, rows, known) in enumerate(self.known):
            if number in was:
                files.append(replace(state.files[was[number]], known=known))
            else:
                first = self.files.starts[number]
                files.append(InputFile(name, rows, known, index, number, first, scored))
        return files, homes

    def _settle(self, state: State, files: Sequence[InputFile], homes: Mapping[str, Path]) -> bool:
        """Set the thresholds that wait for the scores; False, with a note, where others come out.

        Raises `ThresholdsUnfit`.
        """
        self._settled = self.main.plan
        if self._settled.waits:
            try:
                self._settled, self._scale = scores.settled(self._settled, self.con, files, homes)
            except ThresholdsUnfit:
                # Ranked, all rows are refused the same way, and can be counted for the hint.
                self.main.rank()
                raise
        if state.fits != fits_of(self.main, self._settled.thresholds, self.schema):
            self.notes.append("thresholds changed")
            return False
        return True

    def _changed(
        self, state: State, plan: Plan, files: list[InputFile], homes: Mapping[str, Path]
    ) -> Changed | None:
        """The rows of groups that changed; None, with a note, where they are as good as all."""
        before = {
            plan.same.get(old, -1 - old): file
            for old, file in enumerate(state.files)
            if old not in plan.kept
        }
        columns = "row, class, cells"
        groups = affected.find(
            self.con,
            index_of(before, homes, columns),
            index_of({n: files[n] for n in plan.fresh}, homes, columns),
        )
        most = MOST * max(1, self.main.source.rows)
        path, rows, unread = subset(
            self.files, self.con, files, homes, plan, home=self.home, most=most
        )
        if rows > most:
            self.notes.append(f"{amount(groups, 'group')} with {amount(rows, 'row')} changed")
            return None
        return Changed(path, groups, rows, unread)

    def _old_parts(self, state: State, plan: Plan) -> list[OldPart] | None:
        """What stays of the old output; None, with a note, where its order is another one now."""
        stayed = pl.DataFrame(self.con.sql("FROM stayed").to_arrow_table())
        moves = Moves(state, plan, self.main.source.file_rows, stayed)
        classes = pl.DataFrame(self.con.sql("FROM affected").to_arrow_table())["class"]
        parts = old_parts(state, self.order, classes, moves)
        if not in_order(parts, self.order):
            self.notes.append("the order of the rows changed")
            return None
        return parts

    def _ranked(self, path: Path, state: State) -> tuple[tuple[Path, pl.DataFrame], PairReport]:
        """The new rows of affected groups, in a file, and their keys; their account."""
        job = self._make(rows_at(path, self.main), self.home.name, plan=self._settled)
        self.job = job
        job.bound.scale = self._scale  # of all rows, not of those that are ranked again
        index = f"(FROM read_parquet({literal(str(self.home / 'subset.parquet'))}))"
        target, keys = self.home / "new.parquet", [self._nothing()[1]]
        sink = self.sink(target)
        try:
            for frame, its_keys in with_ids(job, self.con, index, self.lay_out):
                sink.write(frame)
                keys.append(its_keys)
            sink.close()
        finally:
            sink.abort()
        account = job.report()
        self._ranked_bad = account.dropped.get("bad_score", 0)
        self.accounts += state.accounts
        # Also those that have no row any more.
        classes = self.home / "classes.parquet"
        self.con.execute(f"COPY affected TO {literal(str(classes))} (FORMAT parquet)")
        self._account(job, index, f"read_parquet({literal(str(classes))})")
        return (target, pl.concat(keys)), account

    def _merged(
        self,
        writer: Writer,
        state: State,
        parts: list[OldPart],
        new: tuple[Path, pl.DataFrame],
    ) -> Path:
        """Write the old rows that stay and the new ones; the file of those that went."""
        gone = self.home / "removed.parquet"
        removed = self.sink(gone)
        try:
            merge(
                writer,
                parts,
                state,
                {part.name: self._old(part.name) for part in state.parts},
                new,
                order=self.order,
                schema=self.schema,
                removed=removed,
                most=PART_ROWS,
            )
            removed.close()
        finally:
            removed.abort()
        writer.close(self._nothing())
        return gone

    def _told(self, account: PairReport, notes: Sequence[str]) -> RunReport:
        """The report of all rows, of which some were ranked."""
        asked, main, job = self.asked, self.main, self.job
        told = run_report(
            asked.plan,
            job,
            main,
            None,
            figures=Counted(account, main.source.rejected, None),
            engine=job.engine,
            started=asked.started,
            plan_hash=asked.plan_hash,
        )
        before = (self.record.previous or {})["report"]
        bad = [*told.bad_scores]
        # Where more rows have one than were ranked, those of before are still there.
        if account.dropped.get("bad_score", 0) > self._ranked_bad:
            bad = [*before.get("bad_scores", ()), *bad]
        return replace(
            told,
            thresholds=self._settled.thresholds or None,
            score_range=None,
            bad_scores=tuple(dict.fromkeys(bad))[:3],
            notes=[
                *main.source.notes,
                *notes,
                *self._settled.notes(asked.plan, account, self._scale),
            ],
        )
