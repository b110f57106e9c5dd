"""`segments`: scaled_dot_product_attention segment by segment; any device and dtype."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention as _sdpa

from prefmill.scoring.attention.plan import SEGMENTS, StreamPlan, registered


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _segments(
    plan: StreamPlan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    sliding_window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """Attention of each segment over its path and itself; zeros for padding."""
    heads, grouped = query.shape[1], query.shape[1] != key.shape[1]
    shape = (1, query.shape[2], heads, value.shape[-1])
    made = torch.zeros if plan.padded else torch.empty
    out = made(shape, dtype=query.dtype, device=query.device)
    for run in plan.of(SEGMENTS, sliding_window):
        own_query = query[:, :, run.start : run.end]
        own_key, own_value = run.of(key), run.of(value)
        if softcap is not None:
            mask = run.visible(plan)
            result = _capped(own_query, own_key, own_value, mask, scaling, softcap)
        elif run.causal:
            result = _sdpa(
                own_query, own_key, own_value, is_causal=True, scale=scaling, enable_gqa=grouped
            )
        else:
            # Lower-right alignment: the last query sees every key. SDPA's own is_causal is
            # upper-left.
            mask = run.visible(plan)
            result = _sdpa(own_query, own_key, own_value, mask, scale=scaling, enable_gqa=grouped)
        out[:, run.start : run.end] = result.transpose(1, 2)
    return out


@dataclass(frozen=True)
class _Run:
    """Some of the stream's tokens and the keys that they see.

    start, end  its tokens in the stream
    keys        the places of the keys, in runs
    window      the sliding window, where it hides some of the keys
    causal      nothing is before it, and no window hides anything
    copied      keys are copied also where they stand together, so that what its neighbours are
                does not decide how they lie in memory
    """

    start: int
    end: int
    keys: tuple[tuple[int, int], ...]
    window: int | None
    causal: bool
    copied: bool

    def of(self, tensor: torch.Tensor) -> torch.Tensor:
        """Keys or values that it sees, shape (1, kv_heads, keys, head_dim)."""
        pieces = [tensor[:, :, start:end] for start, end in self.keys]
        return pieces[0] if len(pieces) == 1 and not self.copied else torch.cat(pieces, dim=2)

    def visible(self, plan: StreamPlan) -> torch.Tensor:
        keys = sum(end - start for start, end in self.keys)
        return plan.visible(self.end - self.start, keys, self.window)


def _runs(plan: StreamPlan, window: int | None) -> list[_Run]:
    segment, starts, ends = plan.seen(window)
    keys: list[list[tuple[int, int]]] = [[] for _ in plan.starts]
    for number, start, end in zip(segment.tolist(), starts.tolist(), ends.tolist(), strict=True):
        mine = keys[number]
        if mine and mine[-1][1] == start:
            start = mine.pop()[0]
        mine.append((start, end))
    runs = []
    for number, mine in enumerate(keys[:-1] if plan.padded else keys):
        start, end = int(plan.starts[number]), int(plan.ends[number])
        count = sum(b - a for a, b in mine)
        hides = window if window is not None and window < count else None
        causal = count == end - start and hides is None
        copied = plan.fixed and not causal
        runs.append(_Run(start - plan.past, end - plan.past, tuple(mine), hides, causal, copied))
    return runs


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention with scores softcap * tanh(score / softcap); the softmax is in float32.

    No fused kernel of PyTorch has that.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = query @ key.transpose(2, 3) * scale
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


segments = registered(SEGMENTS, _segments, _runs)
