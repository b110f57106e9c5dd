"""What attention needs to know of a stream, and how a form of it is registered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
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
        end = len(stream)
        self.length = length or end
        self.segments: list[tuple[int, int, int, int]] = [
            tuple(row) for row in stream.segments.tolist()
        ]
        # Padding to a constant shape is a segment of its own that nobody looks at.
        if self.length > end:
            self.segments.append((end, self.length, end, end))
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
        if window is not None:
            seen = seen.triu(columns - rows - window + 1)
        self._kept += seen.numel()
        if self._kept <= _KEPT_MASKS:
            self._masks[rows, columns, window] = seen
        return seen


def registered(
    form: str, compute: Compute, maker: Maker | None = None
) -> Callable[..., tuple[torch.Tensor, None]]:
    """`compute` as Transformers calls attention, registered with it as `form`.

    `maker` makes what `compute` needs of a plan, before the forward.

    query has the shape (1, heads, tokens, head_dim), key and value (1, kv_heads, tokens,
    head_dim). The result has the shape (1, tokens, heads, head_dim).
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
