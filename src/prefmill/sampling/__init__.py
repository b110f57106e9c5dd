"""Sampling: K answers a prompt. Arrow, NumPy, torch and HTTP only, so that it runs wherever a GPU
is; torch is loaded on first use.

samplers.py   what a sampler is: requests in, answers out    local.py     Transformers, in this
process decode.py     decoding: prompts run once, rows leave         draws.py     one draw a token
seeds.py      what is asked of a prompt, ids and seeds
endpoint.py   an OpenAI-compatible server                    client.py    HTTP: concurrency,
retries, rate limits remote.py     how a server is reached
"""

from __future__ import annotations

from prefmill.sampling.endpoint import EndpointSampler
from prefmill.sampling.local import LocalSampler
from prefmill.sampling.samplers import Answer, Request, Sampler

__all__ = ["Answer", "EndpointSampler", "LocalSampler", "Request", "Sampler"]
