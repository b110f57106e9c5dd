"""Which way a model can be run, by measurement and not by a list of names.

A few random rows are run one at a time, in padded batches and in streams. A way serves if it gives
what single rows give, but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch

from prefmill.errors import BadInput
from prefmill.models import probe
from prefmill.models.labels import is_stock
from prefmill.models.tokens import Longs, TokenRows
from prefmill.scoring import attention
from prefmill.scoring.attention import CannotShare
from prefmill.scoring.packing import GATHERED_KEYS, pack
from prefmill.scoring.ways.headed import Headed
from prefmill.scoring.ways.padded import Padded
from prefmill.scoring.ways.streams import Streams
from prefmill.scoring.work import Values, Way

# At least what the rows need to stand in one stream and in one batch: with less every row would be
# alone, and like be compared with like.
_TOKENS = 128
_WHOLE = 4096  # all rows in one stream
_PART = 12  # so few that streams go on from one another
_GRAPHS = 32  # of one compiled body: no more than it can need


def why_not_streams(headed: Headed, streams: Streams, padded: Padded) -> str:
    """Why the model gets padded batches; empty: it can be run in streams.

    `headed` then says whether its body is used and whether it pads, `streams` whether it cascades.
    """
    if headed.device.type == "cpu" and getattr(headed.model, "hf_quantizer", None) is not None:
        # Measured with bitsandbytes 0.50: 2 % between one row and several.
        headed.body, headed.pads = None, False
        return "kernels for quantised weights on a CPU differ with the number of tokens"
    if headed.body is None:
        return "its head is no linear layer on token states"
    with torch.inference_mode(), headed.memory.at_least(_TOKENS):
        return _measured(headed, streams, padded)


def _measured(headed: Headed, streams: Streams, padded: Padded) -> str:
    rows, every = _random_rows(headed)

    def in_batches() -> Values:
        return padded.launch(rows, padded.plan(rows, every))()

    def in_streams(tokens: int) -> Values:
        return streams.launch(rows, pack(rows, every, tokens, least=0))()

    try:
        with probe.running(headed.model):
            single = headed.one_at_a_time(rows, every)
    except BadInput:
        if is_stock(headed.model):
            raise
        # Its code wants tokens of a template; real rows are checked one by one, once they come.
        headed.body, headed.pads = None, headed.pad is not None
        return "its own code does not run on made-up rows"
    fault = partial(_fault, single=single, dtype=headed.model.dtype)
    if fault(in_batches):
        headed.body, headed.pads = None, headed.pad is not None
        # As some quantised layers do, which scale by all that is in a batch.
        if headed.pads and is_stock(headed.model) and fault(in_batches):
            headed.pads = False
            return "its rows depend on one another, so that each runs alone"
        return "its values are not its head over its token states"
    if headed.rope:
        return "its rotary embedding depends on the longest row of a batch"
    whole, parts = partial(in_streams, _WHOLE), partial(in_streams, _PART)
    reason = fault(whole) or fault(parts)
    if not reason and streams.form == attention.VARLEN and not headed.invariant:
        # What is slower without it is no reason for batches.
        streams.cascades, streams.keys_per_token = True, 0
        streams.cascades = not fault(whole)
        streams.keys_per_token = GATHERED_KEYS
    return reason


def _random_rows(headed: Headed) -> tuple[TokenRows, Longs]:
    """Some with a shared prefix, a row of one token, and some that share nothing."""
    rows = probe.random_rows(headed.model.config.get_text_config().vocab_size)
    return rows, np.arange(len(rows))


def _fault(run: Callable[[], Values], *, single: Values, dtype: torch.dtype) -> str:
    """Why `run` does not give what `single` rows gave; empty: it does, but for rounding."""
    try:
        values = run()
    except CannotShare as no:
        return str(no)
    except torch.OutOfMemoryError:
        raise
    # The model's forward is of another shape than streams need.
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError, KeyError) as error:
        return f"packed rows do not run: {_told(error)}"
    far = values.far_from(single, dtype).any()
    if far:
        return "packed rows and single rows differ"
    return ""


def why_not_compiled(headed: Headed, way: Way) -> str:
    """Compile the model's body, and go back where that fails or gives other values.

    The result is why it went back; empty: the model is run compiled, in its way.
    """
    # A stream with a past, with something to hand on, and each way to read keys: every mixture of
    # these is a graph of its own.
    limit = torch._dynamo.config.recompile_limit
    torch._dynamo.config.recompile_limit = max(_GRAPHS, limit)
    eager, headed.body = headed.body, torch.compile(headed.body, dynamic=True)
    headed.compiled = True
    rows, every = _random_rows(headed)
    with torch.inference_mode(), headed.memory.at_least(_TOKENS):
        single = headed.one_at_a_time(rows, every)
        try:
            values = way.launch(rows, way.plan(rows, every))()
            far = values.far_from(single, headed.model.dtype).any()
            reason = "it gives other values" if far else ""
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # what a compiler may raise is no closed list
            reason = _told(error)
    if reason:
        headed.body, headed.compiled = eager, False
    return reason


def _told(error: Exception) -> str:
    """An error in one line, whatever it says."""
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
