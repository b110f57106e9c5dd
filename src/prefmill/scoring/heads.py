"""What is read off a model: a score by a linear head, or the completion's log-probability.

Both read token states of the body at chosen places only, and do the last product in float32: in
bfloat16 a score of 20 has a step of 0.125, and the best of many candidates would be decided by
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from prefmill.errors import BadInput
from prefmill.models.labels import is_stock
from prefmill.models.probe import running
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring.attention import to_device
from prefmill.scoring.packing import Stream
from prefmill.scoring.ways.headed import TILE, Headed

Pooling = Literal["hf", "last"]

# Logits held at a time: 128 MB in float32 on a CPU, 1 GB on a GPU, where each chunk reads the whole
# projection once.
_CHUNK_LOGITS = {"cpu": 1 << 25, "cuda": 1 << 28}
_CHUNK_ROWS = {"cuda": 2048}  # more rows at a time make the product no faster


class RewardHead:
    """Scores of a row: the linear head over the state of one token, a column for each label.

    labels   which of the head's outputs
    pooling  the token: `hf` is the rule of Transformers' heads, the last token that is not the pad
             token (a trap where pad is also the end of a row: the reward model may have been
             trained so); `last` is the last token of the row
    softmax  the outputs are classes of which one holds: a score is the log-odds of its label,
             which rank as its probability does
    """

    def __init__(
        self, labels: Sequence[int] = (0,), pooling: Pooling = "hf", *, softmax: bool = False
    ) -> None:
        self.labels, self.pooling, self.softmax = list(labels), pooling, softmax
        self.differ = 0  #: rows in which the two rules pool different tokens
        self._weight: tuple[torch.Tensor, torch.Tensor | None] | None = None

    def width(self, rows: TokenRows) -> int:
        """One value for each label."""
        return len(self.labels)

    def body(self, model: Any) -> Any | None:
        """The base model, where the head is one linear layer over its states."""
        head, base = getattr(model, "score", None), getattr(model, model.base_model_prefix, None)
        if not isinstance(head, nn.Linear) or base is None:
            return None
        if max(self.labels) >= head.out_features:
            return None
        used = slice(None) if self.softmax else self.labels
        bias = None if head.bias is None else head.bias[used].float()
        self._weight = (head.weight[used].float(), bias)
        return base

    def pooled(self, headed: Headed, rows: TokenRows, which: Longs) -> Longs:
        """The token that is pooled in each row, shape (rows,)."""
        last = rows.lengths[which] - 1
        if headed.pad is None:
            return last
        by_rule = np.empty_like(last)
        for i, row in enumerate(which.tolist()):
            real = np.flatnonzero(rows.row(row) != headed.pad)
            by_rule[i] = real[-1] if len(real) else 0
        self.differ += int((by_rule != last).sum())
        if self.pooling == "last":
            return last
        return by_rule

    def of_stream(
        self, headed: Headed, hidden: torch.Tensor, rows: TokenRows, stream: Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of the stream's rows; states shape (tokens, hidden)."""
        where = stream.locate(np.arange(len(stream.rows)), self.pooled(headed, rows, stream.rows))
        return self._of_states(hidden, where, rows=headed.steady)

    def of_batch(
        self,
        headed: Headed,
        inputs: dict[str, torch.Tensor],
        rows: TokenRows,
        which: Longs,
        *,
        stock: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores of right-padded rows."""
        if headed.body is None or (stock and self.pooling == "hf"):
            logits = by_row(headed.model(**inputs), len(inputs["input_ids"])).float()
            used = logits if self.softmax else logits[:, self.labels]
            return self._scores(used), logits.abs().amax(dim=1) + 1
        hidden = headed.body(**inputs, use_cache=False).last_hidden_state
        where = np.arange(len(which)) * hidden.shape[1] + self.pooled(headed, rows, which)
        return self._of_states(hidden.flatten(0, 1), where, rows=headed.steady)

    def _of_states(
        self, hidden: torch.Tensor, where: Longs, *, rows: int | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._weight is not None
        weight, bias = self._weight
        at = to_device(where, hidden.device)
        states = hidden.index_select(0, at).float()
        values = steady(partial(functional.linear, weight=weight, bias=bias), states, rows)
        norms = torch.stack([(states * each).norm(dim=1) for each in weight])
        return self._scores(values), norms.sum(dim=0)

    def _scores(self, logits: torch.Tensor) -> torch.Tensor:
        """Scores, shape (rows, labels), from the outputs that decide them.

        They are log p - log (1 - p) of each label, or its output itself.
        """
        if not self.softmax:
            return logits
        return torch.cat([log_odds(logits, label) for label in self.labels], dim=1)


def log_odds(logits: torch.Tensor, label: int) -> torch.Tensor:
    """log p - log (1 - p) of one of the classes, shape (rows, 1)."""
    others = [i for i in range(logits.shape[1]) if i != label]
    return logits[:, label, None] - logits[:, others].logsumexp(dim=1, keepdim=True)


def steady(
    layer: Callable[[torch.Tensor], torch.Tensor], states: torch.Tensor, rows: int | None
) -> torch.Tensor:
    """`layer` over states, in products of so many rows each: one shape, however many there are.

    None: in one product, of whatever shape.
    """
    if rows is None or not len(states):
        return layer(states)
    whole = functional.pad(states, (0, 0, 0, -len(states) % rows))
    return torch.cat([layer(part) for part in torch.split(whole, rows)])[: len(states)]


def by_row(output: Any, rows: int) -> torch.Tensor:
    """The logits of a model's output, shape (rows, labels).

    Models with code of their own also give (rows,), or squeeze what has one row or one label. They
    call it `score` or `rewards`, or return a tensor, or a tuple that begins with one. Raises
    `BadInput` for an output that is not of rows.
    """
    logits = scores_in(output)
    if not isinstance(logits, torch.Tensor):
        raise BadInput(
            f"score: the model gives no logits; got {type(output).__name__},"
            " expected one score for a row."
        )
    if logits.ndim == 0 and rows == 1:
        return logits.reshape(1, 1)
    if logits.ndim == 1 and len(logits) == rows:
        return logits[:, None]
    if logits.ndim == 1 and rows == 1:
        return logits[None]
    if logits.ndim != 2 or len(logits) != rows:
        raise BadInput(
            f"score: the model's logits are not of rows; got the shape {tuple(logits.shape)} for"
            f" {rows} rows, expected one score a row.",
            hint="a model that scores every token (a process reward model) has no one score for a"
            " row: --step-separator TEXT scores its steps.",
        )
    return logits


def scores_in(output: Any) -> Any:
    """The tensor of scores in what a model returns; None: there is none."""
    if isinstance(output, torch.Tensor):
        return output
    for name in _SCORES:
        found = getattr(output, name, None)
        # A named output of Transformers keeps as an item what was set to None.
        if found is None and type(output) is dict:
            found = output.get(name)
        if isinstance(found, torch.Tensor):
            return found
    # A named output without scores is none: its first tensor may be anything.
    if isinstance(output, tuple | list) and output and not isinstance(output, Mapping):
        return output[0]
    return None


#: what models with code of their own call their scores, the usual name first
_SCORES = ("logits", "score", "scores", "reward", "rewards")
_ODD = 7  #: tokens of the row by which outputs are counted, so that one score a token shows itself


def outputs_of(model: Any, a_row: Callable[[], list[int]] | None = None) -> int:
    """How many scores a model gives for a row.

    Its configuration says so; a model with code of its own is asked, on made-up ids and, where its
    code finds fault with those (a gate that looks for tokens of a template), on `a_row`.
    """
    if is_stock(model):
        return int(model.config.num_labels)
    try:
        made_up = list(range(1, _ODD + 1))
        return _outputs_on(model, made_up)
    except BadInput as error:
        if a_row is None or error.__cause__ is None:
            raise
        try:
            return _outputs_on(model, a_row())
        except BadInput:
            raise error from None


def _outputs_on(model: Any, row: list[int]) -> int:
    ids = torch.tensor([row], device=model.device)
    with torch.inference_mode(), running(model):
        logits = by_row(model(input_ids=ids, attention_mask=torch.ones_like(ids)), 1)
    tokens = len(row)
    if logits.shape[1] == tokens and getattr(model.config, "num_labels", None) != tokens:
        raise BadInput(
            f"score: the model's logits are of tokens; got {tokens} for a row of {tokens} tokens,"
            " expected one score a row."
        )
    return int(logits.shape[1])


def head_in_float32(model: nn.Module, outputs: int) -> None:
    """Compute the last linear layer with so many outputs in float32, in its own forward too."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == outputs]
    if layers and layers[-1].weight.dtype != torch.float32:
        layer = layers[-1].float()
        layer.register_forward_pre_hook(lambda _, inputs: (inputs[0].float(), *inputs[1:]))


class LogProbHead:
    """Sum and per-token mean of the log-probability of the completion's tokens.

    The first completion token is predicted by the last state of the prompt, which is why it may
    stand in the shared prefix. An empty completion has the sum 0 and the mean 0.
    """

    def width(self, rows: TokenRows) -> int:
        """Sum and mean."""
        return 2

    def body(self, model: Any) -> Any | None:
        """The base model under the projection."""
        if not isinstance(model.get_output_embeddings(), nn.Linear):
            return None
        return getattr(model, model.base_model_prefix, None)

    def of_stream(
        self, headed: Headed, hidden: torch.Tensor, rows: TokenRows, stream: Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of the stream's rows; states shape (tokens, hidden)."""
        slots, tokens, counts = _predicted(rows, stream.rows)
        targets = _targets(rows, stream.rows, slots, tokens)
        return self._summed(headed, hidden, stream.locate(slots, tokens - 1), targets, counts)

    def of_batch(
        self,
        headed: Headed,
        inputs: dict[str, torch.Tensor],
        rows: TokenRows,
        which: Longs,
        *,
        stock: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Log-probabilities of right-padded rows."""
        slots, tokens, counts = _predicted(rows, which)
        targets = _targets(rows, which, slots, tokens)
        if headed.body is None or stock:
            logits = headed.model(**inputs).logits
            where = to_device(slots * logits.shape[1] + tokens - 1, logits.device)
            picked = logits.flatten(0, 1).index_select(0, where).float()
            chosen = picked.gather(1, to_device(targets, logits.device)[:, None])[:, 0]
            return _sums(chosen - picked.logsumexp(1), counts)
        hidden = headed.body(**inputs, use_cache=False).last_hidden_state
        where = slots * hidden.shape[1] + tokens - 1
        return self._summed(headed, hidden.flatten(0, 1), where, targets, counts)

    def _summed(
        self, headed: Headed, hidden: torch.Tensor, where: Longs, targets: Longs, counts: Longs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The projection at each distinct place once, some places at a time."""
        device = hidden.device
        places, inverse = np.unique(where, return_inverse=True)
        order = np.argsort(inverse, kind="stable")
        logprobs = torch.empty(len(where), dtype=torch.float32, device=device)
        project = Projection(headed.model)
        step = max(16, _CHUNK_LOGITS.get(device.type, _CHUNK_LOGITS["cpu"]) // project.vocabulary)
        step = min(step, _CHUNK_ROWS.get(device.type, step))
        # Every product then has the same shape, whatever number of places there is.
        if headed.invariant:
            step = min(step - step % TILE, -(-headed.memory.budget // TILE) * TILE)
        bounds = np.searchsorted(inverse[order], np.arange(0, len(places) + step, step)).tolist()
        # All that the chunks need goes to the device at once: a copy within the loop would wait for
        # what runs there.
        at, rows, slots, wanted = (
            to_device(x, device) for x in (places, inverse[order] % step, order, targets[order])
        )
        for number, first in enumerate(range(0, len(places), step)):
            states = hidden.index_select(0, at[first : first + step])
            if headed.invariant:
                states = functional.pad(states, (0, 0, 0, step - len(states)))
            logits = project(states)
            mine = slice(bounds[number], bounds[number + 1])
            of_token = rows[mine]
            logprobs[slots[mine]] = logits[of_token, wanted[mine]] - logits.logsumexp(1)[of_token]
        return _sums(logprobs, counts)


class Projection:
    """States to logits in float32, soft-capped and scaled as some models want."""

    def __init__(self, model: Any) -> None:
        layer, config = model.get_output_embeddings(), model.config.get_text_config()
        self.weight, self.bias = layer.weight, layer.bias
        self.vocabulary = int(self.weight.shape[0])
        self.softcap = getattr(config, "final_logit_softcapping", None)
        times = getattr(config, "logit_scale", None) or 1.0
        self.factor = times / (getattr(config, "logits_scaling", None) or 1.0)

    def __call__(self, states: torch.Tensor) -> torch.Tensor:
        if states.device.type == "cuda" and states.dtype != torch.float32:
            # Multiplied in half precision, added up and kept in float32.
            logits = torch.mm(states, self.weight.t(), out_dtype=torch.float32)
        else:
            logits = states.float() @ self.weight.float().t()
        if self.bias is not None:
            logits = logits + self.bias.float()
        return finished(logits, self.factor, self.softcap)


def finished(logits: torch.Tensor, factor: float, softcap: float | None) -> torch.Tensor:
    """Logits as the model's own forward gives them, from what its projection gives."""
    logits = logits * factor
    if softcap is None:
        return logits
    return torch.tanh(logits / softcap) * softcap


def _predicted(rows: TokenRows, which: Longs) -> tuple[Longs, Longs, Longs]:
    """Every completion token of the rows `which`.

    That is its slot in `which`, its place in the row, and how many each row has. The first token of
    a row is predicted by nothing and never counts, as in Transformers' loss.
    """
    starts = np.maximum(rows.starts[which].astype(np.int64), 1)
    counts = np.maximum(rows.lengths[which] - starts, 0)
    slots = np.repeat(np.arange(len(which)), counts)
    first = np.cumsum(counts) - counts
    tokens = np.arange(int(counts.sum())) - np.repeat(first, counts) + np.repeat(starts, counts)
    return slots, tokens, counts


def _targets(rows: TokenRows, which: Longs, slots: Longs, tokens: Longs) -> Longs:
    return np.asarray(rows.ids[rows.offsets[which][slots] + tokens], np.int64)


def _sums(logprobs: torch.Tensor, counts: Longs) -> tuple[torch.Tensor, torch.Tensor]:
    """Sum and mean of each row's log-probabilities, in float64.

    Each row's sum is of its own tokens only, in their order.
    """
    lengths = to_device(counts, logprobs.device)
    exact = logprobs.double()
    if len(exact):
        sums = torch.segment_reduce(exact, "sum", lengths=lengths, unsafe=True)
        squares = torch.segment_reduce(exact.square(), "sum", lengths=lengths, unsafe=True)
        norms = squares.sqrt()
    else:
        sums = norms = exact.new_zeros(len(counts))
    return torch.stack((sums, sums / lengths.clamp(min=1)), dim=1), norms + 1
