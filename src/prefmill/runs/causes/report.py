"""What a comparison of two runs found, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from prefmill.table.showing import Showing

#: What can have become of a row of output.
KINDS = ("appeared", "vanished", "flipped", "changed")


@dataclass(frozen=True)
class DiffReport(Showing):
    """What two outputs of one kind of plan have in common, and why they differ.

    `rows_a` = `stayed` + `vanished` + `flipped` + `changed`; `rows_b` has `appeared` for
    `vanished`. `causes` counts the differences by cause, and of each cause by kind: every
    difference is in one place. `changes` are the things that are others in the second run, in the
    order in which they were applied.
    """

    a: str
    b: str
    plan: str
    rows_are: str
    rows_a: int
    rows_b: int
    stayed: int
    appeared: int
    vanished: int
    flipped: int
    changed: int
    causes: Mapping[str, Mapping[str, int]]
    changes: Sequence[str]
    output: str | None
    seconds: float
    notes: Sequence[str] = ()

    @property
    def differences(self) -> int:
        """How many rows of output differ."""
        return self.appeared + self.vanished + self.flipped + self.changed

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        return asdict(self)

    def __str__(self) -> str:
        kinds = [kind for kind in KINDS if getattr(self, kind)]
        head = {
            f"{self.rows_are} of A": self.rows_a,
            f"{self.rows_are} of B": self.rows_b,
            "  stayed": self.stayed,
        }
        lines = [f"{name:<20}{count:>10,}" for name, count in head.items()]
        if not kinds:
            return "\n".join([*lines, f"no difference: the {self.rows_are} are the same"])
        lines.append(f"{'':<20}" + "".join(f"{kind:>10}" for kind in kinds))
        totals = {kind: getattr(self, kind) for kind in kinds}
        for cause, counts in [*self.causes.items(), ("all", totals)]:
            cells = "".join(f"{counts.get(kind, 0):>10,}" for kind in kinds)
            lines.append(f"  {cause:<18}{cells}")
        lines += [f"changed: {change}" for change in self.changes]
        lines += [f"note: {note}" for note in self.notes]
        return "\n".join(lines)
