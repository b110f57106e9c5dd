"""Sampling: K answers a prompt, with a model in this process or behind a server.

Arrow, NumPy, torch and HTTP only, so that it runs wherever a GPU is; each is loaded on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prefmill.models.described import loaded

if TYPE_CHECKING:
    from prefmill.sampling.batch import BatchSampler
    from prefmill.sampling.endpoint import EndpointSampler
    from prefmill.sampling.local import LocalSampler
    from prefmill.sampling.samplers import Answer, Request, Sampler
    from prefmill.sampling.vllm import VllmSampler

__all__ = [
    "Answer",
    "BatchSampler",
    "EndpointSampler",
    "LocalSampler",
    "Request",
    "Sampler",
    "VllmSampler",
]

_HOMES = {
    "Answer": "samplers",
    "BatchSampler": "batch",
    "EndpointSampler": "endpoint",
    "LocalSampler": "local",
    "Request": "samplers",
    "Sampler": "samplers",
    "VllmSampler": "vllm",
}


def __getattr__(name: str) -> object:
    if name in _HOMES:
        return loaded(f"prefmill.sampling.{_HOMES[name]}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
