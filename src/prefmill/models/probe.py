"""What can be told of a model before it is run on real rows: its vocabulary, what makes its rows
depend on one another, and rows to try it with.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from prefmill.errors import BadInput, BadRow, PrefmillError
from prefmill.models.described import described
from prefmill.models.tokens import TokenRows


@contextmanager
def running(model: Any) -> Iterator[None]:
    """What a model's own forward raises on rows of ours is said as an error of its folder."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        cause: BaseException = error
        if isinstance(error, BadRow) and error.__cause__:
            cause = error.__cause__  # the row is made up here
        if isinstance(cause, PrefmillError):
            raise cause from None
        raise BadInput(
            f"score: {type(model).__name__} does not run on a row of tokens; {described(cause)}",
            hint="does config.json describe this model?",
        ) from error


def vocabulary(model: Any) -> int | None:
    """How many tokens the model's embedding knows; None where it has none that tells."""
    try:
        size = getattr(model.get_input_embeddings(), "num_embeddings", None)
    except (AttributeError, NotImplementedError):
        return None
    return size if isinstance(size, int) else None


def batch_dependent_rope(model: Any) -> int:
    """The length up to which rotary frequencies are fixed; 0: they always are.

    Beyond it, `dynamic` and `longrope` make them depend on the longest row.
    """
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if isinstance(kinds, dict):
            kinds = list(kinds.values())
        elif not isinstance(kinds, str):
            continue
        else:
            kinds = [kinds]
        if any("dynamic" in str(kind) or kind == "longrope" for kind in kinds):
            config = module.config
            parameters = getattr(config, "rope_parameters", None) or {}
            nested = [p for p in parameters.values() if isinstance(p, dict)] or [parameters]
            lengths = [p.get("original_max_position_embeddings") for p in nested]
            lengths.append(getattr(module, "original_max_seq_len", None))
            lengths.append(config.max_position_embeddings)
            # Below the shortest of them nothing can have been stretched.
            return min(int(n) for n in lengths if n)
    return 0


def is_decoder(model: Any) -> bool:
    """Whether some layer looks back only: such a model could run in streams."""
    return any(getattr(module, "is_causal", False) is True for module in model.modules())


def has_experts(model: Any) -> bool:
    """Whether tokens are sent to experts.

    Such a product has as many rows as tokens were sent, which neighbours change.
    """
    return any(name.endswith(".experts") for name, _ in model.named_modules())


def random_rows(vocabulary: int) -> TokenRows:
    """Rows to try a model with.

    Some share a prefix and go on for several lengths, one by a single token; some share nothing.
    """
    # The first ids are special tokens in most vocabularies, which models may treat apart.
    rng = np.random.default_rng(0)
    special = min(10, vocabulary // 2)
    prompt, *others = (rng.integers(special, vocabulary, n).tolist() for n in (9, 3, 1, 5, 1, 12))
    rows = [prompt + own for own in others[:3]] + others[3:]
    return TokenRows.of(rows, [0, 0, 0, 1, 2], [9, 9, 9, 0, 4])
