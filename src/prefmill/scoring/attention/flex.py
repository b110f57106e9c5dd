"""`blockmask`: FlexAttention over the whole stream, under one block mask."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefmill.scoring.attention.plan import BLOCKMASK, StreamPlan, registered, to_device

BLOCK = 128  # FlexAttention works in blocks of 128 tokens


def _blockmask(
    plan: StreamPlan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """The stream's length must be a multiple of 128 on CUDA (the engine pads it)."""
    score_mod = None
    if softcap is not None:

        def score_mod(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return softcap * torch.tanh(score / softcap)

    out = flex_kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=plan.of(BLOCKMASK, window),
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous()


_compiled: Callable[..., Any] | None = None


def flex_kernel(device: str) -> Callable[..., torch.Tensor]:
    """FlexAttention, compiled once for all lengths on CUDA, eager elsewhere."""
    global _compiled
    from torch.nn.attention.flex_attention import flex_attention

    if device != "cuda":
        return flex_attention
    if _compiled is None:
        # Every new pair of flags is a recompile; past the limit dynamo would run it uncompiled,
        # which needs memory for all scores.
        torch._dynamo.config.recompile_limit = max(64, torch._dynamo.config.recompile_limit)
        _compiled = torch.compile(flex_attention, dynamic=True)
    return _compiled


def _block_mask(plan: StreamPlan, window: int | None) -> Any:
    """Which keys a query sees: those before it on its path.

    A segment is on the path of those from itself up to the end of its subtree, which stand together
    in the stream. Which blocks are looked at is told segment by segment: to try all pairs of tokens
    would need memory in the square of the stream.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length, total = plan.length, plan.past + plan.length
    firsts = plan.firsts
    segment, position = np.zeros(total, np.int32), np.zeros(total, np.int32)
    enter, leave = np.zeros(total, np.int32), np.zeros(total, np.int32)
    position[: plan.past] = np.arange(plan.past)
    leave[: plan.past] = np.searchsorted(-plan.behind, -np.arange(plan.past))
    blocks, columns = -(-length // BLOCK), -(-total // BLOCK)
    some = np.zeros((blocks, columns), bool)
    leaves = plan.leaves
    for number, (start, end) in enumerate(zip(plan.starts, plan.ends, strict=True)):
        segment[start:end] = enter[start:end] = number
        leave[start:end] = leaves[number]
        position[start:end] = np.arange(firsts[number], firsts[number] + end - start)
    for number, first, last in zip(*plan.seen(window), strict=True):
        start, end = plan.starts[number], plan.ends[number]
        queries = _Blocks.of(start - plan.past, end - plan.past, int(firsts[number]))
        keys = _Blocks.of(first, last, int(position[first]))
        nearest = queries.first[:, None] - keys.last
        furthest = queries.last[:, None] - keys.first
        seen = (furthest >= 0) & (window is None or nearest < window)
        some[queries.places, keys.places] |= seen
    whole = _all(np.maximum, enter)[None] <= _all(np.minimum, segment[plan.past :])[:, None]
    whole &= _all(np.maximum, segment[plan.past :])[:, None] < _all(np.minimum, leave)[None]
    whole &= _all(np.minimum, position[plan.past :])[:, None] >= _all(np.maximum, position)[None]
    if window is not None:
        furthest = _all(np.maximum, position[plan.past :])[:, None]
        whole &= furthest - _all(np.minimum, position)[None] < window
    if total % BLOCK:
        whole[:, -1] = False
    if length % BLOCK:
        whole[-1] = False
    mine, mypos = (to_device(x[plan.past :].copy(), plan.device) for x in (segment, position))
    first, after, pos = (to_device(x, plan.device) for x in (enter, leave, position))

    def visible(
        batch: torch.Tensor, heads: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        seen = (first[k] <= mine[q]) & (mine[q] < after[k]) & (mypos[q] >= pos[k])
        if window is None:
            return seen
        return seen & (mypos[q] - pos[k] < window)

    partly, wholly = (_ordered(x, plan.device) for x in (some & ~whole, whole))
    return BlockMask.from_kv_blocks(
        *partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=(length, total)
    )


def _all(which: np.ufunc, values: np.ndarray) -> np.ndarray:
    """The least or greatest of every block of values."""
    return np.asarray(which.reduceat(values, np.arange(0, len(values), BLOCK)))


@dataclass(frozen=True)
class _Blocks:
    """The blocks that a run of tokens touches.

    places       where they stand
    first, last  the first and last position in each
    """

    places: slice
    first: np.ndarray
    last: np.ndarray

    @classmethod
    def of(cls, start: int, end: int, position: int) -> _Blocks:
        """Of the tokens from `start` to `end`, whose first has this position in its row."""
        places = slice(start // BLOCK, -(-end // BLOCK) if end > start else start // BLOCK)
        edges = np.arange(places.start, places.stop) * BLOCK
        first, last = np.maximum(edges, start), np.minimum(edges + BLOCK, end) - 1
        moved = position - start
        return cls(places, first + moved, last + moved)


def _ordered(blocks: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries looks at, and their numbers.

    Shapes (1, 1, blocks) and (1, 1, blocks, blocks); the numbers stand first in the rest.
    """
    numbers = blocks.sum(axis=1, dtype=np.int32)
    which = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return to_device(numbers[None, None], device), to_device(which[None, None], device)


blockmask = registered(BLOCKMASK, _blockmask, _block_mask)
