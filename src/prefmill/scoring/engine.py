"""Running token rows through a model, several times faster than padded batches.

The scores are those of one row at a time. There are two ways, and a probe that decides between them
when the model is loaded:

    streams   flat sequences without padding in which a prompt stands once (`packing.py`), by our
              own attention (`attention/`)
    batches   padded rows, sorted by length, under a token budget: any model whatever

The ways and the probe are in `ways/`. The probe is a measurement: a few random rows are run both
ways, and if they differ, or attention was never called, the model gets batches. The first chunk of
real rows is checked again, against one row at a time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from prefmill.errors import ScoresDiffer
from prefmill.models import probe
from prefmill.models.tokens import TokenRows
from prefmill.scoring.ways.headed import Head, Headed
from prefmill.scoring.ways.memory import Memory
from prefmill.scoring.ways.padded import Padded
from prefmill.scoring.ways.probing import why_not_compiled, why_not_streams
from prefmill.scoring.ways.streams import Streams
from prefmill.scoring.work import Floats, Values, Way, Work

# Tokens of one forward pass: enough for full speed, measured on 2 CPU cores (benchmarks/README.md)
# and taken for GPUs from scoring practice.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# Of padded batches: the fewer rows, the less padding, and a CPU is at full speed with few.
PADDED_TOKENS = {"cpu": 1024, "cuda": 16384}
_CHECKED_ROWS = 8


@dataclass
class Engine:
    """A model and how it is run.

    Args:
        model: in evaluation mode, on its device.
        head: turns hidden states and the rows' tokens into values; see `Head`.
        share: whether prompts may be shared; with False the streams are still without padding.
        batch_tokens: budget of one forward pass; None is `BATCH_TOKENS` of the device, or
            `PADDED_TOKENS` for batches.
        invariant: constant shapes, so that a row's score is bitwise the same whatever its
            neighbours are (row by row where there are experts).
        compile: run the body through `torch.compile`.
    """

    model: Any
    head: Head
    device: Any
    share: bool = True
    batch_tokens: int | None = None
    invariant: bool = False
    compile: bool = False
    #: why the model gets batches
    reason: str = field(default="", init=False)
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.memory = Memory(self.device, self._budget(BATCH_TOKENS), self.invariant)
        self.headed = Headed(self.model, self.head, self.device, self.memory, self.invariant)
        self.streams = Streams(self.headed, self.share)
        self.padded = Padded(self.headed)
        self.vocabulary = probe.vocabulary(self.model)
        self.reason = why_not_streams(self.headed, self.streams, self.padded)
        if self.way == "batches":
            self.memory.budget = self._budget(PADDED_TOKENS)
            if self.device.type == "cuda" and probe.is_decoder(self.model):
                warnings.warn(
                    f"the model on {self.device} is run in padded batches, several times slower"
                    f" than it could be: {self.reason}",
                    stacklevel=4,
                )
        if self.compile and self.headed.body is not None:
            reason = why_not_compiled(self.headed, self._running)
            if reason:
                warnings.warn(
                    f"torch.compile does not serve this model, which runs without: {reason}",
                    stacklevel=4,
                )
        # What ran so far was no user's.
        self.streams.layers.clear()

    def _budget(self, usual: dict[str, int]) -> int:
        return self.batch_tokens or usual.get(self.device.type, usual["cpu"])

    @property
    def way(self) -> str:
        """How rows are run: in `streams`, or in `batches`."""
        return "batches" if self.reason else "streams"

    @property
    def _running(self) -> Way:
        return self.padded if self.reason else self.streams

    @property
    def splits(self) -> int:
        """Passes that did not fit into memory and were split."""
        return self.memory.splits

    # Making work

    def plan(self, rows: TokenRows) -> Work:
        """What to run for `rows`; needs no model, so that another thread can do it ahead."""
        distinct, inverse = rows.distinct()
        if self.way == "streams":
            return Work(rows, distinct, inverse, self.streams.plan(rows, distinct), None)
        return Work(rows, distinct, inverse, None, self.padded.plan(rows, distinct))

    def plans_like(self, other: Engine) -> bool:
        """Whether this engine would plan any rows as `other` does."""
        mine, theirs = (
            (
                each.way,
                each.headed.pads,
                each.headed.rope,
                each.headed.alone,
                each.share,
                each.streams.room(),
            )
            for each in (self, other)
        )
        return mine == theirs

    # Running

    def run(self, work: Work) -> Floats:
        """The values of every row of `work`, shape (rows, width of the head), float64.

        They are NaN where the model gave NaN.
        """
        return self.start(work)()

    @torch.inference_mode()
    def start(self, work: Work) -> Callable[[], Floats]:
        """Begin `run`, and return what gives its values, to be called once, from any thread.

        On a GPU the rows are on their way when this returns: the device goes on while the next work
        is started.
        """
        rows = work.rows
        if not len(rows):
            return lambda: np.zeros((0, self.head.width(rows)))
        if work.streams is not None:
            fetch = self.streams.launch(rows, work.streams)
        else:
            fetch = self.padded.launch(rows, work.batches or [])
        if not self._checked:
            values = fetch()
            self._check(rows, values)
            self._checked = True
            return lambda: self._spread(work, values)
        return lambda: self._spread(work, fetch())

    def _spread(self, work: Work, values: Values) -> Floats:
        """The values of the rows that ran, for all rows of `work`."""
        out = np.full((len(work.rows), self.head.width(work.rows)), np.nan)
        out[values.rows] = values.values
        return out[work.distinct][work.inverse]

    # Checking

    def _check(self, rows: TokenRows, values: Values) -> None:
        """Refuse to go on if a few real rows differ alone, under the model's own attention.

        In `invariant` mode they must also be the same bit for bit in other company.
        """
        by_length = np.argsort(rows.lengths[values.rows], kind="stable")
        some = by_length[np.unique(np.linspace(0, len(by_length) - 1, _CHECKED_ROWS).astype(int))]
        some = some[np.argsort(values.rows[some])]
        mine = Values(values.rows[some], values.values[some], values.scale[some])
        single = self.headed.one_at_a_time(rows, mine.rows)
        far = mine.far_from(single, self.model.dtype)
        if far.any() and np.isfinite(mine.values).all():
            i = int(np.flatnonzero(far)[0])
            raise ScoresDiffer(
                "score: packed and single scores differ;"
                f" got {mine.values[i].tolist()} and {single.values[i].tolist()},"
                " expected the same but for rounding.",
                hint="--share-prefix off may help; please report it with the model's name.",
            )
        if self.invariant:
            self._check_bits(rows, mine)

    def _check_bits(self, rows: TokenRows, mine: Values) -> None:
        way = self._running
        passes = [each for row in mine.rows[:, None] for each in way.plan(rows, row)]
        alone = way.launch(rows, passes)()
        if (alone.values != mine.values).any():
            raise ScoresDiffer(
                "score: a row's score depends on its neighbours on this device;"
                " got different bits, expected the same.",
                hint="leave --invariant out: scores then agree up to rounding.",
            )
