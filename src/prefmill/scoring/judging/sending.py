"""How a judge's questions reach its sampler, and what is done where that refuses them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from prefmill.errors import BadRow, RequestFailed, refuse
from prefmill.sampling.samplers import Reply, Request
from prefmill.scoring.judging.questions import Questions
from prefmill.scoring.judging.readings import UNANSWERED

Structured = Literal["off", "auto", "on"]


@dataclass(frozen=True)
class Sending:
    """How requests are sent.

    sampler     answers them
    top         how many alternatives of a token are asked for
    skips       a refusal is a reply; else it is an error that names the row
    structured  `auto`: a request whose schema is refused is sent again without it
    refused     schemas that were refused, as texts; what is found to be refused is added
    """

    sampler: Any
    top: int
    skips: bool
    structured: Structured
    refused: set[str]

    def ask(self, asked: Questions) -> tuple[list[Reply], dict[str, int]]:
        """The reply to every request, and what it took."""
        before = self.sampler.usage
        replies, without_schema = self._replies(asked)
        if before is not None:
            counts = self.sampler.usage.since(before)
        else:
            tokens = sum(reply.answer.n_tokens or 0 for reply in replies)
            counts = {"requests": len(replies) + without_schema, "tokens_out": tokens}
        if without_schema:
            counts["retry:schema"] = without_schema
            counts["retries"] = counts.get("retries", 0) + without_schema
        return replies, counts

    def _replies(self, asked: Questions) -> tuple[list[Reply], int]:
        """The replies, and how many were asked for again because the schema was refused."""
        requests = asked.requests
        if self.structured != "auto" or not self.sampler.takes_schema:
            return self._sent(asked, range(len(requests)), requests), 0
        first = [i for i, each in enumerate(requests) if repr(each.schema) not in self.refused]
        of_first = self._sent(asked, first, [requests[i] for i in first], skip=True)
        replies = dict(zip(first, of_first, strict=True))
        # Without a schema it fails as every other request does, and is told or left out.
        again = [i for i in range(len(requests)) if i not in replies or _failed(replies[i])]
        plain = [replace(requests[i], schema=None) for i in again]
        for i, reply in zip(again, self._sent(asked, again, plain), strict=True):
            was_refused = i in replies and replies[i].answer.finish_reason == "refused"
            if was_refused and not _failed(reply):
                self.refused.add(repr(requests[i].schema))
            replies[i] = reply
        return [replies[i] for i in range(len(requests))], len(set(again) & set(first))

    def _sent(
        self,
        asked: Questions,
        places: Sequence[int],
        requests: Sequence[Request],
        *,
        skip: bool = False,
    ) -> list[Reply]:
        """Replies to `requests`, which stand at `places` of what is asked.

        With `skip`, and where refused rows are null, a refusal is a reply.
        """
        skips = skip or self.skips
        replies: list[Reply]
        try:
            replies = self.sampler.replies(requests, top=self.top, refusals=skips)
        except BadRow as error:  # about a request, and so about every row that it is about
            bad = []
            for each in error.found:
                rows = asked.rows_of(places[each.row])
                bad += [each.at(row, where="judge") for row in rows]
            refuse(bad)
            raise
        except RequestFailed as error:
            if error.reason is None:
                raise
            what, row = f"cannot be judged; {error.message}", asked.asked_by[places[error.index]]
            hint = None
            if self.structured == "on":
                hint = "structured='auto' (--structured auto) asks again without a schema."
            raise BadRow("judge", what, row=row, reason=error.reason, hint=hint) from error
        return replies


def _failed(reply: Reply) -> bool:
    """Whether a request itself was at fault."""
    return reply.answer.finish_reason in UNANSWERED
