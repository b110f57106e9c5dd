"""The samplers by name. The command line, the loop's recipe and Python make them from here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from prefmill.errors import BadArgument
from prefmill.models.described import loaded

#: where each stands; nothing is loaded before it is asked for
SAMPLERS: Mapping[str, str] = {
    "local": "prefmill.sampling.local:LocalSampler",
    "endpoint": "prefmill.sampling.endpoint:EndpointSampler",
    "batch": "prefmill.sampling.batch:BatchSampler",
    "vllm": "prefmill.sampling.vllm:VllmSampler",
}


def sampler_class(kind: str) -> Any:
    """The class of a kind."""
    return loaded(SAMPLERS[kind])


def kind_for(options: Mapping[str, Any]) -> str:
    """The kind that such options are of: their `backend`, else a server's where a `url` is.

    Raises `BadArgument` for a backend that is none, or that lacks its server.

    >>> server = {"url": "http://localhost:8000/v1"}
    >>> kind_for(server), kind_for({}), kind_for({**server, "backend": "batch"})
    ('endpoint', 'local', 'batch')
    """
    backend, url = options.get("backend"), options.get("url")
    files = options.get("batch_files")
    if backend is None:
        if files is not None:
            return "batch"
        return "local" if url is None else "endpoint"
    if backend not in SAMPLERS:
        raise BadArgument(f"sampler: backend is not one of {list(SAMPLERS)}; got {backend!r}.")
    is_remote = backend in ("endpoint", "batch")
    if is_remote and url is None and not (backend == "batch" and files is not None):
        or_files = ", or --batch-files DIR" if backend == "batch" else ""
        raise BadArgument(
            f"sampler: backend {backend} needs a server; got no url.",
            hint=f"--url http://HOST:PORT/v1{or_files}.",
        )
    return str(backend)


def sampler_from(options: Mapping[str, Any]) -> Any:
    """The sampler that such options describe."""
    own = {name: value for name, value in options.items() if name != "backend"}
    return sampler_class(kind_for(options))(**own)
