"""One draw a token: which token a draw means, and where draws come from.

Nothing here depends on what else is in the batch. A draw u in [0, 1) takes the first token, in the
order of the vocabulary, at which the summed probability exceeds u. Token order, not order of
probability: rounding then moves the bounds by its own size only, and never swaps two tokens that
are about equally likely.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

_SLICE = 1 << 25  # probabilities that are held in float64 at a time
# the nucleus is looked for among so many tokens first; a whole sort costs several times more
_LIKELY = 512


def uniforms(seed: int, count: int) -> npt.NDArray[np.float64]:
    """The first `count` draws of an answer, in [0, 1), shape (count,).

    Draw i belongs to token i, whatever `count` is. They are from Philox (Salmon et al. 2011), a
    counter-based generator whose stream NumPy keeps fixed; the seed is its key.

    >>> bool((uniforms(7, 5)[:3] == uniforms(7, 3)).all())
    True
    """
    raw = np.random.Philox(key=seed & (2**64 - 1)).random_raw(count)
    return np.asarray((raw >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def pick(logits: Any, temperatures: Any, draws: Any, top_p: float) -> tuple[Any, Any]:
    """The next token of every row, and its log-probability at temperature 1 without `top_p`.

    logits        shape (rows, vocabulary)
    temperatures  shape (rows,), float32; 0 takes the likeliest token (the first of equal ones)
    draws         shape (rows,), float64, in [0, 1)
    top_p         tokens are left out once those that are likelier sum to it, after the temperature
                  (Holtzman et al. 2020)

    Both results have the shape (rows,); they are int64 and float32.
    """
    logits = logits.float()
    tokens = logits.argmax(dim=-1)
    drawn = torch.nonzero(temperatures > 0).flatten()
    rows = max(1, _SLICE // logits.shape[-1])
    for part in torch.split(drawn, rows):
        tokens[part] = _draw(logits[part], temperatures[part], draws[part], top_p)
    chosen = logits.gather(-1, tokens[:, None])[:, 0]
    return tokens, chosen - logits.logsumexp(dim=-1)


def _draw(logits: Any, temperatures: Any, draws: Any, top_p: float) -> Any:
    weights = torch.softmax(logits / temperatures[:, None], dim=-1)
    if top_p < 1:
        weights = nucleus(weights, top_p)
    sums = weights.cumsum(dim=-1, dtype=torch.float64)
    total = sums[:, -1:]
    # A product that is rounded up to the total would be after the last token.
    target = torch.minimum(draws[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    # NaN is below nothing, and so after the last token; the caller sees it in the log-probability.
    return torch.searchsorted(sums, target, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)


def nucleus(weights: Any, top_p: float) -> Any:
    """`weights`, shape (rows, vocabulary), with 0 for what is outside of the nucleus.

    Each row has the sum 1. A token stays if those before it, from the likeliest on, sum to less
    than `top_p`: the likeliest always does.
    """
    size = weights.shape[-1]
    kept = torch.zeros_like(weights)
    left = torch.arange(len(weights), device=weights.device)
    for count in (_LIKELY, size):
        if count > size or not len(left):
            continue
        best, where = weights[left].topk(count, dim=-1)
        sums = best.cumsum(dim=-1, dtype=torch.float64)
        enough = sums[:, -1] >= top_p
        if count == size:
            enough = torch.ones_like(enough)
        inside = torch.where(sums - best < top_p, best, 0.0)
        kept[left[enough]] = kept[left[enough]].scatter(-1, where[enough], inside[enough])
        left = left[~enough]
    return kept
