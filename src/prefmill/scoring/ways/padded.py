"""Running token rows as padded batches, sorted by length: any model whatever."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from prefmill.models.labels import is_stock
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring import attention
from prefmill.scoring.packing import batches
from prefmill.scoring.ways.headed import STEP, TILE, Headed
from prefmill.scoring.ways.memory import out_of_memory
from prefmill.scoring.work import Part, Values, gathered


@dataclass
class Padded:
    """A model that is run in padded batches, by its own attention."""

    headed: Headed

    # Planning

    def plan(self, rows: TokenRows, which: Longs) -> list[Longs]:
        """Batches of the rows `which`, within the budget."""
        headed, lengths = self.headed, rows.lengths[which]
        alike = None
        if headed.rope:  # beyond the original length every length has frequencies of its own
            alike = np.where((lengths > headed.rope) | headed.invariant, lengths, 0)
        elif headed.invariant:  # one shape for all lengths up to a multiple of 64
            alike = lengths = self._width(lengths)
        budget = headed.memory.budget if headed.pads else 1
        made = [which[places] for places in batches(lengths, budget, alike=alike)]
        if not headed.invariant:
            return made
        parts: list[Longs] = []
        for batch in made:
            step = self._count(self._width(int(rows.lengths[batch].max())))
            parts += [batch[i : i + step] for i in range(0, len(batch), step)]
        return parts

    def _count(self, width: int) -> int:
        """How many rows of `width` tokens every batch has, where shapes are to be constant."""
        headed = self.headed
        count = headed.memory.budget // width if headed.pads and not headed.alone else 1
        return count - count % TILE or 1

    def _width(self, longest: Any) -> Any:
        """How wide a padded batch is whose longest row has `longest` tokens.

        Where width decides rotary frequencies, it must be that.
        """
        if self.headed.rope or not self.headed.invariant:
            return longest
        return -(-longest // STEP) * STEP

    # Running

    def launch(self, rows: TokenRows, todo: list[Longs]) -> Callable[[], Values]:
        """Values of the rows of all batches; they leave the device once."""
        headed = self.headed
        parts: list[Part] = []
        with attention.using(headed.model, headed.stock):
            waiting = list(reversed(todo))
            while waiting:
                which = waiting.pop()
                width = int(rows.lengths[which].max())
                if len(which) > 1 and len(which) * width > headed.memory.budget:
                    waiting += [which[len(which) // 2 :], which[: len(which) // 2]]
                    continue
                try:
                    parts.append((which, *self.batch(rows, which)))
                    continue
                except Exception as error:
                    if out_of_memory(error):
                        headed.memory.learn(error, len(which) * width, len(which))
                    elif len(which) == 1:
                        raise headed.broken(int(which[0]), error) from error
                    else:
                        # Some models take rows together only if they are alike: BART's must have
                        # as many end tokens.
                        waiting += [which[i : i + 1] for i in range(len(which) - 1, -1, -1)]
                        continue
                headed.memory.release()
                waiting.append(which)
        return gathered(parts, headed.head.width(rows))

    def batch(self, rows: TokenRows, which: Longs) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded rows through the whole model, as Transformers itself would run them."""
        headed = self.headed
        count, width = len(which), self._width(int(rows.lengths[which].max()))
        if headed.invariant:
            count = self._count(width)
        ids = np.full((count, width), headed.pad or 0, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for i, row in enumerate(which.tolist()):
            n = int(rows.lengths[row])
            ids[i, :n], mask[i, :n] = rows.row(row), 1
            if rows.types is not None:
                types[i, :n] = rows.type_row(row)
        mask[len(which) :, 0] = 1  # rows that only keep the shape constant attend to one token
        if not is_stock(headed.model):  # code of its own may find fault with a row of one token
            ids[len(which) :], mask[len(which) :] = ids[0], mask[0]
        inputs = {"input_ids": attention.to_device(ids, headed.device)}
        # Code of its own may do without a default.
        if headed.invariant or not mask.all() or not is_stock(headed.model):
            inputs["attention_mask"] = attention.to_device(mask, headed.device)
        if rows.types is not None:
            inputs["token_type_ids"] = attention.to_device(types, headed.device)
        headed.settle(width)
        values, scale = headed.head.of_batch(headed, inputs, rows, which)
        return values[: len(which)], scale[: len(which)]
