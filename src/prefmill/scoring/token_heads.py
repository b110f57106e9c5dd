"""What is read off a model at chosen tokens: a classifier's outputs, or the logits of answers.

As in `heads.py` the last product is in float32, over states at these places only.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from prefmill.errors import BadInput
from prefmill.models.labels import is_stock
from prefmill.models.probe import running
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring.attention import to_device
from prefmill.scoring.heads import Projection, finished, log_odds, scores_in, steady
from prefmill.scoring.packing import Stream
from prefmill.scoring.ways.headed import Headed

#: places, and how many of them each row has
_Places = tuple[Longs, Longs, Longs]


class TokenHead:
    """Outputs of a linear layer, or a small network, over the states of chosen tokens.

    labels   which of its outputs; of several there is one place in a row only
    softmax  they are classes of which one holds: values are log-odds
    steps    the places are the marked tokens of a row (`TokenRows.marks`); else its last token

    A model whose outputs are not such a layer's over its base model's states is run whole, and must
    give an output for every token.
    """

    def __init__(
        self, labels: Sequence[int] = (0,), *, softmax: bool = False, steps: bool = False
    ) -> None:
        self.labels, self.softmax, self.steps = list(labels), softmax, steps
        self._layer: Any = None

    def width(self, rows: TokenRows) -> int:
        """As many values as the row with the most steps has; without steps one for each label."""
        if not self.steps:
            return len(self.labels)
        counts = rows.lengths if rows.marks is None else rows.mark_counts
        return int(counts.max(initial=1))

    def body(self, model: Any) -> Any | None:
        """The base model, where the outputs are a layer's over its states."""
        base = getattr(model, model.base_model_prefix, None)
        layer = self.layer(model)
        if base is None or base is model or layer is None:
            return None
        # A copy: the model's own forward may run in half precision.
        self._layer = copy.deepcopy(layer).float()
        return base

    def layer(self, model: Any) -> Any | None:
        """The layer over the states; of a sequence classifier that pools in its own way None."""
        names = ("score", "classifier") if self.is_of_tokens(model) else ("score",)
        for name in names:
            layer = getattr(model, name, None)
            if isinstance(layer, nn.Module):
                return layer
        return None

    def of_stream(
        self, headed: Headed, hidden: torch.Tensor, rows: TokenRows, stream: Stream
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of the stream's rows; states shape (tokens, hidden)."""
        places = self._places(rows, stream.rows)
        where = stream.locate(places[0], places[1])
        return self._of_states(headed, hidden, where, places, self.width(rows))

    def of_batch(
        self,
        headed: Headed,
        inputs: dict[str, torch.Tensor],
        rows: TokenRows,
        which: Longs,
        *,
        stock: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values of right-padded rows."""
        places, width = self._places(rows, which), self.width(rows)
        slots, tokens, _ = places
        if headed.body is None or (stock and self.is_of_tokens(headed.model)):
            logits = self.outputs(headed.model, inputs)
            where = to_device(slots * logits.shape[1] + tokens, logits.device)
            return self._spread(logits.flatten(0, 1).index_select(0, where).float(), places, width)
        hidden = headed.body(**inputs, use_cache=False).last_hidden_state
        where = slots * hidden.shape[1] + tokens
        return self._of_states(headed, hidden.flatten(0, 1), where, places, width)

    def is_of_tokens(self, model: Any) -> bool:
        """Whether the model's own forward gives outputs of tokens.

        That of a sequence classifier gives those of one token a row: there the layer over the
        states is all that its owner has for steps.
        """
        return not type(model).__name__.endswith("ForSequenceClassification")

    def outputs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Those of the model's own forward, shape (rows, tokens, outputs)."""
        return of_tokens(model(**inputs), inputs["input_ids"].shape)

    def _places(self, rows: TokenRows, which: Longs) -> _Places:
        """The tokens that are read: rows of `which`, places in them, and how many of each row."""
        every = np.arange(len(which))
        if not self.steps:
            return every, rows.lengths[which] - 1, np.ones(len(which), np.int64)
        if rows.marks is not None:
            return rows.marked(which)
        # Rows that a model is tried with have no steps: every token is read.
        counts = rows.lengths[which]
        first = np.cumsum(counts) - counts
        tokens = np.arange(int(counts.sum())) - np.repeat(first, counts)
        return np.repeat(every, counts), tokens, counts

    def _of_states(
        self, headed: Headed, hidden: torch.Tensor, where: Longs, places: _Places, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        states = hidden.index_select(0, to_device(where, hidden.device)).float()
        return self._spread(steady(self._layer, states, headed.steady), places, width)

    def _spread(
        self, logits: torch.Tensor, places: _Places, width: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Values and scales of rows from the outputs at their places, shape (places, labels)."""
        slots, _, counts = places
        if self.softmax:
            values = torch.cat([log_odds(logits, label) for label in self.labels], dim=1)
        else:
            values = logits[:, self.labels]
        scale = logits.abs().amax(dim=1) + 1
        if not self.steps:
            return values, scale
        rows, device = len(counts), logits.device
        ordinal = np.arange(len(slots)) - np.repeat(np.cumsum(counts) - counts, counts)
        at = to_device(slots * width + ordinal, device)
        spread = values.new_zeros(rows * width).index_copy(0, at, values[:, 0])
        scales = scale.new_zeros(rows * width).index_copy(0, at, scale)
        return spread.reshape(rows, width), scales.reshape(rows, width).amax(dim=1)


_TRIED = 7  #: tokens of the row by which outputs are counted


def token_outputs(model: Any, a_row: Callable[[], list[int]] | None = None) -> int:
    """How many outputs a model gives for a token.

    One with code of its own is asked, as in `heads.outputs_of`.
    """
    if is_stock(model):
        if TokenHead().layer(model) is None:
            raise BadInput(
                f"score: the outputs of {type(model).__name__} are not of tokens, so its steps have"
                " no scores; expected a token classifier, or a linear layer 'score'."
            )
        return int(model.config.num_labels)
    try:
        return _outputs_on(model, list(range(1, _TRIED + 1)))
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
        output = model(input_ids=ids, attention_mask=torch.ones_like(ids))
        return int(of_tokens(output, ids.shape).shape[2])


def of_tokens(output: Any, shape: Sequence[int]) -> torch.Tensor:
    """The outputs of every token, shape (rows, tokens, labels). Raises `BadInput`."""
    logits = scores_in(output)
    is_tensor = isinstance(logits, torch.Tensor)
    if is_tensor and tuple(logits.shape[:2]) == tuple(shape) and logits.ndim <= 3:
        return logits if logits.ndim == 3 else logits[..., None]  # type: ignore[no-any-return]
    got = tuple(logits.shape) if is_tensor else type(output).__name__
    raise BadInput(
        f"score: the model's outputs are not of tokens; got {got} for rows of the shape"
        f" {tuple(shape)}, expected an output for every token."
    )


class ChoiceHead(TokenHead):
    """The log-odds of each of a few tokens against the others, as what comes next.

    tokens  their ids
    steps   the places are the marked tokens of a row, and its values the log-odds of the first
            token there; else the row's last token, and those of every token
    """

    def __init__(self, tokens: Sequence[int], *, steps: bool = False) -> None:
        super().__init__(range(1 if steps else len(tokens)), softmax=True, steps=steps)
        self.tokens = list(tokens)

    def layer(self, model: Any) -> Any | None:
        """Those rows of the projection that are asked for."""
        if not isinstance(model.get_output_embeddings(), nn.Linear):
            return None
        return _Rows(model, self.tokens)

    def is_of_tokens(self, model: Any) -> bool:
        """A language model's are."""
        return True

    def outputs(self, model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The logits of these tokens, shape (rows, tokens, choices)."""
        return super().outputs(model, inputs)[..., self.tokens]


class _Rows(nn.Module):
    """A language model's projection to a few tokens, soft-capped and scaled as it is."""

    def __init__(self, model: Any, tokens: list[int]) -> None:
        super().__init__()
        whole = Projection(model)
        self.factor, self.softcap = whole.factor, whole.softcap
        self.weight = nn.Parameter(whole.weight[tokens].detach().float(), requires_grad=False)
        self.bias = None
        if whole.bias is not None:
            self.bias = nn.Parameter(whole.bias[tokens].detach().float(), requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """The logits, shape (places, tokens)."""
        logits = nn.functional.linear(states, self.weight, self.bias)
        return finished(logits, self.factor, self.softcap)
