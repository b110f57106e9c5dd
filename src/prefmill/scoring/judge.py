"""A language model as a judge: `JudgeScorer` rates completions, or compares those of a prompt with
one another.

Sources: Lee et al. 2023, "RLAIF" (arXiv 2309.00267): ratings as expectations over tokens, both
orders against position bias; Tunstall et al. 2023, "Zephyr", and Cui et al. 2023, "UltraFeedback":
ratings as feedback for DPO; Zheng et al. 2023, "Judging LLM-as-a-Judge" (arXiv 2306.05685): a tie
where the two orders disagree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from prefmill.errors import BAD_ROW, BadArgument, BadRow, RequestFailed, refuse
from prefmill.sampling.endpoint import Reply
from prefmill.sampling.samplers import Request
from prefmill.scoring.rubrics import (
    SCALE,
    Mode,
    expected_rating,
    filled,
    parse_rating,
    parse_verdict,
    rubric_of,
)
from prefmill.scoring.scorers import Floats, Scored
from prefmill.table.conversations import row_texts

Schedule = Literal["all", "baseline"]
#: finish reasons of requests without an answer: a server's refusal, a prompt that a local model
#: does not take
_UNANSWERED = frozenset(BAD_ROW)
#: finish reasons of answers that would have gone on
_INCOMPLETE = ("length", "content_filter")
#: how answers are read (`rubrics.py`): another number is another score
_PARSER = "2"


@dataclass(frozen=True)
class Questions:
    """What is asked about a batch.

    rows      of the batch
    requests  each asked once
    about     rating: for each row, its request; pairwise: unused
    groups    pairwise: the candidates of each prompt
    """

    rows: int
    requests: list[Request]
    asked_by: list[
        int
    ]  #: for each request, the row of the batch that it is about (pairwise: the one shown first)
    about: list[int]
    groups: list[Candidates]

    def rows_of(self, request: int) -> list[int]:
        """The rows of the batch that a request is about."""
        return [row for row, its in enumerate(self.about) if its == request] or [
            self.asked_by[request]
        ]


#: first candidate, second candidate, the requests in both orders
Match = tuple[int, int, int, int]


@dataclass(frozen=True)
class Candidates:
    """The candidates of one prompt: for each distinct text the rows that have it, and the matches
    (first, second, request, request).
    """

    rows: list[list[int]]
    matches: list[Match]


@dataclass(frozen=True, kw_only=True)
class JudgeScorer:
    """A judge's score for every row: AI feedback.

    Args:
        sampler: what answers: an `EndpointSampler`, a `LocalSampler`, or any other `Sampler`; asked
            at temperature 0.
        mode: `rating`: a number for each row. `pairwise`: the candidates of a prompt against one
            another.
        rubric: what is asked, a text or a file, with the places {prompt} and {completion}, or for
            pairwise {prompt}, {a} and {b}.
        scale: rating: the lowest and the highest number that the rubric allows; fractions between
            them count too.
        schedule: pairwise: `all` pairs, or each candidate against the prompt's first one
            (`baseline`).
        max_pairs: most pairs of a prompt; taken in rounds in which every candidate meets another,
            so that all meet about equally often.
        top_logprobs: how many alternatives of a token are asked for (rating, where the server tells
            them).
        ten_is_one_token: the judge's tokenizer has "10" as one token; else "1" may be the begin of
            it (`rubrics.expected_rating`).
        on_refused: a request that the server finds bad (too long, filtered), or answers with what
            cannot be used: an `error` that names the row, or `null`, with a reason.
        price_in, price_out: of a million tokens, for the cost in the report; they decide no score.

    Columns of `rating`: `score`, the expected rating over the probabilities of the rating's token
    where the server tells them, else the number said; `rating`, the number said. Of `pairwise`:
    `score`, the mean of wins (a tie is half) over the distinct other completions that it met;
    `comparisons`, how many. A comparison is asked in both orders, and is a tie where they disagree.
    Texts: `verdict`, what the judge said, word for word (pairwise: JSON, one object for each
    comparison), and `reason`, why a row has no score (`errors.BAD_ROW`): unparseable,
    contradictory, cut_off, refused and the like. Such a row is null, never a number. Equal
    completions of a prompt are asked about once and have one score.

    >>> from prefmill.sampling import Answer
    >>> class Short:  # a judge that likes short answers
    ...     fingerprint = {"sampler": "short"}
    ...     def sample(self, requests):
    ...         return [Answer("9" if len(r.prompt[0]["content"]) < 12 else "2", "stop", None, 1) for r in requests]
    >>> judge = JudgeScorer(sampler=Short(), rubric="{prompt}: {completion}")
    >>> scored = judge.run(judge.prepare(pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "quite a long one"]})))
    >>> scored.columns["score"].tolist(), scored.texts["verdict"]
    ([9.0, 2.0], ['9', '2'])
    """

    sampler: Any
    mode: Mode = "rating"
    rubric: str | Path | None = None
    scale: tuple[float, float] = SCALE
    schedule: Schedule = "all"
    max_pairs: int | None = None
    top_logprobs: int = 20
    ten_is_one_token: bool = False
    on_refused: Literal["error", "null"] = "error"
    price_in: float | None = None
    price_out: float | None = None

    def __post_init__(self) -> None:
        said = []
        if not callable(getattr(self.sampler, "sample", None)):
            said.append(f"sampler must be a Sampler; got {type(self.sampler).__name__}")
        for name, allowed in (
            ("mode", ("rating", "pairwise")),
            ("schedule", ("all", "baseline")),
            ("on_refused", ("error", "null")),
        ):
            if getattr(self, name) not in allowed:
                said.append(f"{name} is not one of {allowed}; got {getattr(self, name)!r}")
        if self.max_pairs is not None and (type(self.max_pairs) is not int or self.max_pairs < 1):
            said.append(f"max_pairs must be a whole number >= 1 or None; got {self.max_pairs!r}")
        scale = self.scale if isinstance(self.scale, list | tuple) else ()
        numbers = [
            float(n)
            for n in scale
            if isinstance(n, int | float) and not isinstance(n, bool) and np.isfinite(n)
        ]
        if len(scale) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1]:
            said.append(
                f"scale must be two numbers, the lower one first and not below 0; got {self.scale!r}"
            )
        elif self.mode == "rating" and self.rubric is None and tuple(numbers) != SCALE:
            said.append(
                f"the default rubric asks for 1 to 10; got scale {self.scale!r}: give a rubric that asks for it"
            )
        else:
            object.__setattr__(self, "scale", (numbers[0], numbers[1]))
        if self.mode == "rating" and (self.max_pairs is not None or self.schedule != "all"):
            said.append("schedule and max_pairs are for mode 'pairwise'; got mode 'rating'")
        if type(self.top_logprobs) is not int or self.top_logprobs < 0:
            said.append(f"top_logprobs must be a whole number >= 0; got {self.top_logprobs!r}")
        for name in ("price_in", "price_out"):
            price = getattr(self, name)
            if price is not None and not (isinstance(price, int | float) and 0 <= price < np.inf):
                said.append(f"{name} must be a number >= 0 or None; got {price!r}")
        if said:
            raise BadArgument("\n".join(f"JudgeScorer: {each}" for each in said))
        object.__setattr__(self, "rubric", rubric_of(self.rubric, self.mode))

    @property
    def columns(self) -> tuple[str, ...]:
        """score, and rating or comparisons."""
        return ("score", "rating") if self.mode == "rating" else ("score", "comparisons")

    @property
    def compares(self) -> bool:
        """Whether a row's score hangs on the other rows of its prompt: then no prompt may be
        cut.
        """
        return self.mode == "pairwise"

    @property
    def texts(self) -> tuple[str, ...]:
        """What the judge said, and why a row has no score."""
        return ("verdict", "reason")

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The rubric, how it is read, and what decides the sampler's answers."""
        own = {
            "scorer": "judge",
            "mode": self.mode,
            "rubric": hashlib.sha256(str(self.rubric).encode()).hexdigest()[:16],
            "schedule": self.schedule,
            "max_pairs": str(self.max_pairs),
            "top_logprobs": str(self.top_logprobs),
            "ten_is_one_token": str(self.ten_is_one_token),
            "on_refused": self.on_refused,
            "scale": repr(self.scale),
            "parser": _PARSER,
        }
        return {
            **own,
            **{f"sampler.{name}": value for name, value in self.sampler.fingerprint.items()},
        }

    @property
    def shape(self) -> dict[str, Any]:
        """That of the sampler."""
        return dict(getattr(self.sampler, "shape", {}))

    def with_shape(self, shape: Mapping[str, Any]) -> JudgeScorer:
        """The same judge, its sampler with another shape."""
        return replace(self, sampler=self.sampler.with_shape(shape))

    def cost(self, counts: Mapping[str, int]) -> float | None:
        """What the tokens of `counts` cost, where a price is known."""
        if self.price_in is None and self.price_out is None:
            return None
        tokens = counts.get("tokens_in", 0) * (self.price_in or 0.0) + counts.get(
            "tokens_out", 0
        ) * (self.price_out or 0.0)
        return round(tokens / 1e6, 6)

    # -- asking
    # -------------------------------------------------------------------------------------------------------------------------

    def prepare(self, batch: pa.RecordBatch) -> Questions:
        """What has to be asked about a batch."""
        prompts, completions = row_texts(
            "judge", batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        )
        return (
            self._ratings(prompts, completions)
            if self.mode == "rating"
            else self._pairs(batch, prompts, completions)
        )

    def _request(self, **values: str) -> Request:
        return Request(
            [{"role": "user", "content": filled(str(self.rubric), values)}], temperature=0.0, seed=0
        )

    def _ratings(self, prompts: list[str], completions: list[str]) -> Questions:
        known: dict[tuple[str, str], int] = {}
        requests: list[Request] = []
        asked_by: list[int] = []
        about = []
        for row, both in enumerate(zip(prompts, completions, strict=True)):
            if both not in known:
                known[both] = len(requests)
                requests.append(self._request(prompt=both[0], completion=both[1]))
                asked_by.append(row)
            about.append(known[both])
        return Questions(len(prompts), requests, asked_by, about, [])

    def _pairs(
        self, batch: pa.RecordBatch, prompts: list[str], completions: list[str]
    ) -> Questions:
        keys = batch["group"].to_pylist() if "group" in batch.schema.names else prompts
        members: dict[Any, dict[str, list[int]]] = {}
        for row, key in enumerate(keys):
            members.setdefault(key, {}).setdefault(completions[row], []).append(row)
        requests: list[Request] = []
        asked_by: list[int] = []
        groups = []
        for texts in members.values():
            said, rows = list(texts), list(texts.values())
            matches = []
            for first, second in pairs_of(len(said), self.schedule, self.max_pairs):
                matches.append((first, second, len(requests), len(requests) + 1))
                for a, b in ((first, second), (second, first)):
                    requests.append(self._request(prompt=prompts[rows[0][0]], a=said[a], b=said[b]))
                    asked_by.append(rows[a][0])
            groups.append(Candidates(rows, matches))
        return Questions(len(prompts), requests, asked_by, [], groups)

    def run(self, prepared: Questions) -> Scored:
        """Ask, and read the answers."""
        replies, counts = self._ask(prepared)
        found = (
            self._rated(prepared, replies)
            if self.mode == "rating"
            else self._compared(prepared, replies)
        )
        score, other, verdicts, reasons = found
        null = np.array([reason is not None for reason in reasons], bool)
        columns = dict(zip(self.columns, (score, other), strict=True))
        return Scored(
            columns,
            null if null.any() else None,
            counts,
            {"verdict": verdicts, "reason": reasons},
            reasons,
        )

    def _ask(self, asked: Questions) -> tuple[list[Reply], dict[str, int]]:
        """The reply to every request, and what it took."""
        if not hasattr(self.sampler, "replies"):
            try:
                answers = self.sampler.sample(asked.requests)
            except BadRow as error:  # about a request, and so about every row that it is about
                refuse(
                    [
                        bad.at(row, where="judge")
                        for bad in error.found
                        for row in asked.rows_of(bad.row)
                    ]
                )
                raise
            counts = {
                "requests": len(answers),
                "tokens_out": sum(answer.n_tokens or 0 for answer in answers),
            }
            return [Reply(answer, None) for answer in answers], counts
        before = self.sampler.usage
        top = self.top_logprobs if self.mode == "rating" else 0
        try:
            replies = self.sampler.replies(
                asked.requests, top=top, refusals=self.on_refused == "null"
            )
        except RequestFailed as error:
            if error.reason is None:
                raise
            what = f"cannot be judged; {error.message}"
            raise BadRow(
                "judge", what, row=asked.asked_by[error.index], reason=error.reason
            ) from error
        return replies, self.sampler.usage.since(before)

    # -- reading
    # ------------------------------------------------------------------------------------------------------------------------

    def _rated(
        self, asked: Questions, replies: list[Reply]
    ) -> tuple[Floats, Floats, list[str | None], list[str | None]]:
        read = [self._rating(reply) for reply in replies]
        mine = [read[request] for request in asked.about]
        score, rating = (
            np.array([0.0 if one is None else one for one in column], float)
            for column in _columns(mine, 2)
        )
        return (
            score,
            rating,
            [replies[request].answer.text for request in asked.about],
            [reason for _, _, reason in mine],
        )

    def _rating(self, reply: Reply) -> tuple[float | None, float | None, str | None]:
        """Score, number said, reason for neither."""
        answer = reply.answer
        if answer.finish_reason in _UNANSWERED:
            return None, None, answer.finish_reason
        parsed = parse_rating(
            answer.text, cut_off=answer.finish_reason in _INCOMPLETE, scale=self.scale
        )
        if isinstance(parsed, str):
            return None, None, parsed
        number, tokens = parsed[0], reply.tokens or ()
        from_tokens = parse_rating("".join(token.text for token in tokens), scale=self.scale)
        if isinstance(from_tokens, str) or from_tokens[0] != number:
            return number, number, None
        expected = expected_rating(tokens, self.ten_is_one_token, self.scale)
        return number if expected is None else expected, number, None

    def _compared(
        self, asked: Questions, replies: list[Reply]
    ) -> tuple[Floats, Floats, list[str | None], list[str | None]]:
        score, met = np.zeros(asked.rows), np.zeros(asked.rows)
        verdicts: list[str | None] = [None] * asked.rows
        reasons: list[str | None] = [None] * asked.rows
        for group in asked.groups:
            places = {
                row: place
                for place, row in enumerate(sorted(row for rows in group.rows for row in rows))
            }
            of_candidate: list[list[Match]] = [[] for _ in group.rows]
            for match in group.matches:
                of_candidate[match[0]].append(match)
                of_candidate[match[1]].append(match)
            for number, rows in enumerate(group.rows):
                wins, void, told = self._matches(
                    group, number, of_candidate[number], places, replies
                )
                reason = (
                    None
                    if wins
                    else void or ("single_candidate" if len(group.rows) == 1 else "not_compared")
                )
                for row in rows:
                    score[row], met[row] = (
                        (sum(wins) / len(wins), len(wins)) if wins else (0.0, 0.0)
                    )
                    verdicts[row], reasons[row] = (
                        json.dumps(told, ensure_ascii=False) if told else None,
                        reason,
                    )
        return score, met, verdicts, reasons

    def _matches(
        self,
        group: Candidates,
        number: int,
        matches: Sequence[Match],
        places: Mapping[int, int],
        replies: list[Reply],
    ) -> tuple[list[float], str | None, list[dict[str, Any]]]:
        """What one candidate won in its matches, why the first that does not count does not, and
        what was said in all of them.
        """
        wins, void, told = [], None, []
        for first, second, one, two in matches:
            other = second if number == first else first
            shown_first, shown_second = (one, two) if number == first else (two, one)
            as_a, as_b = self._verdict(replies[shown_first]), self._verdict(replies[shown_second])
            bad = next((said for said in (as_a, as_b) if said not in ("A", "B", "C")), None)
            won = (
                None
                if bad
                else 1.0
                if (as_a, as_b) == ("A", "B")
                else 0.0
                if (as_a, as_b) == ("B", "A")
                else 0.5
            )
            if won is None:
                void = void or bad
            else:
                wins.append(won)
            told.append(
                {
                    "against": places[group.rows[other][0]],
                    "as_a": replies[shown_first].answer.text,
                    "as_b": replies[shown_second].answer.text,
                    "win": won,
                }
            )
        return wins, void, told

    def _verdict(self, reply: Reply) -> str:
        if reply.answer.finish_reason in _UNANSWERED:
            return reply.answer.finish_reason
        return parse_verdict(reply.answer.text, cut_off=reply.answer.finish_reason in _INCOMPLETE)

    def __call__(self, batch: pa.RecordBatch) -> Floats:
        """The score of each row, NaN where it has none."""
        scored = self.run(self.prepare(batch))
        return (
            scored.columns["score"]
            if scored.null is None
            else np.where(scored.null, np.nan, scored.columns["score"])
        )


def pairs_of(candidates: int, schedule: Schedule, most: int | None = None) -> list[tuple[int, int]]:
    """The pairs of candidates that meet, the lower number first: all, round by round, or each with
    number 0; at most `most`.

    In a round every candidate meets one other (one rests where their number is odd), so that after
    `most` pairs all have met about equally
    many: the circle method of tournaments.

    >>> pairs_of(4, "all"), pairs_of(4, "all", 2), pairs_of(4, "baseline")
    ([(0, 3), (1, 2), (0, 2), (1, 3), (0, 1), (2, 3)], [(0, 3), (1, 2)], [(0, 1), (0, 2), (0, 3)])
    """
    pairs = (
        ((0, other) for other in range(1, candidates))
        if schedule == "baseline"
        else _rounds(candidates)
    )
    return list(islice(pairs, most))


def _rounds(candidates: int) -> Iterator[tuple[int, int]]:
    seats = list(range(candidates + candidates % 2))
    half = len(seats) // 2
    for _ in range(len(seats) - 1):
        for a, b in zip(seats[:half], reversed(seats[half:]), strict=True):
            if max(a, b) < candidates:
                yield min(a, b), max(a, b)
        seats = [seats[0], seats[-1], *seats[1:-1]]


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> list[list[Any]]:
    return [[row[i] for row in rows] for i in range(count)]
