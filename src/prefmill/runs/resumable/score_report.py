"""What scoring did, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prefmill.plans.expect import Counted
from prefmill.table.report import PairReport
from prefmill.table.showing import Showing


@dataclass(frozen=True)
class ScoreReport(Showing):
    """What scoring did.

    rows_in = rows_scored + rows of `null` for each reason (`errors.BAD_ROW`); `first_null` is the
    first row of each. rows_scored = rows_before + rows_new: of a pool that grew, rows whose scores
    are those of the output as it stood, and those scored since. Counts of the scorer, from tokens
    to reasons, leave the former out.
    tokens: of all rows; tokens_run: that the model saw, after sharing, duplicates and the cache.
    duplicates: rows that took the score of another one. cut_by_template: rows whose template leaves
    out a part of the completion. template_date: the date that a template printed, where one does.
    chunks_resumed: chunks that an earlier, interrupted run had done. seconds: wall time;
    seconds_model: of it, in the scorer.
    flat: of an ensemble, the groups to which a scorer gave one score, by scorer.
    reasons: of a check, rows that have a score below 1, by the first word of their reason.
    Of servers: requests sent, retries among them and why (retried), tokens_in and tokens_out as the
    server counts them, cost where prices are known.
    workers: the most at a time, on a cluster; workers_lost: that ended on their own;
    worker_peak_rss_mb: of the largest one, peak_rss_mb is of this process. expected: what came of
    what was expected (`prefmill.Expect`): name, got, expected, holds of each.
    """

    rows_in: int
    rows_scored: int
    null: Mapping[str, int]
    tokens: int
    tokens_run: int
    duplicates: int
    truncated: int
    cached: int
    splits: int
    chunks: int
    chunks_resumed: int
    way: str
    seconds: float
    seconds_model: float
    peak_rss_mb: float
    output: str
    columns: tuple[str, ...]
    cut_by_template: int = 0
    template_date: str | None = None
    requests: int = 0
    retries: int = 0
    retried: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0
    cost: float | None = None
    first_null: Mapping[str, str] = field(default_factory=dict)
    flat: Mapping[str, int] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    workers: int = 0
    workers_lost: int = 0
    worker_peak_rss_mb: float = 0.0
    rows_before: int = 0
    expected: Sequence[Mapping[str, Any]] = ()

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with."""
        scored = self.rows_scored
        return Counted(PairReport(self.rows_in, scored, 0, self.null, pairs_out=scored))

    @property
    def rows_new(self) -> int:
        """Rows that have a score which no earlier run had given."""
        return self.rows_scored - self.rows_before

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return {
            **asdict(self),
            "rows_new": self.rows_new,
            "null": dict(self.null),
            "retried": dict(self.retried),
            "flat": dict(self.flat),
            "reasons": dict(self.reasons),
            "columns": list(self.columns),
            "notes": list(self.notes),
            "expected": list(self.expected),
        }
