"""Decoding K answers of many prompts.

A prompt runs once, prompts of similar length run together, and rows that are done leave the batch.
What all prompts of a batch begin with runs once, too (`leads.py`).
How much of that a model bears is measured when it is loaded (`Decoder`), not read from a list of
names:

    together  left-padded prompts side by side, each run once for its answers: any cache whose rows
              can be picked
    apart     one prompt at a time, run once for its answers: where padding changes numbers
    unshared  one prompt at a time, run for every answer, rows stay to the end: where rows of the
              cache cannot be picked
    alone     one answer at a time: all else
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from prefmill.errors import BadRow, OutOfDeviceMemory, refuse
from prefmill.models import probe
from prefmill.models.described import OVERFLOW
from prefmill.sampling.draws import pick, uniforms
from prefmill.sampling.leads import Leads

# Tokens of one batch, rows times their longest possible length. On a CPU measured (SmolLM2-135M,
# one core): 70 tokens a second with 1,024, 94 with 2,048, 124 with 4,096, 130 with 8,192. On CUDA
# assumed: 17 GB of keys and values for an 8B model in bfloat16.
BATCH_TOKENS = {"cpu": 8192, "cuda": 131072}
WAYS = ("together", "apart", "unshared", "alone")
# How far logits of the probe may be from those of the row alone, relative to the largest: rounding
# of that dtype.
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Rows leave when so much of the batch is done: to pick rows of the cache costs about what one step
# copies. Measured (SmolLM2-135M, 48 answers of 2 to 96 tokens, one core, tokens a CPU second): 95
# with an eighth, 90 with every row, 74 with half, 49 if they never leave.
_DONE_SHARE = 0.125

# What a model's cache may raise that cannot do what a way needs.
_UNFIT = (
    AttributeError,
    NotImplementedError,
    TypeError,
    ValueError,
    RuntimeError,
    IndexError,
)

#: whether the text of these tokens holds a stop string
Stops = Callable[[list[int]], bool]


@dataclass(frozen=True)
class Row:
    """One answer to decode."""

    ids: tuple[int, ...]  #: of the prompt
    temperature: float
    seed: int


@dataclass(frozen=True)
class Decoded:
    """What was drawn for a row.

    It `ended` by an end token (which is the last of `tokens`) or a stop string, else by the limit.
    """

    tokens: list[int]
    logprob: float
    ended: bool


@dataclass
class Decoder:
    """A causal model and how its answers are decoded.

    Args:
        model: in evaluation mode, on its device.
        ends: the end tokens.
        budget: tokens of a batch: rows x (longest prompt + most new tokens); None is `BATCH_TOKENS`
            of the device.
    """

    model: Any
    device: Any
    ends: frozenset[int]
    top_p: float = 1.0
    most: int = 256
    budget: int | None = None
    way: str = field(default="alone", init=False)
    #: batches that did not fit into memory and were split
    splits: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.budget = self.budget or BATCH_TOKENS.get(self.device.type, BATCH_TOKENS["cpu"])
        takes = inspect.signature(self.model.forward).parameters
        self._places = "position_ids" in takes
        self._last = {"logits_to_keep": 1} if "logits_to_keep" in takes else {}
        self._ends = torch.tensor(sorted(self.ends), device=self.device, dtype=torch.long)
        self._rope = probe.batch_dependent_rope(self.model)
        #: what prompts begin with alike; None where keys cannot be copied from row to row
        self.leads: Leads | None = None
        with torch.inference_mode():
            self.way = self._probe()
            if self.way == "together":
                self.leads = self._probe_leads()

    # What the model bears

    def _probe(self) -> str:
        """The first way whose logits are those of a row alone.

        It is tried with prompts of two lengths with several answers, some of which end early.
        """
        rng = np.random.default_rng(0)
        size = int(self.model.config.get_text_config().vocab_size)
        low = min(10, size // 2)
        long, short = (tuple(rng.integers(low, size, n).tolist()) for n in (11, 4))
        forced = rng.integers(low, size, (4, 5))
        heads = [long, long, short, short]
        single = []
        with probe.running(self.model):
            for i, head in enumerate(heads):
                single += self._forced([head], forced[i : i + 1], "alone")
        ways = WAYS[1:] if self._rope else WAYS
        for way in ways[:-1]:
            step = len(heads) if way == "together" else 2
            logits = []
            try:
                for i in range(0, len(heads), step):
                    logits += self._forced(heads[i : i + step], forced[i : i + step], way)
            except _UNFIT:
                continue
            if all(self.near(*pair) for pair in zip(logits, single, strict=True)):
                return way
        return "alone"

    def _probe_leads(self) -> Leads | None:
        """Leads, if rows that share one have the logits of rows alone."""
        rng = np.random.default_rng(1)
        size = int(self.model.config.get_text_config().vocab_size)
        low = min(10, size // 2)
        lead, *ends = (tuple(rng.integers(low, size, n).tolist()) for n in (9, 5, 1, 3, 5))
        heads = [lead + end for end in ends]
        forced = rng.integers(low, size, (len(heads), 4))
        single = []
        for i, head in enumerate(heads):
            single += self._forced([head], forced[i : i + 1], "alone")
        self.leads = Leads(least=2)
        try:
            logits = self._forced(heads, forced, "together")
        except _UNFIT:
            return None
        ran, self.leads = self.leads.tokens, None
        same = all(self.near(*pair) for pair in zip(logits, single, strict=True))
        return Leads() if ran and same else None

    def _forced(self, heads: list[tuple[int, ...]], forced: Any, way: str) -> list[list[Any]]:
        """The logits of every step when the tokens are given, by row.

        Where rows may leave, every second one ends at half time.
        """
        batch = _Batch(self, heads, way, forced.shape[1])
        logits: list[list[Any]] = [[] for _ in heads]
        for step in range(forced.shape[1]):
            for place, row in enumerate(batch.rows):
                logits[row].append(batch.logits[place].float())
            if step == 2 and way in ("together", "apart") and len(heads) > 1:
                batch.keep(torch.arange(1, len(batch.rows), 2, device=self.device))
            batch.step(torch.as_tensor(forced[batch.rows, step], device=self.device))
        return logits

    def near(self, logits: list[Any], single: list[Any]) -> bool:
        tolerance = _TOLERANCE.get(self.model.dtype, 1e-4)
        for a, b in zip(logits, single, strict=False):  # a row that left has fewer
            scale = float(b[b.isfinite()].abs().max())
            if not torch.allclose(a, b, rtol=0, atol=tolerance * max(scale, 1e-6)):
                return False
        return True

    # Decoding

    def decode(self, rows: Sequence[Row], stops: Stops | None = None) -> list[Decoded]:
        """Every row's answer, in their order.

        What is decoded together changes the rounding of logits and nothing else.
        """
        answers: dict[int, Decoded] = {}
        with torch.inference_mode(), self._forgetting():
            for wave in self.waves(rows):
                try:
                    done = self._fitting([rows[i] for i in wave], stops)
                except BadRow as error:
                    refuse([bad.at(wave[bad.row]) for bad in error.found])
                    raise
                answers |= zip(wave, done, strict=True)
        return [answers[i] for i in range(len(rows))]

    @contextmanager
    def _forgetting(self) -> Iterator[None]:
        """Keep no keys when all rows are done."""
        try:
            yield
        finally:
            if self.leads is not None:
                self.leads.forget()

    def waves(self, rows: Sequence[Row]) -> list[list[int]]:
        """Which rows run together, under the budget of tokens.

        They stand by length of their prompts, equal prompts side by side.
        """
        assert self.budget is not None
        order = sorted(range(len(rows)), key=lambda i: (len(rows[i].ids), rows[i].ids))
        waves: list[list[int]] = []
        for i in order:
            ids = rows[i].ids
            wave = waves[-1] if waves else []
            fits = (len(wave) + 1) * (len(ids) + self.most) <= self.budget
            shares = bool(wave) and self.way != "alone"
            if fits and shares and (self.way == "together" or rows[wave[0]].ids == ids):
                wave.append(i)
            else:
                waves.append([i])
        return waves

    def _fitting(self, rows: list[Row], stops: Stops | None) -> list[Decoded]:
        """The answers of a wave, in halves if it does not fit into memory."""
        try:
            return self.wave(rows, stops)
        except torch.OutOfMemoryError as error:
            if len(rows) == 1:
                tokens = len(rows[0].ids) + self.most
                raise OutOfDeviceMemory(
                    f"sample: one answer alone does not fit into the memory of {self.device};"
                    f" got {tokens:,} tokens.",
                    hint="a smaller --max-new-tokens, or --dtype bfloat16.",
                ) from error
        torch.cuda.empty_cache()
        self.splits += 1
        assert self.budget is not None
        self.budget = max(1, self.budget // 2)
        half = len(rows) // 2
        first = self._fitting(rows[:half], stops)
        try:
            return first + self._fitting(rows[half:], stops)
        except BadRow as error:
            refuse([bad.at(half + bad.row) for bad in error.found])
            raise

    def wave(self, rows: list[Row], stops: Stops | None) -> list[Decoded]:
        # Its frequencies stay stretched from the row before, until a short one comes.
        if self._rope:
            self.model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=self.device))
        device = self.device
        draws = torch.from_numpy(np.stack([uniforms(row.seed, self.most) for row in rows]))
        draws = draws.to(device)
        temperatures = torch.tensor([row.temperature for row in rows], dtype=torch.float32)
        temperatures = temperatures.to(device)
        answers = [_Answer() for _ in rows]
        batch = _Batch(self, [row.ids for row in rows], self.way, self.most)
        for step in range(self.most):
            here = torch.as_tensor(batch.rows, device=device)
            drawn, logprobs = pick(batch.logits, temperatures[here], draws[here, step], self.top_p)
            _refuse_strange(batch, answers, logprobs)
            ends = torch.isin(drawn, self._ends).tolist()
            steps = zip(batch.rows, drawn.tolist(), logprobs.tolist(), ends, strict=True)
            for row, token, logprob, end in steps:
                answers[row].add(token, logprob, end, stops)
            living = [place for place, row in enumerate(batch.rows) if not answers[row].ended]
            if not living or step + 1 == self.most:
                break
            done = len(batch.rows) - len(living)
            if self.way in ("together", "apart") and done >= max(1, _DONE_SHARE * len(batch.rows)):
                which = torch.tensor(living, device=device)
                batch.keep(which)
                drawn = drawn[which]
            batch.step(drawn)
        return [Decoded(each.tokens, each.logprob, each.ended) for each in answers]


@dataclass
class _Answer:
    """An answer in work."""

    tokens: list[int] = field(default_factory=list)
    logprob: float = 0.0
    ended: bool = False

    def add(self, token: int, logprob: float, end: bool, stops: Stops | None) -> None:
        """The next token, unless the answer has ended and its row is still there."""
        if self.ended:
            return
        self.tokens.append(token)
        self.logprob += logprob
        self.ended = end or (stops is not None and stops(self.tokens))


def _refuse_strange(batch: _Batch, answers: Sequence[_Answer], logprobs: Any) -> None:
    """Raise `BadRow` for answers whose next token has no finite probability."""
    finite = logprobs.isfinite()
    if bool(finite.all()):
        return
    what = "got no finite probabilities from the model; NaN or infinity is among its logits."
    strange = [row for row, fine in zip(batch.rows, finite.tolist(), strict=True) if not fine]
    bad = [row for row in strange if not answers[row].ended]
    refuse([BadRow("sample", what, row=row, reason="not_finite", hint=OVERFLOW) for row in bad])


class _Batch:
    """Rows in work: their cache, their mask, and the logits of their next token.

    rows    which of the wave's rows they are
    logits  shape (rows, vocabulary)
    """

    def __init__(
        self, decoder: Decoder, heads: Sequence[tuple[int, ...]], way: str, most: int
    ) -> None:
        self.decoder = decoder
        self.rows = list(range(len(heads)))
        shared = way in ("together", "apart")
        distinct = list(heads)
        if shared:
            distinct = list(dict.fromkeys(heads))
        self.width = max(map(len, distinct))
        device = decoder.device
        ids = torch.zeros((len(distinct), self.width), dtype=torch.long)
        mask = torch.zeros((len(distinct), self.width + most), dtype=torch.long)
        for row, head in enumerate(distinct):
            ids[row, self.width - len(head) :] = torch.tensor(head)
            mask[row, self.width - len(head) :] = 1
        ids, self.mask = ids.to(device), mask.to(device)
        #: of the next token
        self.places = torch.tensor([len(head) for head in distinct], device=device)
        self.cache: Any = None
        places = (torch.cumsum(self.mask[:, : self.width], dim=1) - 1).clamp(min=0)
        lead = 0
        if decoder.leads is not None and way == "together":
            lead = decoder.leads.of(decoder.model, distinct)
        if decoder.leads is not None and lead:
            self.cache = decoder.leads.cache(self.width - self.places, lead)
        self._forward(ids[:, lead:], places[:, lead:])
        if shared and len(distinct) < len(heads):
            number = {head: i for i, head in enumerate(distinct)}
            self._pick(torch.tensor([number[head] for head in heads], device=device))

    def _forward(self, ids: Any, places: Any) -> None:
        more = dict(self.decoder._last)
        if self.decoder._places:
            more["position_ids"] = places
        output = self.decoder.model(
            input_ids=ids,
            attention_mask=self.mask[:, : self.width],
            past_key_values=self.cache,
            use_cache=True,
            **more,
        )
        self.cache, self.logits = output.past_key_values, output.logits[:, -1]

    def _pick(self, which: Any) -> None:
        self.cache.reorder_cache(which)  # index_select: rows may be repeated, or left out
        self.mask, self.places = self.mask[which], self.places[which]
        self.logits = self.logits[which]

    def keep(self, which: Any) -> None:
        """Go on with the rows at the places `which` only."""
        self._pick(which)
        self.rows = [self.rows[i] for i in which.tolist()]

    def step(self, tokens: Any) -> None:
        """Feed every row its token."""
        self.width += 1
        self._forward(tokens[:, None], self.places[:, None])
        self.places = self.places + 1
