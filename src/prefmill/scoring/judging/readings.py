"""What the replies of a judge are worth: ratings, comparisons, criteria."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from prefmill.errors import BAD_ROW
from prefmill.sampling.samplers import Reply
from prefmill.scoring.judging.answers import parse_answer, parse_rating, parse_verdict
from prefmill.scoring.judging.criteria import Criterion, weighted
from prefmill.scoring.judging.expected import expected_answer, expected_rating
from prefmill.scoring.judging.forms import is_whole
from prefmill.scoring.judging.objects import parse_scores
from prefmill.scoring.judging.questions import Match, Questions
from prefmill.scoring.judging.rubrics import Rubric, places_in
from prefmill.scoring.judging.wording import Mark
from prefmill.scoring.scorers import Floats, Scored

#: finish reasons of requests without an answer: a server's refusal, a prompt that a local model
#: does not take
UNANSWERED = frozenset(BAD_ROW)
#: finish reasons of answers that would have gone on
_INCOMPLETE = ("length", "content_filter")
#: what a candidate wins by the verdicts as A and as B; all others are a tie
_WINS = {"AB": 1.0, "BA": 0.0}


@dataclass
class Columns:
    """What is written about the rows of a batch, filled row by row."""

    rows: int
    numbers: dict[str, Floats]
    lists: dict[str, list[list[float] | None]] = field(default_factory=dict)
    verdicts: list[str | None] = field(init=False)
    reasons: list[str | None] = field(init=False)
    #: the reason as one of `BAD_ROW`, without the criterion's name
    kinds: list[str | None] = field(init=False)

    def __post_init__(self) -> None:
        self.verdicts = [None] * self.rows
        self.reasons = [None] * self.rows
        self.kinds = [None] * self.rows

    @classmethod
    def of(cls, rows: int, names: Sequence[str], lists: Sequence[str] = ()) -> Columns:
        """Columns of zeros, and lists of nothing."""
        numbers = {name: np.zeros(rows) for name in names}
        nothing: dict[str, list[list[float] | None]] = {name: [None] * rows for name in lists}
        return cls(rows, numbers, nothing)

    def leave_out(self, row: int, reason: str, of: str = "") -> None:
        """Say why a row has no score, and of which criterion."""
        self.kinds[row] = reason
        self.reasons[row] = f"{reason}: {of}" if of else reason

    def scored(self, counts: Mapping[str, int]) -> Scored:
        """The columns as a scorer gives them."""
        null = np.array([reason is not None for reason in self.kinds], bool)
        texts = {"verdict": self.verdicts, "reason": self.reasons}
        return Scored(self.numbers, null, counts, texts, self.kinds, self.lists)


@dataclass(frozen=True)
class Reader:
    """Reads replies by a rubric.

    ten_is_one_token  as in `expected_rating`
    structured        answers were asked for as JSON, with a schema
    """

    rubric: Rubric
    ten_is_one_token: bool = False
    structured: bool = False

    @property
    def _mark(self) -> Mark:
        return self.rubric.mark  # type: ignore[no-any-return]

    def _takes_fractions(self, numbers: tuple[float, float]) -> bool:
        """Whether a number was asked for that may take several tokens, such as 0.4."""
        ours = self.structured or self.rubric.ask or "format" in places_in(self.rubric.text or "")
        return bool(ours) and not is_whole(numbers)

    def ratings(self, asked: Questions, replies: Sequence[Reply]) -> Columns:
        """`score`, the expected rating; `rating`, the number said."""
        columns = Columns.of(asked.rows, ("score", "rating"))
        ratings = [self._rating(reply, self.rubric.scale) for reply in replies]
        for row, (request,) in enumerate(asked.about):
            score, number, reason = ratings[request]
            columns.numbers["score"][row] = score or 0.0
            columns.numbers["rating"][row] = number or 0.0
            columns.verdicts[row] = replies[request].answer.text
            if reason is not None:
                columns.leave_out(row, reason)
        return columns

    def _rating(
        self, reply: Reply, scale: tuple[float, float]
    ) -> tuple[float | None, float | None, str | None]:
        """Score, number said, reason for neither."""
        text, end = reply.answer.text, reply.answer.finish_reason
        if end in UNANSWERED:
            return None, None, end
        mark = self._mark
        parsed = parse_rating(text, cut_off=end in _INCOMPLETE, scale=scale, mark=mark)
        if isinstance(parsed, str):
            return None, None, parsed
        number, tokens = parsed[0], reply.tokens or ()
        from_tokens = parse_rating("".join(token.text for token in tokens), scale=scale, mark=mark)
        if isinstance(from_tokens, str) or from_tokens[0] != number:
            return number, number, None
        if self._takes_fractions(scale):
            return number, number, None
        expected = expected_rating(tokens, self.ten_is_one_token, scale, mark)
        return number if expected is None else expected, number, None

    def criteria(self, asked: Questions, replies: Sequence[Reply], names: Sequence[str]) -> Columns:
        """`score`, the weighted sum; the value of each of `names`, or all of a row in a list.

        A row of which one criterion cannot be read has no score.
        """
        lists = () if names else ("criteria",)
        columns = Columns.of(asked.rows, ("score", *names), lists)
        for row, requests in enumerate(asked.about):
            of_row = [replies[request] for request in requests]
            criteria = asked.criteria[row]
            together = self.rubric.ask == "together"
            read = self._together(of_row[0], criteria) if together else self._each(of_row, criteria)
            columns.verdicts[row] = _account(criteria, read, of_row)
            bad = next(((c, r) for c, r in zip(criteria, read, strict=True) if _is_bad(r)), None)
            if bad is not None:
                # An answer that could not be read at all is about none of them in particular.
                all_alike = together and len(read) > 1 and len({str(v) for v in read}) == 1
                columns.leave_out(row, str(bad[1]), "" if all_alike else bad[0].name)
                continue
            values = [float(value) for value in read]
            columns.numbers["score"][row] = weighted(criteria, values)
            for name, value in zip(names, values, strict=False):
                columns.numbers[name][row] = value
            if lists:
                columns.lists["criteria"][row] = values
        return columns

    def _each(self, replies: Sequence[Reply], criteria: Sequence[Criterion]) -> list[float | str]:
        """The value of each criterion, on its scale; a reason where it has none."""
        values: list[float | str] = []
        for reply, each in zip(replies, criteria, strict=True):
            if each.numbers is None:
                values.append(self._answer(reply))
                continue
            score, _, reason = self._rating(reply, each.numbers)
            values.append(reason if score is None else score)  # type: ignore[arg-type]
        return values

    def _answer(self, reply: Reply) -> float | str:
        text, end = reply.answer.text, reply.answer.finish_reason
        if end in UNANSWERED:
            return end
        parsed = parse_answer(text, cut_off=end in _INCOMPLETE)
        if isinstance(parsed, str):
            return parsed
        tokens = reply.tokens or ()
        from_tokens = parse_answer("".join(token.text for token in tokens))
        if isinstance(from_tokens, str) or from_tokens[0] != parsed[0]:
            return parsed[0]
        expected = expected_answer(tokens)
        return parsed[0] if expected is None else expected

    def _together(self, reply: Reply, criteria: Sequence[Criterion]) -> list[float | str]:
        text, end = reply.answer.text, reply.answer.finish_reason
        if end in UNANSWERED:
            return [end] * len(criteria)
        scales = {each.name: each.numbers for each in criteria}
        read = parse_scores(text, scales, cut_off=end in _INCOMPLETE)
        if isinstance(read, str):
            return [read] * len(criteria)
        return [read[each.name] for each in criteria]

    # Comparisons

    def comparisons(self, asked: Questions, replies: Sequence[Reply]) -> Columns:
        """`score`, the mean of wins; `comparisons`, over how many others."""
        columns = Columns.of(asked.rows, ("score", "comparisons"))
        for group in asked.groups:
            places, matches = group.places(), group.matches_of()
            for number, rows in enumerate(group.rows):
                wins, void, accounts = self._won(number, matches[number], places, replies)
                for row in rows:
                    if not wins:
                        is_alone = len(group.rows) == 1
                        other = "single_candidate" if is_alone else "not_compared"
                        columns.leave_out(row, void or other)
                    columns.numbers["score"][row] = sum(wins) / max(1, len(wins))
                    columns.numbers["comparisons"][row] = len(wins)
                    if accounts:
                        columns.verdicts[row] = json.dumps(accounts, ensure_ascii=False)
        return columns

    def _won(
        self, number: int, matches: list[Match], places: list[int], replies: Sequence[Reply]
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
        if end in UNANSWERED:
            return end
        text = reply.answer.text
        return parse_verdict(text, cut_off=end in _INCOMPLETE, mark=self._mark)


def _is_bad(value: float | str) -> bool:
    return isinstance(value, str)


def _account(
    criteria: Sequence[Criterion], read: Sequence[float | str], replies: Sequence[Reply]
) -> str:
    """What was said of every criterion, as JSON: once where one answer was about all."""
    together = len(replies) == 1 and len(criteria) > 1
    accounts = []
    for number, (each, value) in enumerate(zip(criteria, read, strict=True)):
        account: dict[str, Any] = {"name": each.name, "weight": each.weight}
        account |= {"score": None if _is_bad(value) else value}
        account |= {"reason": value if _is_bad(value) else None}
        if not together:
            account["said"] = replies[number].answer.text
        accounts.append(account)
    whole: dict[str, Any] = {"criteria": accounts}
    if together:
        whole["said"] = replies[0].answer.text
    return json.dumps(whole, ensure_ascii=False)
