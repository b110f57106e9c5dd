"""What a training says of itself: rows, loss, and how a reward model does on unseen pairs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from prefmill._version import __version__
from prefmill.disk.folders import MARK
from prefmill.errors import AccountingError
from prefmill.rules.intervals import Floats, wilson
from prefmill.table.showing import Showing
from prefmill.writers.cards import front_matter, table

_BUCKETS = 4


@dataclass(frozen=True)
class Share:
    """A share of pairs, with Wilson's 95 % interval.

    Pairs of one prompt are not independent, so the interval counts prompts.
    """

    value: float
    low: float
    high: float
    pairs: int


@dataclass(frozen=True)
class Bucket:
    """Pairs whose feedback differs so much, and how often the reward model agrees with it."""

    at_least: float
    at_most: float
    accuracy: Share


@dataclass(frozen=True)
class HeldOut:
    """A reward model on pairs that it has not seen, as `prefmill score` will score them.

    `accuracy`: how often the chosen side has the higher score (a draw counts half); `longer`: the
    same for the rule "the longer completion wins", by characters. `margins`: accuracy by the
    difference of the feedback's scores, where the pairs have it. `loss` in nats, `difference` the
    mean of chosen minus rejected score. `pairs_in` = pairs measured + what `dropped` counts by
    reason; `prompts_trained` are prompts that the training data has too.
    """

    name: str
    pairs_in: int
    dropped: Mapping[str, int]
    prompts: int
    prompts_trained: int
    accuracy: Share
    longer: Share
    margins: tuple[Bucket, ...]
    loss: float
    difference: float


@dataclass(frozen=True)
class TrainReport(Showing):
    """What a training did.

    `rows_in` = `rows_used` + `rows_held_out` + what `dropped` counts by reason (`too_long`,
    `null_...`). `steps` of the optimizer are `epochs` over the rows used; `loss`: the mean over the
    last tenth of them, `losses`: (step, loss) along the way. `tokens` went through the model,
    without padding. `seconds` of wall time, of which `seconds_training` were in the trainer.
    """

    method: str
    model: str
    output: str
    rows_in: int
    rows_used: int
    rows_held_out: int
    dropped: Mapping[str, int]
    steps: int
    epochs: float
    tokens: int
    loss: float
    losses: tuple[tuple[int, float], ...]
    held_out: tuple[HeldOut, ...]
    settings: Mapping[str, object]
    seconds: float
    seconds_training: float
    peak_rss_mb: float

    def __post_init__(self) -> None:
        accounted = self.rows_used + self.rows_held_out + sum(self.dropped.values())
        if self.rows_in != accounted:
            raise AccountingError(f"train: {self.rows_in} rows in, but {accounted} accounted for.")

    def as_json(self) -> dict[str, object]:
        """Plain values only."""
        return {"prefmill": __version__, **asdict(self)}


def write_report(folder: Path, report: TrainReport) -> None:
    """`prefmill.json`, and what it says as the model card README.md, into `folder`.

    The folder is hidden still: it is flushed and published as a whole.
    """
    text = json.dumps(report.as_json(), indent=1, ensure_ascii=False)
    (folder / MARK).write_text(f"{text}\n", encoding="utf-8")
    (folder / "README.md").write_text(card(report), encoding="utf-8")


def card(report: TrainReport) -> str:
    """The report as a model card: Markdown after YAML front matter."""
    tags = ["prefmill", "trl", {"reward": "reward-model"}.get(report.method, report.method)]
    dropped = "".join(f", {rows:,} dropped: {reason}" for reason, rows in report.dropped.items())
    known = [f"{name} {value}" for name, value in report.settings.items() if value is not None]
    lines = [
        front_matter({"library_name": "transformers", "tags": tags}),
        f"# {Path(report.output).name}",
        "",
        f"Trained by prefmill {__version__} ({report.method}) from `{Path(report.model).name}`.",
        "",
        f"- rows: {report.rows_in:,} in, {report.rows_used:,} used,"
        f" {report.rows_held_out:,} held out{dropped}",
        f"- {report.steps:,} steps, {report.epochs:.3g} epochs, {report.tokens:,} tokens;"
        f" loss {report.loss:.3f} at the end",
        f"- settings: {', '.join(known)}",
    ]
    for held in report.held_out:
        lines += [
            "",
            f"Share of {held.name} pairs in which the chosen completion wins:",
            "",
            *table(["", "share", "95 % interval", "pairs"], map(_cells, named_shares(held))),
        ]
    return "\n".join([*lines, ""])


def _cells(named: tuple[str, Share]) -> list[str]:
    name, share = named
    interval = f"{share.low:.3f} to {share.high:.3f}"
    return [name, f"{share.value:.3f}", interval, f"{share.pairs:,}"]


def named_shares(held: HeldOut) -> list[tuple[str, Share]]:
    """Every share of a held-out set, with what it is called."""
    shares = [("reward model", held.accuracy)]
    for bucket in held.margins:
        name = f"margin {bucket.at_least:.4g}"
        if bucket.at_most > bucket.at_least:
            name += f" to {bucket.at_most:.4g}"
        shares.append((name, bucket.accuracy))
    return [*shares, ("longer completion", held.longer)]


def share_of(wins: Floats, prompts: npt.NDArray[np.int64]) -> Share:
    """The mean of `wins` (1, 0, a draw 0.5) and its interval.

    `prompts` are the numbers of the pairs' prompts; both are of shape (pairs,), and not empty.

    Wilson's interval with as many observations as pairs of one prompt, which are not independent,
    are worth together.

    >>> share_of(np.array([1.0, 0.5, 1.0, 0.0]), np.array([0, 0, 1, 2])).value
    0.625
    """
    n = len(wins)
    share = float(wins.mean())
    of_prompt = np.bincount(np.unique(prompts, return_inverse=True)[1], wins - share)
    spread = share * (1 - share)
    variance = float((of_prompt**2).sum()) / n**2
    worth = float(len(of_prompt))
    if spread:
        worth = spread / max(variance, spread / n)
    low, high = wilson(share, worth)
    return Share(round(share, 6), round(low, 6), round(high, 6), n)


def buckets_of(
    margins: Sequence[float | None] | None, wins: Floats, prompts: npt.NDArray[np.int64]
) -> tuple[Bucket, ...]:
    """Accuracy by margin: a bucket for every margin where there are few, else quarters.

    >>> buckets = buckets_of([1, 1, 2], np.array([0.0, 1.0, 1.0]), np.arange(3))
    >>> [(bucket.at_least, bucket.accuracy.value) for bucket in buckets]
    [(1.0, 0.5), (2.0, 1.0)]
    """
    if margins is None:
        return ()
    values = np.array([math.nan if m is None else m for m in margins], np.float64)
    known = values[np.isfinite(values)]
    if not len(known):
        return ()
    distinct = np.unique(known)
    if len(distinct) > _BUCKETS:
        distinct = np.unique(np.quantile(known, np.arange(_BUCKETS) / _BUCKETS, method="lower"))
    bucket = np.searchsorted(distinct, values, side="right") - 1
    buckets = []
    for number in range(len(distinct)):
        mine = (bucket == number) & np.isfinite(values)
        low, high = float(values[mine].min()), float(values[mine].max())
        buckets.append(Bucket(low, high, share_of(wins[mine], prompts[mine])))
    return tuple(buckets)
