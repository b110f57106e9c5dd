"""HTTP with JSON, many requests at a time: what is tried again, what is final, how fast, and what
it cost.

tried again  connection refused, reset or cut; timeouts; 408, 425, 429 and 5xx; an answer that is no
JSON, or not what was to come final        every other status (400, 401, 404, ...), with the
server's own words; a URL that cannot be one

Waits double from `backoff` seconds, with seeded jitter; `Retry-After` goes before, and holds all
requests back. Needs httpx2, which comes with `datasets` and `transformers`.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import os
import queue
import random
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prefmill.errors import BadArgument, MissingPackage, PrefmillError, RequestFailed
from prefmill.models.remote import Remote, Usage, per_second

_T = TypeVar("_T")
_AGAIN = {408, 425, 429, *(set(range(500, 600)) - {501, 505})}
_OF_REQUEST = {400, 413, 422}  #: the server finds this request bad, and would take others
_LOCAL = {"localhost", "127.0.0.1", "::1"}


class Broken(Exception):
    """An answer without what should be in it; it is asked for again."""


class Client:
    """Posts JSON to one server, with the limits of a `Remote`; safe to share between threads."""

    def __init__(self, remote: Remote) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingPackage.for_extra("endpoint", error.name or "httpx2", "endpoint") from None
        self._remote, self._httpx = remote, httpx2
        self._key = _key(remote.api_key_env)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        limits = httpx2.Limits(
            max_connections=remote.concurrency, max_keepalive_connections=remote.concurrency
        )
        # A proxy of the environment is for servers elsewhere.
        outside = urlsplit(remote.url).hostname not in _LOCAL
        timeout = httpx2.Timeout(remote.timeout, connect=min(30.0, remote.timeout), pool=None)
        self._http = httpx2.Client(
            headers=headers, timeout=timeout, limits=limits, trust_env=outside
        )
        weakref.finalize(self, self._http.close)
        self._pace = _Pace(per_second(remote.rate_limit))
        self._lock = threading.Lock()
        self._requests, self._tokens_in, self._tokens_out = 0, 0, 0
        self._why: Counter[str] = Counter()
        self._known: tuple[str, bytes] | None = None  #: a request that was answered

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        with self._lock:
            return Usage(self._requests, dict(self._why), self._tokens_in, self._tokens_out)

    def post_all(
        self,
        jobs: Sequence[tuple[str, Any]],
        read: Callable[[int, Any], _T],
        *,
        refused: Callable[[int, RequestFailed], _T] | None = None,
    ) -> list[_T]:
        """The answers to all `jobs` (path, body), in their order, each through
        `read(number, JSON)`; it raises `Broken` for half an answer.

        The first request that fails for good ends all, with its error; with `refused` those that
        are themselves at fault (the error has a `reason`) become what it gives, or end all with
        what it raises. On an interrupt no further request is sent.
        """
        done: queue.Queue[tuple[int, Any, BaseException | None]] = queue.Queue()
        numbers = iter(range(len(jobs)))
        stop = threading.Event()
        deal = threading.Lock()

        def work() -> None:
            while not stop.is_set():
                with deal:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    done.put((number, self._post(number, *jobs[number], read, stop), None))
                except _Stopped:
                    return
                except BaseException as error:
                    try:
                        if (
                            refused is None
                            or not isinstance(error, RequestFailed)
                            or error.reason is None
                        ):
                            raise
                        done.put((number, refused(number, error), None))
                    except (
                        BaseException
                    ) as final:  # raised in the caller's thread; nothing is sent after it
                        stop.set()
                        done.put((number, None, final))

        # Daemons: a request that hangs must not keep an interrupted program alive.
        for i in range(min(self._remote.concurrency, len(jobs))):
            threading.Thread(target=work, name=f"prefmill-http-{i}", daemon=True).start()
        found: list[Any] = [None] * len(jobs)
        try:
            for _ in jobs:
                number, value, error = done.get()
                if error is not None:
                    raise error
                found[number] = value
        finally:
            stop.set()
        return found

    def _post(
        self,
        number: int,
        path: str,
        body: Any,
        read: Callable[[int, Any], _T],
        stop: threading.Event,
    ) -> _T:
        remote = self._remote
        where = f"{remote.url.rstrip('/')}/{path.lstrip('/')}"
        content = json.dumps(body, ensure_ascii=False).encode()
        draw = random.Random(f"{path} {number}")
        for attempt in range(remote.retries + 1):
            self._pace.turn(stop)
            with self._lock:
                self._requests += 1
            try:
                status, headers, text = self._send(where, content)
            except self._httpx.TransportError as error:
                why, wait = _named(error, self._httpx), None
                what = f"{type(error).__name__}: {error}".removesuffix(": ")
                if isinstance(error, self._httpx.UnsupportedProtocol):
                    raise RequestFailed(
                        f"endpoint: {where} cannot be asked; {what}.", index=number
                    ) from None
            else:
                why, wait = str(status), _retry_after(headers)
                fine = 200 <= status < 300
                what = "" if fine else f"{status} {self._clean(message_of(text))}".strip()
                if fine:
                    try:
                        answer = json.loads(text)
                        value = read(number, answer)
                    except PrefmillError:  # nothing that asking again could mend
                        raise
                    except (
                        Broken,
                        ValueError,
                        LookupError,
                        TypeError,
                        AttributeError,
                        ArithmeticError,
                        RecursionError,
                    ) as error:
                        why, wait = "broken answer", None
                        what = (
                            f"broken answer: {error}"
                            if isinstance(error, Broken)
                            else f"broken answer: {self._clean(text[:80])!r}"
                        )
                    else:
                        self._known = (where, content)
                        self._count(answer)
                        return value
                elif status not in _AGAIN:
                    hint = {
                        401: "api_key_env (--api-key-env) names the environment variable with the key.",
                        404: "is the URL complete (/v1)?",
                    }
                    raise RequestFailed(
                        f"endpoint: {where} refused; got {what.rstrip('.')}.",
                        index=number,
                        status=status,
                        hint=hint.get(status),
                        reason="refused" if status in _OF_REQUEST else None,
                    )
            if attempt == remote.retries or (wait or 0) > 600:
                tries = "once" if attempt == 0 else f"{attempt + 1} times"
                raise RequestFailed(
                    f"endpoint: {where} gave no answer, asked {tries}; the last time {self._clean(what).rstrip('.')}.",
                    index=number,
                    hint="is the server up? What is done is kept: the same call goes on.",
                    reason="bad_answer"
                    if why == "broken answer" or (why == "500" and self._is_well())
                    else None,
                )
            with self._lock:
                self._why[why] += 1
            if wait is not None:
                self._pace.hold(wait)
            pause = min(60.0, remote.backoff * 2**attempt) * draw.uniform(0.5, 1.0)
            if stop.wait(max(pause, wait or 0.0)):
                raise _Stopped
        raise AssertionError("unreachable")

    def _send(self, where: str, content: bytes) -> tuple[int, Mapping[str, str], str]:
        """Status, headers and text of one answer, whole within the time allowed."""
        ends = time.monotonic() + self._remote.timeout
        with self._http.stream(
            "POST", where, content=content, headers={"Content-Type": "application/json"}
        ) as response:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                if (
                    time.monotonic() > ends
                ):  # a server that drips never runs into the time allowed for one read
                    raise self._httpx.ReadTimeout("the answer was not whole in time")
            return (
                response.status_code,
                response.headers,
                b"".join(parts).decode("utf-8", "replace"),
            )

    def _is_well(self) -> bool:
        """Whether the server answers again what it has answered before: then what it never answers
        is at fault itself.
        """
        if self._known is None:
            return False
        with self._lock:
            self._requests += 1
            self._why["probe"] += 1
        try:
            status, _, _ = self._send(*self._known)
        except self._httpx.TransportError:
            return False
        return 200 <= status < 300

    def _count(self, answer: Any) -> None:
        usage = answer.get("usage") if isinstance(answer, dict) else None
        if isinstance(usage, dict):
            with self._lock:
                self._tokens_in += _count_of(usage.get("prompt_tokens"))
                self._tokens_out += _count_of(usage.get("completion_tokens"))

    def _clean(self, text: str) -> str:
        """`text` without the key, should a server echo it."""
        return text.replace(self._key, "***") if self._key else text


class _Stopped(Exception):
    """Another request failed, or the program was interrupted: nobody waits for this one."""


class _Pace:
    """When the next request may go: so many a second, and none before the time that a server
    named.
    """

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next, self._quiet = 0.0, 0.0
        self._lock = threading.Lock()

    def turn(self, stop: threading.Event) -> None:
        """Wait for a turn."""
        with self._lock:
            mine = max(self._next, self._quiet, time.monotonic())
            self._next = mine + self._gap
        while True:
            wait = max(mine, self._quiet) - time.monotonic()
            if wait <= 0:
                return
            if stop.wait(wait):
                raise _Stopped

    def hold(self, seconds: float) -> None:
        """No request for so long."""
        with self._lock:
            self._quiet = max(self._quiet, time.monotonic() + seconds)


def _count_of(told: Any) -> int:
    """A number of tokens, 0 for what is none."""
    return told if type(told) is int and told > 0 else 0


def message_of(text: str) -> str:
    """What a server says in an error, without its wrapping: OpenAI's `error.message`, FastAPI's
    `detail`, TEI's `error`, or the text.

    >>> message_of('{"error": {"message": "no such model"}}'), message_of('{"detail": "too long"}'), message_of("<html>")
    ('no such model', 'too long', '<html>')
    """
    with contextlib.suppress(ValueError, RecursionError):
        said = json.loads(text)
        for key in ("error", "detail", "message"):
            if isinstance(said, dict) and said.get(key):
                said = said[key]
        return (said if isinstance(said, str) else json.dumps(said, ensure_ascii=False))[:500]
    return " ".join(text.split())[:200]


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise BadArgument(
            f"endpoint: no API key; got no environment variable {variable!r}, expected one that holds the key."
        )
    return key


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` as seconds or as a date."""
    said = headers.get("retry-after")
    if said is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(said))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(said).timestamp() - time.time())
    return None


def _named(error: Exception, httpx: Any) -> str:
    """A reason in a word or two, for the report."""
    kinds: Iterator[tuple[Any, str]] = iter(
        (
            (httpx.TimeoutException, "timeout"),
            (httpx.ConnectError, "no connection"),
            (httpx.RemoteProtocolError, "cut off"),
            (httpx.NetworkError, "connection lost"),
        )
    )
    return next((name for kind, name in kinds if isinstance(error, kind)), type(error).__name__)
