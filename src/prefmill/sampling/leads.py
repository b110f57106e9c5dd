"""What the prompts of a wave begin with alike, run once: a judge's rubric, a system prompt.

A row of left-padded prompts is then fed its last tokens only. All before them, in every row, is
part of what they share; its keys and values are copied to where the row has them:

    rubric rubric rubric question          the cache     what is fed
      rubric rubric rubric short           (shifted)     (the last tokens of every row)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from prefmill.models.tokens import common_prefix

# Below that many shared tokens, or that ratio of tokens, it is not worth a forward of its own.
LEAST, LEAST_RATIO = 32, 1.1
# A lead of which that much is shared by the next wave serves it, too.
_ENOUGH = 0.9

Ids = tuple[int, ...]


@dataclass
class Leads:
    """The last lead that ran, for the waves that follow."""

    least: int = LEAST
    ids: Ids = ()
    keys: list[tuple[Any, Any]] = field(default_factory=list)
    #: tokens that ran as leads
    tokens: int = 0

    def forget(self) -> None:
        """Give back what the keys hold."""
        self.ids, self.keys = (), []

    def of(self, model: Any, heads: Sequence[Ids]) -> int:
        """How many tokens the rows share whose keys and values are at hand after this; 0: none.

        At least one token of every row is left to be fed.
        """
        width, shared = max(map(len, heads)), min(map(len, heads)) - 1
        first = np.asarray(heads[0])
        for head in heads[1:]:
            shared = min(shared, common_prefix(first[:shared], np.asarray(head)[:shared]))
        # Further padding than that would have to be fed.
        least = max(self.least, width - min(map(len, heads)))
        if shared < least:
            return 0
        known = common_prefix(first[:shared], np.asarray(self.ids[:shared], first.dtype))
        fed = len(heads) * (width - shared)
        if known >= _ENOUGH * shared and known >= least:
            return known
        if len(heads) * width < LEAST_RATIO * (shared + fed):
            return 0
        return shared if self._run(model, heads[0][:shared]) else 0

    def _run(self, model: Any, ids: Ids) -> bool:
        """Run a lead; whether its keys and values can be copied from row to row."""
        from transformers.cache_utils import DynamicLayer

        self.forget()
        row = torch.tensor([ids], device=model.device)
        cache = model(input_ids=row, use_cache=True).past_key_values
        layers = getattr(cache, "layers", None)
        # Others keep a window of their keys, or states that are no keys at all.
        if not layers or any(type(layer) is not DynamicLayer for layer in layers):
            return False
        self.ids, self.keys = ids, [(layer.keys, layer.values) for layer in layers]
        self.tokens += len(ids)
        return True

    def cache(self, shifts: Any, length: int) -> Any:
        """A cache of `length` columns: of each row, the lead after `shifts[row]` columns that are
        masked.
        """
        from transformers import DynamicCache

        columns = torch.arange(length, device=shifts.device)[None] - shifts[:, None]
        where = columns.clamp(min=0)
        made = DynamicCache()
        for number, pair in enumerate(self.keys):
            # (1, heads, lead, dim) to (rows, heads, columns, dim)
            made.update(*(each[0][:, where].transpose(0, 1) for each in pair), number)
        return made
