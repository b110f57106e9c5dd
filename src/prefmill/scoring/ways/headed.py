"""A model with its head: what both ways of running it go by, and rows one at a time."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from prefmill.errors import BadRow, PrefmillError
from prefmill.models import probe
from prefmill.models.described import described
from prefmill.models.labels import is_stock
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring import attention
from prefmill.scoring.packing import Stream
from prefmill.scoring.ways.memory import Memory, out_of_memory
from prefmill.scoring.work import Part, Values, gathered

STEP = 64  #: what widths are multiples of, where shapes are to be constant
#: Where shapes are to be constant, products have a multiple of 4 rows: CPU kernels take the rows
#: that are left over another way, with other rounding. Measured with MKL on AVX-512, one and two
#: threads: no place matters for any multiple of 4 that was tried; 1 to 3 rows over, it does.
TILE = 4


@dataclass
class Headed:
    """A model with its head, on its device.

    model      in evaluation mode
    head       turns hidden states and the rows' tokens into values
    memory     how many tokens a forward pass may have
    invariant  constant shapes, so that a row's score is bitwise the same whatever its neighbours
               are
    body       the part of the model that gives token states; None: the head reads the whole
               model's output
    pad        the pad token
    pads       whether rows may stand together in a padded batch
    stock      the model's own attention, for single rows and padded batches
    rope       the length up to which rotary frequencies are fixed; 0: they always are
    alone      shapes are constant only where every row runs by itself
    compiled   the body goes through `torch.compile`
    """

    model: Any
    head: Head
    device: Any
    memory: Memory
    invariant: bool = False
    compiled: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.stock = attention.stock_attention(self.model)
        config = self.model.config.get_text_config()
        self.pad: int | None = getattr(config, "pad_token_id", None)
        # Keys of a forward pass are of no use to the next.
        self.model.config.use_cache = config.use_cache = False
        self.body = self.head.body(self.model)
        # Without a pad token Transformers' heads take single rows only; where we pool ourselves,
        # padding needs no token of its own.
        self.pads = self.pad is not None or self.body is not None
        self.rope = probe.batch_dependent_rope(self.model)
        # An expert's product has as many rows as tokens were sent to it, which neighbours change:
        # there the same bits need every row alone.
        self.alone = self.invariant and probe.has_experts(self.model)

    @property
    def steady(self) -> int | None:
        """The rows of every product of a head, where shapes are to be constant."""
        return STEP if self.invariant else None

    def one_at_a_time(self, rows: TokenRows, which: Longs) -> Values:
        """The rows `which` one by one under the model's own attention, as Transformers does."""
        parts: list[Part] = []
        with attention.using(self.model, self.stock):
            for row in which.tolist():
                one = np.asarray([row])
                inputs = self._alone(rows, row)
                self.settle(int(rows.lengths[row]))
                try:
                    parts.append((one, *self.head.of_batch(self, inputs, rows, one, stock=True)))
                except Exception as error:
                    if out_of_memory(error):
                        raise
                    raise self.broken(row, error) from error
        return gathered(parts, self.head.width(rows))()

    def _alone(self, rows: TokenRows, row: int) -> dict[str, torch.Tensor]:
        """What the model is given of one row."""
        ids = rows.row(row).astype(np.int64)
        inputs = {"input_ids": attention.to_device(ids, self.device)[None]}
        if not is_stock(self.model):
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        types = rows.type_row(row)
        if types is not None:
            kinds = attention.to_device(types.astype(np.int64), self.device)
            inputs["token_type_ids"] = kinds[None]
        return inputs

    def settle(self, width: int) -> None:
        """Make rotary frequencies begin afresh, ahead of rows of so many tokens.

        `dynamic` ones grow with the longest row seen, and go back at one below the original length.
        """
        if self.rope and width >= self.rope:
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.device))

    def broken(self, row: int, error: Exception) -> BaseException:
        """The error for a row alone at which the model's own forward fails."""
        if isinstance(error, PrefmillError):
            return error
        what = f"breaks {type(self.model).__name__}; {described(error)}"
        return BadRow("score", what, row=row, reason="model_failed")


class Head(Protocol):
    """What a scorer reads off a model: `width` values a row. See `heads.py`."""

    def width(self, rows: TokenRows) -> int:
        """How many values each of these rows has at most; what is beyond a row's own is 0."""

    def body(self, model: Any) -> Any | None:
        """The part of the model that gives `last_hidden_state`.

        None if values are not read off token states.
        """

    def of_stream(
        self, headed: Headed, hidden: torch.Tensor, rows: TokenRows, stream: Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, shape (rows, width), and scales, shape (rows,), of `stream.rows`.

        Hidden states have the shape (places, hidden): `stream.locate` tells which is whose.
        """

    def of_batch(
        self,
        headed: Headed,
        inputs: dict[str, torch.Tensor],
        rows: TokenRows,
        which: Longs,
        *,
        stock: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and scales of the rows `which`, right-padded in `inputs`.

        With `stock` by nothing but the model's own forward.
        """
