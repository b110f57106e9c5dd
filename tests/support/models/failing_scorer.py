"""A scorer for two devices that other processes can import without torch: on the second it fails,
on the first it takes hours.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from prefmill.errors import BadInput
from prefmill.scoring.scorers import Scored, Staged


@dataclass(frozen=True)
class Failing(Staged):
    """`how`: the second device `raises`, `dies`, or all `works`."""

    how: str
    device: str = "auto"
    columns: ClassVar[tuple[str, ...]] = ("score",)
    fingerprint: ClassVar[dict[str, str]] = {"scorer": "failing"}

    def on_device(self, device: str) -> Failing:
        return replace(self, device=device)

    def load(self) -> str:
        warnings.warn(f"{self.device} is slow", stacklevel=2)
        return f"streams on {self.device}"

    def prepare(self, batch: Any) -> Any:
        return batch

    def run(self, batch: Any) -> Scored:
        if self.device == "second" and self.how == "raises":
            raise BadInput("score: the second device is broken.", hint="use the first.")
        if self.device == "second" and self.how == "dies":
            os._exit(9)
        if self.how != "works":
            time.sleep(3600)
        return Scored({"score": np.arange(batch.num_rows, dtype=float)})
