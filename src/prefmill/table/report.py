"""The drop report: every row that went in, and what became of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prefmill.errors import AccountingError
from prefmill.table.showing import Showing


@dataclass(frozen=True)
class PairReport(Showing, Mapping[str, object]):
    """Rows in = rows used + rows not selected + rows dropped for each reason; checked when a report
    is made.

    `dropped` maps a reason of `docs/semantics.md` to rows. `groups_in` are prompts with a
    candidate, `groups_used` those with a row of output, `pairs_out` the rows of output (pairs, or
    labels). `length`, of a plan with length control: `slope` (of the score, per 1,000 characters,
    inside prompts), `correlation` (inside prompts) and the `mean` length. `labels`, of a plan of
    labels: how many rows of output are `true` and how many `false`. `records`, where records were
    made rows: how they were read (`read_as`), how many went `in`, the `rows` they gave, and how
    many gave none for each reason (`dropped`). A report is also a mapping of its fields.

    >>> rows = {"rows_in": 5, "rows_used": 2, "rows_not_selected": 1, "dropped": {"tie": 2}}
    >>> PairReport(**rows, groups_in=2, groups_used=1, pairs_out=1)["rows_in"]
    5
    """

    rows_in: int
    rows_used: int
    rows_not_selected: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    groups_in: int = 0
    groups_used: int = 0
    pairs_out: int = 0
    length: Mapping[str, float | None] | None = None
    labels: Mapping[str, int] | None = None
    records: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        told = self.rows_used + self.rows_not_selected + sum(self.dropped.values())
        if told != self.rows_in or self.rows_not_selected < 0:
            raise AccountingError(
                f"report: {self.rows_in} rows went in and {told} are accounted for; got"
                f" {asdict(self)}.",
                hint="this is a bug of prefmill: please report it with the command that you ran.",
            )

    @classmethod
    def of_row(cls, row: Sequence[object]) -> PairReport:
        """The report of one row of the macro `pref_report`, or of one like it.

        That of `pref_label_report` ends in two more counts.
        """
        values = list(row)
        if len(values) > 7:
            values[7:] = [None, dict(zip(("true", "false"), values[7:], strict=True))]
        dropped: dict[str, int] = dict(values[3])  # type: ignore[call-overload]
        values[3] = dict(sorted(dropped.items()))
        return cls(*values)  # type: ignore[arg-type]

    def without(self, part: PairReport) -> PairReport:
        """The report of all rows but those of `part`, which share no prompt with the others.

        >>> both = PairReport(5, 4, 0, {"tie": 1}, 3, 2, 2)
        >>> both.without(PairReport(3, 2, 0, {"tie": 1}, 2, 1, 1))["rows_used"]
        2
        """
        gone = {name: -rows for name, rows in part.dropped.items()}
        dropped = _added([self.dropped, gone])
        labels = self.labels
        if labels is not None:
            less = {name: -rows for name, rows in (part.labels or {}).items()}
            labels = _added([labels, less])
        names = ("rows_in", "rows_used", "rows_not_selected", "groups_in", "groups_used")
        return PairReport(
            **{name: getattr(self, name) - getattr(part, name) for name in names},
            pairs_out=self.pairs_out - part.pairs_out,
            dropped={name: rows for name, rows in dropped.items() if rows},
            labels=labels,
        )

    @classmethod
    def total(cls, reports: Sequence[PairReport]) -> PairReport:
        """The report of all rows, of reports of buckets that share no prompt.

        It has no `length`, which is that of all prompts together, and no `records`.

        >>> one = PairReport(3, 2, 0, {"tie": 1}, 2, 1, 1)
        >>> PairReport.total([one, one]).dropped
        {'tie': 2}
        """
        counts = ("rows_in", "rows_used", "rows_not_selected", "groups_in", "groups_used")
        sums = {name: sum(getattr(each, name) for each in reports) for name in counts}
        labels = None
        if any(each.labels is not None for each in reports):
            labels = {"true": 0, "false": 0} | _added([each.labels or {} for each in reports])
        return cls(
            **sums,
            pairs_out=sum(each.pairs_out for each in reports),
            dropped=dict(sorted(_added([each.dropped for each in reports]).items())),
            labels=labels,
        )

    def as_json(self) -> dict[str, Any]:
        """The report with plain values only."""
        return asdict(self)

    def __getitem__(self, key: str) -> object:
        return asdict(self)[key]

    def __iter__(self) -> Iterator[str]:
        return iter(asdict(self))

    def __len__(self) -> int:
        return len(asdict(self))


def _added(counts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    """The sum of counts by name."""
    names = dict.fromkeys(name for each in counts for name in each)
    return {name: sum(each.get(name, 0) for each in counts) for name in names}
