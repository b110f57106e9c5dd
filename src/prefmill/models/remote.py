"""How a server is reached: what samplers and scorers over servers share, and what they have
spent.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from prefmill.errors import BadArgument

if TYPE_CHECKING:
    from prefmill.models.client import Client


@dataclass(frozen=True)
class Usage:
    """What was spent: requests sent (those tried again among them), retries by reason, tokens as
    the server counts them.
    """

    requests: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0

    def since(self, before: Usage) -> dict[str, int]:
        """What was spent since `before`, as counts of a scorer; `retry:REASON` are retries for one
        reason.
        """
        again = {
            f"retry:{why}": times - before.retries.get(why, 0)
            for why, times in self.retries.items()
        }
        return {
            **{name: times for name, times in again.items() if times},
            "requests": self.requests - before.requests,
            "retries": sum(self.retries.values()) - sum(before.retries.values()),
            "tokens_in": self.tokens_in - before.tokens_in,
            "tokens_out": self.tokens_out - before.tokens_out,
        }


@dataclass(frozen=True, kw_only=True)
class Remote:
    """How a server is reached; what samplers and scorers over servers share.

    Args:
        url: of the server, with its `/v1` where it has one: `http://localhost:8000/v1`.
        model: its name on the server.
        concurrency: requests under way at a time.
        timeout: seconds until an answer is whole; then it is asked for again.
        retries: tries after the first one; waits between them double from `backoff` seconds up to
            60.
        rate_limit: most requests a second, or a text such as `"600/min"`.
        api_key_env: the environment variable with the API key, which is in no log, error or
            fingerprint.
    """

    url: str
    model: str
    concurrency: int = 8
    timeout: float = 300.0
    retries: int = 6
    backoff: float = 0.5
    rate_limit: float | str | None = None
    api_key_env: str | None = None
    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        said = []
        for name, least in (("concurrency", 1), ("retries", 0)):
            value = getattr(self, name)
            if type(value) is not int or value < least:
                said.append(f"{name} must be a whole number >= {least}; got {value!r}")
        for name in ("timeout", "backoff"):
            value = getattr(self, name)
            if (
                not isinstance(value, int | float)
                or isinstance(value, bool)
                or not 0 < value < float("inf")
            ):
                said.append(f"{name} must be seconds > 0; got {value!r}")
        parts = urlsplit(self.url)
        if (
            parts.scheme not in ("http", "https")
            or not parts.hostname
            or parts.query
            or parts.fragment
        ):
            said.append(
                f"url must be http(s)://HOST[:PORT][/PATH]; got {parts._replace(netloc=parts.hostname or '').geturl()!r}"
            )
        if parts.username or parts.password:
            said.append(
                "url must not hold a user or a password: name an environment variable, api_key_env"
            )
        try:
            per_second(self.rate_limit)
        except BadArgument as error:
            said.append(error.message)
        said += self._problems()
        if said:
            raise BadArgument("\n".join(f"{type(self).__name__}: {each}" for each in said))

    def _problems(self) -> list[str]:
        return []

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the description, and connects for itself."""
        return {f.name: {} if f.name == "_state" else getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    @property
    def client(self) -> Client:
        """The connection, made on first use."""
        if "client" not in self._state:
            from prefmill.models.client import Client

            self._state["client"] = Client(self)
        return self._state["client"]  # type: ignore[no-any-return]

    @property
    def usage(self) -> Usage:
        """What this object has spent so far."""
        return self.client.usage


def per_second(limit: float | str | None) -> float | None:
    """Requests a second: a number, or `N/s`, `N/min`, `N/h`.

    >>> per_second("600/min"), per_second(5)
    (10.0, 5.0)
    """
    if limit is None:
        return None
    number, _, unit = str(limit).partition("/")
    seconds = {"": 1, "s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}.get(unit.strip())
    with contextlib.suppress(ValueError):
        if seconds and not isinstance(limit, bool) and 0 < float(number) < float("inf"):
            return float(number) / seconds
    raise BadArgument(
        f"rate_limit is no rate; got {limit!r}, expected requests a second, or N/s, N/min, N/h"
    )
