"""The scale of the scores, which says what thresholds that were not given are."""

from __future__ import annotations

from dataclasses import dataclass

#: What a threshold that is not given is on the scale for which it is made, from 1 to `TOP`.
USUAL, TOP = 4, 5


@dataclass(frozen=True)
class Scale:
    """Smallest and largest score of all candidates; None where there is no candidate."""

    low: float | None
    high: float | None

    @property
    def around_usual(self) -> bool:
        """Whether there are scores on both sides of the usual threshold."""
        return self.low is not None and self.high is not None and self.low < USUAL <= self.high

    @property
    def could_be_labels(self) -> bool:
        """Whether two such scores are a label.

        They are whole numbers that differ, and not both of them are good ratings.
        """
        if self.low is None or self.high is None or self.low == self.high:
            return False
        whole = float(self.low).is_integer() and float(self.high).is_integer()
        return whole and not (self.low >= USUAL and self.high <= TOP)

    @property
    def usual(self) -> bool:
        """Whether the scores could be ratings from 1 to `TOP`, or are all the same."""
        if self.low is None or self.high is None or self.low == self.high:
            return True
        return self.low >= 0 and self.high <= TOP
