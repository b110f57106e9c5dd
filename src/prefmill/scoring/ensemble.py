"""Several scorers as one: each scorer's scores, one score of them all, and how far they differ."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument
from prefmill.models.contract import OnBadRow
from prefmill.models.described import Described
from prefmill.pools.stream import starts_of_groups
from prefmill.rules.standards import Ints
from prefmill.scoring.calibration import Calibration, read_calibration
from prefmill.scoring.combining import COMBINE, COMPARING, Bools, Combining
from prefmill.scoring.kinds import scorer_in
from prefmill.scoring.scorers import Floats, Scored, Staged, as_scorer

OVER = ("prompt", "pool")
#: Columns of its own, which no scorer can be called.
_OWN = ("score", "disagreement")
#: Counts of one scorer begin so, then its name.
_OF = "of:"


@dataclass(frozen=True, kw_only=True)
class Ensemble(Described, Staged):
    """Several scorers as one, with each scorer's own columns.

    Args:
        scorers: by name; a scorer, or a table as in a recipe's [score]: `kind`, and its fields.
        combine: what the score is:
            mean        the mean of the scores, which have to be on one scale
            min         the smallest of them: the scorer that likes the row least decides
            worst       as min, over scores divided by `scales`
            zscore      the mean of z-scores: population deviations above the scorer's mean
            rank        the mean of middle ranks as shares, (rank - 0.5) / n
            calibrated  the mean chance to win against another candidate of the prompt, between
                        0 and 1, by `calibrations`
        scales: of worst: a number > 0 for each scorer, say its deviation on other rows.
        over: zscore and rank are taken among the rows of the `prompt`, or of the whole `pool`.
        calibrations: of calibrated: for each scorer a file of `prefmill calibrate`, or what
            `read_calibration` gives.
        disagreement: also write how far the scorers differ; of several scorers.

    `disagreement` of a row is the population deviation, over the scorers, of its z-scores inside
    its prompt, whatever `combine` is: 0 where all place it alike, and for a single candidate.

    A row that some scorer leaves without a score has none, and no z-score, rank or chance of
    another row knows of it. A scorer that gives all rows of a group one score says nothing there:
    z-scores of 0, ranks and chances of a half; such groups are counted (`flat:NAME`).

    Columns: score, then for each scorer its name with its score and NAME_COLUMN for more, then
    disagreement. Computed numbers have 9 decimals. Cost: that of the scorers; calibrated takes the
    square of a prompt's rows. Raises `BadArgument`, also for a calibration of another scorer.

    Sources: of min and worst, Coste et al. 2024, "Reward Model Ensembles Help Mitigate
    Overoptimization" (arXiv:2310.02743); of z-scores by prompt before they are summed, GDPO
    (arXiv:2601.05242).

    >>> long = lambda batch: [len(t) for t in batch["completion"].to_pylist()]
    >>> calm = lambda batch: [-t.count("!") for t in batch["completion"].to_pylist()]
    >>> both = {"long": long, "calm": calm}
    >>> batch = pa.record_batch({"prompt": ["p", "p"], "completion": ["ab!", "a"]})
    >>> Ensemble(scorers=both)(batch)
    array([1. , 0.5])
    >>> Ensemble(scorers=both, combine="zscore")(batch)
    array([0., 0.])
    """

    scorers: Mapping[str, Any]
    combine: str = "mean"
    scales: Mapping[str, float] | None = None
    over: str = "prompt"
    calibrations: Mapping[str, Any] | None = None
    disagreement: bool = True

    def __post_init__(self) -> None:
        names = list(self.scorers) if isinstance(self.scorers, Mapping) else []
        if not names:
            raise BadArgument("ensemble: no scorers; expected at least one, by name.")
        for field, allowed in (("combine", COMBINE), ("over", OVER)):
            if getattr(self, field) not in allowed:
                raise BadArgument(
                    f"ensemble: {field} is not one of {allowed}; got {getattr(self, field)!r}."
                )
        for name in _OWN:
            if name in names:
                raise BadArgument(
                    f"ensemble: no scorer can be named {name!r}: that is a column of its own."
                )
        if self.over == "pool" and self.combine not in ("zscore", "rank"):
            raise BadArgument(
                f"ensemble: over 'pool' is for zscore and rank; got combine {self.combine!r}."
            )
        self._check_scales(names)
        self._check_calibrations(names)
        scorers = {name: _scorer_of(name, scorer) for name, scorer in self.scorers.items()}
        object.__setattr__(self, "scorers", scorers)
        for name, scorer in scorers.items():
            if scorer.over_pool:
                raise BadArgument(
                    f"ensemble: {name!r} compares all rows of the pool, and is itself an ensemble;"
                    " expected its scorers here."
                )

    def _check_scales(self, names: Sequence[str]) -> None:
        scaled = None if self.scales is None else sorted(self.scales)
        if scaled != (sorted(names) if self.combine == "worst" else None):
            raise BadArgument(
                f"ensemble: worst needs one scale for each of {sorted(names)}, and only worst;"
                f" got {self.scales!r}."
            )
        for scale in (self.scales or {}).values():
            if not isinstance(scale, int | float | np.number) or not 0 < scale < np.inf:
                raise BadArgument(
                    f"ensemble: scales must be finite numbers > 0; got {self.scales!r}."
                )

    def _check_calibrations(self, names: Sequence[str]) -> None:
        given = None if self.calibrations is None else sorted(self.calibrations)
        if given != (sorted(names) if self.combine == "calibrated" else None):
            raise BadArgument(
                f"ensemble: calibrated needs a calibration for each of {sorted(names)}, and only"
                f" calibrated; got {given}.",
                hint="prefmill calibrate pairs.parquet -o FILE makes one of scored pairs.",
            )
        read = {
            name: each if isinstance(each, Calibration) else read_calibration(each)
            for name, each in (self.calibrations or {}).items()
        }
        object.__setattr__(self, "calibrations", read or None)

    @classmethod
    def options(cls) -> frozenset[str]:
        """None: on a command line each option is of its scorers."""
        return frozenset()

    def _each(self, change: Callable[[str, Staged], Staged]) -> Self:
        scorers = {name: change(name, scorer) for name, scorer in self.scorers.items()}
        return replace(self, scorers=scorers)

    @property
    def _disagree(self) -> bool:
        return self.disagreement and len(self.scorers) > 1

    @property
    def columns(self) -> tuple[str, ...]:
        """score, the columns of every scorer, and disagreement."""
        names = ["score"]
        for name, scorer in self.scorers.items():
            names += [name, *(f"{name}_{column}" for column in scorer.columns[1:])]
        return (*names, *(["disagreement"] if self._disagree else []))

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
        """Whether one of them does, or what is made of their scores."""
        answers = [scorer.compares for scorer in self.scorers.values()]
        if self._disagree or self.combine in COMPARING or True in answers:
            return True
        if None in answers:
            return None
        return False

    @property
    def over_pool(self) -> bool:
        """Whether a row's score depends on all rows."""
        return self.over == "pool"

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
    def chunk_tokens(self) -> int | None:
        """The most that one of them wants."""
        wanted = [scorer.chunk_tokens for scorer in self.scorers.values()]
        return max(filter(None, wanted), default=None)

    @property
    def way(self) -> str:
        """How each of them runs."""
        return _by_name({name: scorer.way for name, scorer in self.scorers.items()})

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Those of the scorers, and how they are combined."""
        parts = {
            "combine": self.combine,
            "scales": json.dumps(self.scales, sort_keys=True),
            "over": self.over,
            "disagreement": str(self._disagree),
        }
        for name, calibration in (self.calibrations or {}).items():
            parts[f"{name}.calibration"] = _hash(calibration.identity)
        for name, scorer in self.scorers.items():
            own = scorer.fingerprint
            if self.calibrations is not None:
                self.calibrations[name].check(name, own)
            parts |= {f"{name}.{key}": value for key, value in own.items()}
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

    def load(self) -> str:
        """Load every scorer, and say how each will be run."""
        return _by_name({name: scorer.load() for name, scorer in self.scorers.items()})

    @property
    def posts(self) -> tuple[tuple[Any, Any], ...]:
        """Those of the scorers."""
        return tuple(post for scorer in self.scorers.values() for post in scorer.posts)

    def prepare(self, batch: pa.RecordBatch) -> _Prepared:
        """Every scorer's own first half."""
        parts = {name: scorer.prepare(batch) for name, scorer in self.scorers.items()}
        return _Prepared(parts, _keys_of(batch))

    def run(self, prepared: _Prepared) -> Scored:
        """Run one scorer after another."""
        return self.start(prepared)()

    def start(self, prepared: _Prepared) -> Callable[[], Scored]:
        """Begin every scorer, and return what gives the scores of them all."""
        parts = prepared.parts
        fetches = {name: scorer.start(parts[name]) for name, scorer in self.scorers.items()}
        return lambda: self._together({n: fetch() for n, fetch in fetches.items()}, prepared.keys)

    def _together(self, done: Mapping[str, Scored], keys: Ints) -> Scored:
        columns: dict[str, Floats] = {"score": np.zeros(0)}
        texts: dict[str, Sequence[str | None]] = {}
        lists: dict[str, Sequence[Sequence[float] | None]] = {}
        counts: dict[str, int] = {}
        for name, scored in done.items():
            first, *others = scored.columns.items()
            columns |= {name: first[1]} | {f"{name}_{each}": values for each, values in others}
            texts |= {f"{name}_{text}": values for text, values in scored.texts.items()}
            lists |= {f"{name}_{each}": values for each, values in scored.lists.items()}
            for key, number in scored.counts.items():
                counts[key] = counts.get(key, 0) + number
                counts[f"{_OF}{name}:{key}"] = number
        nulls = [scored.null for scored in done.values() if scored.null is not None]
        null = np.logical_or.reduce(nulls) if nulls else None
        flat: dict[str, int] = {}
        if self.over_pool:  # `settled` makes it, of all rows
            columns["score"] = self._combining.mean(columns)
        else:
            columns["score"], flat = self._combining.score(columns, null, keys)
        if self._disagree:
            columns["disagreement"] = self._combining.disagreement(columns, null, keys)
        reasons = [scored.reasons for scored in done.values() if scored.reasons]
        of_row = [next(filter(None, each), None) for each in zip(*reasons, strict=True)]
        return Scored(columns, null, counts | flat, texts, of_row, lists)

    def cost(self, counts: Mapping[str, int]) -> float | None:
        """The sum of what is known of each."""
        known = [scorer.cost(_counts_of(name, counts)) for name, scorer in self.scorers.items()]
        costs = [cost for cost in known if cost is not None]
        return sum(costs) if costs else None

    def settled(
        self, columns: Mapping[str, Floats], null: Bools
    ) -> tuple[Mapping[str, Floats], Mapping[str, int]]:
        """The columns of the whole pool with the score that all its rows decide, and counts."""
        one = np.zeros(len(null), np.int64)
        score, flat = self._combining.score(columns, null, one)
        return {**columns, "score": score}, flat

    def __call__(self, batch: pa.RecordBatch, /) -> Any:
        """The score of each row, NaN where it has none; the batch is the pool."""
        scored = self.run(self.prepare(batch))
        if self.over_pool:
            null = np.zeros(batch.num_rows, bool) if scored.null is None else scored.null
            scored = replace(scored, columns=self.settled(scored.columns, null)[0])
        return scored.numbers()

    @property
    def _combining(self) -> Combining:
        return Combining(tuple(self.scorers), self.combine, self.scales, self.calibrations)


def _scorer_of(name: str, scorer: Any) -> Staged:
    made = scorer_in(scorer, f"ensemble: {name}") if isinstance(scorer, Mapping) else scorer
    return as_scorer(made)


@dataclass(frozen=True)
class _Prepared:
    """What every scorer made of a batch, and the prompt of each row as a number."""

    parts: Mapping[str, Any]
    keys: Ints


def _keys_of(batch: pa.RecordBatch) -> Ints:
    """A number for the prompt of each row."""
    if "group" in batch.schema.names:
        return np.asarray(batch["group"], dtype=np.int64)
    return np.cumsum(starts_of_groups(batch["prompt"]))


def _counts_of(name: str, counts: Mapping[str, int]) -> Mapping[str, int]:
    """The counts of one scorer, 0 where it told none."""
    own = f"{_OF}{name}:"
    mine = {key.removeprefix(own): n for key, n in counts.items() if key.startswith(own)}
    return {key: 0 for key in counts if ":" not in key} | mine


def _by_name(texts: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {text}" for name, text in texts.items() if text)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
