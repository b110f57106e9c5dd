"""What a sampler is: requests in, answers out, in the order of the requests.

A request is one answer that is wanted. All K of a prompt stand together, so that a sampler may run
their prompt once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from prefmill.models.client import Usage
from prefmill.models.contract import Part, completed

#: a text, or messages with `role` and `content`
Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    """One answer that is wanted.

    seed         decides every draw of this answer: the same request has the same answer on the
                 same backend, whatever runs at the same time
    temperature  0 is greedy
    schema       a JSON schema that the answer is to follow, for samplers that take one
    """

    prompt: Prompt
    temperature: float
    seed: int
    schema: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """What came back.

    text           the completion without its end-of-turn token and without the stop string
    finish_reason  `stop` (the model or a stop string ended it), `length` (cut off), or another
                   word of the server
    logprob        sum over the tokens of log p under the model at temperature 1, natural
                   logarithm; None where a server does not tell it
    n_tokens       tokens of the completion with the end-of-turn token; None as above
    """

    text: str
    finish_reason: str
    logprob: float | None
    n_tokens: int | None


@dataclass(frozen=True)
class Token:
    """A token of an answer, its log-probability, and those of the likeliest in its place."""

    text: str
    logprob: float
    top: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Reply:
    """An answer with its tokens; `tokens` is None where the sampler does not tell them."""

    answer: Answer
    tokens: tuple[Token, ...] | None = None


@runtime_checkable
class Sampler(Part, Protocol):
    """Answers requests.

    What else decides a text (model, top_p, max_new_tokens, stop) is the sampler's own. A sampler
    needs `fingerprint` and `sample`; what else it lacks has the default that stands here.

    >>> class Echo(Sampler):
    ...     fingerprint = {"sampler": "echo"}
    ...     def sample(self, requests):
    ...         return [Answer(request.prompt, "stop", None, None) for request in requests]
    >>> Echo().replies([Request("p", 1.0, 0)])[0].answer.text
    'p'
    """

    @abstractmethod
    def sample(self, requests: Sequence[Request], /) -> list[Answer]:
        """One answer for every request, in their order.

        Raises `BadRow` with the place of the request as its row.
        """

    def replies(
        self, requests: Sequence[Request], /, *, top: int = 0, refusals: bool = False
    ) -> list[Reply]:
        """As `sample`, with the tokens of answers and the `top` likeliest in each place.

        With `refusals`, a request that is itself at fault has an answer whose finish reason says
        so. By default tokens are not told.
        """
        return [Reply(answer) for answer in self.sample(requests)]

    @property
    def name(self) -> str:
        """What a pool calls the source of its answers; without one, the name of the class."""
        return ""

    @property
    def takes_schema(self) -> bool:
        """Whether the schema of a request is heeded, or refused; else it is passed over."""
        return False

    @property
    def usage(self) -> Usage | None:
        """What a server was asked so far; None: there is no server."""
        return None


def as_sampler(sampler: Any) -> Sampler | None:
    """`sampler` with the whole contract; None for what does not sample."""
    if not callable(getattr(sampler, "sample", None)):
        return None
    return completed(sampler, Sampler)  # type: ignore[no-any-return]


def whole_text(text: str | None) -> str | None:
    """`text` as it can be stored: half a surrogate pair is U+FFFD.

    An answer that was cut inside a character may hold one.

    >>> whole_text("ok \\ud83d")
    'ok \ufffd'
    """
    if text is None:
        return None
    # UTF-16 pairs halves that belong together; what stays alone is replaced.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
