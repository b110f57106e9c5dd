"""How many tokens a forward pass may have, and what running out of memory teaches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from prefmill.errors import OutOfDeviceMemory


@dataclass
class Memory:
    """The memory of a device, as far as forward passes have met its end.

    budget   tokens of one forward pass
    fixed    the budget is kept whatever happens: other shapes would give other bits
    most     tokens of a forward pass that memory is known to hold no more of; None: it has not
             run out
    splits   passes that did not fit and were split
    """

    device: Any
    budget: int
    fixed: bool = False
    most: int | None = field(default=None, init=False)
    splits: int = field(default=0, init=False)

    def learn(self, error: BaseException, tokens: int, parts: int) -> None:
        """Learn from a pass of `tokens` in so many `parts` that ran out of memory.

        Raises `OutOfDeviceMemory` where it cannot be split, and what was no such thing as it is.
        """
        if not out_of_memory(error):
            raise error
        if self.fixed and tokens <= self.budget:
            raise OutOfDeviceMemory(
                f"score: a forward pass of {self.budget:,} tokens does not fit into the memory of"
                f" {self.device}.",
                hint="a smaller --batch-tokens: with --invariant it is not changed on the way,"
                " because other shapes give other bits.",
            ) from error
        if parts == 1:
            raise OutOfDeviceMemory(
                f"score: one row of {tokens:,} tokens does not fit into the memory of"
                f" {self.device}.",
                hint="--max-length with --on-too-long null or truncate, or a smaller --dtype.",
            ) from error
        self.splits += 1
        self.most = max(1, tokens // 2)
        self.budget = min(self.budget, self.most)

    def release(self) -> None:
        """Give back what the failed pass held.

        To be called when its exception is gone, whose traceback holds the tensors.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @contextmanager
    def at_least(self, tokens: int) -> Iterator[None]:
        """A budget of `tokens` or more, for a while."""
        before, self.budget = self.budget, max(self.budget, tokens)
        try:
            yield
        finally:
            self.budget = min(before, self.budget)


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that a device's memory is full."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    # A library that finds no room for its workspace says so in words of its own.
    words = ("can't allocate memory", "out of memory", "_status_alloc_failed")
    return any(word in str(error).lower() for word in words)
