"""`varlen`: one call of torch.nn.attention.varlen for all segments of a stream."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefmill.scoring.attention.plan import (
    VARLEN,
    CannotShare,
    StreamPlan,
    registered,
    to_device,
)

#: how a plan's account calls `varlen` that gathers no keys
IN_PLACE = "prefmill_varlen, prefixes in place"


def _varlen(
    plan: StreamPlan,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scaling: float | None,
    window: int | None,
    softcap: float | None,
) -> torch.Tensor:
    """All segments in one flash-attention call whose queries and keys have lengths of their own.

    The keys of a prefix are gathered once for each segment that sees it: bytes moved, not work
    done. Where that would be many times the stream (`StreamPlan.cascade`), all queries after a
    prefix look at it in place, in a second call, and the two parts are added in the ratio of their
    sums of exponentials.
    """
    if softcap is not None:
        raise CannotShare("flash attention has no soft-capping")
    flat_query, flat_key, flat_value = (x[0].transpose(0, 1) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    made: _Gathered | _Cascade = plan.of(VARLEN, window)
    if isinstance(made, _Cascade):
        plan.layers[-1] = (IN_PLACE, window)
        return _cascade(made, flat_query, flat_key, flat_value, scaling, grouped)[None]
    if made.keys is not None:
        flat_key = flat_key.index_select(0, made.keys)
        flat_value = flat_value.index_select(0, made.keys)
    out: torch.Tensor = made.call(flat_query, flat_key, flat_value, scale=scaling, grouped=grouped)
    return out[None]


@dataclass(frozen=True)
class _Call:
    """One call of the flash kernel.

    cu_q, cu_k    cumulative lengths, int32, shape (sequences + 1,)
    max_q, max_k  the longest of them
    window        tokens that are seen to the left and to the right
    """

    kernel: Callable[..., Any]
    #: whether the kernel wants to be told that keys have fewer heads: before torch 2.12 it sees it
    told_of_groups: bool
    cu_q: torch.Tensor
    cu_k: torch.Tensor
    max_q: int
    max_k: int
    window: tuple[int, int]

    def call(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        *,
        scale: float | None,
        grouped: bool,
        **more: Any,
    ) -> Any:
        """Shapes (tokens, heads, head_dim)."""
        if self.told_of_groups:
            more["enable_gqa"] = grouped
        return self.kernel(
            query.contiguous(),
            key.contiguous(),
            value.contiguous(),
            self.cu_q,
            self.cu_k,
            self.max_q,
            self.max_k,
            scale=scale,
            window_size=self.window,
            **more,
        )


@dataclass(frozen=True)
class _Gathered(_Call):
    """Every segment with the keys that it sees: those of its prefix, copied, and its own."""

    keys: torch.Tensor | None  #: the order in which keys are gathered; None: as they are


@dataclass(frozen=True)
class _Cascade:
    """Every segment with its own keys, and all tokens after a prefix with that prefix."""

    own: _Call
    prefix: _Call
    behind: torch.Tensor  #: the tokens that stand after a prefix
    keys: torch.Tensor  #: the tokens of the prefixes


def _cascade(
    made: _Cascade,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float | None,
    grouped: bool,
) -> torch.Tensor:
    """Shapes (tokens, heads, head_dim)."""
    from torch.nn.attention.varlen import AuxRequest

    more: dict[str, Any] = {"scale": scale, "grouped": grouped, "return_aux": AuxRequest(lse=True)}
    own, own_lse = made.own.call(query, key, value, **more)
    there, there_lse = made.prefix.call(
        query.index_select(0, made.behind),
        key.index_select(0, made.keys),
        value.index_select(0, made.keys),
        **more,
    )
    # The logarithms of the sums have the shape (heads, tokens), whatever their documentation says;
    # the probe would notice another.
    share = torch.sigmoid(there_lse - own_lse.index_select(1, made.behind))
    share = share.transpose(0, 1)[..., None]
    both = torch.lerp(own.index_select(0, made.behind).float(), there.float(), share)
    whole: torch.Tensor = own.index_copy(0, made.behind, both.to(own.dtype))
    return whole


def varlen_kernel() -> Callable[..., Any]:
    """`torch.nn.attention.varlen.varlen_attn`; a function, so that tests can put another there."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def gathered_keys(segments: np.ndarray, window: int | None = None) -> int:
    """How many keys `varlen` copies for these segments, shape (segments, 4), if it gathers."""
    own, shared = segments[:, 1] - segments[:, 0], segments[:, 3] - segments[:, 2]
    seen = shared if window is None else np.minimum(shared, window - 1)
    return int((own + seen).sum())


def _calls(plan: StreamPlan, window: int | None) -> _Gathered | _Cascade:
    """The calls of the kernel for a plan, and in which order it wants the keys."""
    table = np.asarray(plan.segments, np.int64)
    own, shared = table[:, 1] - table[:, 0], table[:, 3] - table[:, 2]
    sees_all = window is None or window >= int((own + shared).max())
    if plan.cascade and shared.any() and sees_all:
        behind = table[shared > 0]
        heads, first = np.unique(behind[:, 2], return_index=True)
        queries = np.add.reduceat(behind[:, 1] - behind[:, 0], first)
        keys = behind[first, 3] - heads
        return _Cascade(
            _Call(*_lengths(plan, own, own), (-1, 0)),
            _Call(*_lengths(plan, queries, keys), (-1, -1)),
            to_device(_ranges(behind[:, 0], behind[:, 1]), plan.device),
            to_device(_ranges(heads, heads + keys), plan.device),
        )
    # What is further back than the window no query of the segment sees.
    seen = shared if window is None else np.minimum(shared, window - 1)
    order = None
    if shared.any() or plan.uniform:
        starts = np.stack((table[:, 3] - seen, table[:, 0]), axis=1).ravel()
        ends = np.stack((table[:, 3], table[:, 1]), axis=1).ravel()
        order = to_device(_ranges(starts, ends), plan.device)
    left = -1 if window is None else window - 1
    return _Gathered(*_lengths(plan, own, own + seen), (left, 0), order)


def _lengths(
    plan: StreamPlan, queries: np.ndarray, keys: np.ndarray
) -> tuple[Callable[..., Any], bool, torch.Tensor, torch.Tensor, int, int]:
    """The kernel, and what it is told of the lengths of queries and keys."""
    kernel = varlen_kernel()
    told = "enable_gqa" in inspect.signature(kernel).parameters
    sums = [np.concatenate(([0], np.cumsum(n))).astype(np.int32) for n in (queries, keys)]
    cu_q, cu_k = (to_device(each, plan.device) for each in sums)
    # The kernel goes another way, with other rounding, where no sequence has more than one query;
    # so does a compiled graph.
    return kernel, told, cu_q, cu_k, max(2, int(queries.max())), max(2, int(keys.max()))


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of all ranges, one after the other."""
    lengths = ends - starts
    before = np.cumsum(lengths) - lengths
    return np.asarray(np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths))


varlen = registered(VARLEN, _varlen, _calls)
