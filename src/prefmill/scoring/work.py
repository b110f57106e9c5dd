"""What an engine runs, and what comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring.packing import Stream

Floats = npt.NDArray[np.float64]
#: rows, their values, and the scales of rounding errors
Part = tuple[Longs, torch.Tensor, torch.Tensor]

# How far a score may be from that of the row alone, in units of the norm of (hidden * head):
# rounding of that dtype, many times smaller than a wrong mask's effect.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Work:
    """Rows that are ready to run: made ahead of the model, without it."""

    rows: TokenRows
    distinct: Longs  #: shape (distinct,): the rows that are run
    inverse: Longs  #: shape (rows,): which of these each row is
    streams: list[Stream] | None
    batches: list[Longs] | None

    @property
    def tokens(self) -> int:
        """Tokens that the model will see."""
        if self.streams is not None:
            return sum(map(len, self.streams))
        return int(self.rows.lengths[self.distinct].sum())


@dataclass(frozen=True)
class Values:
    """What came out for `rows`.

    values  shape (rows, columns), float64
    scale   shape (rows,): that of rounding errors
    """

    rows: Longs
    values: Floats
    scale: Floats

    def far_from(self, single: Values, dtype: torch.dtype) -> npt.NDArray[np.bool_]:
        """Which rows are further apart than rounding in `dtype` explains; NaN is."""
        order, other = np.argsort(self.rows), np.argsort(single.rows)
        gap = np.abs(self.values[order] - single.values[other])
        scale = np.maximum(self.scale[order], 1e-6)[:, None]
        near = gap <= _TOLERANCE.get(dtype, 1e-1) * scale
        return np.asarray(~near.all(axis=1))


class Way(Protocol):
    """A way of running rows; see `ways/`."""

    def plan(self, rows: TokenRows, which: Longs, /) -> list[Any]:
        """The rows `which` in passes, within what is known of memory; needs no model."""

    def launch(self, rows: TokenRows, passes: list[Any], /) -> Callable[[], Values]:
        """Begin to run what was planned, and return what gives its values."""


def gathered(parts: list[Part], columns: int) -> Callable[[], Values]:
    """What gives the values of all parts on the host.

    Their copy is begun here, and waited for where they are asked for.
    """
    if not parts:
        return lambda: Values(np.zeros(0, np.int64), np.zeros((0, columns)), np.zeros(0))
    rows = np.concatenate([rows for rows, _, _ in parts])
    pairs = [
        torch.cat((values.reshape(-1, columns), scale.reshape(-1, 1)), dim=1)
        for _, values, scale in parts
    ]
    on_device = torch.cat(pairs).double()
    if on_device.device.type == "cuda":
        host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
        host.copy_(on_device, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(on_device.device))
        wait = arrived.synchronize
    else:
        host, wait = on_device, lambda: None

    def fetch() -> Values:
        wait()
        both = host.numpy()
        return Values(rows, both[:, :columns], both[:, columns])

    return fetch
