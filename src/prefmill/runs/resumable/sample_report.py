"""What sampling did, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prefmill.errors import BAD_ROW
from prefmill.plans.bounds import EMPTY
from prefmill.plans.expect import Counted
from prefmill.table.report import PairReport
from prefmill.table.showing import Showing


@dataclass(frozen=True)
class SampleReport(Showing):
    """What sampling did.

    prompts_in = prompts + null_prompts + duplicate_prompts (prompts that an earlier row of the
    input has; sampled once). prompts = prompts_before + prompts_new: of prompts that grew, those
    whose answers are the ones of the output as it stood, and those sampled since. answers = the sum
    of `finish_reasons`: `stop` (ended), `length` (cut off), what else a server says, and for
    answers that are not there, whose completion is null, the reason (`errors.BAD_ROW`, also in
    `null`; `first_null` is the first prompt of each). duplicates:
    answers with a text that the prompt already had; empty: answers without text.
    tokens: of all answers, as far as the sampler told (untold: answers whose number it did not
    tell). chunks_resumed: chunks that an earlier, interrupted run had done. seconds: wall time;
    seconds_model: of it, in the sampler; tokens_sampled: in this call. Of servers: requests sent by
    this call, retries among them, and why (retried). template_date: the date that a template
    printed, where one does. workers: the most at a time, on a cluster; workers_lost: that ended on
    their own; worker_peak_rss_mb: of the largest one, peak_rss_mb is of this process. expected:
    what came of what was expected (`prefmill.Expect`): name, got, expected, holds of each.
    """

    prompts_in: int
    prompts: int
    null_prompts: int
    duplicate_prompts: int
    answers: int
    finish_reasons: Mapping[str, int]
    duplicates: int
    empty: int
    tokens: int
    untold: int
    tokens_sampled: int
    chunks: int
    chunks_resumed: int
    way: str
    seconds: float
    seconds_model: float
    peak_rss_mb: float
    output: str
    columns: tuple[str, ...]
    template_date: str | None = None
    requests: int = 0
    retries: int = 0
    retried: Mapping[str, int] = field(default_factory=dict)
    first_null: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    workers: int = 0
    workers_lost: int = 0
    worker_peak_rss_mb: float = 0.0
    prompts_before: int = 0
    expected: Sequence[Mapping[str, Any]] = ()

    @property
    def counted(self) -> Counted:
        """The figures that expectations are compared with: of answers."""
        failed = {**self.null, **({EMPTY: self.empty} if self.empty else {})}
        there = self.answers - sum(failed.values())
        return Counted(
            PairReport(self.answers, there, 0, failed, groups_used=self.prompts, pairs_out=there)
        )

    @property
    def prompts_new(self) -> int:
        """Prompts that no earlier run had sampled."""
        return self.prompts - self.prompts_before

    @property
    def null(self) -> dict[str, int]:
        """Answers that are not there, by reason."""
        return {
            reason: answers for reason, answers in self.finish_reasons.items() if reason in BAD_ROW
        }

    @property
    def stopped(self) -> int:
        """Answers that ended by themselves or at a stop string."""
        return self.finish_reasons.get("stop", 0)

    @property
    def cut_off(self) -> int:
        """Answers that were cut off at the limit of tokens."""
        return self.finish_reasons.get("length", 0)

    @property
    def tokens_per_second(self) -> float | None:
        """Tokens of this call a second in the sampler; None where nothing was sampled."""
        return (
            self.tokens_sampled / self.seconds_model
            if self.seconds_model and self.tokens_sampled
            else None
        )

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        derived = {
            "prompts_new": self.prompts_new,
            "null": self.null,
            "stopped": self.stopped,
            "cut_off": self.cut_off,
            "tokens_per_second": self.tokens_per_second,
        }
        plain = {
            "finish_reasons": dict(self.finish_reasons),
            "retried": dict(self.retried),
            "columns": list(self.columns),
            "notes": list(self.notes),
        }
        return {**asdict(self), **plain, **derived}
