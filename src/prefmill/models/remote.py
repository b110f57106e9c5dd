"""How a server is reached: what samplers and scorers over servers share."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from prefmill.errors import BadArgument
from prefmill.models.client import Client, Usage, per_second
from prefmill.models.described import Described, uncounted


@dataclass(frozen=True, kw_only=True)
class Remote(Described):
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

    def _problems(self) -> list[str]:
        problems = uncounted(self, "concurrency") + uncounted(self, "retries", least=0)
        for name, seconds in (("timeout", self.timeout), ("backoff", self.backoff)):
            is_number = isinstance(seconds, int | float) and not isinstance(seconds, bool)
            if not is_number or not 0 < seconds < float("inf"):
                problems.append(f"{name} must be seconds > 0; got {seconds!r}")
        problems += self._problems_of_url()
        try:
            per_second(self.rate_limit)
        except BadArgument as error:
            problems.append(error.message)
        return problems

    def _problems_of_url(self) -> list[str]:
        problems = []
        parts = urlsplit(self.url)
        is_http = parts.scheme in ("http", "https") and bool(parts.hostname)
        if not is_http or parts.query or parts.fragment:
            # Without a password, which would stand before the host.
            url = parts._replace(netloc=parts.hostname or "").geturl()
            problems.append(f"url must be http(s)://HOST[:PORT][/PATH]; got {url!r}")
        if parts.username or parts.password:
            problems.append(
                "url must not hold a user or a password: name an environment variable, api_key_env"
            )
        return problems

    @property
    def client(self) -> Client:
        """The connection, made on first use."""
        return self._kept("client", self._client)

    def _client(self) -> Client:
        return Client(
            self.url,
            concurrency=self.concurrency,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            rate_limit=self.rate_limit,
            api_key_env=self.api_key_env,
        )

    @property
    def usage(self) -> Usage:
        """What this object has spent so far."""
        return self.client.usage
