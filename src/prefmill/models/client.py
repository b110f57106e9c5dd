"""HTTP with JSON, many requests at a time: what is tried again, what is final, and what it cost.

    tried again  connection refused, reset or cut; timeouts; 408, 425, 429 and 5xx; an answer that
                 is not JSON, or not what was to come
    final        every other status (400, 401, 404, ...), with the server's own words; a URL that
                 cannot be one

Waits double from `backoff` seconds, with seeded jitter. `Retry-After` goes before that and holds
all requests back. Needs httpx2, which comes with `datasets` and `transformers`.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from prefmill.errors import BadArgument, MissingPackage, PrefmillError, RequestFailed

_T = TypeVar("_T")
Read = Callable[[int, Any], _T]
Sent = tuple[int, Mapping[str, str], str]  #: status, headers, text
AGAIN = {408, 425, 429, *(set(range(500, 600)) - {501, 505})}
OF_REQUEST = {400, 413, 422}  #: the server finds this request bad, and would take others
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_LONGEST_WAIT = 600  # seconds that a server may ask for
_HINTS = {
    401: "api_key_env (--api-key-env) names the environment variable with the key.",
    404: "is the URL complete (/v1)?",
}
# What reading an answer may raise where the answer is not what it should be.
UNREADABLE = (
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    RecursionError,
)


@dataclass(frozen=True)
class Usage:
    """What was spent: requests with those tried again, retries by reason, the server's tokens."""

    requests: int = 0
    retries: Mapping[str, int] = field(default_factory=dict)
    tokens_in: int = 0
    tokens_out: int = 0

    def since(self, before: Usage) -> dict[str, int]:
        """What was spent since `before`, as counts of a scorer; `retry:REASON` for each reason."""
        more = {
            f"retry:{reason}": times - before.retries.get(reason, 0)
            for reason, times in self.retries.items()
        }
        return {
            **{name: times for name, times in more.items() if times},
            "requests": self.requests - before.requests,
            "retries": sum(self.retries.values()) - sum(before.retries.values()),
            "tokens_in": self.tokens_in - before.tokens_in,
            "tokens_out": self.tokens_out - before.tokens_out,
        }


class Broken(Exception):
    """An answer without what should be in it; it is asked for again."""


class Again(Exception):
    """One try that failed and may be made again, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, what: str, wait: float | None = None) -> None:
        self.reason, self.what, self.wait = reason, what, wait


class _Stopped(Exception):
    """Another request failed, or the program was interrupted: nobody waits for this one."""


class Client:
    """Posts JSON to one server; safe to share between threads. The arguments are `Remote`'s."""

    def __init__(
        self,
        url: str,
        *,
        concurrency: int,
        timeout: float,
        retries: int,
        backoff: float,
        rate_limit: float | str | None,
        api_key_env: str | None,
    ) -> None:
        try:
            import httpx2
        except ImportError as error:
            raise MissingPackage.for_extra("endpoint", error.name or "httpx2", "endpoint") from None
        self._url, self._concurrency, self._timeout = url.rstrip("/"), concurrency, timeout
        self._retries, self._backoff, self._httpx = retries, backoff, httpx2
        self._key = _key(api_key_env)
        self._http = httpx2.Client(
            headers={"Authorization": f"Bearer {self._key}"} if self._key else {},
            timeout=httpx2.Timeout(timeout, connect=min(30.0, timeout), pool=None),
            limits=httpx2.Limits(
                max_connections=concurrency, max_keepalive_connections=concurrency
            ),
            # A proxy of the environment is for servers elsewhere.
            trust_env=urlsplit(url).hostname not in _LOCAL,
        )
        weakref.finalize(self, self._http.close)
        self._pace = _Pace(per_second(rate_limit))
        self._lock = threading.Lock()
        self._requests = self._tokens_in = self._tokens_out = 0
        self._retried: Counter[str] = Counter()
        self._answered: tuple[str, bytes] | None = None  #: a request that was answered

    @property
    def usage(self) -> Usage:
        """What was spent so far."""
        with self._lock:
            return Usage(self._requests, dict(self._retried), self._tokens_in, self._tokens_out)

    def post_all(
        self,
        jobs: Sequence[tuple[str, Any]],
        read: Read[_T],
        *,
        refused: Callable[[int, RequestFailed], _T] | None = None,
    ) -> list[_T]:
        """The answers to all `jobs` (path, body), in their order, each through `read`.

        `read(number, JSON)` raises `Broken` for half an answer. The first request that fails for
        good ends all, with its error. With `refused`, a request that is itself at fault (its error
        has a `reason`) becomes what `refused` gives, or ends all with what it raises. On an
        interrupt no further request is sent.
        """
        done: queue.Queue[tuple[int, Any, BaseException | None]] = queue.Queue()
        numbers = iter(range(len(jobs)))
        stop, deal = threading.Event(), threading.Lock()

        def answer(number: int) -> _T:
            try:
                return self._post(number, *jobs[number], read, stop)
            except RequestFailed as error:
                if refused is None or error.reason is None:
                    raise
                return refused(number, error)

        def work() -> None:
            while not stop.is_set():
                # An iterator is not safe to share between threads.
                with deal:
                    number = next(numbers, None)
                if number is None:
                    return
                try:
                    done.put((number, answer(number), None))
                except _Stopped:
                    return
                # Raised in the caller's thread; nothing is sent after it.
                except BaseException as error:
                    stop.set()
                    done.put((number, None, error))

        # Daemons: a request that hangs must not keep an interrupted program alive.
        for i in range(min(self._concurrency, len(jobs))):
            threading.Thread(target=work, name=f"prefmill-http-{i}", daemon=True).start()
        answers: list[Any] = [None] * len(jobs)
        try:
            for _ in jobs:
                number, value, error = done.get()
                if error is not None:
                    raise error
                answers[number] = value
        finally:
            stop.set()
        return answers

    def _post(self, number: int, path: str, body: Any, read: Read[_T], stop: threading.Event) -> _T:
        url = self._url_of(path)
        content = json.dumps(body, ensure_ascii=False).encode()

        def once() -> _T:
            text = self._exchange(number, url, lambda: self._send(url, content))
            return self._read(number, url, content, text, read)

        return self._insist(number, path, once, stop)

    def _url_of(self, path: str) -> str:
        return f"{self._url}/{path.lstrip('/')}"

    def _insist(self, number: int, path: str, once: Callable[[], _T], stop: threading.Event) -> _T:
        """What `once` gives, tried again where it raises `Again`."""
        # Seeded, so that a run can be repeated wait by wait.
        jitter = random.Random(f"{path} {number}")
        for attempt in range(self._retries + 1):
            self._pace.turn(stop)
            with self._lock:
                self._requests += 1
            try:
                return once()
            # Python drops the name of the exception after its clause.
            except Again as error:
                again = error
            if attempt == self._retries or (again.wait or 0) > _LONGEST_WAIT:
                break
            with self._lock:
                self._retried[again.reason] += 1
            if again.wait is not None:
                self._pace.hold(again.wait)
            pause = min(60.0, self._backoff * 2**attempt) * jitter.uniform(0.5, 1.0)
            if stop.wait(max(pause, again.wait or 0.0)):
                raise _Stopped
        tries = "once" if attempt == 0 else f"{attempt + 1} times"
        last = self._clean(again.what).rstrip(".")
        at_fault = again.reason == "broken answer" or (again.reason == "500" and self._is_well())
        raise RequestFailed(
            f"endpoint: {self._url_of(path)} gave no answer, asked {tries}; the last time {last}.",
            index=number,
            hint="is the server up? What is done is kept: the same call goes on.",
            reason="bad_answer" if at_fault else None,
            again=not at_fault,
        )

    def _exchange(self, number: int, url: str, send: Callable[[], Sent]) -> str:
        """The text that `send` brought; `Again` for what may be tried again, else what is final.

        Both are raised.
        """
        try:
            status, headers, text = send()
        except self._httpx.TransportError as error:
            what = f"{type(error).__name__}: {error}".removesuffix(": ")
            if isinstance(error, self._httpx.UnsupportedProtocol):
                raise RequestFailed(
                    f"endpoint: {url} cannot be asked; {what}.", index=number
                ) from None
            raise Again(_reason_of(error, self._httpx), what) from None
        if 200 <= status < 300:
            return text
        what = f"{status} {self._clean(message_of(text))}".strip()
        if status in AGAIN:
            raise Again(str(status), what, _retry_after(headers))
        raise RequestFailed(
            f"endpoint: {url} refused; got {what.rstrip('.')}.",
            index=number,
            status=status,
            hint=_HINTS.get(status),
            reason="refused" if status in OF_REQUEST else None,
        )

    def _read(self, number: int, url: str, content: bytes, text: str, read: Read[_T]) -> _T:
        try:
            answer = json.loads(text)
            value = read(number, answer)
        except PrefmillError:  # nothing that asking again could mend
            raise
        except Broken as error:
            raise Again("broken answer", f"broken answer: {error}") from None
        except UNREADABLE:
            what = f"broken answer: {self._clean(text[:80])!r}"
            raise Again("broken answer", what) from None
        self._answered = (url, content)
        self._count(answer)
        return value

    def _send(self, url: str, content: bytes) -> Sent:
        """Status, headers and text of one answer, whole within the time allowed."""
        ends = time.monotonic() + self._timeout
        headers = {"Content-Type": "application/json"}
        with self._http.stream("POST", url, content=content, headers=headers) as response:
            parts = []
            for part in response.iter_bytes():
                parts.append(part)
                # A server that drips never runs into the time allowed for one read.
                if time.monotonic() > ends:
                    raise self._httpx.ReadTimeout("the answer was not whole in time")
        text = b"".join(parts).decode("utf-8", "replace")
        return response.status_code, response.headers, text

    def _is_well(self) -> bool:
        """Whether the server still answers what it has answered before.

        Then a request that it never answers is itself at fault.
        """
        if self._answered is None:
            return False
        # It counts: a server bills it like any other.
        with self._lock:
            self._requests += 1
            self._retried["probe"] += 1
        try:
            status, _, _ = self._send(*self._answered)
        except self._httpx.TransportError:
            return False
        return 200 <= status < 300

    def _count(self, answer: Any) -> None:
        read, written = tokens_of(answer)
        with self._lock:
            self._tokens_in += read
            self._tokens_out += written

    def _clean(self, text: str) -> str:
        """`text` without the key, should a server echo it."""
        if self._key:
            return text.replace(self._key, "***")
        return text


class _Pace:
    """When the next request may go: so many a second, and none before a time a server named."""

    def __init__(self, rate: float | None) -> None:
        self._gap = 1 / rate if rate else 0.0
        self._next = self._quiet = 0.0
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
        f"server: rate_limit is no rate; got {limit!r}, expected requests a second, or N/s, N/min,"
        " N/h."
    )


def message_of(text: str) -> str:
    """What a server says in an error, without its wrapping.

    That is OpenAI's `error.message`, FastAPI's `detail`, TEI's `error`, or the text.

    >>> message_of('{"error": {"message": "no such model"}}'), message_of("<html>")
    ('no such model', '<html>')
    """
    with contextlib.suppress(ValueError, RecursionError):
        message = json.loads(text)
        for key in ("error", "detail", "message"):
            if isinstance(message, dict) and message.get(key):
                message = message[key]
        if not isinstance(message, str):
            message = json.dumps(message, ensure_ascii=False)
        return message[:500]
    return " ".join(text.split())[:200]


def tokens_of(answer: Any) -> tuple[int, int]:
    """The tokens that an answer's `usage` tells: read, and written.

    >>> tokens_of({"usage": {"prompt_tokens": 9, "completion_tokens": None}})
    (9, 0)
    """
    usage = answer.get("usage") if isinstance(answer, dict) else None
    if not isinstance(usage, dict):
        return 0, 0
    return _tokens(usage.get("prompt_tokens")), _tokens(usage.get("completion_tokens"))


def _tokens(number: Any) -> int:
    """A number of tokens, 0 for anything else."""
    if type(number) is int and number > 0:
        return number
    return 0


def _key(variable: str | None) -> str | None:
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise BadArgument(
            f"endpoint: no API key; got no environment variable {variable!r},"
            " expected one that holds the key."
        )
    return key


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that a server asks to wait: `Retry-After` as seconds or as a date."""
    value = headers.get("retry-after")
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return None


def _reason_of(error: Exception, httpx: Any) -> str:
    """A reason in a word or two, for the report."""
    kinds = {
        "timeout": httpx.TimeoutException,
        "no connection": httpx.ConnectError,
        "cut off": httpx.RemoteProtocolError,
        "connection lost": httpx.NetworkError,
    }
    names = (name for name, kind in kinds.items() if isinstance(error, kind))
    return next(names, type(error).__name__)
