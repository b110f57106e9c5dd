"""A server's answers in batches, which most servers sell at half the price: `BatchSampler`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefmill.errors import BadArgument, RequestFailed
from prefmill.models.batch_carriers import BatchApi, BatchFolder, Carrier
from prefmill.models.batch_store import request_key
from prefmill.models.batches import Batches
from prefmill.models.client import UNREADABLE, Broken, Usage, message_of, tokens_of
from prefmill.models.described import uncounted
from prefmill.progress import Progress, silent
from prefmill.sampling.endpoint import EndpointSampler, refused_reply
from prefmill.sampling.samplers import Answer, Reply, Request

#: what stands for an answer while requests are gathered; nobody keeps what is made of it
_TO_COME = Reply(Answer("", "stop", None, None))
_MB = 1_000_000


@dataclass(frozen=True, kw_only=True)
class BatchSampler(EndpointSampler):
    """Answers from a server that takes files of requests (`/v1/files`, `/v1/batches`).

    Args:
        url, model, timeout, retries, rate_limit, api_key_env: see `Remote`.
        api, top_p, max_new_tokens, stop, seed_bits, on_refused, extra: as of `EndpointSampler`.
        batch_requests: most requests of a batch; OpenAI takes 50,000.
        batch_mb: most megabytes of its file; OpenAI takes 200.
        batch_window: within which time the server is to answer, in its own words.
        poll: seconds between two looks at a batch, at most.
        no_wait: send what is to be sent, fetch what is there, and raise `BatchesUnderWay` where
            something is left.
        batch_files: a folder instead of a server: request files are written there, and a program
            such as `vllm run-batch` answers them. It never waits.

    A run (`pm.sample`, `pm.score` with a judge) first gathers all that it will ask, and sends it.
    When it is answered, the run does its work as with any sampler.
    The names of batches are in the folder of the run before anybody waits for them, so that the
    same call goes on after a kill. Outside of a run `keep_in` names the file first.

    Equal requests are asked once. Requests that expired, or that the server failed with 429 or
    5xx, go into a further batch, three in all. The fingerprint is that of `EndpointSampler`: a run
    may go on with the one where the other began.

    >>> BatchSampler(url="https://api.openai.com/v1", model="judge", no_wait=True).batch_requests
    50000
    """

    url: str = ""
    batch_requests: int = 50_000
    batch_mb: float = 190.0
    batch_window: str = "24h"
    poll: float = 60.0
    no_wait: bool = False
    batch_files: str | Path | None = None

    def _problems(self) -> list[str]:
        problems = super()._problems() + uncounted(self, "batch_requests")
        for name, number in (("batch_mb", self.batch_mb), ("poll", self.poll)):
            is_number = isinstance(number, int | float) and not isinstance(number, bool)
            if not is_number or not 0 < number < float("inf"):
                problems.append(f"{name} must be a number > 0; got {number!r}")
        if self.batch_files is not None and self.url:
            problems.append(f"batch_files are for a program, not for a server; got {self.url!r}")
        return problems

    def _problems_of_url(self) -> list[str]:
        return [] if self.batch_files is not None else super()._problems_of_url()

    @classmethod
    def options(cls) -> frozenset[str]:
        """Those of a server's sampler, but for requests at a time: there are none."""
        return super().options() - {"concurrency"}

    def __getstate__(self) -> dict[str, Any]:
        # Where the answers lie goes along to another process; connections do not.
        kept = {name: value for name, value in self._state.items() if name == "path"}
        return {**super().__getstate__(), "_state": kept}

    # What a run asks

    @property
    def posts(self) -> tuple[tuple[Any, BatchSampler], ...]:
        """Itself."""
        return ((self, self),)

    @property
    def usage(self) -> Usage:
        """The requests whose answers were read, and their tokens."""
        read = self._state.get("read", (0, 0, 0))
        return Usage(read[0], {}, read[1], read[2])

    def keep_in(self, path: str | Path) -> None:
        """Requests, names of batches and answers are kept in this file (SQLite)."""
        self._state["path"] = Path(path)

    @contextmanager
    def gathering(self) -> Iterator[None]:
        """In here requests are noted: what is not answered has an empty reply, for nobody to keep.

        `is_settled` then says whether all were answered.
        """
        self._state["gathers"] = False
        try:
            yield
        finally:
            self._state["is_settled"] = not self._state.pop("gathers")

    @property
    def is_settled(self) -> bool:
        """Whether everything had an answer that was asked when requests were last gathered."""
        return bool(self._state.get("is_settled", False))

    def begin(self) -> None:
        """Send what was gathered."""
        self.batches.begin()

    def settle(self, tell: Progress = silent) -> None:
        """Until all that was gathered is answered."""
        self.batches.settle(tell)

    def withdraw(self) -> None:
        """Cancel what is under way, and forget everything."""
        self.batches.withdraw()

    def remark(self) -> str | None:
        """What was asked in batches, for a report."""
        return self.batches.remark()

    @property
    def batches(self) -> Batches:
        """What is asked, opened on first use."""
        return self._kept("batches", self._batches)

    def _batches(self) -> Batches:
        if "path" not in self._state:
            raise BadArgument(
                "batch: no file named in which requests and answers are kept.",
                hint="keep_in(PATH) names one; pm.sample and pm.score do so themselves.",
            )
        return Batches(
            self._state["path"],
            self._carrier(),
            most=self.batch_requests,
            size=int(self.batch_mb * _MB),
            waits=not self.no_wait,
            poll=float(self.poll),
        )

    def _carrier(self) -> Carrier:
        if self.batch_files is not None:
            return BatchFolder(Path(self.batch_files), self._path, self.model)
        return BatchApi(
            self.url,
            self._path,
            self.batch_window,
            concurrency=1,
            timeout=self.timeout,
            retries=self.retries,
            backoff=self.backoff,
            rate_limit=self.rate_limit,
            api_key_env=self.api_key_env,
        )

    # Asking

    def replies(
        self, requests: Sequence[Request], /, *, top: int = 0, refusals: bool = False
    ) -> list[Reply]:
        """As `EndpointSampler.replies`, from answers that are there; what is missing is asked."""
        bodies = [self._body(request, top) for request in requests]
        keys = [request_key(self._path, body) for body in bodies]
        store = self.batches.store
        known = store.answers(list(dict.fromkeys(keys)))
        missing = {k: body for k, body in zip(keys, bodies, strict=True) if k not in known}
        if missing:
            store.want(missing)
        if "gathers" in self._state:
            self._state["gathers"] |= bool(missing)
            return [
                self._reply_to(known[key], index, request) if key in known else _TO_COME
                for index, (key, request) in enumerate(zip(keys, requests, strict=True))
            ]
        if missing:
            self.settle()
            known = store.answers(list(dict.fromkeys(keys)))
        self._count([known[key] for key in dict.fromkeys(keys)])
        return [
            self._reply_to(known[key], index, request, refusals=refusals)
            for index, (key, request) in enumerate(zip(keys, requests, strict=True))
        ]

    def _reply_to(
        self, said: Mapping[str, Any], index: int, request: Request, *, refusals: bool = True
    ) -> Reply:
        try:
            return self._read(said, index)
        except RequestFailed as error:
            if not refusals:
                raise error.about(self._shown(request)) from None
            return refused_reply(error)

    def _read(self, said: Mapping[str, Any], index: int) -> Reply:
        """The reply that an answer is; raises `RequestFailed` for a request that is at fault."""
        status, body = said["status"], said["body"]
        if not 200 <= status < 300:
            what = message_of(body if isinstance(body, str) else json.dumps(body))
            raise RequestFailed(
                f"batch: the server refused; got {status} {what.rstrip('.')}.",
                index=index,
                status=status,
                reason="refused",
            )
        try:
            return self._reply(body)
        except (Broken, *UNREADABLE) as error:
            what = str(error) if isinstance(error, Broken) else json.dumps(body)[:80]
            raise RequestFailed(
                f"batch: an answer cannot be used; got {what}.", index=index, reason="bad_answer"
            ) from None

    def _count(self, answers: Sequence[Mapping[str, Any]]) -> None:
        requests, tokens_in, tokens_out = self._state.get("read", (0, 0, 0))
        for said in answers:
            read, written = tokens_of(said["body"])
            requests, tokens_in, tokens_out = requests + 1, tokens_in + read, tokens_out + written
        self._state["read"] = (requests, tokens_in, tokens_out)
