"""Attention over packed streams, in three forms that compute the same: registered with Transformers
by name, never patched in.

The plan of a stream travels as the keyword argument `prefmill_plan` of the model's forward.
Transformers makes no mask for a name that it does not know, hands the argument down to every
attention layer, and calls the function registered under the name.

    segments   scaled_dot_product_attention segment by segment; any device and dtype; what CPUs use
    varlen     one call of torch.nn.attention.varlen for all segments; CUDA (SM80 and newer),
    bfloat16 and float16 blockmask  FlexAttention under one block mask; CUDA where varlen cannot
    serve: float32, soft-capped scores, odd head sizes

What a form needs to know of a stream is made before the forward (`StreamPlan.make`), so that
`torch.compile` sees tensors only.

Grouped-query attention, sliding windows and (segments, blockmask) soft-capping are honoured; an
argument that could change the result and is not known here raises `CannotShare`, and the model is
then scored in padded batches.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention as _sdpa
from transformers import AttentionInterface

from prefmill.scoring.packing import Stream

# No part of a name may be that of a stock implementation ("sdpa", "flash_attention",
# "flex_attention"): Transformers matches substrings.
SEGMENTS, VARLEN, BLOCKMASK = "prefmill_segments", "prefmill_varlen", "prefmill_blockmask"
IN_PLACE = (
    "prefmill_varlen, prefixes in place"  # how a plan's account calls `varlen` that gathers no keys
)

# Handed to attention by some models and without effect on what it computes.
_HARMLESS = frozenset(
    {
        "position_ids",
        "cache_position",
        "past_key_values",
        "past_key_value",
        "use_cache",
        "output_attentions",
        "output_hidden_states",
        "dropout",
        "deterministic",
        "layer_idx",
        "position_embeddings",
        "return_dict",
        "num_items_in_batch",
        "cache",
        "training",
    }
)


class CannotShare(Exception):
    """This model's attention cannot follow a plan, and why."""


# Masks of segments that one plan keeps for all layers, in elements: more are made anew in each
# layer.
_KEPT_MASKS = 1 << 27


class StreamPlan:
    """What attention needs to know of one stream, made once for all layers.

    layers    the form of attention that computed each layer by this plan, and the layer's sliding
    window

    Args:
        length: tokens of the forward pass, where it is padded to a constant shape.
        cascade: `varlen` reads the keys of a prefix in place instead of gathering them for each
            segment.
        uniform: `varlen` takes the same path whether or not segments share: one graph for
            `torch.compile`.
    """

    def __init__(
        self,
        stream: Stream,
        device: torch.device,
        length: int | None = None,
        *,
        cascade: bool = False,
        uniform: bool = False,
    ) -> None:
        self.length = length or len(stream)
        self.segments: list[tuple[int, int, int, int]] = [
            tuple(row) for row in stream.segments.tolist()
        ]
        if self.length > len(
            stream
        ):  # padding to a constant shape: a segment of its own that nobody looks at
            self.segments.append((len(stream), self.length, len(stream), len(stream)))
        self.device = device
        self.cascade, self.uniform = cascade, uniform
        self.layers: list[tuple[str, int | None]] = []
        self._made: dict[tuple[str, int | None], Any] = {}
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}
        self._kept = 0

    @property
    def calls(self) -> int:
        """How many layers computed attention by this plan."""
        return len(self.layers)

    def make(self, form: str, windows: Iterable[int | None]) -> StreamPlan:
        """Everything that `form` needs in layers with these sliding windows."""
        for window in windows if form in _MAKERS else ():
            self.of(form, window)
        return self

    def of(self, form: str, window: int | None) -> Any:
        """What `form` needs in a layer with this sliding window."""
        if (form, window) not in self._made:
            self._made[form, window] = _MAKERS[form](self, window)
        return self._made[form, window]

    def visible(self, rows: int, columns: int, window: int | None) -> torch.Tensor:
        """Which of `columns` keys each of the last `rows` positions sees, shape (rows, columns)."""
        if (rows, columns, window) in self._masks:
            return self._masks[rows, columns, window]
        seen = torch.ones(rows, columns, dtype=torch.bool, device=self.device).tril(columns - rows)
        seen = seen if window is None else seen.triu(columns - rows - window + 1)
        self._kept += seen.numel()
        if self._kept <= _KEPT_MASKS:
            self._masks[rows, columns, window] = seen
        return seen


def _checked(
    form: str,
    window: int | None,
    module: Any,
    plan: StreamPlan | None,
    mask: Any,
    is_causal: bool | None,
    others: dict[str, Any],
) -> StreamPlan:
    if plan is None:
        raise CannotShare("the model does not hand its keyword arguments to attention")
    if mask is not None:
        raise CannotShare("the model makes an attention mask of its own")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise CannotShare("its attention looks both ways")
    strange = sorted(
        name
        for name, value in others.items()
        if name not in _HARMLESS and value is not None and value is not False
    )
    if strange:
        raise CannotShare(f"its attention takes {', '.join(strange)}")
    plan.layers.append((form, window))
    return plan


@torch.compiler.disable  # type: ignore[untyped-decorator]
def segments(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefmill_plan: StreamPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of each segment over its prefix and itself.

    query shape (1, heads, tokens, head_dim); key, value shape (1, kv_heads, tokens, head_dim).
    Returns (1, tokens, heads, head_dim).
    """
    plan = _checked(
        SEGMENTS, sliding_window, module, prefmill_plan, attention_mask, is_causal, others
    )
    heads, grouped = query.shape[1], query.shape[1] != key.shape[1]
    out = torch.empty(
        (1, query.shape[2], heads, value.shape[-1]), dtype=query.dtype, device=query.device
    )
    for start, end, prefix_start, prefix_end in plan.segments:
        shared = prefix_end - prefix_start
        own_key, own_value = key[:, :, start:end], value[:, :, start:end]
        if shared:
            own_key = torch.cat((key[:, :, prefix_start:prefix_end], own_key), dim=2)
            own_value = torch.cat((value[:, :, prefix_start:prefix_end], own_value), dim=2)
        rows, columns = end - start, shared + end - start
        window = sliding_window if sliding_window is not None and sliding_window < columns else None
        own_query = query[:, :, start:end]
        if softcap is not None:
            visible = plan.visible(rows, columns, window)
            result = _capped(own_query, own_key, own_value, visible, scaling, softcap)
        elif shared or window is not None:
            # Lower-right alignment: the last query sees every key. SDPA's own is_causal is
            # upper-left.
            visible = plan.visible(rows, columns, window)
            result = _sdpa(
                own_query, own_key, own_value, attn_mask=visible, scale=scaling, enable_gqa=grouped
            )
        else:
            result = _sdpa(
                own_query, own_key, own_value, is_causal=True, scale=scaling, enable_gqa=grouped
            )
        out[:, start:end] = result.transpose(1, 2)
    return out, None


def _capped(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    visible: torch.Tensor,
    scaling: float | None,
    softcap: float,
) -> torch.Tensor:
    """Attention with scores softcap * tanh(score / softcap), which no fused kernel of PyTorch has;
    the softmax is in float32.
    """
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    scores = torch.tanh(scores / softcap) * softcap
    scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype) @ value


def varlen(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefmill_plan: StreamPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """All segments in one flash-attention call whose queries and keys have lengths of their own;
    shapes as in `segments`.

    The keys of a prefix are gathered once for each segment that sees it: bytes moved, not work
    done. Where that would be many times the stream (`StreamPlan.cascade`), all queries behind a
    prefix look at it in place, in a second call, and the two parts are added in the ratio of their
    sums of exponentials.
    """
    plan = _checked(
        VARLEN, sliding_window, module, prefmill_plan, attention_mask, is_causal, others
    )
    if softcap is not None:
        raise CannotShare("flash attention has no soft-capping")
    flat_query, flat_key, flat_value = (x[0].transpose(0, 1) for x in (query, key, value))
    grouped = query.shape[1] != key.shape[1]
    made: _Gathered | _Cascade = plan.of(VARLEN, sliding_window)
    if isinstance(made, _Cascade):
        plan.layers[-1] = (IN_PLACE, sliding_window)
        return _cascade(made, flat_query, flat_key, flat_value, scaling, grouped)[None], None
    if made.keys is not None:
        flat_key, flat_value = (
            flat_key.index_select(0, made.keys),
            flat_value.index_select(0, made.keys),
        )
    out = made.call(flat_query, flat_key, flat_value, scale=scaling, grouped=grouped)
    return out[None], None


@dataclass(frozen=True)
class _Call:
    """One call of the flash kernel: cumulative lengths, int32, shape (sequences + 1,), their
    maxima, and the window (left, right).
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
    """Every segment with its own keys, and all tokens behind a prefix with that prefix."""

    own: _Call
    prefix: _Call
    behind: torch.Tensor  #: the tokens that stand behind a prefix
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
    share = torch.sigmoid(there_lse - own_lse.index_select(1, made.behind)).transpose(0, 1)[
        ..., None
    ]
    both = torch.lerp(own.index_select(0, made.behind).float(), there.float(), share)
    whole: torch.Tensor = own.index_copy(0, made.behind, both.to(own.dtype))
    return whole


def varlen_kernel() -> Callable[..., Any]:
    """`torch.nn.attention.varlen.varlen_attn`; a function of its own so that tests can put a plain
    reference in its place.
    """
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn


def gathered_keys(segments: np.ndarray, window: int | None = None) -> int:
    """How many keys `varlen` copies for these segments, shape (segments, 4), if it gathers."""
    own, shared = segments[:, 1] - segments[:, 0], segments[:, 3] - segments[:, 2]
    return int((own + (shared if window is None else np.minimum(shared, window - 1))).sum())


def _varlen_plan(plan: StreamPlan, window: int | None) -> _Gathered | _Cascade:
    kernel = varlen_kernel()
    told = "enable_gqa" in inspect.signature(kernel).parameters
    table = np.asarray(plan.segments, np.int64)
    own, shared = table[:, 1] - table[:, 0], table[:, 3] - table[:, 2]

    def call(
        of: Any, queries: np.ndarray, seen: np.ndarray, sides: tuple[int, int], **more: Any
    ) -> Any:
        cu_q, cu_k = (
            to_device(np.concatenate(([0], np.cumsum(n))).astype(np.int32), plan.device)
            for n in (queries, seen)
        )
        # The kernel goes another way, with other rounding, where no sequence has more than one
        # query; so does a compiled graph.
        max_q, max_k = max(2, int(queries.max())), max(2, int(seen.max()))
        return of(kernel, told, cu_q, cu_k, max_q, max_k, sides, **more)

    if plan.cascade and shared.any() and (window is None or window >= int((own + shared).max())):
        behind = table[shared > 0]
        heads, first = np.unique(behind[:, 2], return_index=True)
        queries = np.add.reduceat(behind[:, 1] - behind[:, 0], first)
        keys = behind[first, 3] - heads
        return _Cascade(
            call(_Call, own, own, (-1, 0)),
            call(_Call, queries, keys, (-1, -1)),
            to_device(_ranges(behind[:, 0], behind[:, 1]), plan.device),
            to_device(_ranges(heads, heads + keys), plan.device),
        )
    seen = (
        shared if window is None else np.minimum(shared, window - 1)
    )  # what is further back no query of the segment sees
    order = None
    if shared.any() or plan.uniform:
        starts = np.stack((table[:, 3] - seen, table[:, 0]), axis=1).ravel()
        order = to_device(
            _ranges(starts, np.stack((table[:, 3], table[:, 1]), axis=1).ravel()), plan.device
        )
    return call(_Gathered, own, own + seen, (-1 if window is None else window - 1, 0), keys=order)  # type: ignore[no-any-return]


def _ranges(starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """The numbers of all ranges, one after the other."""
    lengths = ends - starts
    return np.asarray(
        np.arange(int(lengths.sum())) + np.repeat(starts - (np.cumsum(lengths) - lengths), lengths)
    )


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """`array` on `device`; the copy to a GPU does not wait."""
    tensor = torch.from_numpy(array)
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def blockmask(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any = None,
    scaling: float | None = None,
    dropout: float = 0.0,
    prefmill_plan: StreamPlan | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """FlexAttention over the whole stream; shapes as in `segments`. The stream's length must be a
    multiple of 128 on CUDA (the engine pads it)."""
    plan = _checked(
        BLOCKMASK, sliding_window, module, prefmill_plan, attention_mask, is_causal, others
    )
    mask = plan.of(BLOCKMASK, sliding_window)
    score_mod = None
    if softcap is not None:

        def score_mod(score: torch.Tensor, *_: torch.Tensor) -> torch.Tensor:
            return softcap * torch.tanh(score / softcap)

    out = flex_kernel(query.device.type)(
        query,
        key,
        value,
        score_mod=score_mod,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous(), None


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


BLOCK = 128  # FlexAttention works in blocks of 128 tokens


def _block_mask(plan: StreamPlan, window: int | None) -> Any:
    """Same group, and (the key is of the prefix, or query and key are of one segment), and causal
    in the positions of the row.

    Which blocks are looked at is told segment by segment: to try all pairs of tokens would need
    memory in the square of the stream.
    """
    from torch.nn.attention.flex_attention import BlockMask

    length = plan.length
    segment, family, position, head = (np.zeros(length, np.int32) for _ in range(4))
    blocks = -(-length // BLOCK)
    some, whole = np.zeros((blocks, blocks), bool), np.zeros((blocks, blocks), bool)
    for number, (start, end, prefix_start, prefix_end) in enumerate(plan.segments):
        shared = prefix_end - prefix_start
        segment[start:end] = number
        family[start:end] = (
            prefix_start if shared else start
        )  # where the family's first token stands: one number for prefix and suffixes
        position[start:end] = np.arange(shared, shared + end - start)
        head[start:end] = not shared
        queries = _Blocks.of(start, end, shared)
        for keys in (_Blocks.of(start, end, shared), _Blocks.of(prefix_start, prefix_end, 0)):
            nearest, furthest = (
                queries.first[:, None] - keys.last,
                queries.last[:, None] - keys.first,
            )
            here = (queries.places, keys.places)
            some[here] |= (furthest >= 0) & (window is None or nearest < window)
            inside = queries.inside[:, None] & keys.inside
            whole[here] |= inside & (nearest >= 0) & (window is None or furthest < window)
    seg, fam, pos, top = (to_device(x, plan.device) for x in (segment, family, position, head))

    def visible(
        batch: torch.Tensor, heads: torch.Tensor, q: torch.Tensor, k: torch.Tensor
    ) -> torch.Tensor:
        seen = (fam[q] == fam[k]) & ((top[k] == 1) | (seg[q] == seg[k])) & (pos[q] >= pos[k])
        return seen if window is None else seen & (pos[q] - pos[k] < window)

    partly, wholly = (_ordered(x, plan.device) for x in (some & ~whole, whole))
    lengths = (length, length)
    return BlockMask.from_kv_blocks(
        *partly, *wholly, BLOCK_SIZE=BLOCK, mask_mod=visible, seq_lengths=lengths
    )


@dataclass(frozen=True)
class _Blocks:
    """The blocks that a run of tokens touches: where they stand, the first and last position in
    each, and whether it is all theirs.
    """

    places: slice
    first: np.ndarray
    last: np.ndarray
    inside: np.ndarray

    @classmethod
    def of(cls, start: int, end: int, position: int) -> _Blocks:
        """Of the tokens from `start` to `end`, whose first has this position in its row."""
        places = slice(start // BLOCK, -(-end // BLOCK) if end > start else start // BLOCK)
        edges = np.arange(places.start, places.stop) * BLOCK
        first, last = np.maximum(edges, start), np.minimum(edges + BLOCK, end) - 1
        return cls(
            places, first - start + position, last - start + position, last - first == BLOCK - 1
        )


def _ordered(blocks: np.ndarray, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """How many blocks of keys each block of queries looks at, shape (1, 1, blocks), and their
    numbers, which stand first in the rest.
    """
    numbers = blocks.sum(axis=1, dtype=np.int32)
    which = np.argsort(~blocks, axis=1, kind="stable").astype(np.int32)
    return to_device(numbers[None, None], device), to_device(which[None, None], device)


def _nothing(plan: StreamPlan, window: int | None) -> None:
    """`segments` reads the segments themselves."""


_MAKERS: dict[str, Callable[[StreamPlan, int | None], Any]] = {
    SEGMENTS: _nothing,
    VARLEN: _varlen_plan,
    BLOCKMASK: _block_mask,
}
for _name, _function in ((SEGMENTS, segments), (VARLEN, varlen), (BLOCKMASK, blockmask)):
    AttentionInterface.register(_name, _function)
