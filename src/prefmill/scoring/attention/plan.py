"""What attention needs to know of a stream, and how a form of it is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers import AttentionInterface

from prefmill.scoring.packing import Stream

# No part of a name may be that of a stock implementation ("sdpa", "flash_attention",
# "flex_attention"): Transformers matches substrings.
SEGMENTS, VARLEN, BLOCKMASK = "prefmill_segments", "prefmill_varlen", "prefmill_blockmask"

# Handed to attention by some models and without effect on what it computes.
_HARMLESS = frozenset(
    [
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
    ]
)
# Masks of segments that one plan keeps for all layers, in elements: more are made anew in each
# layer.
_KEPT_MASKS = 1 << 27

#: what a form makes of a plan for layers with one sliding window
Maker = Callable[["StreamPlan", int | None], Any]
_MAKERS: dict[str, Maker] = {}
#: attention itself: plan, query, key, value, scaling, window, softcap
Compute = Callable[..., torch.Tensor]


class CannotShare(Exception):
    """This model's attention cannot follow a plan, and why."""


@dataclass(frozen=True)
class Past:
    """What a stream goes on from: the path of tokens before it.

    keys    for each layer, in their order, keys and values, shape (1, kv_heads, past, head_dim)
    states  the last hidden states, shape (past, hidden)
    """

    keys: list[tuple[torch.Tensor, torch.Tensor]]
    states: torch.Tensor


class StreamPlan:
    """What attention needs to know of one stream, made once for all layers.

    layers    the form of attention that computed each layer by this plan, and the layer's sliding
              window
    kept      for each layer the keys and values that the next stream goes on from
    padded    the last segment is padding to a constant shape, at which nobody looks
    starts, ends, parents, behind
              of the segments, shape (segments,), int64; `starts` and `ends` are places: they count
              from the beginning of the past

    Args:
        length: tokens of the forward pass, where it is padded to a constant shape.
        past: what the stream goes on from, unless `stream.past` is 0.
        cascade: `varlen` reads the keys of a path in place instead of gathering them for each
            segment.
        uniform: `varlen` takes the same path whether or not segments share: one graph for
            `torch.compile`.
        fixed: a segment is computed by itself, so that its shape depends on its row alone.
    """

    def __init__(
        self,
        stream: Stream,
        device: torch.device,
        length: int | None = None,
        *,
        past: Past | None = None,
        cascade: bool = False,
        uniform: bool = False,
        fixed: bool = False,
    ) -> None:
        end = len(stream)
        self.length = length or end
        self.past, self.before = stream.past, past if stream.past else None
        starts, ends = stream.segments.T.astype(np.int64) + self.past
        parents, behind = stream.parents.astype(np.int64), stream.behind.astype(np.int64)
        self.padded = self.length > end
        if self.padded:
            starts = np.append(starts, self.past + end)
            ends = np.append(ends, self.past + self.length)
            parents, behind = np.append(parents, -1), np.append(behind, 0)
        self.starts, self.ends, self.parents, self.behind = starts, ends, parents, behind
        self.device = device
        self.cascade, self.uniform, self.fixed = cascade, uniform, fixed
        self.keep = to_device(stream.keep.astype(np.int64), device) if len(stream.keep) else None
        self.kept: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.layers: list[tuple[str, int | None]] = []
        self._made: dict[tuple[str, int | None], Any] = {}
        self._masks: dict[tuple[int, int, int | None], torch.Tensor] = {}
        self._kept = 0

    @property
    def calls(self) -> int:
        """How many layers computed attention by this plan."""
        return len(self.layers)

    @property
    def firsts(self) -> np.ndarray:
        """How many tokens stand before each segment on its path, shape (segments,)."""
        before = self.behind.copy()
        for number in np.flatnonzero(self.parents >= 0).tolist():
            above = self.parents[number]
            before[number] = before[above] + self.ends[above] - self.starts[above]
        return before

    @property
    def leaves(self) -> np.ndarray:
        """The number of the first segment after each segment's subtree, shape (segments,)."""
        after = np.arange(1, len(self.parents) + 1)
        for number in reversed(np.flatnonzero(self.parents >= 0).tolist()):
            above = self.parents[number]
            after[above] = max(after[above], after[number])
        return after

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

    def joined(self, key: torch.Tensor, value: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the next layer after those of the past, some of which are kept."""
        if self.before is not None:
            keys, values = self.before.keys[len(self.layers)]
            key, value = _after(keys, key), _after(values, value)
        if self.keep is not None:
            self.kept.append((_some(key, self.keep), _some(value, self.keep)))
        return key, value

    def handed_on(self, states: torch.Tensor) -> Past | None:
        """What the next stream goes on from, after all layers; states shape (places, hidden)."""
        if self.keep is None:
            return None
        return Past(self.kept, states.index_select(0, self.keep))

    def seen(self, window: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The runs of places that each segment sees, in the order of its row.

        The segment of each run, its start and its end, sorted by segment. What is further back than
        `window` no query of the segment sees.
        """
        number = np.arange(len(self.starts))
        # The nearest first: the segment itself, those above it, the past.
        runs = [(number, self.starts, self.ends)]
        at, above = number, self.parents
        while len(at):
            at, above = at[above >= 0], above[above >= 0]
            runs.append((at, self.starts[above], self.ends[above]))
            above = self.parents[above]
        past = np.flatnonzero(self.behind)
        runs.append((past, np.zeros_like(past), self.behind[past]))
        segment, starts, ends = (np.concatenate(each) for each in zip(*runs, strict=True))
        level = np.repeat(np.arange(len(runs)), [len(run[0]) for run in runs])
        order = np.lexsort((-level, segment))
        segment, starts, ends = segment[order], starts[order], ends[order]
        if window is None:
            return segment, starts, ends
        mine = level[order] == 0
        before = np.cumsum(np.where(mine, 0, ends - starts))
        # The tokens of its path that stand between a run and the segment itself.
        between = before[np.searchsorted(segment, segment, side="right") - 1] - before
        nearest = np.maximum(window - 1 - between, 0)
        starts = np.where(mine, starts, np.maximum(starts, ends - nearest))
        some = starts < ends
        return segment[some], starts[some], ends[some]

    def visible(self, rows: int, columns: int, window: int | None) -> torch.Tensor:
        """Which of `columns` keys each of the last `rows` positions sees, shape (rows, columns)."""
        if (rows, columns, window) in self._masks:
            return self._masks[rows, columns, window]
        seen = torch.ones(rows, columns, dtype=torch.bool, device=self.device).tril(columns - rows)
        if window is not None:
            seen = seen.triu(columns - rows - window + 1)
        self._kept += seen.numel()
        if self._kept <= _KEPT_MASKS:
            self._masks[rows, columns, window] = seen
        return seen


# Tokens stay outermost in memory, as projections leave them: what a flash kernel wants, and what
# keys of a stream without a past are like.


def _after(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    return torch.cat((first.transpose(1, 2), second.transpose(1, 2)), dim=1).transpose(1, 2)


def _some(keys: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    return keys.transpose(1, 2).index_select(1, places).transpose(1, 2)


def registered(
    form: str, compute: Compute, maker: Maker | None = None
) -> Callable[..., tuple[torch.Tensor, None]]:
    """`compute` as Transformers calls attention, registered with it as `form`.

    `maker` makes what `compute` needs of a plan, before the forward.

    query has the shape (1, heads, tokens, head_dim), key and value (1, kv_heads, tokens,
    head_dim); `compute` gets them after those of the past. The result has the shape (1, tokens,
    heads, head_dim).
    """

    def attention(
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
        plan, window = prefmill_plan, sliding_window
        if plan is None:
            raise CannotShare("the model does not hand its keyword arguments to attention")
        if attention_mask is not None:
            raise CannotShare("the model makes an attention mask of its own")
        if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
            raise CannotShare("its attention looks both ways")
        _refuse_strange(others)
        key, value = plan.joined(key, value)
        plan.layers.append((form, window))
        return compute(plan, query, key, value, scaling, window, softcap), None

    if maker is not None:
        _MAKERS[form] = maker
    AttentionInterface.register(form, attention)
    return attention


def _refuse_strange(others: Mapping[str, Any]) -> None:
    """Refuse arguments that could change the result and are not known here."""
    strange = sorted(
        name
        for name, value in others.items()
        if name not in _HARMLESS and value is not None and value is not False
    )
    if strange:
        raise CannotShare(f"its attention takes {', '.join(strange)}")


def to_device(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """`array` on `device`; the copy to a GPU does not wait."""
    tensor = torch.from_numpy(array)
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
