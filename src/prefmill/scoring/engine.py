"""Running token rows through a model, several times faster than padded batches.

The scores are those of one row at a time. There are two ways, and a probe that decides between them
when the model is loaded:

    streams   flat sequences without padding in which a prompt stands once (`packing.py`), by our
              own attention (`attention/`)
    batches   padded rows, sorted by length, under a token budget: any model whatever

The probe is a measurement, not a list of names: a few random rows are run both ways, and if they
differ, or attention was never called, the model gets batches. The first chunk of real rows is
checked again, against one row at a time.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch

from prefmill.errors import BadInput, BadRow, OutOfDeviceMemory, PrefmillError, ScoresDiffer
from prefmill.models import probe
from prefmill.models.described import described
from prefmill.models.labels import is_stock
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring import attention
from prefmill.scoring.attention import CannotShare, Past, StreamPlan
from prefmill.scoring.packing import GATHERED_KEYS, Room, Stream, batches, pack
from prefmill.scoring.work import Floats, Part, Values, Work, gathered, out_of_memory

# Tokens of one forward pass: enough for full speed, measured on 2 CPU cores (benchmarks/README.md)
# and taken for GPUs from scoring practice.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# Of padded batches: the fewer rows, the less padding, and a CPU is at full speed with few.
PADDED_TOKENS = {"cpu": 1024, "cuda": 16384}
_CHECKED_ROWS = 8
# At least what the probe's rows need to stand in one stream and in one batch.
_PROBE_TOKENS = 128
# So few that the probe's streams go on from one another.
_PROBE_PART = 12
_GRAPHS = 32  # of one compiled body: no more than it can need
_ANY = 1 << 62  # keys of a prefix, however long
_STEP = 64  # widths of padded batches, where shapes are to be constant
# Where shapes are to be constant, products have a multiple of 4 rows: CPU kernels take the rows
# that are left over another way, with other rounding. Measured with MKL on AVX-512, one and two
# threads: no place matters for any multiple of 4 that was tried; 1 to 3 rows over, it does.
TILE = 4


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
    way: str = field(default="batches", init=False)
    #: why the model gets batches
    reason: str = field(default="", init=False)
    #: batches that did not fit into memory and were split
    splits: int = field(default=0, init=False)
    #: tokens of a forward pass that memory is known to hold no more of
    most: int | None = field(default=None, init=False)
    #: how many layers each form of attention computed
    layers: Counter[str] = field(default_factory=Counter, init=False)
    #: whether `varlen` may read a prefix in place
    cascades: bool = field(default=False, init=False)
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        place = self.device.type
        self.budget = self.batch_tokens or BATCH_TOKENS.get(place, BATCH_TOKENS["cpu"])
        self.stock = attention.stock_attention(self.model)
        self.ours = attention.our_attention(self.model, self.device, invariant=self.invariant)
        config = self.model.config.get_text_config()
        self.pad: int | None = getattr(config, "pad_token_id", None)
        # Keys of a forward pass are of no use to the next.
        self.model.config.use_cache = config.use_cache = False
        self.body = self.head.body(self.model)
        # Without a pad token Transformers' heads take single rows only; where we pool ourselves,
        # padding needs no token of its own.
        self.pads = self.pad is not None or self.body is not None
        self.vocabulary = probe.vocabulary(self.model)
        self._rope = probe.batch_dependent_rope(self.model)
        # An expert's product has as many rows as tokens were sent to it, which neighbours change:
        # there the same bits need every row alone.
        self._alone = self.invariant and probe.has_experts(self.model)
        self._windows: set[int | None] = set()
        # That a stream may gather; beyond, prefixes are read in place.
        self.keys_per_token = GATHERED_KEYS
        self._compiled = False
        self._probe()
        if self.way == "batches":
            self.budget = self.batch_tokens or PADDED_TOKENS.get(place, PADDED_TOKENS["cpu"])
            if place == "cuda" and probe.is_decoder(self.model):
                warnings.warn(
                    f"the model on {self.device} is run in padded batches, several times slower"
                    f" than it could be: {self.reason}",
                    stacklevel=4,
                )
        if self.compile and self.body is not None:
            self._compile()
        self.layers.clear()

    # What the model can do

    def _probe(self) -> None:
        """Decide `way` by random rows: whether streams give what single rows give."""
        if self.device.type == "cpu" and getattr(self.model, "hf_quantizer", None) is not None:
            # Measured with bitsandbytes 0.50: 2 % between one row and several.
            self.body, self.pads = None, False
            self.reason = "kernels for quantised weights on a CPU differ with the number of tokens"
            return
        if self.body is None:
            self.reason = "its head is no linear layer on token states"
            return
        rows, every = self._random_rows()

        def padded() -> Values:
            return self._run_batches(rows, self._batches(rows, every))

        def packed() -> Values:
            return self.run_streams(rows, pack(rows, every, 4096, least=0))

        def in_parts() -> Values:
            return self.run_streams(rows, pack(rows, every, _PROBE_PART, least=0))

        with torch.inference_mode(), self._at_least(_PROBE_TOKENS):
            try:
                with probe.running(self.model):
                    single = self.one_at_a_time(rows, every)
            except BadInput:
                if is_stock(self.model):
                    raise
                # Its code wants tokens of a template; real rows are checked one by one below.
                self.body, self.pads = None, self.pad is not None
                self.reason = "its own code does not run on made-up rows"
                return
            if self._fault(padded, single):
                self.body, self.pads = None, self.pad is not None
                self.reason = "its values are not its head over its token states"
                # As some quantised layers do, which scale by all that is in a batch.
                if self.pads and is_stock(self.model) and self._fault(padded, single):
                    self.pads = False
                    self.reason = "its rows depend on one another, so that each runs alone"
            elif self._rope:
                self.reason = "its rotary embedding depends on the longest row of a batch"
            else:
                self.reason = self._fault(packed, single) or self._fault(in_parts, single)
            if self.reason:
                return
            self.way = "streams"
            if self.ours == attention.VARLEN and not self.invariant:
                # What is slower without it is no reason for batches.
                self.cascades, self.keys_per_token = True, 0
                self.cascades = not self._fault(packed, single)
                self.keys_per_token = GATHERED_KEYS

    def _random_rows(self) -> tuple[TokenRows, Longs]:
        """Some with a shared prefix, a row of one token, and some that share nothing."""
        rows = probe.random_rows(self.model.config.get_text_config().vocab_size)
        return rows, np.arange(len(rows))

    def _fault(self, run: Callable[[], Values], single: Values) -> str:
        """Why `run` does not give what `single` rows gave; empty: it does, but for rounding."""
        try:
            values = run()
        except CannotShare as no:
            return str(no)
        except torch.OutOfMemoryError:
            raise
        # The model's forward is of another shape than streams need.
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
            line = str(error).splitlines()[0][:200]
            return f"packed rows do not run: {type(error).__name__}: {line}"
        far = values.far_from(single, self.model.dtype).any()
        if far:
            return "packed rows and single rows differ"
        return ""

    def _compile(self) -> None:
        """Compile the body, and go on without where that fails or gives other values."""
        # A stream with a past, with something to hand on, and each way to read keys: every mixture
        # of these is a graph of its own.
        limit = torch._dynamo.config.recompile_limit
        torch._dynamo.config.recompile_limit = max(_GRAPHS, limit)
        eager, self.body = self.body, torch.compile(self.body, dynamic=True)
        self._compiled = True
        rows, every = self._random_rows()
        with torch.inference_mode(), self._at_least(_PROBE_TOKENS):
            single = self.one_at_a_time(rows, every)
            try:
                values = self._launch(self.plan(rows))()
                far = values.far_from(single, self.model.dtype).any()
                reason = "it gives other values" if far else ""
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # what a compiler may raise is no closed list
                lines = str(error).strip().splitlines() or [""]
                reason = f"{type(error).__name__}: {lines[0][:200]}"
        if reason:
            self.body, self._compiled = eager, False
            warnings.warn(
                f"torch.compile does not serve this model, which runs without: {reason}",
                stacklevel=5,
            )

    @contextmanager
    def _at_least(self, tokens: int) -> Iterator[None]:
        """A budget of `tokens` or more.

        With a smaller one every row would be alone, and the probe would compare like with like.
        """
        before, self.budget = self.budget, max(self.budget, tokens)
        try:
            yield
        finally:
            self.budget = min(before, self.budget)

    # Making work

    def plan(self, rows: TokenRows) -> Work:
        """What to run for `rows`; needs no model, so that another thread can do it ahead."""
        distinct, inverse = rows.distinct()
        if self.way != "streams":
            return Work(rows, distinct, inverse, None, self._batches(rows, distinct))
        together = np.split(distinct, len(distinct)) if self._alone else [distinct]
        streams: list[Stream] = []
        for which in together:
            streams += self._pack(rows, which)
        return Work(rows, distinct, inverse, streams, None)

    def _pack(self, rows: TokenRows, which: Longs) -> list[Stream]:
        """Streams of the rows `which`, within what is known of memory."""
        return pack(rows, which, self._room(), share=self.share and not self._alone)

    def _room(self) -> Room:
        gathers = 0
        # The other forms copy the keys of one segment at a time, or none.
        if self.ours == attention.VARLEN:
            windows = [window - 1 for window in self._windows if window is not None]
            gathers = max(windows, default=0) if self.cascades else _ANY
        return Room(self.budget, self.most, gathers, self.invariant)

    def plans_like(self, other: Engine) -> bool:
        """Whether this engine would plan any rows as `other` does."""
        mine, theirs = (
            (each.way, each.pads, each._rope, each._alone, each.share, each._room())
            for each in (self, other)
        )
        return mine == theirs

    def _batches(self, rows: TokenRows, which: Longs) -> list[Longs]:
        lengths = rows.lengths[which]
        alike = None
        if self._rope:  # beyond the original length every length has frequencies of its own
            alike = np.where((lengths > self._rope) | self.invariant, lengths, 0)
        elif self.invariant:  # one shape for all lengths up to a multiple of 64
            alike = lengths = self._width(lengths)
        budget = self.budget if self.pads else 1
        made = [which[places] for places in batches(lengths, budget, alike=alike)]
        if not self.invariant:
            return made
        parts: list[Longs] = []
        for batch in made:
            step = self._count(self._width(int(rows.lengths[batch].max())))
            parts += [batch[i : i + step] for i in range(0, len(batch), step)]
        return parts

    def _count(self, width: int) -> int:
        """How many rows of `width` tokens every batch has, where shapes are to be constant."""
        count = self.budget // width if self.pads and not self._alone else 1
        return count - count % TILE or 1

    def _width(self, longest: Any) -> Any:
        """How wide a padded batch is whose longest row has `longest` tokens.

        Where width decides rotary frequencies, it must be that.
        """
        if self._rope or not self.invariant:
            return longest
        return -(-longest // _STEP) * _STEP

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
        fetch = self._launch(work)
        if not self._checked:
            values = fetch()
            self._check(rows, values)
            self._checked = True
            return lambda: self._spread(work, values)
        return lambda: self._spread(work, fetch())

    def _launch(self, work: Work) -> Callable[[], Values]:
        if work.streams is not None:
            return self._launch_streams(work.rows, work.streams)
        return self._launch_batches(work.rows, work.batches or [])

    def _spread(self, work: Work, values: Values) -> Floats:
        """The values of the rows that ran, for all rows of `work`."""
        out = np.full((len(work.rows), self.head.width(work.rows)), np.nan)
        out[values.rows] = values.values
        return out[work.distinct][work.inverse]

    def _check(self, rows: TokenRows, values: Values) -> None:
        """Refuse to go on if a few real rows differ alone, under the model's own attention.

        In `invariant` mode they must also be the same bit for bit in other company.
        """
        by_length = np.argsort(rows.lengths[values.rows], kind="stable")
        some = by_length[np.unique(np.linspace(0, len(by_length) - 1, _CHECKED_ROWS).astype(int))]
        some = some[np.argsort(values.rows[some])]
        mine = Values(values.rows[some], values.values[some], values.scale[some])
        single = self.one_at_a_time(rows, mine.rows)
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
            each = np.split(mine.rows, len(mine.rows))
            if self.way == "streams":
                streams = chain.from_iterable(self._pack(rows, one) for one in each)
                alone = self.run_streams(rows, list(streams))
            else:
                alone = self._run_batches(rows, each)
            if (alone.values != mine.values).any():
                raise ScoresDiffer(
                    "score: a row's score depends on its neighbours on this device;"
                    " got different bits, expected the same.",
                    hint="leave --invariant out: scores then agree up to rounding.",
                )

    def run_streams(self, rows: TokenRows, streams: list[Stream]) -> Values:
        return self._launch_streams(rows, streams)()

    def _launch_streams(self, rows: TokenRows, streams: list[Stream]) -> Callable[[], Values]:
        """Values of all rows of `streams`, in stream order; they leave the device once."""
        with attention.using(self.model, self.ours):
            parts = list(self._chain(rows, streams))
        return gathered(parts, self.head.width(rows))

    def _chain(self, rows: TokenRows, streams: list[Stream]) -> Iterator[Part]:
        """Streams of which one may go on from the one before it."""
        past: Past | None = None
        for stream in streams:
            # Memory may have been found to be smaller since this was packed.
            fits = self.most is None or len(stream) <= self.most or len(stream.segments) == 1
            if fits and (past is not None or not stream.past):
                try:
                    values, past = self.forward(rows, stream, past)
                    if len(stream.rows):
                        yield (stream.rows, *values)
                    continue
                except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                    self._learn(error, len(stream), len(stream.segments))
                self._release()
            # Its path runs again, in smaller streams; the next one then has nothing to go on from.
            past = None
            if len(stream.rows):
                yield from self._chain(rows, self._pack(rows, stream.rows))

    def _learn(self, error: BaseException, tokens: int, parts: int) -> None:
        """Learn from running out of memory, or raise what was no such thing."""
        if not out_of_memory(error):
            raise error
        if self.invariant and tokens <= self.budget:
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

    def _release(self) -> None:
        """Give back what the failed pass held.

        To be called when its exception is gone, whose traceback holds the tensors.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def forward(
        self, rows: TokenRows, stream: Stream, past: Past | None = None
    ) -> tuple[tuple[torch.Tensor, torch.Tensor], Past | None]:
        """What the head reads off a stream, and what the next one goes on from."""
        length = len(stream)
        if self.invariant:
            whole = self.whole
            length = -(-length // whole) * whole
        elif self.ours == attention.BLOCKMASK:
            # One block is a shape of its own for torch.compile.
            length = max(2, -(-length // attention.BLOCK)) * attention.BLOCK
        many = attention.gathered_keys(stream) > self.keys_per_token * length
        plan = StreamPlan(
            stream,
            self.device,
            length,
            past=past,
            cascade=self.cascades and many,
            uniform=self._compiled,
            fixed=self.invariant,
        )
        plan.make(self.ours, self._windows)
        ids, positions = np.zeros(length, np.int64), np.zeros(length, np.int64)
        ids[: len(stream)], positions[: len(stream)] = stream.ids, stream.positions
        assert self.body is not None
        hidden = self.body(
            input_ids=attention.to_device(ids, self.device)[None],
            position_ids=attention.to_device(positions, self.device)[None],
            use_cache=False,
            prefmill_plan=plan,
        ).last_hidden_state[0]
        if not plan.calls:
            raise CannotShare("its attention is not called through Transformers' interface")
        self._windows.update(window for _, window in plan.layers)
        self.layers.update(form for form, _ in plan.layers)
        if plan.before is not None:
            hidden = torch.cat((plan.before.states, hidden))
        return self.head.of_stream(self, hidden, rows, stream), plan.handed_on(hidden)

    @property
    def whole(self) -> int:
        """The tokens of a stream, where shapes are to be constant."""
        return _STEP if self._alone else -(-self.budget // TILE) * TILE

    @property
    def steady(self) -> int | None:
        """The rows of every product of a head, where shapes are to be constant."""
        return _STEP if self.invariant else None

    def _run_batches(self, rows: TokenRows, todo: list[Longs]) -> Values:
        return self._launch_batches(rows, todo)()

    def _launch_batches(self, rows: TokenRows, todo: list[Longs]) -> Callable[[], Values]:
        parts: list[Part] = []
        with attention.using(self.model, self.stock):
            waiting = list(reversed(todo))
            while waiting:
                which = waiting.pop()
                width = int(rows.lengths[which].max())
                if len(which) > 1 and len(which) * width > self.budget:
                    waiting += [which[len(which) // 2 :], which[: len(which) // 2]]
                    continue
                try:
                    parts.append((which, *self.batch(rows, which)))
                    continue
                except Exception as error:
                    if out_of_memory(error):
                        self._learn(error, len(which) * width, len(which))
                    elif len(which) == 1:
                        raise self._broken(int(which[0]), error) from error
                    else:
                        # Some models take rows together only if they are alike: BART's must have
                        # as many end tokens.
                        waiting += [which[i : i + 1] for i in range(len(which) - 1, -1, -1)]
                        continue
                self._release()
                waiting.append(which)
        return gathered(parts, self.head.width(rows))

    def _broken(self, row: int, error: Exception) -> BaseException:
        """The error for a row alone at which the model's own forward fails."""
        if isinstance(error, PrefmillError):
            return error
        what = f"breaks {type(self.model).__name__}; {described(error)}"
        return BadRow("score", what, row=row, reason="model_failed")

    def batch(self, rows: TokenRows, which: Longs) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded rows through the whole model, as Transformers itself would run them."""
        count, width = len(which), self._width(int(rows.lengths[which].max()))
        if self.invariant:
            count = self._count(width)
        ids = np.full((count, width), self.pad or 0, np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for i, row in enumerate(which.tolist()):
            n = int(rows.lengths[row])
            ids[i, :n], mask[i, :n] = rows.row(row), 1
            if rows.types is not None:
                types[i, :n] = rows.type_row(row)
        mask[len(which) :, 0] = 1  # rows that only keep the shape constant attend to one token
        if not is_stock(self.model):  # code of its own may find fault with a row of one token
            ids[len(which) :], mask[len(which) :] = ids[0], mask[0]
        inputs = {"input_ids": attention.to_device(ids, self.device)}
        # Code of its own may do without a default.
        if self.invariant or not mask.all() or not is_stock(self.model):
            inputs["attention_mask"] = attention.to_device(mask, self.device)
        if rows.types is not None:
            inputs["token_type_ids"] = attention.to_device(types, self.device)
        self._settle(width)
        values, scale = self.head.of_batch(self, inputs, rows, which)
        return values[: len(which)], scale[: len(which)]

    def _settle(self, width: int) -> None:
        """Make rotary frequencies begin afresh.

        `dynamic` ones grow with the longest row seen, and go back at one below the original length.
        """
        if self._rope and width >= self._rope:
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.device))

    def one_at_a_time(self, rows: TokenRows, which: Longs) -> Values:
        """The rows `which` one by one under the model's own attention, as Transformers does."""
        parts: list[Part] = []
        with attention.using(self.model, self.stock):
            for row in which.tolist():
                one = np.asarray([row])
                ids = rows.row(row).astype(np.int64)
                inputs = {"input_ids": attention.to_device(ids, self.device)[None]}
                if not is_stock(self.model):
                    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
                types = rows.type_row(row)
                if types is not None:
                    kinds = attention.to_device(types.astype(np.int64), self.device)
                    inputs["token_type_ids"] = kinds[None]
                self._settle(int(rows.lengths[row]))
                try:
                    parts.append((one, *self.head.of_batch(self, inputs, rows, one, stock=True)))
                except Exception as error:
                    if out_of_memory(error):
                        raise
                    raise self._broken(row, error) from error
        return gathered(parts, self.head.width(rows))()


class Head(Protocol):
    """What a scorer reads off a model: `width` values a row. See `heads.py`."""

    def width(self, rows: TokenRows) -> int:
        """How many values each of these rows has at most; what is beyond a row's own is 0."""

    def body(self, model: Any) -> Any | None:
        """The part of the model that gives `last_hidden_state`.

        None if values are not read off token states.
        """

    def of_stream(
        self, engine: Engine, hidden: torch.Tensor, rows: TokenRows, stream: Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, shape (rows, width), and scales, shape (rows,), of `stream.rows`.

        Hidden states have the shape (places, hidden): `stream.locate` tells which is whose.
        """

    def of_batch(
        self,
        engine: Engine,
        inputs: dict[str, torch.Tensor],
        rows: TokenRows,
        which: Longs,
        *,
        stock: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and scales of the rows `which`, right-padded in `inputs`.

        With `stock` by nothing but the model's own forward.
        """
