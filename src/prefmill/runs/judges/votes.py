"""Votes: verdicts on answers become a score of each answer, or of each source.

    rows ──▶ numbers (side, ballot, judge) ──fit──▶ scores with intervals ──gather──▶ the target

The rules are in `docs/semantics.md`, section "Votes"; the fits are in `prefmill.rules`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Unpack

from prefmill.plans.bounds import VOTES
from prefmill.plans.expect import Counted, Expect
from prefmill.progress import Progress, peak_rss_mb
from prefmill.rules.ratings import Fitted, Method, Over, Settings, checked, fit
from prefmill.runs.account.expecting import expect_of, held, in_key, sources_asked, sources_in
from prefmill.runs.job.opening import Reading, opened
from prefmill.runs.judges.ballots import Ballots, Table, source_of
from prefmill.runs.records.commands import recorded
from prefmill.shapes.source import words_in
from prefmill.shown import amount
from prefmill.table.report import PairReport
from prefmill.table.roles import Inputs, RoleNames, Roles
from prefmill.table.showing import Showing
from prefmill.telemetry.watch import watched
from prefmill.writers import write as writers

#: Chances that move by more than this have not settled.
STILL = 1e-3


@dataclass(frozen=True)
class VotesReport(Showing):
    """What `votes` did.

    `rows_in` = `rows_used` + what `dropped` counts by reason; `rows_rejected` are malformed rows.
    `ballots` are what one judge said at once, `single` those of one row, which compare nothing.
    `comparisons` went into the scores, `ties` of them were tied; `itself` are those of a side with
    itself, left out. `rows_out` are the sides: answers, or sources. `parts` are groups of sides
    that comparisons connect, `lone` are sides that met no other, `split_prompts` prompts whose
    answers fall into several parts. `open_parts` are parts in which a side won, or lost,
    everything. `tie_parameter` is Davidson's; `annotators` are by name the votes of each, and how
    far it can be relied on (of `dawid-skene` and `mace`). `records` says what became of records
    that were made rows, `bad_scores` are the first three different texts that are no number.
    `expected` is what came of what was expected (`prefmill.Expect`), `sources` the rows of each.
    `seconds` of wall time, `peak_rss_mb`
    the largest resident size of this process so far, in MiB.
    """

    rows_in: int
    rows_used: int
    rows_rejected: int
    dropped: Mapping[str, int]
    ballots: int
    single: int
    comparisons: int
    ties: int
    itself: int
    prompts: int
    rows_out: int
    parts: int
    lone: int
    split_prompts: int
    open_parts: int
    method: str
    over: str
    roles: Roles
    seconds: float
    peak_rss_mb: float
    output: str | None
    tie_parameter: float | None = None
    annotators: Mapping[str, tuple[int, float]] = field(default_factory=dict)
    records: Mapping[str, Any] | None = None
    notes: Sequence[str] = ()
    bad_scores: Sequence[str] = ()
    expected: Sequence[Mapping[str, Any]] = ()
    sources: Mapping[str, int] | None = None

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with."""
        account = PairReport(
            self.rows_in,
            self.rows_used,
            0,
            self.dropped,
            groups_used=self.prompts,
            pairs_out=self.rows_out,
            records=self.records,
        )
        return Counted(account, self.rows_rejected, self.sources)

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        out = asdict(self)
        out["roles"] = {key: value for key, value in asdict(self.roles).items() if value}
        out["annotators"] = {
            name: {"votes": votes, "reliability": share}
            for name, (votes, share) in self.annotators.items()
        }
        return out


@watched("votes")
def votes(
    inputs: Inputs,
    output: str | Path | None,
    *,
    method: Method = "bradley-terry",
    over: Over = "prompt",
    prior: float | None = None,
    k_factor: float | None = None,
    resamples: int | None = None,
    level: float = 0.95,
    seed: int = 0,
    roles: RoleNames | None = None,
    keep: Sequence[str] = (),
    overwrite: bool = False,
    allow_empty: bool = False,
    spreadsheet_safe: bool = False,
    expect: Expect | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    **reading: Unpack[Reading],
) -> VotesReport:
    """Write a score for each answer (or source), from verdicts, ranks or scores of several judges.

    Rows are those of `prefmill.run`: prompt, completion, score, or records that become such rows by
    the words of `prefmill.Rows`, which are `roles` here. A ballot is the rows of one `group`
    (default: the prompt) and one `annotator`; every two of its rows are a comparison, which the
    higher score wins. Rows out: prompt, completion, score, low, high, votes (comparisons),
    component, and the columns source, `keep` and those of the prompt's context, by first position.
    With `over="source"`: source, score, low, high, votes, component, the best first.

    Args:
        method: `bradley-terry` (a tie is half a win of each), `davidson` (ties have a chance of
            their own), `plackett-luce` (a ballot as a whole), `elo` (in the order of rows),
            `win-rate`, or `dawid-skene`, `mace`: the win rate of what annotators agree on, each
            weighed by how reliable it is.
        over: what gets a score: the answers of a `prompt`, or each `source` over all prompts (the
            role `source`, or a column of that name).
        prior: comparisons, half of them won, that each side has with one of strength 0; None: 1
            in the parts in which a side won or lost everything, else none. Of the first three.
        k_factor: of Elo, the most points that a vote moves (default 32).
        resamples: of the bootstrap for Elo's interval (default 100); 0: no interval.
        level: of the intervals.
        expect: what must hold before anything is published (`prefmill.Expect`): `min_rows`,
            `min_prompts`, `max_dropped` by reason, `sources`.
        seed: of the resamples.
        roles, keep, overwrite, allow_empty, spreadsheet_safe, progress, reading: as in
            `prefmill.run`.

    Scores compare inside a component only. Elo depends on the order of rows, `dawid-skene` and
    `mace` on which of two answers comes first, the others on neither. Cost: one narrow pass, then
    numbers in memory: about 1 GB for a million votes. Raises `PrefmillError`s for arguments or
    columns that cannot be meant.

    >>> import tempfile
    >>> import polars as pl
    >>> said = {"prompt": ["p"] * 4, "record": [1, 1, 2, 2], "completion": ["a", "b", "b", "a"]}
    >>> said = pl.DataFrame(said | {"score": [1.0, 0.0, 0.5, 0.5]})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = f"{folder}/rated.parquet"
    ...     report = votes(said, path, method="win-rate", roles={"group": "record"})
    ...     pl.read_parquet(path).select("completion", "score", "votes").rows()
    [('a', 0.75, 2), ('b', 0.25, 2)]
    """
    started = time.perf_counter()
    settings = checked(method, over, prior, k_factor, resamples, level, seed)
    contract = expect_of(expect, VOTES)
    recording = recorded(
        "votes",
        inputs,
        output,
        reading,
        overwrite=overwrite,
        spreadsheet_safe=spreadsheet_safe,
        words=words_in(None, roles or {}).named(),
        keep=list(keep),
        settings=asdict(settings),
        carried=in_key(contract),
    )
    with recording as record:
        if record.done:
            return held(record.restored(VotesReport), contract, where="votes")
        record.facts |= {"plan": {"votes": asdict(settings)}, "seed": seed}
        job_here = opened(
            Ballots(),
            inputs,
            roles=roles,
            engine="duckdb",
            keep=keep,
            whole_rows=True,
            each_vote=True,
            progress=progress,
            **reading,
        )
        with job_here as job:
            sources_asked(contract, job.source.columns.names, where="votes")
            table = Table(job, settings, source_of(job, over), keep)
            fitted = fit(table.judged, settings)
            rated = table.rated(fitted)
            counts = table.counts(fitted)

            def report(written: writers.Written | None) -> VotesReport:
                made = VotesReport(
                    **counts,
                    **_told(fitted, table),
                    rows_rejected=job.source.rejected,
                    method=method,
                    over=over,
                    roles=job.roles,
                    records=job.rowed.report(),
                    seconds=round(time.perf_counter() - started, 3),
                    peak_rss_mb=peak_rss_mb(),
                    output=written.paths.get("") if written else None,
                    bad_scores=job.bad_scores() if "bad_score" in counts["dropped"] else (),
                    notes=[
                        *job.source.notes,
                        *_notes(fitted, counts, settings),
                        *(written.notes if written else ()),
                    ],
                    sources=sources_in(job.con, job.source.relation, contract),
                )
                return held(made, contract, where="votes", publishes=output is not None)

            if output is None or not (rated.height or allow_empty):
                return report(None)
            record.read(job.records.inputs)
            writers.write(
                table.frames(rated),
                table.schema,
                output,
                format="pool",
                overwrite=record.overwrites,
                memory_bytes=reading.get("memory_bytes"),
                spreadsheet_safe=spreadsheet_safe,
                publish=record.publisher(report),
            )
            return record.made or report(None)


def _told(fitted: Fitted, table: Table) -> dict[str, Any]:
    """What the fit says beyond scores."""
    told: dict[str, Any] = {"open_parts": 0}
    if fitted.strengths is not None:
        told["open_parts"] = fitted.strengths.open_parts
        if table.settings.method == "davidson":
            told["tie_parameter"] = round(fitted.strengths.ties, 9)
    if fitted.agreed is not None:
        told["annotators"] = table.annotators(fitted.agreed)
    return told


def _notes(fitted: Fitted, counts: Mapping[str, Any], settings: Settings) -> list[str]:
    """What people have to know of these scores."""
    notes = []
    what = "sources" if settings.over == "source" else "answers"
    if counts["lone"]:
        notes.append(f"{counts['lone']:,} {what} met no other: their score is null")
    if counts["split_prompts"]:
        notes.append(
            f"the answers of {amount(counts['split_prompts'], 'prompt')} fall into several parts,"
            " whose scores do not compare: --group component keeps them apart"
        )
    if settings.over == "source" and counts["parts"] > 1:
        notes.append(
            f"the sources fall into {counts['parts']:,} parts, whose scores do not compare"
        )
    if counts["itself"]:
        notes.append(
            f"{amount(counts['itself'], 'comparison')} of a side with itself"
            f" {'is' if counts['itself'] == 1 else 'are'} left out; --group RECORD"
            " keeps the records of a prompt apart"
        )
    open_parts = fitted.strengths.open_parts if fitted.strengths else 0
    if open_parts and settings.prior is None:
        notes.append(
            f"in {amount(open_parts, 'part')} a side won, or lost, everything:"
            " there each side has one comparison more, half won (--prior)"
        )
    if fitted.agreed is not None and fitted.agreed.moved > STILL:
        notes.append(
            f"{settings.method}: the chance of a label still moved by {fitted.agreed.moved:.2g} in"
            " the last step: there are few votes for each annotator, or they do not agree"
        )
    return notes
