"""Running token rows through a model, several times faster than padded batches and with the scores
of one row at a time.

Two ways, and a probe that decides between them when the model is loaded:

    streams   flat sequences without padding in which a prompt stands once (`packing.py`), by our
    own attention (`attention.py`) batches   padded rows, sorted by length, under a token budget:
    any model whatever

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
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from prefmill.errors import BadRow, OutOfDeviceMemory, PrefmillError, ScoresDiffer
from prefmill.models import probe
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring import attention
from prefmill.scoring.attention import CannotShare, StreamPlan
from prefmill.scoring.packing import GATHERED_KEYS, Room, Stream, batches, pack

Floats = npt.NDArray[np.float64]
Part = tuple[
    Longs, torch.Tensor, torch.Tensor
]  # rows, their values, and the scales of rounding errors

# Tokens of one forward pass: enough for full speed, measured on 2 CPU cores (benchmarks/README.md)
# and taken for GPUs from scoring
# practice.
BATCH_TOKENS = {"cpu": 2048, "cuda": 16384}
# Of padded batches: the fewer rows, the less padding, and a CPU is at full speed with few.
PADDED_TOKENS = {"cpu": 1024, "cuda": 16384}
_CHECKED_ROWS = 8
# at least what the probe's rows need to stand in one stream and in one batch, whatever the budget
# is
_PROBE_TOKENS = 128
_LANE = attention.BLOCK
_ANY = 1 << 62  # keys of a prefix, however long
_STEP = 64  # widths of padded batches, where shapes are to be constant
# Where shapes are to be constant, products have a multiple of 4 rows: CPU kernels take the rows
# that are left over another way, with other
# rounding (measured with MKL on AVX-512, one and two threads: no place matters for any multiple of
# 4 that was tried; 1 to 3 rows over, it
# does).
TILE = 4
# How far a score may be from that of the row alone, in units of the norm of (hidden * head):
# rounding of that dtype, many times smaller
# than a wrong mask's effect.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


@dataclass(frozen=True)
class Work:
    """Rows that are ready to run: made ahead of the model, without it."""

    rows: TokenRows
    distinct: Longs  #: shape (distinct,): the rows that are run
    inverse: Longs  #: shape (rows,): which of these each row is
    streams: list[Stream] | None
    batches: list[Longs] | None

    @property
    def tokens(self) -> int:
        """Tokens that the model will see."""
        if self.streams is not None:
            return sum(map(len, self.streams))
        return int(self.rows.lengths[self.distinct].sum())


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
    reason: str = field(default="", init=False)  #: why the model gets batches
    splits: int = field(
        default=0, init=False
    )  #: batches that did not fit into memory and were split
    most: int | None = field(
        default=None, init=False
    )  #: tokens of a forward pass that memory is known to hold no more of
    layers: Counter[str] = field(
        default_factory=Counter, init=False
    )  #: how many layers each form of attention computed
    cascades: bool = field(
        default=False, init=False
    )  #: whether `varlen` may read a prefix in place
    _checked: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self.budget = self.batch_tokens or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])
        self.stock = attention.stock_attention(self.model)
        self.ours = attention.our_attention(self.model, self.device, invariant=self.invariant)
        config = self.model.config.get_text_config()
        self.pad: int | None = getattr(config, "pad_token_id", None)
        self.model.config.use_cache = config.use_cache = (
            False  # keys of a forward pass are of no use to the next
        )
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
        self.keys_per_token = (
            GATHERED_KEYS  # that a stream may gather; beyond, prefixes are read in place
        )
        self._compiled = False
        self._probe()
        if self.way == "batches":
            self.budget = self.batch_tokens or PADDED_TOKENS.get(
                self.device.type, PADDED_TOKENS["cpu"]
            )
            if self.device.type == "cuda" and probe.is_decoder(self.model):
                warnings.warn(
                    f"the model on {self.device} is run in padded batches, several times slower than it could be: {self.reason}",
                    stacklevel=4,
                )
        if self.compile and self.body is not None:
            self._compile()
        self.layers.clear()

    # -- what the model can do
    # ----------------------------------------------------------------------------------------------------------

    def _probe(self) -> None:
        """Whether streams give what single rows give: on random rows with a shared prefix, a row of
        one token, and none shared.
        """
        rows = probe.random_rows(self.model.config.get_text_config().vocab_size)
        everything = np.arange(len(rows))
        with torch.inference_mode(), self._at_least(_PROBE_TOKENS):
            if self.body is None:
                self.reason = "its head is no linear layer on token states"
                return
            with probe.running(self.model):
                single = self._one_at_a_time(rows, everything)
            padded = self._tried(lambda: self._run_batches(rows, self._batches(rows, everything)))
            if padded is None or self._far(padded, single).any():
                self.body, self.pads = None, self.pad is not None
                self.reason = "its values are not its head over its token states"
                return
            if self._rope:
                self.reason = "its rotary embedding depends on the longest row of a batch"
                return
            packed = self._tried(lambda: self._run_streams(rows, pack(rows, everything, 4096)))
            if packed is None:
                return
            if self._far(packed, single).any():
                self.reason = "packed rows and single rows differ"
                return
            self.way = "streams"
            if self.ours == attention.VARLEN and not self.invariant:
                # What is slower without it is no reason for batches.
                self.cascades, self.keys_per_token = True, 0
                in_place = self._tried(
                    lambda: self._run_streams(rows, pack(rows, everything, 4096))
                )
                self.cascades = in_place is not None and not self._far(in_place, single).any()
                self.reason, self.keys_per_token = "", GATHERED_KEYS

    def _compile(self) -> None:
        """Compile the body, and go on without where that fails or gives other values."""
        eager, self.body = self.body, torch.compile(self.body, dynamic=True)
        self._compiled = True
        rows = probe.random_rows(self.model.config.get_text_config().vocab_size)
        everything = np.arange(len(rows))
        with torch.inference_mode(), self._at_least(_PROBE_TOKENS):
            single = self._one_at_a_time(rows, everything)
            try:
                work = self.plan(rows)
                values = (
                    self._run_streams(rows, work.streams)
                    if work.streams
                    else self._run_batches(rows, work.batches or [])
                )
                reason = "it gives other values" if self._far(values, single).any() else ""
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # what a compiler may raise is no closed list
                reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        if reason:
            self.body, self._compiled = eager, False
            warnings.warn(
                f"torch.compile does not serve this model, which runs without: {reason}",
                stacklevel=5,
            )

    @contextmanager
    def _at_least(self, tokens: int) -> Iterator[None]:
        """A budget of `tokens` or more: with a smaller one every row would be alone, and the probe
        would compare like with like.
        """
        before, self.budget = self.budget, max(self.budget, tokens)
        try:
            yield
        finally:
            self.budget = min(before, self.budget)

    def _tried(self, run: Callable[[], Values]) -> Values | None:
        """What `run` gives, or None with the reason if the model's forward is of another shape than
        it needs.
        """
        try:
            return run()
        except CannotShare as no:
            self.reason = str(no)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
            self.reason = f"packed rows do not run: {type(error).__name__}: {str(error).splitlines()[0][:200]}"
        return None

    def _far(self, packed: Values, single: Values) -> npt.NDArray[np.bool_]:
        """Which rows are further apart than rounding explains; NaN is."""
        tolerance = _TOLERANCE.get(self.model.dtype, 1e-1)
        order, other = np.argsort(packed.rows), np.argsort(single.rows)
        gap = np.abs(packed.values[order] - single.values[other])
        near = gap <= tolerance * np.maximum(packed.scale[order], 1e-6)[:, None]
        return np.asarray(~near.all(axis=1))

    # -- making work
    # --------------------------------------------------------------------------------------------------------------------

    def plan(self, rows: TokenRows) -> Work:
        """What to run for `rows`; needs no model, so that it can be done ahead in another
        thread.
        """
        distinct, inverse = rows.distinct()
        if self.way == "streams":
            together = (
                [distinct[i : i + 1] for i in range(len(distinct))] if self._alone else [distinct]
            )
            streams = [s for which in together for s in self._pack(rows, which)]
            return Work(rows, distinct, inverse, streams, None)
        return Work(rows, distinct, inverse, None, self._batches(rows, distinct))

    def _pack(self, rows: TokenRows, which: Longs) -> list[Stream]:
        """Streams of the rows `which`, within what is known of memory."""
        return pack(rows, which, self._room(), share=self.share)

    def _room(self) -> Room:
        gathers = 0
        if (
            self.ours == attention.VARLEN
        ):  # the other forms copy the keys of one segment at a time, or none
            windows = [window - 1 for window in self._windows if window is not None]
            gathers = max(windows, default=0) if self.cascades else _ANY
        return Room(self.budget, self.most, gathers, self.invariant)

    def plans_like(self, other: Engine) -> bool:
        """Whether this engine would plan any rows as `other` does."""
        mine, theirs = (
            (e.way, e.pads, e._rope, e._alone, e.share, e._room()) for e in (self, other)
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
        steps = [self._count(self._width(int(rows.lengths[batch].max()))) for batch in made]
        return [
            batch[i : i + step]
            for batch, step in zip(made, steps, strict=True)
            for i in range(0, len(batch), step)
        ]

    def _count(self, width: int) -> int:
        """How many rows of `width` tokens every batch has, where shapes are to be constant."""
        count = self.budget // width if self.pads and not self._alone else 1
        return count - count % TILE or 1

    def _width(self, longest: Any) -> Any:
        """How wide a padded batch is whose longest row has `longest` tokens. Where width decides
        rotary frequencies, it must be that.
        """
        return -(-longest // _STEP) * _STEP if self.invariant and not self._rope else longest

    # -- running
    # ------------------------------------------------------------------------------------------------------------------------

    def run(self, work: Work) -> Floats:
        """The values of every row of `work`, shape (rows, columns of the head), float64. NaN where
        the model gave NaN.
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
            return lambda: np.zeros((0, self.head.columns))
        if work.streams is not None:
            fetch = self._launch_streams(rows, work.streams)
        else:
            assert work.batches is not None
            fetch = self._launch_batches(rows, work.batches)
        if not self._checked:
            found = fetch()
            self._check(rows, found)
            self._checked = True
            return lambda: self._spread(work, found)
        return lambda: self._spread(work, fetch())

    def _spread(self, work: Work, found: Values) -> Floats:
        """The values of the rows that ran, for all rows of `work`."""
        out = np.full((len(work.rows), self.head.columns), np.nan)
        out[found.rows] = found.values
        return out[work.distinct][work.inverse]

    def _check(self, rows: TokenRows, found: Values) -> None:
        """A few real rows, alone under the model's own attention; refuses to go on if they differ.
        In `invariant` mode also bit for bit in other company."""
        by_length = np.argsort(rows.lengths[found.rows], kind="stable")
        some = by_length[np.unique(np.linspace(0, len(by_length) - 1, _CHECKED_ROWS).astype(int))]
        some = some[np.argsort(found.rows[some])]
        mine = Values(found.rows[some], found.values[some], found.scale[some])
        single = self._one_at_a_time(rows, mine.rows)
        far = self._far(mine, single)
        if far.any() and np.isfinite(mine.values).all():
            i = int(np.flatnonzero(far)[0])
            raise ScoresDiffer(
                "score: packed and single scores differ;"
                f" got {mine.values[i].tolist()} and {single.values[i].tolist()}, expected the same but for rounding.",
                hint="--share-prefix off may help; please report it with the model's name.",
            )
        if self.invariant:
            each = [np.asarray([i]) for i in mine.rows]
            if self.way == "streams":
                alone = self._run_streams(rows, [s for one in each for s in self._pack(rows, one)])
            else:
                alone = self._run_batches(rows, each)
            if (alone.values != mine.values).any():
                raise ScoresDiffer(
                    "score: a row's score depends on its neighbours on this device; got different bits, expected the same.",
                    hint="leave --invariant out: scores then agree up to rounding.",
                )

    def _run_streams(self, rows: TokenRows, streams: list[Stream]) -> Values:
        return self._launch_streams(rows, streams)()

    def _launch_streams(self, rows: TokenRows, streams: list[Stream]) -> Callable[[], Values]:
        """Values of all rows of `streams`, in stream order; they leave the device once."""
        parts: list[Part] = []
        with attention.using(self.model, self.ours):
            for stream in streams:
                parts += self._stream(rows, stream)
        return _gathered(parts, self.head.columns)

    def _stream(self, rows: TokenRows, stream: Stream) -> list[Part]:
        fits = self.most is None or len(stream) <= self.most or len(stream.rows) == 1
        if fits:  # else memory was found to be smaller since this was packed
            try:
                return [(stream.rows, *self._forward(rows, stream))]
            except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
                self._learn(error, len(stream), len(stream.rows))
            self._release()
        return [
            part for small in self._repack(rows, stream.rows) for part in self._stream(rows, small)
        ]

    def _repack(self, rows: TokenRows, which: Longs) -> list[Stream]:
        packed = self._pack(rows, which)
        if len(packed) > 1 or len(which) == 1:
            return packed
        half = len(which) // 2  # one group that fits the budget again: cut it by rows
        return [s for part in (which[:half], which[half:]) for s in self._pack(rows, part)]

    def _learn(self, error: BaseException, tokens: int, rows: int) -> None:
        """Learn from running out of memory, or raise what was no such thing."""
        if not _out_of_memory(error):
            raise error
        if self.invariant and tokens <= self.budget:
            raise OutOfDeviceMemory(
                f"score: a forward pass of {self.budget:,} tokens does not fit into the memory of {self.device}.",
                hint="a smaller --batch-tokens: with --invariant it is not changed on the way, because other shapes give other bits.",
            ) from error
        if rows == 1:
            raise OutOfDeviceMemory(
                f"score: one row of {tokens:,} tokens does not fit into the memory of {self.device}.",
                hint="--max-length with --on-too-long null or truncate, or a smaller --dtype.",
            ) from error
        self.splits += 1
        self.most = max(1, tokens // 2)
        self.budget = min(self.budget, self.most)

    def _release(self) -> None:
        """Give back what the failed pass held: to be called when its exception, whose traceback
        holds the tensors, is gone.
        """
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def _forward(self, rows: TokenRows, stream: Stream) -> tuple[torch.Tensor, torch.Tensor]:
        length = len(stream)
        if self.invariant:
            whole = _STEP if self._alone else -(-self.budget // TILE) * TILE
            length = -(-length // whole) * whole
        elif self.ours == attention.BLOCKMASK:
            length = (
                max(2, -(-length // _LANE)) * _LANE
            )  # one block is a shape of its own for torch.compile
        cascade = (
            self.cascades
            and attention.gathered_keys(stream.segments) > self.keys_per_token * length
        )
        plan = StreamPlan(
            stream, self.device, length, cascade=cascade, uniform=self._compiled
        ).make(self.ours, self._windows)
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
        return self.head.of_stream(self, hidden, rows, stream)

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
                    parts.append((which, *self._batch(rows, which)))
                    continue
                except Exception as error:
                    if _out_of_memory(error):
                        self._learn(error, len(which) * width, len(which))
                    elif len(which) == 1:
                        raise self._broken(int(which[0]), error) from error
                    else:  # some models take rows together only if they are alike: BART's must have as many end tokens
                        waiting += [which[i : i + 1] for i in range(len(which) - 1, -1, -1)]
                        continue
                self._release()
                waiting.append(which)
        return _gathered(parts, self.head.columns)

    def _broken(self, row: int, error: Exception) -> BaseException:
        """The error for a row alone at which the model's own forward fails."""
        if isinstance(error, PrefmillError):
            return error
        what = f"breaks {type(self.model).__name__}; {probe.told(error)}"
        return BadRow("score", what, row=row, reason="model_failed")

    def _batch(self, rows: TokenRows, which: Longs) -> tuple[torch.Tensor, torch.Tensor]:
        """Right-padded rows through the whole model, as Transformers itself would run them."""
        count, width = len(which), self._width(int(rows.lengths[which].max()))
        if self.invariant:
            count = self._count(width)
        ids, mask, types = (
            np.full((count, width), fill, np.int64) for fill in (self.pad or 0, 0, 0)
        )
        for i, row in enumerate(which.tolist()):
            n = int(rows.lengths[row])
            ids[i, :n], mask[i, :n] = rows.row(row), 1
            if rows.types is not None:
                types[i, :n] = rows.type_row(row)
        mask[len(which) :, 0] = 1  # rows that only keep the shape constant attend to one token
        inputs = {"input_ids": attention.to_device(ids, self.device)}
        if self.invariant or not mask.all():
            inputs["attention_mask"] = attention.to_device(mask, self.device)
        if rows.types is not None:
            inputs["token_type_ids"] = attention.to_device(types, self.device)
        self._settle(width)
        values, scale = self.head.of_batch(self, inputs, rows, which)
        return values[: len(which)], scale[: len(which)]

    def _settle(self, width: int) -> None:
        """`dynamic` frequencies grow with the longest row seen and go back at one below the
        original length: others must begin afresh.
        """
        if self._rope and width >= self._rope:
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.device))

    def _one_at_a_time(self, rows: TokenRows, which: Longs) -> Values:
        """The rows `which` one by one under the model's own attention, as plain Transformers gives
        them.
        """
        parts = []
        with attention.using(self.model, self.stock):
            for row in which.tolist():
                inputs = {
                    "input_ids": attention.to_device(rows.row(row).astype(np.int64), self.device)[
                        None
                    ]
                }
                if (types := rows.type_row(row)) is not None:
                    inputs["token_type_ids"] = attention.to_device(
                        types.astype(np.int64), self.device
                    )[None]
                self._settle(int(rows.lengths[row]))
                try:
                    parts.append(
                        (
                            np.asarray([row]),
                            *self.head.of_batch(self, inputs, rows, np.asarray([row]), stock=True),
                        )
                    )
                except Exception as error:
                    if _out_of_memory(error):
                        raise
                    raise self._broken(row, error) from error
        return _gathered(parts, self.head.columns)()


@dataclass(frozen=True)
class Values:
    """What came out for `rows`: values shape (rows, columns), float64, and the scale of rounding
    errors, shape (rows,).
    """

    rows: Longs
    values: Floats
    scale: Floats


class Head(Protocol):
    """What a scorer reads off a model: `columns` values a row. See `heads.py`."""

    columns: int

    def body(self, model: Any) -> Any | None:
        """The part of the model that gives `last_hidden_state`; None if values are not read off
        token states.
        """

    def of_stream(
        self, engine: Engine, hidden: torch.Tensor, rows: TokenRows, stream: Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values, shape (rows, columns), and scales, shape (rows,), of `stream.rows` from hidden
        states of shape (tokens, hidden).
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
        """Values and scales of the rows `which`, right-padded in `inputs`; with `stock` by nothing
        but the model's own forward.
        """


def _gathered(parts: list[Part], columns: int) -> Callable[[], Values]:
    """What gives the values of all parts on the host; their copy is begun, and waited for where
    they are asked for.
    """
    if not parts:
        return lambda: Values(np.zeros(0, np.int64), np.zeros((0, columns)), np.zeros(0))
    rows = np.concatenate([p[0] for p in parts])
    on_device = torch.cat(
        [torch.cat((p[1].reshape(-1, columns), p[2].reshape(-1, 1)), dim=1) for p in parts]
    ).double()
    if on_device.device.type == "cuda":
        host = torch.empty(on_device.shape, dtype=on_device.dtype, pin_memory=True)
        host.copy_(on_device, non_blocking=True)
        arrived = torch.cuda.Event()  # type: ignore[no-untyped-call]
        arrived.record(torch.cuda.current_stream(on_device.device))
        wait = arrived.synchronize
    else:
        host, wait = on_device, lambda: None

    def fetch() -> Values:
        wait()
        both = host.numpy()
        return Values(rows, both[:, :columns], both[:, columns])

    return fetch


def _out_of_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    said = str(error)
    # A library that finds no room for its workspace says so in words of its own.
    return (
        "can't allocate memory" in said
        or "out of memory" in said.lower()
        or "_STATUS_ALLOC_FAILED" in said
    )
