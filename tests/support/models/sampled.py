"""Requests and what a sampler made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import tiny_models

from prefmill.sampling import Request

FAMILIES = {
    **dict.fromkeys((*tiny_models.SHARING, "gpt-oss", "qwen3-next"), "together"),
    **dict.fromkeys(("dynamic-rope", "longrope"), "apart"),
}

PROMPTS = (
    "What next?",
    "x",
    "A longer prompt, beyond the window of those that attend to some tokens only",
    "What next, then?",
)


def requests(
    prompts: Any = PROMPTS, temperatures: Any = (0.0, 0.7, 1.3), n: int = 3
) -> list[Request]:
    return [
        Request(p, t, 100 * i + 10 * j + k)
        for i, p in enumerate(prompts)
        for j, t in enumerate(temperatures)
        for k in range(n)
    ]


def drawn(logits: np.ndarray, temperature: float, u: float, top_p: float) -> int:
    """The token of one draw, as plainly as can be."""
    if temperature == 0:
        return int(logits.argmax())
    p = np.exp((logits - logits.max()) / temperature)
    p /= p.sum()
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    p[order[before >= top_p]] = 0
    return min(
        int(np.searchsorted(np.cumsum(p), u * p.sum(), side="right")), int(np.flatnonzero(p)[-1])
    )
