"""`varlen`: one call of torch.nn.attention.varlen for all segments of a stream."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator
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
from prefmill.scoring.packing import Stream

#: how a plan's account calls `varlen` that gathers no keys
IN_PLACE = "prefmill_varlen, prefixes in place"
# Every number of levels is a graph of its own to `torch.compile`: beyond these, keys are gathered.
_COMPILED_LEVELS = 2


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

    The keys of a path are gathered once for each segment that sees them: bytes moved, not work
    done. Where that would be many times the stream (`StreamPlan.cascade`), all queries after a
    segment look at it in place, in a call for each level of the tree, and the parts are added in
    the ratio of their sums of exponentials.
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
    """Every segment with the keys that it sees: those of its path, copied, and its own."""

    keys: torch.Tensor | None  #: the order in which keys are gathered; None: as they are


@dataclass(frozen=True)
class _Level(_Call):
    """All tokens after the segments of one level of the tree, with the keys of these."""

    after: torch.Tensor  #: the tokens that stand after them, counted in the stream
    keys: torch.Tensor  #: the places of their own


@dataclass(frozen=True)
class _Cascade:
    """Every segment with its own keys, and with those above it level by level."""

    own: _Call
    past: int
    levels: tuple[_Level, ...]


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
    # The logarithms of the sums have the shape (heads, tokens), whatever their documentation says;
    # the probe would notice another.
    whole: torch.Tensor
    whole, sums = made.own.call(query, key[made.past :], value[made.past :], **more)
    for level in made.levels:
        there, there_sums = level.call(
            query.index_select(0, level.after),
            key.index_select(0, level.keys),
            value.index_select(0, level.keys),
            **more,
        )
        here, here_sums = whole.index_select(0, level.after), sums.index_select(1, level.after)
        share = torch.sigmoid(there_sums - here_sums).transpose(0, 1)[..., None]
        both = torch.lerp(here.float(), there.float(), share).to(whole.dtype)
        whole = whole.index_copy(0, level.after, both)
        sums = sums.index_copy(1, level.after, torch.logaddexp(there_sums, here_sums))
    return whole


def varlen_kernel() -> Callable[..., Any]:
    """`torch.nn.attention.varlen.varlen_attn`; a function, so that tests can put another there."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def gathered_keys(stream: Stream, window: int | None = None) -> int:
    """How many keys `varlen` copies for a stream, if it gathers."""
    own, behind = stream.segments[:, 1] - stream.segments[:, 0], stream.firsts
    seen = behind if window is None else np.minimum(behind, window - 1)
    return int((own + seen).sum())


def _calls(plan: StreamPlan, window: int | None) -> _Gathered | _Cascade:
    """The calls of the kernel for a plan, and in which order it wants the keys."""
    own = plan.ends - plan.starts
    segment, starts, ends = plan.seen()
    every = np.bincount(segment, ends - starts, len(own)).astype(np.int64)
    shares = bool((every > own).any())
    levels: tuple[_Level, ...] = ()
    if plan.cascade and shares and (window is None or window >= int(every.max())):
        levels = tuple(_levels(plan))
    if levels and not (plan.uniform and len(levels) > _COMPILED_LEVELS):
        return _Cascade(_Call(*_lengths(plan, own, own), (-1, 0)), plan.past, levels)
    order = None
    if shares or plan.uniform or plan.past:
        segment, starts, ends = plan.seen(window)
        every = np.bincount(segment, ends - starts, len(own)).astype(np.int64)
        order = to_device(_ranges(starts, ends), plan.device)
    left = -1 if window is None else window - 1
    return _Gathered(*_lengths(plan, own, every), (left, 0), order)


def _levels(plan: StreamPlan) -> Iterator[_Level]:
    """The past first, then the segments that others stand after, one level at a time."""
    # The further on in the stream, the less of the past is on the path.
    lengths = np.unique(np.append(plan.behind, 0))
    for shorter, longer in itertools.pairwise(lengths.tolist()):
        end = int(plan.ends[plan.behind >= longer].max())
        yield _level(plan, np.array([[shorter, longer]]), np.array([[plan.past, end]]))
    # The segments of a subtree stand together: it ends where the last of them does.
    last, depth = plan.ends[plan.leaves - 1], np.zeros(len(plan.ends), np.int64)
    for each in np.flatnonzero(plan.parents >= 0).tolist():
        depth[each] = depth[plan.parents[each]] + 1
    for deep in range(int(depth.max()) + 1):
        here = np.flatnonzero((depth == deep) & (last > plan.ends))
        if len(here):
            keys = np.stack((plan.starts[here], plan.ends[here]), axis=1)
            yield _level(plan, keys, np.stack((plan.ends[here], last[here]), axis=1))


def _level(plan: StreamPlan, keys: np.ndarray, queries: np.ndarray) -> _Level:
    """Runs of keys and the run of queries of each, shape (runs, 2), in places."""
    lengths = _lengths(plan, queries[:, 1] - queries[:, 0], keys[:, 1] - keys[:, 0])
    after = to_device(_ranges(queries[:, 0], queries[:, 1]) - plan.past, plan.device)
    places = to_device(_ranges(keys[:, 0], keys[:, 1]), plan.device)
    return _Level(*lengths, (-1, -1), after, places)


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
