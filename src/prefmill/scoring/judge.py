"""A language model as a judge: `JudgeScorer` rates completions, or compares those of a prompt.

Sources: Lee et al. 2023, "RLAIF" (arXiv 2309.00267): ratings as expectations over tokens, both
orders against position bias; Tunstall et al. 2023, "Zephyr", and Cui et al. 2023, "UltraFeedback":
ratings as feedback for DPO; Zheng et al. 2023, "Judging LLM-as-a-Judge" (arXiv 2306.05685): a tie
where the two orders disagree.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from prefmill.errors import BAD_ROW, BadArgument, BadRow, RequestFailed, refuse
from prefmill.models.contract import OnBadRow
from prefmill.models.described import Described, changed, uncounted, unlike
from prefmill.sampling.kinds import sampler_from
from prefmill.sampling.samplers import Reply, Request, as_sampler
from prefmill.scoring.rubrics import (
    SCALE,
    Mode,
    expected_rating,
    filled,
    parse_rating,
    parse_verdict,
    rubric_of,
)
from prefmill.scoring.scorers import Floats, Scored, Staged
from prefmill.table.conversations import row_texts

Schedule = Literal["all", "baseline"]
#: finish reasons of requests without an answer: a server's refusal, a prompt that a local model
#: does not take
_UNANSWERED = frozenset(BAD_ROW)
#: finish reasons of answers that would have gone on
_INCOMPLETE = ("length", "content_filter")
#: how answers are read (`rubrics.py`): another number is another score
_PARSER = "2"
#: what a candidate wins by the verdicts as A and as B; all others are a tie
_WINS = {"AB": 1.0, "BA": 0.0}
#: a judge's options that are its sampler's: of a server, and of a model in this process
_OF_SERVER = ("url", "concurrency", "rate_limit", "retries", "timeout", "api_key_env", "extra")
_OF_LOCAL = ("device", "dtype", "template_date")


@dataclass(frozen=True)
class Questions:
    """What is asked about a batch.

    rows      of the batch
    requests  each asked once
    asked_by  for each request, the row that it is about (pairwise: the one shown first)
    about     rating: for each row, its request; pairwise: unused
    groups    pairwise: the candidates of each prompt
    """

    rows: int
    requests: list[Request]
    asked_by: list[int]
    about: list[int]
    groups: list[Candidates]

    def rows_of(self, request: int) -> list[int]:
        """The rows of the batch that a request is about."""
        rows = [row for row, its in enumerate(self.about) if its == request]
        return rows or [self.asked_by[request]]


#: first candidate, second candidate, the requests in both orders
Match = tuple[int, int, int, int]
#: score, further number, verdict and reason of every row
Read = tuple[Floats, Floats, list[str | None], list[str | None]]


@dataclass(frozen=True)
class Candidates:
    """The candidates of one prompt: the rows of each distinct text, and the matches."""

    rows: list[list[int]]
    matches: list[Match]

    def places(self) -> list[int]:
        """For each candidate, the place of its first row among the rows of the prompt."""
        rows = sorted(chain.from_iterable(self.rows))
        place = {row: number for number, row in enumerate(rows)}
        return [place[of_text[0]] for of_text in self.rows]

    def matches_of(self) -> list[list[Match]]:
        """For each candidate, the matches that it is in."""
        matches: list[list[Match]] = [[] for _ in self.rows]
        for match in self.matches:
            matches[match[0]].append(match)
            matches[match[1]].append(match)
        return matches


@dataclass(frozen=True, kw_only=True)
class JudgeScorer(Described, Staged):
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
    ...         texts = [request.prompt[0]["content"] for request in requests]
    ...         return [Answer("9" if len(t) < 12 else "2", "stop", None, 1) for t in texts]
    >>> judge = JudgeScorer(sampler=Short(), rubric="{prompt}: {completion}")
    >>> judge(pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "quite a long one"]}))
    array([9., 2.])
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

    #: what an option of the command line may say to the sampler
    options_of_parts: ClassVar[tuple[str, ...]] = (*_OF_SERVER, *_OF_LOCAL, "max_new_tokens")

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """A judge over the sampler that the same options describe: a server's with a `url`."""
        is_remote = "url" in options
        for name in _OF_LOCAL if is_remote else _OF_SERVER:
            if name not in options:
                continue
            flag = f"--{name.replace('_', '-')}"
            if is_remote:
                raise BadArgument(f"{flag} has no meaning with --url: the server has its own.")
            raise BadArgument(f"{flag} needs a server.", hint="--url http://HOST:PORT/v1")
        names = {f.name for f in fields(cls)}
        own = {name: value for name, value in options.items() if name in names}
        sampler = {name: value for name, value in options.items() if name not in names}
        if not is_remote:
            sampler["on_too_long"] = own.get("on_refused", "error")
            sampler["device"] = options.get("device", ["auto"])[0]
        return cls(sampler=sampler_from({"model": model, **sampler}), **own)

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.scale
        object.__setattr__(self, "scale", (float(low), float(high)))
        object.__setattr__(self, "rubric", rubric_of(self.rubric, self.mode))
        object.__setattr__(self, "sampler", as_sampler(self.sampler))

    def _problems(self) -> list[str]:
        problems = []
        if as_sampler(self.sampler) is None:
            problems.append(f"sampler must be a Sampler; got {type(self.sampler).__name__}")
        problems += unlike(self, mode=("rating", "pairwise"), schedule=("all", "baseline"))
        problems += unlike(self, on_refused=("error", "null"))
        if self.max_pairs is not None:
            problems += uncounted(self, "max_pairs", suffix=" or None")
        problems += self._problems_of_scale()
        is_pairwise = self.max_pairs is not None or self.schedule != "all"
        if self.mode == "rating" and is_pairwise:
            problems.append("schedule and max_pairs are for mode 'pairwise'; got mode 'rating'")
        problems += uncounted(self, "top_logprobs", least=0)
        for name, price in (("price_in", self.price_in), ("price_out", self.price_out)):
            if price is None or (isinstance(price, int | float) and 0 <= price < np.inf):
                continue
            problems.append(f"{name} must be a number >= 0 or None; got {price!r}")
        return problems

    def _problems_of_scale(self) -> list[str]:
        scale = self.scale if isinstance(self.scale, list | tuple) else ()
        numbers = [n for n in scale if isinstance(n, int | float) and not isinstance(n, bool)]
        if len(scale) != 2 or len(numbers) != 2 or not 0 <= numbers[0] < numbers[1] < np.inf:
            return [
                "scale must be two numbers, the lower one first and not below 0;"
                f" got {self.scale!r}"
            ]
        if self.mode == "rating" and self.rubric is None and tuple(numbers) != SCALE:
            return [
                f"the default rubric asks for 1 to 10; got scale {self.scale!r}:"
                " give a rubric that asks for it"
            ]
        return []

    # What a run asks

    @property
    def columns(self) -> tuple[str, ...]:
        """score, and rating or comparisons."""
        return ("score", "rating" if self.mode == "rating" else "comparisons")

    @property
    def compares(self) -> bool:
        """A comparing judge does."""
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
        sampler = self.sampler.fingerprint
        return own | {f"sampler.{name}": value for name, value in sampler.items()}

    @property
    def shape(self) -> Mapping[str, Any]:
        """That of the sampler."""
        return self.sampler.shape  # type: ignore[no-any-return]

    def with_shape(self, shape: Mapping[str, Any]) -> Self:
        """The same judge, its sampler with another shape."""
        return changed(self, sampler=self.sampler.with_shape(shape))

    @property
    def printed_date(self) -> str | None:
        """That of the sampler."""
        return self.sampler.printed_date  # type: ignore[no-any-return]

    def on_date(self, date: str) -> Self:
        """The same judge, its sampler on that date."""
        return changed(self, sampler=self.sampler.on_date(date))

    def on_device(self, device: str) -> Self:
        """The same judge, its sampler on that device."""
        return changed(self, sampler=self.sampler.on_device(device))

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """With `null`, rows whose requests cannot be answered have no score."""
        if on_bad_row == "error":
            return self
        return changed(self, on_refused="null", sampler=self.sampler.with_bad_rows(on_bad_row))

    def cost(self, counts: Mapping[str, int]) -> float | None:
        """What the tokens of `counts` cost, where a price is known."""
        if self.price_in is None and self.price_out is None:
            return None
        read = counts.get("tokens_in", 0) * (self.price_in or 0.0)
        written = counts.get("tokens_out", 0) * (self.price_out or 0.0)
        return round((read + written) / 1e6, 6)

    # Asking

    def prepare(self, batch: pa.RecordBatch) -> Questions:
        """What has to be asked about a batch."""
        prompts, completions = row_texts(
            "judge", batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        )
        if self.mode == "rating":
            return self._ratings(prompts, completions)
        return self._pairs(batch, prompts, completions)

    def _request(self, **values: str) -> Request:
        question = {"role": "user", "content": filled(str(self.rubric), values)}
        return Request([question], temperature=0.0, seed=0)

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
        for rows_of_text in members.values():
            texts, rows = list(rows_of_text), list(rows_of_text.values())
            prompt = prompts[rows[0][0]]
            matches = []
            for first, second in pairs_of(len(texts), self.schedule, self.max_pairs):
                matches.append((first, second, len(requests), len(requests) + 1))
                for a, b in ((first, second), (second, first)):
                    requests.append(self._request(prompt=prompt, a=texts[a], b=texts[b]))
                    asked_by.append(rows[a][0])
            groups.append(Candidates(rows, matches))
        return Questions(len(prompts), requests, asked_by, [], groups)

    def run(self, prepared: Questions) -> Scored:
        """Ask, and read the answers."""
        replies, counts = self._ask(prepared)
        read = self._rated if self.mode == "rating" else self._compared
        score, other, verdicts, reasons = read(prepared, replies)
        null = np.array([reason is not None for reason in reasons], bool)
        columns = dict(zip(self.columns, (score, other), strict=True))
        texts = {"verdict": verdicts, "reason": reasons}
        return Scored(columns, null, counts, texts, reasons)

    def _ask(self, asked: Questions) -> tuple[list[Reply], dict[str, int]]:
        """The reply to every request, and what it took."""
        before = self.sampler.usage
        top = self.top_logprobs if self.mode == "rating" else 0
        skips = self.on_refused == "null"
        try:
            replies = self.sampler.replies(asked.requests, top=top, refusals=skips)
        except BadRow as error:  # about a request, and so about every row that it is about
            bad = []
            for each in error.found:
                bad += [each.at(row, where="judge") for row in asked.rows_of(each.row)]
            refuse(bad)
            raise
        except RequestFailed as error:
            if error.reason is None:
                raise
            what, row = f"cannot be judged; {error.message}", asked.asked_by[error.index]
            raise BadRow("judge", what, row=row, reason=error.reason) from error
        if before is not None:
            return replies, self.sampler.usage.since(before)
        tokens = sum(reply.answer.n_tokens or 0 for reply in replies)
        return replies, {"requests": len(replies), "tokens_out": tokens}

    # Reading

    def _rated(self, asked: Questions, replies: list[Reply]) -> Read:
        ratings = [self._rating(reply) for reply in replies]
        scores, numbers = np.zeros(asked.rows), np.zeros(asked.rows)
        verdicts: list[str | None] = []
        reasons: list[str | None] = []
        for row, request in enumerate(asked.about):
            score, number, reason = ratings[request]
            scores[row], numbers[row] = score or 0.0, number or 0.0
            verdicts.append(replies[request].answer.text)
            reasons.append(reason)
        return scores, numbers, verdicts, reasons

    def _rating(self, reply: Reply) -> tuple[float | None, float | None, str | None]:
        """Score, number said, reason for neither."""
        text, end = reply.answer.text, reply.answer.finish_reason
        if end in _UNANSWERED:
            return None, None, end
        parsed = parse_rating(text, cut_off=end in _INCOMPLETE, scale=self.scale)
        if isinstance(parsed, str):
            return None, None, parsed
        number, tokens = parsed[0], reply.tokens or ()
        from_tokens = parse_rating("".join(token.text for token in tokens), scale=self.scale)
        if isinstance(from_tokens, str) or from_tokens[0] != number:
            return number, number, None
        expected = expected_rating(tokens, self.ten_is_one_token, self.scale)
        return number if expected is None else expected, number, None

    def _compared(self, asked: Questions, replies: list[Reply]) -> Read:
        score, met = np.zeros(asked.rows), np.zeros(asked.rows)
        verdicts: list[str | None] = [None] * asked.rows
        reasons: list[str | None] = [None] * asked.rows
        for group in asked.groups:
            places, matches = group.places(), group.matches_of()
            for number, rows in enumerate(group.rows):
                wins, void, accounts = self._won(number, matches[number], places, replies)
                reason = None
                if not wins:
                    is_alone = len(group.rows) == 1
                    reason = void or ("single_candidate" if is_alone else "not_compared")
                for row in rows:
                    score[row] = sum(wins) / max(1, len(wins))
                    met[row], reasons[row] = len(wins), reason
                    if accounts:
                        verdicts[row] = json.dumps(accounts, ensure_ascii=False)
        return score, met, verdicts, reasons

    def _won(
        self, number: int, matches: list[Match], places: list[int], replies: list[Reply]
    ) -> tuple[list[float], str | None, list[dict[str, Any]]]:
        """The matches of one candidate: what it won in those that count, and what was said in all.

        Between them stands why the first one that does not count does not.
        """
        wins, void, accounts = [], None, []
        for first, second, one, two in matches:
            other, as_a, as_b = second, one, two
            if number == second:
                other, as_a, as_b = first, two, one
            letters = [self._verdict(replies[request]) for request in (as_a, as_b)]
            bad = next((letter for letter in letters if letter not in ("A", "B", "C")), None)
            won = None if bad else _WINS.get("".join(letters), 0.5)
            if won is None:
                void = void or bad
            else:
                wins.append(won)
            account = {
                "against": places[other],
                "as_a": replies[as_a].answer.text,
                "as_b": replies[as_b].answer.text,
                "win": won,
            }
            accounts.append(account)
        return wins, void, accounts

    def _verdict(self, reply: Reply) -> str:
        end = reply.answer.finish_reason
        if end in _UNANSWERED:
            return end
        return parse_verdict(reply.answer.text, cut_off=end in _INCOMPLETE)


def pairs_of(candidates: int, schedule: Schedule, most: int | None = None) -> list[tuple[int, int]]:
    """The pairs of candidates that meet, the lower number first; at most `most`.

    All, round by round, or each with number 0. In a round every candidate meets one other (one
    rests where their number is odd), so that after `most` pairs all have met about equally many:
    the circle method of tournaments.

    >>> pairs_of(4, "all")
    [(0, 3), (1, 2), (0, 2), (1, 3), (0, 1), (2, 3)]
    >>> pairs_of(4, "all", 2), pairs_of(4, "baseline")
    ([(0, 3), (1, 2)], [(0, 1), (0, 2), (0, 3)])
    """
    if schedule == "baseline":
        return [(0, other) for other in range(1, candidates)][:most]
    return list(islice(_rounds(candidates), most))


def _rounds(candidates: int) -> Iterator[tuple[int, int]]:
    seats = list(range(candidates + candidates % 2))
    half = len(seats) // 2
    for _ in range(len(seats) - 1):
        for a, b in zip(seats[:half], reversed(seats[half:]), strict=True):
            if max(a, b) < candidates:
                yield min(a, b), max(a, b)
        seats = [seats[0], seats[-1], *seats[1:-1]]
