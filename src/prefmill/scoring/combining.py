"""How the scores of several scorers become one, and how far they differ: the sums of `Ensemble`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from prefmill.rules import standards
from prefmill.rules.standards import Groups, Ints
from prefmill.scoring.calibration import Calibration
from prefmill.scoring.scorers import Floats

#: How scores become one. The second three compare the rows of a prompt, or of the pool.
COMBINE = ("mean", "min", "worst", "zscore", "rank", "calibrated")
COMPARING = ("zscore", "rank", "calibrated")
#: Counts of groups to which a scorer gave one score begin so.
FLAT = "flat:"
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Combining:
    """How scores become one.

    names         of the scorers
    combine       one of `COMBINE`
    scales        of worst, by scorer
    calibrations  of calibrated, by scorer
    """

    names: tuple[str, ...]
    combine: str
    scales: Mapping[str, float] | None
    calibrations: Mapping[str, Calibration] | None

    def score(
        self, columns: Mapping[str, Floats], null: Bools | None, keys: Ints
    ) -> tuple[Floats, dict[str, int]]:
        """The score of each row, NaN where a scorer gives none, and what is counted.

        `keys` are numbers of the groups whose rows are compared, shape (rows,).
        """
        values, stands = self._values(columns), self._stands(columns, null)
        if self.combine not in COMPARING:
            return self._plain(values), {}
        values, groups = values[:, stands], Groups.of(keys[stands])
        same = standards.flat(values, groups).tolist()
        counts = {f"{FLAT}{name}": n for name, n in zip(self.names, same, strict=True) if n}
        mean = self._compared(values, groups).mean(axis=0)
        return _spread(standards.rounded(mean), stands), counts

    def mean(self, columns: Mapping[str, Floats]) -> Floats:
        """The mean of the scores of each row."""
        return np.asarray(self._values(columns).mean(axis=0))

    def disagreement(self, columns: Mapping[str, Floats], null: Bools | None, keys: Ints) -> Floats:
        """How far the scorers differ about each row, NaN where one gives no score."""
        values, stands = self._values(columns), self._stands(columns, null)
        differ = standards.disagreement(values[:, stands], Groups.of(keys[stands]))
        return _spread(differ, stands)

    def _values(self, columns: Mapping[str, Floats]) -> Floats:
        """The score of each scorer, shape (scorers, rows)."""
        return np.stack([columns[name] for name in self.names])

    def _stands(self, columns: Mapping[str, Floats], null: Bools | None) -> Bools:
        """The rows to which every scorer gives a number: no other row knows of the rest."""
        stands: Bools = np.asarray(np.isfinite(self._values(columns)).all(axis=0))
        return stands if null is None else stands & ~null

    def _compared(self, values: Floats, groups: Groups) -> Floats:
        """What each scorer makes of a row among the rows of its group, shape (scorers, rows)."""
        if self.combine == "zscore":
            return standards.zscores(values, groups)
        if self.combine == "rank":
            return standards.ranks(values, groups)
        assert self.calibrations is not None
        curves = [self.calibrations[name].curve for name in self.names]
        pairs = zip(curves, values, strict=True)
        return np.stack([curve.wins(scores, groups) for curve, scores in pairs])

    def _plain(self, values: Floats) -> Floats:
        """The score of each row, whatever the others have."""
        if self.combine == "mean":
            return np.asarray(values.mean(axis=0))
        scales = self.scales or dict.fromkeys(self.names, 1.0)
        divisors = np.array([scales[name] for name in self.names])
        return np.asarray((values / divisors[:, None]).min(axis=0))


def _spread(some: Floats, stands: Bools) -> Floats:
    """Numbers of the rows that stand over all rows, NaN for the others."""
    every = np.full(len(stands), np.nan)
    every[stands] = some
    return every
