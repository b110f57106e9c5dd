"""An OpenAI-compatible server (vLLM, SGLang, `transformers serve`) as a sampler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from prefmill.errors import BadRow, RequestFailed
from prefmill.models.client import Broken
from prefmill.models.remote import Remote
from prefmill.sampling.samplers import Answer, Prompt, Request
from prefmill.table.conversations import for_server, is_open, messages_of


@dataclass(frozen=True)
class Token:
    """A token of an answer: its text, its log-probability, and those of the likeliest tokens in its
    place.
    """

    text: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer with its tokens; `tokens` is None where the server tells none."""

    answer: Answer
    tokens: tuple[Token, ...] | None


@dataclass(frozen=True, kw_only=True)
class EndpointSampler(Remote):
    """Answers from a server that speaks OpenAI's protocol, one request for each answer, so that
    every answer has its own seed.

    Args:
        url, model, concurrency, timeout, retries, rate_limit, api_key_env: see `Remote`.
        api: `chat` sends messages (a text is one user message); `completions` sends texts as they
            are, to `/v1/completions`.
        top_p, max_new_tokens, stop: as in sampling anywhere; a stop string is cut off, should a
            server leave it on.
        seed_bits: low bits of the seed that are sent; 31 is what every server takes, vLLM takes 63.
        on_refused: a request that the server finds bad: an `error`, or `null`.
        extra: further fields of every request, for example `{"top_k": 40}` or
            `{"chat_template_kwargs": {"enable_thinking": False}}`.

    Log-probabilities are asked for and summed where the server tells one for every token; that they
    are those at temperature 1 is the server's business (vLLM's default). The same seed gives the
    same text only where the server keeps that
    promise: `transformers serve` does for one request
    at a time (`concurrency=1`), since it seeds its whole process, and samples only if the model's
    generation config says `do_sample`.
    The URL is not in the fingerprint: a server may move. What is thought aloud before the answer
    (`reasoning_content`) is left out.

    A request that the server finds bad, or answers with what cannot be used, raises `BadRow`, or
    with `on_refused="null"` has no answer: its finish reason says why (`refused`, `bad_answer`).
    Where the server is at fault `RequestFailed` is raised after all retries.

    >>> EndpointSampler(url="http://localhost:8000/v1", model="org/policy", concurrency=32).fingerprint["api"]
    'chat'
    """

    api: Literal["chat", "completions"] = "chat"
    top_p: float = 1.0
    max_new_tokens: int = 256
    stop: str | Sequence[str] = ()
    seed_bits: int = 31
    on_refused: Literal["error", "null"] = "error"
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        super().__post_init__()

    def _problems(self) -> list[str]:
        said = super()._problems()
        if self.api not in ("chat", "completions"):
            said.append(f"api is not one of ('chat', 'completions'); got {self.api!r}")
        if not isinstance(self.top_p, int | float) or not 0 < self.top_p <= 1:
            said.append(f"top_p must be in (0, 1]; got {self.top_p!r}")
        if type(self.max_new_tokens) is not int or self.max_new_tokens < 1:
            said.append(f"max_new_tokens must be a whole number >= 1; got {self.max_new_tokens!r}")
        if not all(isinstance(each, str) and each for each in self.stop):
            said.append(f"stop must be texts that are not empty; got {self.stop!r}")
        if self.on_refused not in ("error", "null"):
            said.append(f"on_refused is not one of ('error', 'null'); got {self.on_refused!r}")
        if self.seed_bits not in range(1, 65):
            said.append(f"seed_bits must be in 1..64; got {self.seed_bits!r}")
        return said

    @property
    def name(self) -> str:
        """The model's name, as the source of its answers."""
        return self.model

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the answers, as far as the client knows."""
        return {
            "sampler": "endpoint",
            "model": self.model,
            "api": self.api,
            "top_p": repr(float(self.top_p)),
            "max_new_tokens": str(self.max_new_tokens),
            "stop": json.dumps(list(self.stop)),
            "seed_bits": str(self.seed_bits),
            "extra": json.dumps(dict(self.extra), sort_keys=True),
        }

    def sample(self, requests: Sequence[Request], /) -> list[Answer]:
        """One answer for every request, in their order. Raises `BadRow` with the place of the
        request as its row.
        """
        try:
            return [
                reply.answer for reply in self.replies(requests, refusals=self.on_refused == "null")
            ]
        except RequestFailed as error:
            if error.reason is None:
                raise
            raise BadRow(
                "sample", f"has no answer; {error.message}", row=error.index, reason=error.reason
            ) from error

    def replies(
        self, requests: Sequence[Request], /, *, top: int = 0, refusals: bool = False
    ) -> list[Reply]:
        """As `sample`, with the tokens of every answer and the `top` likeliest in each place.

        With `refusals` a request that is itself at fault (400, 413, 422: too long, filtered;
        answers that cannot be used) is an answer whose finish reason says so (`refused`,
        `bad_answer`) and whose text is what the server said.
        """
        jobs = [(self._path, self._body(request, top)) for request in requests]
        refused = _refused if refusals else None
        try:
            return self.client.post_all(jobs, lambda _, said: self._reply(said), refused=refused)
        except RequestFailed as error:
            shown = json.dumps(requests[error.index].prompt, ensure_ascii=False)
            shown = shown if len(shown) <= 100 else f"{shown[:100]}..."
            raise RequestFailed(
                f"{error.message} The prompt was {shown}.",
                hint=error.hint,
                index=error.index,
                status=error.status,
                reason=error.reason,
            ) from None

    @property
    def _path(self) -> str:
        return "chat/completions" if self.api == "chat" else "completions"

    def _body(self, request: Request, top: int) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": self.model,
            "temperature": request.temperature,
            "max_tokens": self.max_new_tokens,
            "seed": request.seed & (2**self.seed_bits - 1),
        }
        if self.api == "chat":
            messages = messages_of(request.prompt, "user")
            body |= {"messages": for_server(messages), "logprobs": True}
            if is_open(
                messages
            ):  # the answer goes on in the last message; names of vLLM and SGLang
                body |= {"add_generation_prompt": False, "continue_final_message": True}
            body |= {"top_logprobs": top} if top else {}
        else:
            body |= {"prompt": _text(request.prompt), "logprobs": top}
        if self.top_p != 1.0:
            body["top_p"] = self.top_p
        if self.stop:
            body["stop"] = list(self.stop)
        return {**body, **self.extra}

    def _reply(self, said: Any) -> Reply:
        choice = said["choices"][0]
        text = choice["message"]["content"] if self.api == "chat" else choice["text"]
        if text is not None and not isinstance(text, str):
            raise Broken(f"a text of type {type(text).__name__}")
        reason = choice["finish_reason"]
        if not isinstance(reason, str):
            raise Broken("no finish_reason")
        text = text or ""
        ends = [at for at in (text.find(each) for each in self.stop) if at >= 0]
        text = text[: min(ends)] if ends else text
        told = choice.get("logprobs")
        number, tokens = (
            (_chat_tokens(told) if self.api == "chat" else _plain_tokens(told))
            if told
            else (None, None)
        )
        usage = said.get("usage")
        counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
        n_tokens = counted if type(counted) is int and counted >= 0 else number
        logprob = sum(token.logprob for token in tokens) if tokens is not None else None
        return Reply(Answer(text, reason, logprob, n_tokens), tokens)


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    raise RequestFailed(
        f"endpoint: messages cannot go to /v1/completions; got {len(prompt)} messages.",
        hint="api='chat' takes them.",
    )


def _chat_tokens(told: Any) -> tuple[int | None, tuple[Token, ...] | None]:
    """How many tokens a chat completion has, and the tokens:
    `{"content": [{token, logprob, top_logprobs}]}`.
    """
    content = told.get("content")
    if not content:
        return None, None
    tops = [{t["token"]: t["logprob"] for t in each.get("top_logprobs") or ()} for each in content]
    return len(content), _tokens(
        [each["token"] for each in content], [each["logprob"] for each in content], tops
    )


def _plain_tokens(told: Any) -> tuple[int | None, tuple[Token, ...] | None]:
    """As `_chat_tokens`, of a plain completion: `{tokens, token_logprobs, top_logprobs}`, three
    lists.
    """
    texts, logprobs = told.get("tokens"), told.get("token_logprobs")
    if not texts or not logprobs:
        return None, None
    return len(texts), _tokens(texts, logprobs, told.get("top_logprobs") or [{}] * len(texts))


def _tokens(
    texts: Sequence[str], logprobs: Sequence[Any], tops: Sequence[Mapping[str, Any] | None]
) -> tuple[Token, ...] | None:
    """Tokens with log-probabilities; None where that of a drawn token is none: their sum would be a
    number all the same.

    An alternative may have probability 0; one whose log-probability cannot be is left out.
    """
    if not all(_is_logprob(value) and math.isfinite(value) for value in logprobs):
        return None
    kept = [
        {text: float(value) for text, value in (top or {}).items() if _is_logprob(value)}
        for top in tops
    ]
    return tuple(
        Token(text, float(value), top)
        for text, value, top in zip(texts, logprobs, kept, strict=True)
    )


def _is_logprob(value: Any) -> bool:
    """Whether `value` can be the logarithm of a probability, but for rounding."""
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and value <= 1e-3
    )  # NaN is not


def _refused(_: int, error: RequestFailed) -> Reply:
    assert error.reason is not None
    return Reply(Answer(error.message, error.reason, None, None), None)
