"""Running token rows as flat streams without padding, in which a prompt stands once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch

from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring import attention
from prefmill.scoring.attention import CannotShare, Past, StreamPlan
from prefmill.scoring.packing import GATHERED_KEYS, Room, Stream, pack
from prefmill.scoring.ways.headed import STEP, TILE, Headed
from prefmill.scoring.work import Part, Values, gathered

_ANY = 1 << 62  # keys of a prefix, however long


@dataclass
class Streams:
    """A model that is run in streams, by our own attention.

    headed          the model
    share           whether prompts may be shared; with False streams are still without padding
    form            the form of attention
    cascades        whether `varlen` may read a prefix in place
    keys_per_token  that a stream may gather; beyond, prefixes are read in place
    windows         the sliding windows of the layers, as far as they have run
    layers          how many layers each form of attention computed
    """

    headed: Headed
    share: bool = True
    cascades: bool = field(default=False, init=False)
    keys_per_token: int = field(default=GATHERED_KEYS, init=False)
    windows: set[int | None] = field(default_factory=set, init=False)
    layers: Counter[str] = field(default_factory=Counter, init=False)

    def __post_init__(self) -> None:
        headed = self.headed
        self.form = attention.our_attention(headed.model, headed.device, invariant=headed.invariant)

    # Planning

    def plan(self, rows: TokenRows, which: Longs) -> list[Stream]:
        """Streams of the rows `which`, within what is known of memory."""
        if not self.headed.alone:
            return pack(rows, which, self.room(), share=self.share)
        streams: list[Stream] = []
        for row in which[:, None]:
            streams += pack(rows, row, self.room(), share=False)
        return streams

    def room(self) -> Room:
        """What a stream may hold now."""
        gathers = 0
        # The other forms copy the keys of one segment at a time, or none.
        if self.form == attention.VARLEN:
            windows = [window - 1 for window in self.windows if window is not None]
            gathers = max(windows, default=0) if self.cascades else _ANY
        memory = self.headed.memory
        return Room(memory.budget, memory.most, gathers, self.headed.invariant)

    # Running

    def launch(self, rows: TokenRows, streams: list[Stream]) -> Callable[[], Values]:
        """Values of all rows of `streams`, in stream order; they leave the device once."""
        with attention.using(self.headed.model, self.form):
            parts = list(self._chain(rows, streams))
        return gathered(parts, self.headed.head.width(rows))

    def _chain(self, rows: TokenRows, streams: list[Stream]) -> Iterator[Part]:
        """Streams of which one may go on from the one before it."""
        memory = self.headed.memory
        past: Past | None = None
        for stream in streams:
            # Memory may have been found to be smaller since this was packed.
            fits = memory.most is None or len(stream) <= memory.most or len(stream.segments) == 1
            if fits and (past is not None or not stream.past):
                try:
                    values, past = self.forward(rows, stream, past)
                    if len(stream.rows):
                        yield (stream.rows, *values)
                    continue
                except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                    memory.learn(error, len(stream), len(stream.segments))
                memory.release()
            # Its path runs again, in smaller streams; the next one then has nothing to go on from.
            past = None
            if len(stream.rows):
                yield from self._chain(rows, self.plan(rows, stream.rows))

    def forward(
        self, rows: TokenRows, stream: Stream, past: Past | None = None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], Past | None]:
        """What the head reads off a stream, and what the next one goes on from."""
        headed, length = self.headed, self._length(stream)
        many = attention.gathered_keys(stream) > self.keys_per_token * length
        plan = StreamPlan(
            stream,
            headed.device,
            length,
            past=past,
            cascade=self.cascades and many,
            uniform=headed.compiled,
            fixed=headed.invariant,
        )
        plan.make(self.form, self.windows)
        ids, positions = np.zeros(length, np.int64), np.zeros(length, np.int64)
        ids[: len(stream)], positions[: len(stream)] = stream.ids, stream.positions
        assert headed.body is not None
        hidden = headed.body(
            input_ids=attention.to_device(ids, headed.device)[None],
            position_ids=attention.to_device(positions, headed.device)[None],
            use_cache=False,
            prefmill_plan=plan,
        ).last_hidden_state[0]
        if not plan.calls:
            raise CannotShare("its attention is not called through Transformers' interface")
        self.windows.update(window for _, window in plan.layers)
        self.layers.update(form for form, _ in plan.layers)
        if plan.before is not None:
            hidden = torch.cat((plan.before.states, hidden))
        return headed.head.of_stream(headed, hidden, rows, stream), plan.handed_on(hidden)

    def _length(self, stream: Stream) -> int:
        """The tokens of a forward pass, padded to a constant shape where that is wanted."""
        length = len(stream)
        if self.headed.invariant:
            whole = self._whole
            return -(-length // whole) * whole
        if self.form == attention.BLOCKMASK:
            # One block is a shape of its own for torch.compile.
            return max(2, -(-length // attention.BLOCK)) * attention.BLOCK
        return length

    @property
    def _whole(self) -> int:
        """The tokens of a stream, where shapes are to be constant."""
        return STEP if self.headed.alone else -(-self.headed.memory.budget // TILE) * TILE
