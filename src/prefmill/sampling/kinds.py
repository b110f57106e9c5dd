"""The samplers by name. The command line, the loop's recipe and Python make them from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefmill.models.described import loaded

#: where each stands; nothing is loaded before it is asked for
SAMPLERS: Mapping[str, str] = {
    "local": "prefmill.sampling.local:LocalSampler",
    "endpoint": "prefmill.sampling.endpoint:EndpointSampler",
}


def sampler_class(kind: str) -> Any:
    """The class of a kind."""
    return loaded(SAMPLERS[kind])


def kind_for(options: Mapping[str, Any]) -> str:
    """The kind that such options are of: those with a `url` are a server's.

    >>> kind_for({"url": "http://localhost:8000/v1"}), kind_for({})
    ('endpoint', 'local')
    """
    if options.get("url") is not None:
        return "endpoint"
    return "local"


def sampler_from(options: Mapping[str, Any]) -> Any:
    """The sampler that such options describe."""
    return sampler_class(kind_for(options))(**options)
