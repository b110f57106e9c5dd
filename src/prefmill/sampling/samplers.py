"""What a sampler is: requests in, answers out, in the order of the requests.

A request is one answer that is wanted: all K of a prompt stand together, so that a sampler may run
their prompt once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

#: a text, or messages with `role` and `content`
Prompt = str | list[dict[str, str]]


@dataclass(frozen=True)
class Request:
    """One answer that is wanted.

    seed         decides every draw of this answer: the same request has the same answer on the same
    backend, whatever runs beside it temperature  0 is greedy
    """

    prompt: Prompt
    temperature: float
    seed: int


@dataclass(frozen=True)
class Answer:
    """What came back.

    text           the completion without its end-of-turn token and without the stop string
    finish_reason  `stop` (the model or a stop string ended it), `length` (cut off), or another word
    of the server logprob        sum over the tokens of log p under the model at temperature 1,
    natural logarithm; None where a server tells none n_tokens       tokens of the completion, the
    end-of-turn token among them; None where a server tells none
    """

    text: str
    finish_reason: str
    logprob: float | None
    n_tokens: int | None


def whole_text(text: str | None) -> str | None:
    """`text` as it can be stored: half a surrogate pair, which an answer cut inside a character may
    hold, is U+FFFD.

    >>> whole_text("ok \\ud83d")
    'ok \ufffd'
    """
    return (
        None if text is None else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


@runtime_checkable
class Sampler(Protocol):
    """Answers requests; what decides a text beside the request (model, top_p, max_new_tokens, stop)
    is the sampler's own.
    """

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the answers, by name: a resumed run with another value is refused, and the
        name is told.
        """
        ...

    def sample(self, requests: Sequence[Request], /) -> list[Answer]:
        """One answer for every request, in their order."""
        ...
