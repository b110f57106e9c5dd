"""How an incremental run appears: its output, its change file, and its record with the state."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from prefmill.disk import records
from prefmill.disk.targets import Publisher, shown
from prefmill.runs.account.report import RunReport
from prefmill.runs.incremental import change_file, compact
from prefmill.runs.incremental.asked import CHANGES, Asked
from prefmill.runs.incremental.output import ID, Writer
from prefmill.runs.incremental.state import STATE, InputFile, State, fits_of, names_of
from prefmill.runs.job.job import Job
from prefmill.runs.records.recording import Recording
from prefmill.writers.arrow import arrow_schema


@dataclass(frozen=True)
class Publication:
    """What a run publishes: `main` read what the input is, `record` is that of what stands.

    `schema` are the columns of the output; files that the state names are made in `home`.
    """

    asked: Asked
    main: Job
    record: Recording
    con: duckdb.DuckDBPyConnection
    schema: pl.Schema
    home: Path

    def publish(
        self,
        stage: Publisher,
        writer: Writer,
        report: RunReport,
        files: list[InputFile],
        accounts: Sequence[str],
        *,
        before: str | None,
        now: str,
    ) -> RunReport:
        """The report, once the output, the change file and the record have appeared together.

        `files` are those of the input with their indexes, `accounts` the names of accounts of rows;
        `before` and `now` are relations of the rows that differ in the change file.
        """
        asked, record = self.asked, self.record
        changes = stage.path(asked.changes)
        counts = change_file.write(self.con, self.schema, changes, before=before, now=now)
        told = ", ".join(f"{rows:,} {kind}" for kind, rows in counts.items())
        report = replace(report, output={"": shown(asked.output)})
        counted = f"{CHANGES}{told} ({shown(asked.changes)})"
        report = replace(report, notes=[*report.notes, counted])
        thresholds = report.thresholds or {}
        fits = fits_of(self.main, thresholds, self.schema)
        kept = self._homes()
        names = names_of(files, writer.parts, accounts)
        homes = {name: kept.get(name, self.home / name) for name in names}
        files = compact.of_inputs(self.con, files, homes, self.home)
        listed = compact.of_accounts(self.con, accounts, homes, self.home)
        state = State(fits, files, writer.parts, listed)
        for name in names_of(files, writer.parts, listed):
            record.keep_file(name, homes.get(name, self.home / name))
        text = state.text().encode()
        record.keep(STATE, lambda file: file.write(text))
        record.read(self.main.records.inputs)
        outputs = self._outputs(stage, writer, report.pairs_out, sum(counts.values()))
        # Who applies the change file has to have what it goes from, in the same columns.
        same = before is not None and self._columns_before() == outputs[0]["schema"]
        record.facts["changes_since"] = records.content_of(record.previous) if same else None
        record.publish(outputs, lambda: stage.publish(overwrite=True), report=asdict(report))
        return report

    def _homes(self) -> Mapping[str, Path]:
        state = State.read(self.record)
        return state.homes if state else {}

    def _outputs(
        self, stage: Publisher, writer: Writer, rows: int, changes: int
    ) -> list[dict[str, Any]]:
        """The outputs as the record has them."""
        asked = self.asked
        schema = {field.name: str(field.type) for field in arrow_schema(self.schema)}
        with_change = {ID: schema[ID], change_file.CHANGE: schema[ID], **schema}
        outputs = []
        before = self._before(writer)
        for target, count, columns in (
            (asked.target, rows, schema),
            (asked.changes, changes, with_change),
        ):
            outputs.append(
                {
                    "path": target.name,
                    "split": None,
                    "rows": count,
                    "schema": columns,
                    "files": records.described(target, stage.path(target), before),
                }
            )
        return outputs

    def _columns_before(self) -> Any:
        """The columns of the output that stands, and their types."""
        outputs = (self.record.previous or {}).get("outputs") or [{}]
        return outputs[0].get("schema")

    def _before(self, writer: Writer) -> dict[str, Any]:
        """The files of the record of before that are parts again, by their names now."""
        before = {
            file["path"]: file
            for output in (self.record.previous or {}).get("outputs", ())
            for file in output.get("files") or ()
        }
        home = self.asked.target.name
        found = {
            writer.parts[now].name: before.get(f"{home}/{old}")
            for now, old in writer.linked.items()
        }
        return {name: file for name, file in found.items() if file}
