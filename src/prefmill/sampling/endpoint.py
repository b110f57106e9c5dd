"""An OpenAI-compatible server (vLLM, SGLang, `transformers serve`) as a sampler."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from prefmill.errors import BadRow, RequestFailed
from prefmill.models.client import Broken
from prefmill.models.contract import OnBadRow
from prefmill.models.described import changed, uncounted, unlike
from prefmill.models.remote import Remote
from prefmill.redact import redacted_key
from prefmill.sampling.samplers import Answer, Prompt, Reply, Request, Sampler, Token
from prefmill.table.conversations import for_server, is_open, messages_of


@dataclass(frozen=True, kw_only=True)
class EndpointSampler(Remote, Sampler):
    """Answers from a server that speaks OpenAI's protocol.

    Every answer is a request of its own, so that it has its own seed.

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

    Log-probabilities are asked for and summed where the server tells one for every token. That
    they are those at temperature 1 is the server's business (vLLM's default). The same seed gives
    the same text only where the server keeps that promise: `transformers serve` does for one
    request at a time (`concurrency=1`), since it seeds its whole process, and samples only if the
    model's generation config says `do_sample`. The URL is not in the fingerprint: a server may
    move. What is thought aloud before the answer (`reasoning_content`) is left out.

    A request that the server finds bad, or answers with what cannot be used, raises `BadRow`, or
    with `on_refused="null"` has no answer: its finish reason says why (`refused`, `bad_answer`).
    Where the server is at fault `RequestFailed` is raised after all retries.

    >>> EndpointSampler(url="http://localhost:8000/v1", model="org/policy").fingerprint["api"]
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
        problems = super()._problems() + unlike(self, api=("chat", "completions"))
        if not isinstance(self.top_p, int | float) or not 0 < self.top_p <= 1:
            problems.append(f"top_p must be in (0, 1]; got {self.top_p!r}")
        problems += uncounted(self, "max_new_tokens")
        if not all(isinstance(text, str) and text for text in self.stop):
            problems.append(f"stop must be texts that are not empty; got {self.stop!r}")
        problems += unlike(self, on_refused=("error", "null"))
        if self.seed_bits not in range(1, 65):
            problems.append(f"seed_bits must be in 1..64; got {self.seed_bits!r}")
        return problems

    @property
    def name(self) -> str:
        """The model's name, as the source of its answers."""
        return self.model

    @property
    def takes_schema(self) -> bool:
        """Servers of OpenAI's protocol have `response_format`; some refuse it."""
        return True

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
            "extra": json.dumps(redacted_key(dict(self.extra)), sort_keys=True),
        }

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """With `null`, requests that the server finds bad have no answer."""
        if on_bad_row == "null":
            return changed(self, on_refused="null")
        return self

    def sample(self, requests: Sequence[Request], /) -> list[Answer]:
        """One answer for every request, in their order."""
        try:
            replies = self.replies(requests, refusals=self.on_refused == "null")
        except RequestFailed as error:
            if error.reason is None:
                raise
            what = f"has no answer; {error.message}"
            raise BadRow("sample", what, row=error.index, reason=error.reason) from error
        return [reply.answer for reply in replies]

    def replies(
        self, requests: Sequence[Request], /, *, top: int = 0, refusals: bool = False
    ) -> list[Reply]:
        """As `sample`, with the tokens of every answer and the `top` likeliest in each place.

        With `refusals` a request that is itself at fault (400, 413, 422: too long, filtered;
        answers that cannot be used) has an answer whose finish reason says so (`refused`,
        `bad_answer`) and whose text is what the server said.
        """
        jobs = [(self._path, self._body(request, top)) for request in requests]
        refused = (lambda _, error: refused_reply(error)) if refusals else None
        try:
            return self.client.post_all(
                jobs, lambda _, answer: self._reply(answer), refused=refused
            )
        except RequestFailed as error:
            raise error.about(self._shown(requests[error.index])) from None

    def _shown(self, request: Request) -> str:
        """The prompt of a request, for an error about it."""
        shown = json.dumps(request.prompt, ensure_ascii=False)
        if len(shown) > 100:
            shown = f"{shown[:100]}..."
        return f"The prompt was {shown}."

    @property
    def _path(self) -> str:
        if self.api == "chat":
            return "chat/completions"
        return "completions"

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
            # The answer goes on in the last message; names of vLLM and SGLang.
            if is_open(messages):
                body |= {"add_generation_prompt": False, "continue_final_message": True}
            if top:
                body["top_logprobs"] = top
        else:
            body |= {"prompt": _text(request.prompt), "logprobs": top}
        if request.schema is not None:
            body["response_format"] = _as_schema(request.schema)
        if self.top_p != 1.0:
            body["top_p"] = self.top_p
        if self.stop:
            body["stop"] = list(self.stop)
        return {**body, **self.extra}

    def _reply(self, answer: Any) -> Reply:
        choice, is_chat = answer["choices"][0], self.api == "chat"
        text = choice["message"]["content"] if is_chat else choice["text"]
        if text is not None and not isinstance(text, str):
            raise Broken(f"a text of type {type(text).__name__}")
        reason = choice["finish_reason"]
        if not isinstance(reason, str):
            raise Broken("no finish_reason")
        text = text or ""
        ends = [at for at in (text.find(stop) for stop in self.stop) if at >= 0]
        text = text[: min(ends, default=None)]
        number, tokens = None, None
        logprobs = choice.get("logprobs")
        if logprobs:
            number, tokens = (_chat_tokens if is_chat else _plain_tokens)(logprobs)
        usage = answer.get("usage")
        counted = usage.get("completion_tokens") if isinstance(usage, dict) else None
        if type(counted) is int and counted >= 0:
            number = counted
        logprob = None
        if tokens is not None:
            logprob = sum(token.logprob for token in tokens)
        return Reply(Answer(text, reason, logprob, number), tokens)


def _as_schema(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A schema in the form of OpenAI, which vLLM and SGLang take too."""
    named = {"name": "answer", "schema": dict(schema), "strict": True}
    return {"type": "json_schema", "json_schema": named}


def _text(prompt: Prompt) -> str:
    if isinstance(prompt, str):
        return prompt
    raise RequestFailed(
        f"endpoint: messages cannot go to /v1/completions; got {len(prompt)} messages.",
        hint="api='chat' takes them.",
    )


def _chat_tokens(logprobs: Any) -> tuple[int | None, tuple[Token, ...] | None]:
    """How many tokens a chat completion has, and the tokens.

    They come as `{"content": [{token, logprob, top_logprobs}]}`.
    """
    content = logprobs.get("content")
    if not content:
        return None, None
    tops = []
    for each in content:
        top = each.get("top_logprobs") or ()
        tops.append({other["token"]: other["logprob"] for other in top})
    texts = [each["token"] for each in content]
    return len(content), _tokens(texts, [each["logprob"] for each in content], tops)


def _plain_tokens(logprobs: Any) -> tuple[int | None, tuple[Token, ...] | None]:
    """As `_chat_tokens`, of a plain completion.

    Its tokens come as three lists, `{tokens, token_logprobs, top_logprobs}`.
    """
    texts, values = logprobs.get("tokens"), logprobs.get("token_logprobs")
    if not texts or not values:
        return None, None
    tops = logprobs.get("top_logprobs") or [{}] * len(texts)
    return len(texts), _tokens(texts, values, tops)


def _tokens(
    texts: Sequence[str], logprobs: Sequence[Any], tops: Sequence[Mapping[str, Any] | None]
) -> tuple[Token, ...] | None:
    """Tokens with log-probabilities; None where that of a drawn token cannot be one.

    Their sum would be a number all the same. An alternative may have probability 0; one whose
    log-probability cannot be is left out.
    """
    if not all(_is_logprob(value) and math.isfinite(value) for value in logprobs):
        return None
    tokens = []
    for text, value, top in zip(texts, logprobs, tops, strict=True):
        likely = {other: float(p) for other, p in (top or {}).items() if _is_logprob(p)}
        tokens.append(Token(text, float(value), likely))
    return tuple(tokens)


def _is_logprob(value: Any) -> bool:
    """Whether `value` can be the logarithm of a probability, but for rounding; NaN cannot."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value <= 1e-3


def refused_reply(error: RequestFailed) -> Reply:
    """What stands for the answer to a request that is at fault: the server's words."""
    assert error.reason is not None
    return Reply(Answer(error.message, error.reason, None, None))
