"""What is asked of every prompt, and the id and seed of each answer.

They depend on the prompt's text and what is asked, on nothing else.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prefmill.errors import BadArgument


@dataclass(frozen=True)
class Asked:
    """What is asked of every prompt: `draws` are the (temperature, index) of its answers."""

    draws: tuple[tuple[float, int], ...]
    seed: int
    stage: int
    source: str
    key: Mapping[str, Any]  #: of the ledger

    @classmethod
    def of(cls, n: Any, temperatures: Any, seed: Any, stage: Any, source: str) -> Asked:
        """Check and spell out. Raises `BadArgument`.

        >>> Asked.of(3, [0.8, 0], 0, 0, "policy").draws
        ((0.8, 0), (0.8, 1), (0.0, 0))
        """
        for name, value in (("n", n), ("seed", seed), ("stage", stage)):
            is_whole = type(value) is int and -(2**63) <= value < 2**63
            if not is_whole or (name == "n" and value < 1):
                least = " >= 1" if name == "n" else ""
                raise BadArgument(f"sample: {name} must be a whole number{least}; got {value!r}.")
        if isinstance(temperatures, int | float):
            temperatures = (temperatures,)
        numbers = [t for t in temperatures if _is_temperature(t)]
        distinct = {float(t) for t in numbers}
        if not numbers or not len(distinct) == len(numbers) == len(temperatures):
            raise BadArgument(
                "sample: temperatures must be different finite numbers >= 0;"
                f" got {list(temperatures)!r}."
            )
        spread = [float(t) + 0.0 for t in numbers]  # -0.0 is 0.0
        key = {"n": n, "temperatures": spread, "seed": seed, "stage": stage, "source": source}
        return cls(draws_of(n, spread), seed, stage, source, key)

    def ids(self, text: str) -> list[str]:
        """The id of every answer of a prompt (as `spelled`).

        No other prompt, stage, source or seed has it.
        """
        asked = f"sample:{self.seed}:{self.stage}:{self.source}\0"
        digest = hashlib.md5(asked.encode() + text.encode(), usedforsecurity=False).hexdigest()
        return [f"{digest}-{temperature!r}-{index}" for temperature, index in self.draws]

    def seeds(self, text: str) -> list[int]:
        """The seed of every answer of a prompt, 63 bits.

        It is the MD5 of `sample:SEED:STAGE:TEMPERATURE:INDEX:` and the prompt as `spelled`.
        """
        seeds = []
        for temperature, index in self.draws:
            asked = f"sample:{self.seed}:{self.stage}:{temperature!r}:{index}:"
            digest = hashlib.md5(asked.encode() + text.encode(), usedforsecurity=False).digest()
            seeds.append(int.from_bytes(digest[:8], "little") >> 1)
        return seeds


def _is_temperature(value: Any) -> bool:
    is_number = isinstance(value, int | float | np.floating) and not isinstance(value, bool)
    return is_number and 0 <= value < math.inf


def draws_of(n: int, temperatures: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """The (temperature, index) of `n` answers, spread over `temperatures`.

    The first ones have one more where it does not come out even. Temperature 0 is greedy and has
    one answer: alone it has no more, whatever `n` is. Raises `BadArgument` for a temperature
    without any.

    >>> draws_of(4, [0.8, 0, 0.9])
    ((0.8, 0), (0.8, 1), (0, 0), (0.9, 0))
    """
    warm = [temperature for temperature in temperatures if temperature]
    left = n - (len(temperatures) - len(warm))
    if warm and left < len(warm):
        raise BadArgument(
            f"sample: fewer answers than temperatures; got n {n} and {list(temperatures)},"
            " expected at least one at each.",
            hint=f"--temperature {warm[0]:g} alone, or -n {len(temperatures)}.",
        )
    each, more = divmod(left, len(warm)) if warm else (0, 0)
    counts = {temperature: each + (place < more) for place, temperature in enumerate(warm)}
    draws: list[tuple[float, int]] = []
    for temperature in temperatures:
        draws += [(temperature, index) for index in range(counts.get(temperature, 1))]
    return tuple(draws)
