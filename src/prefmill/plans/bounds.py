"""What can be expected of a run, by its command: words of `Expect`, and reasons of `max_dropped`.

The lists are closed, so that a misspelt reason does not let everything through.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from prefmill.errors import BAD_ROW, nearest

#: What a bound of dropped rows can be of: all reasons together, rows that are malformed, and
#: records that become no row.
ALL, MALFORMED, RECORDS = "all", "malformed", "records"
#: Answers that are there and have no text.
EMPTY = "empty"
#: Why a plan drops rows; their meaning is in docs/semantics.md.
REASONS = (
    "null_prompt",
    "null_completion",
    "null_score",
    "bad_score",
    "non_finite_score",
    "null_annotator",
    "unweighted_aspect",
    "null_id",
    "null_stage",
    "no_conclusion",
    "earlier_stage",
    "bad_weight",
    "missing_aspect",
    "too_few_votes",
    "no_majority",
    "single_completion",
    "tie",
    "below_chosen_min",
    "not_below_rejected",
    "below_min_margin",
    "no_adjacent_pair",
    "identical_text",
    "excluded",
    "between_thresholds",
    "below_min_score",
    "no_weight",
)
_VOTES = (*REASONS[:7], "bad_weight", "null_source")


@dataclass(frozen=True)
class Bounds:
    """What can be expected of the runs of one command."""

    command: str
    words: tuple[str, ...]
    reasons: tuple[str, ...]

    def problem_of(self, word: str) -> str | None:
        """Why this word of `Expect` cannot be used here, if it cannot."""
        if word in self.words:
            return None
        return f"{word} is not of {self.command}; expected some of {list(self.words)}"

    def problem_of_reason(self, reason: str) -> str | None:
        """Why `max_dropped` of this reason cannot be used here, if it cannot."""
        if reason in self.reasons:
            return None
        near = [f"; did you mean {name!r}?" for name in nearest(reason, self.reasons)[:1]]
        known = near[0] if near else f"; expected one of {list(self.reasons)}"
        whose = f" of {self.command}" if self.command else ""
        return f"max_dropped of {reason!r} is not of a known reason{whose}{known}"


#: Of plans over feedback, and of what else writes rows.
PLAN = Bounds(
    "a plan over feedback",
    ("min_rows", "min_prompts", "max_dropped", "min_true", "max_true", "sources"),
    (ALL, MALFORMED, RECORDS, *REASONS),
)
SCORE = Bounds("score", ("min_rows", "max_dropped"), (ALL, *BAD_ROW))
SAMPLE = Bounds("sample", ("min_rows", "min_prompts", "max_dropped"), (ALL, EMPTY, *BAD_ROW))
VOTES = Bounds(
    "votes",
    ("min_rows", "min_prompts", "max_dropped", "sources"),
    (ALL, MALFORMED, RECORDS, *_VOTES),
)
VALUES = Bounds("values", ("min_rows", "max_dropped", "sources"), (MALFORMED,))
OF: Mapping[str, Bounds] = {each.command: each for each in (PLAN, SCORE, SAMPLE, VOTES, VALUES)}
#: All of them: what a word or a reason can be at all.
ANY = Bounds(
    "", PLAN.words, tuple(dict.fromkeys(name for each in OF.values() for name in each.reasons))
)
