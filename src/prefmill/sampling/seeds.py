"""What is asked of every prompt, and the id and seed of each answer: they hang on the prompt's text
and what is asked, on nothing else.
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
        if isinstance(temperatures, int | float):
            temperatures = (temperatures,)
        said = [
            f"sample: {name} must be a whole number{'' if name != 'n' else ' >= 1'}; got {value!r}."
            for name, value in (("n", n), ("seed", seed), ("stage", stage))
            if type(value) is not int
            or not -(2**63) <= value < 2**63
            or (name == "n" and value < 1)
        ]
        if said:
            raise BadArgument(said[0])
        numbers = [
            isinstance(t, int | float | np.floating)
            and not isinstance(t, bool)
            and 0 <= t < math.inf
            for t in temperatures
        ]
        if not numbers or not all(numbers) or len({float(t) for t in temperatures}) < len(numbers):
            raise BadArgument(
                f"sample: temperatures must be different finite numbers >= 0; got {list(temperatures)!r}."
            )
        found = [float(t) + 0.0 for t in temperatures]  # -0.0 is 0.0
        draws = draws_of(n, found)
        return cls(
            draws,
            seed,
            stage,
            source,
            {"n": n, "temperatures": found, "seed": seed, "stage": stage, "source": source},
        )

    def ids(self, text: str) -> list[str]:
        """The id of every answer of a prompt (as `spelled`): no other prompt, stage, source or seed
        has it.
        """
        digest = hashlib.md5(
            f"sample:{self.seed}:{self.stage}:{self.source}\0".encode() + text.encode(),
            usedforsecurity=False,
        )
        return [
            f"{digest.hexdigest()}-{temperature!r}-{index}" for temperature, index in self.draws
        ]

    def seeds(self, text: str) -> list[int]:
        """The seed of every answer of a prompt, 63 bits: MD5 of
        `sample:SEED:STAGE:TEMPERATURE:INDEX:` and the prompt as `spelled`.
        """
        said = text.encode()
        heads = [
            f"sample:{self.seed}:{self.stage}:{temperature!r}:{index}:".encode()
            for temperature, index in self.draws
        ]
        return [
            int.from_bytes(hashlib.md5(head + said, usedforsecurity=False).digest()[:8], "little")
            >> 1
            for head in heads
        ]


def draws_of(n: int, temperatures: Sequence[float]) -> tuple[tuple[float, int], ...]:
    """The (temperature, index) of `n` answers, spread over `temperatures`; the first ones have one
    more where it does not come out even.

    Temperature 0 is greedy and has one answer: alone it has no more, whatever `n` is. Raises
    `BadArgument` for a temperature without any.

    >>> draws_of(4, [0.8, 0, 0.9])
    ((0.8, 0), (0.8, 1), (0, 0), (0.9, 0))
    """
    warm = [temperature for temperature in temperatures if temperature]
    left = n - (len(temperatures) - len(warm))
    if warm and left < len(warm):
        raise BadArgument(
            f"sample: fewer answers than temperatures; got n {n} and {list(temperatures)}, expected at least one at each.",
            hint=f"--temperature {warm[0]:g} alone, or -n {len(temperatures)}.",
        )
    each, more = divmod(left, len(warm)) if warm else (0, 0)
    counts = {temperature: each + (place < more) for place, temperature in enumerate(warm)}
    return tuple(
        (temperature, index)
        for temperature in temperatures
        for index in range(counts.get(temperature, 1))
    )
