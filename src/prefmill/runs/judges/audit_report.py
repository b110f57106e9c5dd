"""What an audit found, for programs and for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from prefmill.rules.audits.verdicts import Probe
from prefmill.shown import amount
from prefmill.table.roles import Roles
from prefmill.table.showing import Showing, as_html

#: Values of `by` that people see.
_PARTS = 12
_SLOPE = "score for twice the length"


@dataclass(frozen=True)
class AuditReport(Showing):
    """What an audit found.

    `probes` say what was looked for, in order; `found` are the names of those that were found.
    `rows_in` = `rows_used` + `copies` (answers that a judge was asked about once) + what `dropped`
    counts by reason. `null` are the judge's own reasons for rows without a score. `scale` says how
    the scores are used: how many differ, the share of the commonest, of the lowest and highest,
    and of comparisons that tie. `comparisons` are of two answers by one judge. `parts` are the
    probes of the rows of each value of the column `by`; each part is a family of tests of its own.
    """

    probes: Sequence[Probe]
    rows_in: int
    rows_used: int
    rows_rejected: int
    copies: int
    dropped: Mapping[str, int]
    null: Mapping[str, int]
    scale: Mapping[str, float]
    prompts: int
    judges: int
    comparisons: int
    runs: int
    level: float
    least: float
    roles: Roles
    seconds: float
    peak_rss_mb: float
    by: str | None = None
    parts: Mapping[str, Sequence[Probe]] = field(default_factory=dict)
    records: Mapping[str, Any] | None = None
    notes: Sequence[str] = field(default=())

    @property
    def found(self) -> list[str]:
        """The biases that were found; agreement is none."""
        return [
            probe.name
            for probe in self.probes
            if probe.verdict == "found" and probe.name != "agreement"
        ]

    def __getitem__(self, name: str) -> Probe:
        for probe in self.probes:
            if probe.name == name:
                return probe
        raise KeyError(name)

    def as_json(self) -> dict[str, object]:
        """The report with plain values only."""
        roles = {key: value for key, value in asdict(self.roles).items() if value}
        return {"found": self.found, **asdict(self), "roles": roles}

    def _repr_html_(self) -> str:
        told = {probe.name: f"{probe.verdict}, {shown(probe)}" for probe in self.probes}
        rest = {k: v for k, v in self.as_json().items() if k not in ("probes", "parts")}
        return as_html({"probes": told, **rest})

    def __str__(self) -> str:
        return "\n".join(lines(self))


def shown(probe: Probe) -> str:
    """The effect and its interval, as people read them."""
    if probe.effect is None:
        return ""
    if probe.name.endswith("flips"):
        ends = "" if probe.low is None else f" ({100 * probe.low:.1f} to {_hundred(probe.high)})"
        return f"{100 * probe.effect:.1f} %{ends}"
    ends = "" if probe.low is None else f" ({100 * probe.low:+.1f} to {_hundred(probe.high, '+')})"
    return f"{100 * probe.effect:+.1f} points{ends}"


def _hundred(value: float | None, sign: str = "") -> str:
    return "" if value is None else f"{100 * value:{sign}.1f}"


def lines(report: AuditReport) -> list[str]:
    """The report for people: a table, then what is to be said of it."""
    counts = ("comparison", report.comparisons), ("prompt", report.prompts)
    judged = [amount(count, word) for word, count in (*counts, ("judge", report.judges))]
    told = [", ".join(judged)]
    if any("less the reference's" in probe.what for probe in report.probes):
        told[0] += "; effects are the judge's less the reference's"
    told += _table(report.probes)
    told += _together({p.name: p.caveat for p in report.probes if p.caveat})
    untested = _together({p.name: p.why for p in report.probes if p.verdict == "not tested"})
    told += [f"not tested: {text}" for text in untested]
    told += [_of_length(probe) for probe in report.probes if _SLOPE in probe.numbers]
    told += [_of_agreement(probe) for probe in report.probes if "accuracy" in probe.numbers]
    told += [_of_repeats(probe) for probe in report.probes if "alpha" in probe.numbers]
    told += _of_scale(report)
    for value, probes in [*report.parts.items()][:_PARTS]:
        told += ["", f"{report.by} = {value}", *_table(probes)]
    if len(report.parts) > _PARTS:
        told.append(f"and {len(report.parts) - _PARTS:,} more values of {report.by} (--json)")
    return told


def _table(probes: Sequence[Probe]) -> list[str]:
    """The probes that were tested, a line each."""
    rows = [("probe", "effect (interval)", "p", "prompts", "verdict")]
    rows += [_row(probe) for probe in probes if probe.verdict != "not tested"]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        f"{name:<{widths[0]}}  {effect:<{widths[1]}}  {p:>{widths[2]}}  {n:>{widths[3]}}  {verdict}"
        for name, effect, p, n, verdict in rows
    ]


def _row(probe: Probe) -> tuple[str, str, str, str, str]:
    verdict: str = probe.verdict
    if probe.verdict == "cannot tell":
        verdict = f"{verdict} (needs {probe.needs:,} prompts)" if probe.needs else verdict
    if probe.name == "agreement" and probe.verdict == "found":
        side = "more" if (probe.effect or 0) > 0 else "less"
        verdict = f"agrees {side} than length alone"
    p = ""
    if probe.p_adjusted is not None:
        p = f"{probe.p_adjusted:.4f}" if probe.p_adjusted >= 0.0001 else "<0.0001"
    prompts = f"{probe.prompts:,}" if probe.prompts else ""
    return probe.name, shown(probe), p, prompts, verdict


def _together(said: Mapping[str, str]) -> list[str]:
    """What is said of several probes, once."""
    names: dict[str, list[str]] = {}
    for name, text in said.items():
        names.setdefault(text, []).append(name)
    return [f"{', '.join(each)}: {text}" for text, each in names.items()]


def _of_length(probe: Probe) -> str:
    got = probe.numbers
    ends = ""
    if f"{_SLOPE}, low" in got:
        ends = f" ({got[f'{_SLOPE}, low']:+.3g} to {got[f'{_SLOPE}, high']:+.3g})"
    return f"length: twice as long, and the score is {got[_SLOPE]:+.3g} higher{ends}"


def _of_agreement(probe: Probe) -> str:
    got = probe.numbers

    def ends(name: str) -> str:
        if f"{name}, low" not in got:
            return f"{got[name]:.3f}"
        return f"{got[name]:.3f} ({got[f'{name}, low']:.3f} to {got[f'{name}, high']:.3f})"

    names = ("accuracy", "accuracy of length alone", "kappa", "tau-b in prompts")
    told = ", ".join(f"{name} {ends(name)}" for name in names if name in got)
    return f"agreement: {told}"


def _of_repeats(probe: Probe) -> str:
    got = probe.numbers
    alpha = f"alpha {got['alpha']:.3f}"
    if "alpha, low" in got:
        alpha = f"{alpha} ({got['alpha, low']:.3f} to {got['alpha, high']:.3f})"
    return (
        f"judged again: {got['answers judged again']:,.0f}, the same each time"
        f" {100 * got['same score each time']:.1f} %, standard deviation of one"
        f" {got['standard deviation of an answer']:.3g}, {alpha}"
    )


def _of_scale(report: AuditReport) -> list[str]:
    scale = report.scale
    told = [
        f"scale: {scale['distinct']:,.0f} different scores,"
        f" {100 * scale['commonest, share']:.1f} % are {scale['commonest']:g},"
        f" {100 * scale['highest, share']:.1f} % the highest ({scale['highest']:g}),"
        f" {100 * scale['lowest, share']:.1f} % the lowest ({scale['lowest']:g})"
    ]
    if report.comparisons:
        told[0] += f"; {100 * scale['ties']:.1f} % of comparisons tie"
    for reason, rows in {**report.dropped, **report.null}.items():
        told.append(f"no score: {reason}, {amount(rows, 'row')}")
    return told
