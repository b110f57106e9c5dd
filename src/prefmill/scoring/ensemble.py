"""Several scorers as one."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument
from prefmill.models.contract import OnBadRow
from prefmill.scoring.scorers import Floats, Scored, Staged, as_scorer


@dataclass(frozen=True, kw_only=True)
class Ensemble(Staged):
    """Several scorers as one, with each scorer's own column.

    `combine`:
        mean   the mean of the scores
        min    the smallest score: the reward model that likes the row least decides (scores must
               be on one scale)
        worst  as min, over scores divided by `scales` (one number a scorer, for example each
               model's standard deviation on a calibration set)

    A row that some scorer leaves without a score has none. Columns: score, then the name of each
    scorer with its score.

    >>> long = lambda batch: [len(t) for t in batch["completion"].to_pylist()]
    >>> calm = lambda batch: [-t.count("!") for t in batch["completion"].to_pylist()]
    >>> both = Ensemble(scorers={"long": long, "calm": calm})
    >>> both(pa.record_batch({"prompt": ["p"], "completion": ["ab!"]}))
    array([1.])
    """

    scorers: Mapping[str, Any]
    combine: str = "mean"
    scales: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        names, scales = sorted(self.scorers), self.scales
        if not names:
            raise BadArgument("ensemble: no scorers; expected at least one.")
        if self.combine not in ("mean", "min", "worst"):
            raise BadArgument(
                f"ensemble: combine is not one of ('mean', 'min', 'worst'); got {self.combine!r}."
            )
        scaled = None if scales is None else sorted(scales)
        if scaled != (names if self.combine == "worst" else None):
            raise BadArgument(
                f"ensemble: worst needs one scale for each of {names}, and only worst;"
                f" got {scales!r}."
            )
        for scale in (scales or {}).values():
            if not isinstance(scale, int | float | np.number) or not 0 < scale < np.inf:
                raise BadArgument(f"ensemble: scales must be finite numbers > 0; got {scales!r}.")
        if "score" in names:
            raise BadArgument(
                "ensemble: no scorer can be named 'score': that is the combined column."
            )
        scorers = {name: as_scorer(scorer) for name, scorer in self.scorers.items()}
        object.__setattr__(self, "scorers", scorers)

    def _each(self, change: Callable[[str, Staged], Staged]) -> Self:
        scorers = {name: change(name, scorer) for name, scorer in self.scorers.items()}
        return replace(self, scorers=scorers)

    @property
    def columns(self) -> tuple[str, ...]:
        """score, and one column a scorer."""
        return ("score", *self.scorers)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of every scorer, its name before."""
        names: list[str] = []
        for name, scorer in self.scorers.items():
            names += [f"{name}_{text}" for text in scorer.texts]
        return tuple(names)

    @property
    def lists(self) -> tuple[str, ...]:
        """The lists of every scorer, its name before."""
        names: list[str] = []
        for name, scorer in self.scorers.items():
            names += [f"{name}_{each}" for each in scorer.lists]
        return tuple(names)

    @property
    def compares(self) -> bool | None:
        """Whether one of them does."""
        answers = [scorer.compares for scorer in self.scorers.values()]
        if True in answers:
            return True
        if None in answers:
            return None
        return False

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What one of them does; None: all columns."""
        wanted: dict[str, None] = {}
        for scorer in self.scorers.values():
            if scorer.reads is None:
                return None
            wanted |= dict.fromkeys(scorer.reads)
        return tuple(wanted)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Those of the scorers, and how they are combined."""
        parts = {"combine": self.combine, "scales": json.dumps(self.scales, sort_keys=True)}
        for name, scorer in self.scorers.items():
            parts |= {f"{name}.{key}": value for key, value in scorer.fingerprint.items()}
        return parts

    @property
    def shape(self) -> Mapping[str, Any]:
        """Those of the scorers."""
        return {name: scorer.shape for name, scorer in self.scorers.items()}

    def with_shape(self, shape: Mapping[str, Any]) -> Self:
        """Every scorer with its own."""
        return self._each(lambda name, scorer: scorer.with_shape(shape[name]))

    @property
    def printed_date(self) -> str | None:
        """The first that one of them prints."""
        dates = (scorer.printed_date for scorer in self.scorers.values())
        return next((date for date in dates if date), None)

    def on_date(self, date: str) -> Self:
        """Every scorer on that date."""
        return self._each(lambda _, scorer: scorer.on_date(date))

    def on_device(self, device: str) -> Self:
        """Every scorer on that device."""
        return self._each(lambda _, scorer: scorer.on_device(device))

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """Every scorer with its own bad rows left out."""
        return self._each(lambda _, scorer: scorer.with_bad_rows(on_bad_row))

    def prepare(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Every scorer's own first half."""
        return {name: scorer.prepare(batch) for name, scorer in self.scorers.items()}

    def run(self, prepared: dict[str, Any]) -> Scored:
        """Run one scorer after another."""
        done = {name: scorer.run(prepared[name]) for name, scorer in self.scorers.items()}
        scales = self.scales or dict.fromkeys(done, 1.0)
        own: dict[str, Floats] = {}
        texts: dict[str, Sequence[str | None]] = {}
        lists: dict[str, Sequence[Sequence[float] | None]] = {}
        counts: dict[str, int] = {}
        for name, scored in done.items():
            own[name] = next(iter(scored.columns.values()))
            texts |= {f"{name}_{text}": values for text, values in scored.texts.items()}
            lists |= {f"{name}_{each}": values for each, values in scored.lists.items()}
            for key, number in scored.counts.items():
                counts[key] = counts.get(key, 0) + number
        stacked = np.stack([values / scales[name] for name, values in own.items()])
        score = stacked.mean(axis=0) if self.combine == "mean" else stacked.min(axis=0)
        nulls = [np.zeros(len(score), bool)]
        nulls += [scored.null for scored in done.values() if scored.null is not None]
        reasons = [scored.reasons for scored in done.values() if scored.reasons]
        return Scored(
            {"score": score, **own},
            np.logical_or.reduce(nulls),
            counts,
            texts,
            [next(filter(None, of_row), None) for of_row in zip(*reasons, strict=True)],
            lists,
        )
