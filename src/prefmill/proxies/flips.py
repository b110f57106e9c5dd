"""Labels that are likely the wrong way round, of margins from a proxy that did not see them.

The chance that a label agrees with a margin m is

    share + (1 - 2 share) * logistic(scale * m)

People err where answers are close, which is the logistic part. A flipped label is one whatever the
margin is: so many labels disagree with the proxy where it is surest. It is the lapse rate of
psychometrics (Wichmann and Hill 2001, Percept. Psychophys. 63:1293), over margins that are
cross-validated as confident learning has it (Northcutt, Jiang and Chuang 2021, JAIR 70:1373).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from prefmill.proxies.fit import chance
from prefmill.rules.intervals import Floats

_SHARES = np.linspace(0.0, 0.45, 91)
_SCALES = np.geomspace(0.1, 20, 54)
#: The 95 % point of chi-squared with one degree of freedom.
_CHI = 3.841458820694124
#: From this chance on a label is said to be likely wrong.
LIKELY = 0.5
#: A smaller share is no finding.
LEAST = 0.02
#: A clean set has a finding in one of a hundred.
CHANCE = 0.01


@dataclass(frozen=True)
class Flips:
    """How many labels are flipped.

    share     of labels, with its 95 % interval (profile likelihood)
    scale     what a margin counts
    p         the chance of as clear a sign, were none flipped (likelihood ratio, at its bound)
    """

    share: float
    low: float
    high: float
    scale: float
    p: float

    @property
    def found(self) -> bool:
        """Labels are flipped beyond chance, and enough of them to matter."""
        return self.p < CHANCE and self.share >= LEAST

    def chances(self, margins: Floats) -> Floats:
        """The chance that each label is flipped; 0 where it is not known that any is."""
        if not self.found:
            return np.zeros(len(margins))
        agree = chance(self.scale * margins)
        wrong = self.share * (1 - agree)
        whole = wrong + (1 - self.share) * agree
        return np.divide(wrong, whole, out=np.zeros_like(wrong), where=whole > 0)


def flips_of(margins: Floats, worth: float = 1.0) -> Flips:
    """Fit share and scale to margins, which are positive where the label agrees.

    `worth` says how many independent pairs a pair is worth: pairs of one prompt share answers.

    >>> one = flips_of(np.array([2.0] * 90 + [-2.0] * 10 + [9.0] * 90 + [-9.0] * 10))
    >>> round(one.share, 1), one.found
    (0.1, True)
    """
    logs = np.empty((len(_SHARES), len(_SCALES)))
    for place, scale in enumerate(_SCALES):
        agree = chance(scale * margins)
        # One share at a time would be slow, all of them at once would be large.
        for start in range(0, len(_SHARES), 16):
            shares = _SHARES[start : start + 16, None]
            likely = shares + (1 - 2 * shares) * agree
            logs[start : start + 16, place] = np.log(np.maximum(likely, 1e-300)).sum(axis=1)
    best = logs.max(axis=1)
    top = int(best.argmax())
    drop = 2 * worth * (best[top] - best)
    inside = _SHARES[drop <= _CHI]
    # At the bound 0 half of the chance is on the other side (Self and Liang 1987).
    p = math.erfc(math.sqrt(max(0.0, float(drop[0])) / 2)) / 2 if top else 1.0
    return Flips(
        share=float(_SHARES[top]),
        low=float(inside.min()),
        high=float(inside.max()),
        scale=float(_SCALES[int(logs[top].argmax())]),
        p=p,
    )
