"""What `prefmill worth` found: figures, and the same in words, for a page and for a terminal."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from prefmill.proxies.flips import Flips
from prefmill.proxies.learning import Point
from prefmill.reports.faces import Faces
from prefmill.reports.floors import is_high
from prefmill.reports.found import Floor, Warned
from prefmill.reports.parts import Grid, Section, percent
from prefmill.reports.sections import floor_row
from prefmill.reports.warned import floor_told

_SHOWN = 12  # sources or annotators, those that agree least
_FILE = "mislabelled.parquet"


@dataclass(frozen=True)
class Part:
    """The pairs of one source, or of one annotator: how far the proxy agrees with their labels.

    `p` is the chance of so few of its labels agreeing, did they agree as often as those of all
    other pairs; adjusted for the number of parts (Holm). `reversed`: fewer than half agree.
    """

    of: str
    name: str
    pairs: int
    share: float
    low: float
    high: float
    p: float
    reversed: bool


@dataclass(frozen=True)
class WorthReport(Faces):
    """What pairs are worth: see `docs/worth.md`.

    pairs       of different texts, of `prompts`; of them `used` were drawn
    accuracy    of the proxy on pairs that it did not see, as a floor is told
    beyond      what that is more than the best floor gets right of the same pairs, which is
                `best`: points of 1, with an interval
    floors      as in `prefmill.report`, of all pairs
    curve       accuracies by the number of labels; `forecast` of more of them
    parts       sources and annotators, those that agree least first
    flips       how many labels are the wrong way round; `mislabelled` pairs are likely so
    model       the encoder; `fingerprint` its content
    """

    name: str
    rows_in: int
    rows_rejected: int
    pairs: int
    prompts: int
    used: int
    accuracy: Floor
    best: str
    beyond: tuple[float, float, float]
    floors: Sequence[Floor]
    curve: Sequence[Point]
    forecast: Sequence[Point]
    parts: Sequence[Part]
    flips: Flips
    mislabelled: int
    model: str
    fingerprint: str
    seed: int
    read: str
    seconds: float
    peak_rss_mb: float
    output: str | None
    notes: Sequence[str] = ()

    _where = "worth"

    @property
    def warnings(self) -> list[Warned]:
        """What needs a look, in words."""
        return [*_warnings(self)]

    @cached_property
    def _parts(self) -> list[Section]:
        made = (_accuracy(self), _floors(self), _curve(self), _of_parts(self), _flips(self))
        return [section for section in made if section]

    @property
    def _title(self) -> str:
        return f"What the pairs of {self.name} are worth"

    def as_json(self) -> dict[str, Any]:
        """Plain values only."""
        warned = [asdict(each) for each in self.warnings]
        return {"ok": self.ok, "warnings": warned, **asdict(self)}

    @classmethod
    def of_json(cls, told: Mapping[str, Any]) -> WorthReport:
        """The report from the JSON of its `asdict`."""
        values = {each.name: told[each.name] for each in fields(cls) if each.name in told}
        kinds: dict[str, Any] = {"floors": Floor, "curve": Point, "forecast": Point, "parts": Part}
        for name, kind in kinds.items():
            values[name] = [kind(**each) for each in values[name]]
        values["accuracy"] = Floor(**values["accuracy"])
        values["flips"] = Flips(**values["flips"])
        values["beyond"] = tuple(values["beyond"])
        return cls(**values)


def _warnings(done: WorthReport) -> Iterator[Warned]:
    accuracy = done.accuracy
    if (accuracy.low or 0.0) <= 0.5:
        what = (
            f"The proxy agrees with {percent(accuracy.share or 0.0)} of labels that it did not see"
            f" ({percent(accuracy.low or 0.0)} to {percent(accuracy.high or 0.0)}): it learned"
            " nothing."
        )
        advice = (
            "Either the labels are noise, or they are about something that a small encoder does"
            " not see. Label some pairs twice, and look how often people agree."
        )
        yield Warned("nothing learned", what, advice)
    if done.flips.found:
        flips = done.flips
        what = (
            f"About {percent(flips.share)} of labels ({percent(flips.low)} to"
            f" {percent(flips.high)}) are the wrong way round, or of a kind that the proxy"
            f" misjudges; {done.mislabelled:,} pairs are likely among them."
        )
        if done.output is None:
            line = f"prefmill worth {done.read} -o {_FILE}"
            yield Warned("mislabelled", what, "Read them.", line)
        else:
            line = (
                f"prefmill pairs {done.read} --exclude {shlex.quote(done.output)} -o clean.parquet"
            )
            advice = "Read them, take those out of the file that are right, and leave the rest out."
            yield Warned("mislabelled", what, advice, line)
    for part in done.parts:
        if part.reversed:
            what = (
                f"The proxy agrees with {percent(part.share)} of the {part.pairs:,} labels of"
                f" {part.of} {part.name} (at most {percent(part.high)}): they point the other way."
            )
            advice = "Look whether the scale was read upside down, and leave the rows out if not."
            yield Warned(part.of, what, advice)
    for floor in done.floors:
        if is_high(floor) and floor.name != "position":
            advice = "Compare what a model gets right with this floor."
            yield Warned(floor.name, floor_told(floor), advice, f"prefmill report {done.read}")


def _accuracy(done: WorthReport) -> Section:
    accuracy = done.accuracy
    gain, low, high = done.beyond
    drawn = f"{done.used:,} pairs"
    if done.used < done.pairs:
        drawn = f"{done.used:,} of {done.pairs:,} pairs, which were drawn"
    words = [
        f"A logistic regression on the vectors of a small encoder, on length and on lists, over"
        f" {drawn}. Each pair was held out once, with all pairs of its prompt.",
        "It is a lower bound: a trained reward model reads more than this one does.",
    ]
    rows = [
        ("right of held-out pairs", percent(accuracy.share or 0.0)),
        ("95 % interval", _between(accuracy.low or 0.0, accuracy.high or 0.0)),
        ("the best floor", done.best),
        ("points beyond it", f"{100 * gain:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"),
        ("encoder", done.model),
    ]
    return Section("Accuracy", [*words, *done.notes], [Grid("The proxy", ("", ""), rows)])


def _between(low: float, high: float) -> str:
    return f"{percent(low)} to {percent(high)}"


def _floors(done: WorthReport) -> Section:
    head = ("guess", "right", "95 % interval", "p", "shuffled labels", "pairs", "")
    rows = [floor_row(floor) for floor in done.floors]
    return Section(f"Floors of {done.pairs:,} pairs", (), [Grid("Floors", head, rows)])


def _curve(done: WorthReport) -> Section:
    head = ("labels", "right", "95 % interval", "gain")
    rows = [
        (f"{each.labels:,}", percent(each.accuracy), _between(each.low, each.high), "")
        for each in done.curve
    ]
    for each in done.forecast:
        ends = (100 * (each.gain_low or 0.0), 100 * (each.gain_high or 0.0))
        gain = f"{100 * (each.gain or 0.0):+.1f} points ({ends[0]:+.1f} to {ends[1]:+.1f})"
        between = _between(each.low, each.high)
        rows.append((f"{each.labels:,} (forecast)", percent(each.accuracy), between, gain))
    words = [
        "What the proxy gets right, by the number of labels that it learned from. The forecast is a"
        " power law through these points: it is of this proxy, of more pairs of the same kind, and"
        " a guess beyond. Intervals hold what the prompts at hand leave open, and no more."
    ]
    if not done.forecast:
        words = [*words, "There are too few pairs for a forecast."]
    return Section("What more labels would buy", words, [Grid("Learning curve", head, rows)])


def _of_parts(done: WorthReport) -> Section | None:
    if not done.parts:
        return None
    head = ("of", "name", "pairs", "right", "95 % interval", "p")
    rows = [
        (
            part.of,
            part.name,
            f"{part.pairs:,}",
            percent(part.share),
            _between(part.low, part.high),
            "<0.0001" if part.p < 0.0001 else f"{part.p:.4f}",
        )
        for part in done.parts[:_SHOWN]
    ]
    words = [
        "Where the proxy agrees with few labels, they are noisy, close, or about something else."
        " p: the chance of so few, were they as good as the others (Holm)."
    ]
    return Section("Worst sources", words, [Grid("Those that agree least", head, rows)])


def _flips(done: WorthReport) -> Section:
    flips = done.flips
    chance = "<0.0001" if flips.p < 0.0001 else f"{flips.p:.4f}"
    rows = [
        ("labels the wrong way round, by the fit", percent(flips.share)),
        ("95 % interval", _between(flips.low, flips.high)),
        ("p of as clear a sign without any", chance),
        ("pairs that are more likely wrong than right", f"{done.mislabelled:,}"),
    ]
    words = ["Labels that disagree with the proxy where it is surest."]
    return Section("Likely mislabelled", words, [Grid("Labels", ("", ""), rows)])
