"""What a run on a cluster writes: one output from the driver, or a file of each part by workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from prefmill.disk import records
from prefmill.disk.ledger import Ledger
from prefmill.plans.expect import SOURCE, Counted
from prefmill.plans.feedback import FeedbackPlan
from prefmill.runs.account.expecting import BY_SOURCE, checked, most_of, sources_asked
from prefmill.runs.account.report import RunReport
from prefmill.runs.cluster.driver import Spread
from prefmill.runs.cluster.parts_out import PartsOut, Writing, write_part
from prefmill.runs.records.recording import Recording
from prefmill.writers import write as writers
from prefmill.writers.arrow import arrow_schema
from prefmill.writers.layouts import output_schema

_STAR = "*"


@dataclass(frozen=True)
class Outcome:
    """The output of `spread`: written, told of in `record`, and published.

    `report` makes the report of what was written.
    """

    ledger: Ledger
    record: Recording
    spread: Spread
    report: Callable[[writers.Written], RunReport]
    allow_empty: bool

    def write(self, output: str | Path, options: Mapping[str, Any]) -> RunReport:
        """Write and publish `output`, where it has rows or may be empty; the report of the run.

        `options` are those of `writers.write`.
        """
        assembly = self.spread.job.assembly
        unwritten = assembly.unwritten
        columns = {name: kind for name, kind in assembly.schema().items() if name not in unwritten}
        schema = pl.Schema(columns)
        if parts_out := PartsOut.of(output):
            staged = str(self.ledger.folder / "parts")
            how = Writing(staged, parts_out, schema, tuple(unwritten), options)
            return self._in_parts(how)
        written = writers.write(
            (frame.drop(unwritten) for frame in self._published()),
            schema,
            output,
            overwrite=self.ledger.replaces,
            publish_empty=self.allow_empty,
            publish=self.record.publisher(self.report),
            **options,
        )
        return self.record.made or self.report(written)

    def _published(self) -> Iterator[pl.DataFrame]:
        """The frames of the output; after the last one the ledger is told that it comes."""
        yield from self.spread.frames()
        self._check_expected()
        self.ledger.publishing()

    def _check_expected(self) -> None:
        """Raise where what the plan expects does not hold."""
        plan = self.spread.job.plan
        if plan.expect is not None:
            checked(plan, counted_apart(plan, self.spread))

    def _in_parts(self, how: Writing) -> RunReport:
        """Let workers write the output, and publish it."""
        out, staged = how.out, Path(how.staged)
        digests: dict[str, str] = {}
        if self.spread.is_empty:
            self._check_expected()
            if not self.allow_empty:
                return self.report(writers.Written(paths={}, rows={}))
            writers.write([], how.schema, staged / out.named(0), overwrite=True, **how.options)
            count, rows, marked = 1, dict.fromkeys(how.options["split"] or {"": 1}, 0), 0
        else:
            notes = self.spread.on_parts(partial(write_part, writing=how))
            count, rows, marked = len(notes), {}, 0
            for note in notes.values():
                digests |= note.get("sha256", {})
                marked += note.get("marked") or 0
                for name, number in note["rows"].items():
                    rows[name] = rows.get(name, 0) + number
        self._check_expected()
        self.ledger.publishing()
        names = {name: f"{_STAR}-{name}" if name else _STAR for name in rows}
        paths = {n: str(out.folder / out.name.replace(_STAR, star)) for n, star in names.items()}
        safe = "spreadsheet_safe" in how.options
        written = writers.Written(paths=paths, rows=rows, marked=marked if safe else None)
        report = self.report(written)
        self.record.publish(
            self._outputs(how, count, rows, digests),
            partial(out.publish, staged, range(count), overwrite=True),
            report=asdict(report),
        )
        return report

    def _outputs(
        self, how: Writing, count: int, rows: Mapping[str, int], digests: Mapping[str, str]
    ) -> list[dict[str, Any]]:
        """The outputs as the record has them: the parts, of splits those of each."""
        options = {n: how.options[n] for n in ("format", "chat", "margin_scale")}
        made = arrow_schema(output_schema(how.schema, **options))
        schema = {column.name: str(column.type) for column in made}
        outputs = []
        for name, number in rows.items():
            files = [
                records.described_as(f"{how.out.folder.name}/{path.name}", path, digests)
                for path in how.out.files(Path(how.staged), range(count), name)
            ]
            told = {"path": how.out.folder.name, "split": name or None, "rows": number}
            outputs.append({**told, "schema": schema, "files": files})
        return outputs


def counted_apart(plan: FeedbackPlan, spread: Spread) -> Counted:
    """`expecting.counted` of what a cluster ranked; the column of sources travels with narrow
    rows.
    """
    sources = None
    if plan.expect and sources_asked(plan.expect, spread.job.source.columns.names):
        place = spread.carried.index(SOURCE)
        query = BY_SOURCE.format(column=f"_keep{place}", rows="numbered")
        sources = most_of(plan.expect, spread.ask(query, until="judged"))
    return Counted(spread.report(), spread.job.source.rejected, sources)
