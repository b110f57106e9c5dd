"""What is asked about a batch: a request for each text, each criterion, or each pair twice."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import Any, Literal

import pyarrow as pa

from prefmill.errors import BadArgument, BadRow, refuse
from prefmill.sampling.samplers import Request
from prefmill.scoring.judging import forms
from prefmill.scoring.judging.criteria import Criterion, criteria_of
from prefmill.scoring.judging.rubrics import Rubric
from prefmill.scoring.judging.scales import Mode
from prefmill.table.conversations import messages_of, row_texts, spoken
from prefmill.table.json_values import present

Schedule = Literal["all", "baseline"]
#: first candidate, second candidate, the requests in both orders
Match = tuple[int, int, int, int]


@dataclass(frozen=True)
class Questions:
    """What is asked about a batch.

    rows      of the batch
    requests  each asked once
    asked_by  for each request, the row that it is about (pairwise: the one shown first)
    about     rating: for each row, its requests, one for each criterion that is asked by itself
    criteria  rating: for each row, its criteria; none where it is rated as a whole
    groups    pairwise: the candidates of each prompt
    """

    rows: int
    requests: list[Request]
    asked_by: list[int]
    about: list[tuple[int, ...]]
    criteria: list[tuple[Criterion, ...]] = field(default_factory=list)
    groups: list[Candidates] = field(default_factory=list)

    def rows_of(self, request: int) -> list[int]:
        """The rows of the batch that a request is about."""
        rows = [row for row, its in enumerate(self.about) if request in its]
        return rows or [self.asked_by[request]]


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


@dataclass(frozen=True)
class Asker:
    """Makes the requests of a rubric.

    reference   the column at {reference}; None: the one of that name
    structured  answers are asked for as JSON, with a schema
    """

    rubric: Rubric
    mode: Mode
    reference: str | None = None
    structured: bool = False

    @property
    def columns(self) -> Mapping[str, str]:
        """For each place that is a column of the input, its name there."""
        named = {name: name for name in self.rubric.columns}
        if "reference" in named and self.reference is not None:
            named["reference"] = self.reference
        return named

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns of the input that are read."""
        criteria = self.rubric.criteria
        own = (criteria,) if isinstance(criteria, str) else ()
        return tuple(dict.fromkeys((*self.columns.values(), *own)))

    def ratings(self, batch: pa.RecordBatch) -> Questions:
        """Every distinct row, once; each criterion by itself or all together."""
        prompts, completions, shown = self._texts(batch)
        criteria = self._criteria(batch)
        known: dict[Any, tuple[int, ...]] = {}
        requests: list[Request] = []
        asked_by: list[int] = []
        about = []
        for row, both in enumerate(zip(prompts, completions, strict=True)):
            key = (*both, *shown[row].values(), criteria[row])
            if key not in known:
                values = {"prompt": both[0], "completion": both[1], **shown[row]}
                made = self._about_row(values, criteria[row])
                known[key] = tuple(range(len(requests), len(requests) + len(made)))
                requests += made
                asked_by += [row] * len(made)
            about.append(known[key])
        return Questions(len(prompts), requests, asked_by, about, criteria)

    def _about_row(self, values: Mapping[str, str], criteria: Sequence[Criterion]) -> list[Request]:
        as_json = self.structured
        if not criteria:
            numbers = self.rubric.scale
            form = forms.of_rating(numbers, as_json=as_json)
            schema = forms.schema_of(rating=forms.allowed_in(numbers))
            return [self._request(values, form, schema)]
        if self.rubric.ask == "together":
            form = forms.of_criteria(criteria)
            schema = forms.schema_of(**{c.name: forms.allowed_in(c.numbers) for c in criteria})
            listed = {"criteria": forms.listed(criteria)}
            return [self._request({**values, **listed}, form, schema)]
        requests = []
        for each in criteria:
            form = forms.of_criterion(each, as_json=as_json)
            name = "met" if each.numbers is None else "score"
            schema = forms.schema_of(**{name: forms.allowed_in(each.numbers)})
            requests.append(self._request({**values, "criterion": each.question}, form, schema))
        return requests

    def pairs(self, batch: pa.RecordBatch, schedule: Schedule, max_pairs: int | None) -> Questions:
        """The candidates of every prompt against one another, in both orders."""
        prompts, completions, shown = self._texts(batch)
        keys = batch["group"].to_pylist() if "group" in batch.schema.names else prompts
        members: dict[Any, dict[str, list[int]]] = {}
        for row, key in enumerate(keys):
            members.setdefault(key, {}).setdefault(completions[row], []).append(row)
        self._check_same(members, shown)
        requests: list[Request] = []
        asked_by: list[int] = []
        groups = []
        form = forms.of_verdict(as_json=self.structured)
        schema = forms.schema_of(verdict=["A", "B", "C"])
        for rows_of_text in members.values():
            texts, rows = list(rows_of_text), list(rows_of_text.values())
            of_prompt = {"prompt": prompts[rows[0][0]], **shown[rows[0][0]]}
            matches = []
            for first, second in pairs_of(len(texts), schedule, max_pairs):
                matches.append((first, second, len(requests), len(requests) + 1))
                for a, b in ((first, second), (second, first)):
                    values = {**of_prompt, "a": texts[a], "b": texts[b]}
                    requests.append(self._request(values, form, schema))
                    asked_by.append(rows[a][0])
            groups.append(Candidates(rows, matches))
        return Questions(len(prompts), requests, asked_by, [], groups=groups)

    def _request(self, values: Mapping[str, str], form: str, schema: forms.Schema) -> Request:
        # A text of one's own says itself how to answer, unless that is not known there.
        add = self.structured or self.rubric.ask is not None
        question = {"role": "user", "content": self.rubric.question(values, form, add=add)}
        system = self.rubric.system
        messages = [question] if system is None else [{"role": "system", "content": system}]
        if system is not None:
            messages.append(question)
        return Request(messages, 0.0, 0, schema if self.structured else None)

    # What is read of a row

    def _texts(self, batch: pa.RecordBatch) -> tuple[list[str], list[str], list[Mapping[str, str]]]:
        """Prompt, completion, and what stands at the places that are columns, of every row."""
        prompts, completions = row_texts(
            "judge", batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        )
        columns: dict[str, list[str]] = {}
        for place, name in self.columns.items():
            hint = None
            if place == name:
                hint = f"{{{{{place}}}}} is the text {{{place}}}; prompt and completion are"
                hint += " {prompt} and {completion}, whatever their columns are called."
            values = self._column(batch, name, f"which the rubric shows at {{{place}}}", hint)
            columns[place] = _texts_of(values, name)
        shown: list[Mapping[str, str]] = [
            {place: texts[row] for place, texts in columns.items()} for row in range(len(prompts))
        ]
        return prompts, completions, shown

    def _criteria(self, batch: pa.RecordBatch) -> list[tuple[Criterion, ...]]:
        criteria = self.rubric.criteria
        if not isinstance(criteria, str):
            return [criteria] * batch.num_rows
        is_file = criteria.lower().endswith((".toml", ".json", ".jsonl", ".txt"))
        hint = f"a file is the rubric: --rubric {criteria}" if is_file else None
        values = self._column(batch, criteria, "which has the criteria", hint)
        # The rows of a prompt have the same ones: they are read once.
        known: dict[str, tuple[Criterion, ...] | BadRow] = {}
        bad, made = [], []
        for row, value in enumerate(values):
            key = json.dumps(value, sort_keys=True, default=str)
            if key not in known:
                known[key] = self._read(value)
            each = known[key]
            if isinstance(each, BadRow):
                bad.append(each.at(row))
                continue
            made.append(each)
        refuse(bad)
        return made

    def _read(self, value: Any) -> tuple[Criterion, ...] | BadRow:
        try:
            return criteria_of(value, self.rubric.scale)
        except BadArgument as error:
            what = f"has no criteria that can be used; {error.message.removeprefix('judge: ')}"
            return BadRow("judge", what, row=0, reason="bad_column")

    def _column(
        self, batch: pa.RecordBatch, name: str, which: str, hint: str | None = None
    ) -> list[Any]:
        if name not in batch.schema.names:
            raise BadArgument(f"judge: the input has no column {name!r}, {which}.", hint=hint)
        # Fields of other rows, and values that no type holds, are not the row's own.
        return [present(value) for value in batch[name].to_pylist()]

    def _check_same(
        self, members: Mapping[Any, Mapping[str, list[int]]], shown: Sequence[Mapping[str, str]]
    ) -> None:
        """Refuse prompts whose rows show different things: a comparison shows one."""
        bad = []
        for of_text in members.values():
            rows = sorted(chain.from_iterable(of_text.values()))
            for row in rows[1:]:
                for place, text in shown[row].items():
                    if text != shown[rows[0]][place]:
                        what = f"has another {{{place}}} than its prompt's first row."
                        bad.append(BadRow("judge", what, row=row, reason="bad_column"))
                        break
        refuse(bad)


def _texts_of(values: Sequence[Any], name: str) -> list[str]:
    """A column's values as texts: messages as they are spoken, other values as JSON."""
    texts, bad = [], []
    for row, value in enumerate(values):
        if value is None:
            what = f"is null in the column {name!r}, which the rubric shows."
            bad.append(BadRow("judge", what, row=row, reason="bad_column"))
            continue
        try:
            texts.append(_text_of(value))
        except BadRow as error:
            bad.append(error.at(row, where="judge"))
    refuse(bad)
    return texts


def _text_of(value: Any) -> str:
    if isinstance(value, str):
        return value
    is_talk = isinstance(value, list) and value and isinstance(value[0], Mapping)
    if is_talk and {"role", "content"} <= value[0].keys():
        return spoken(messages_of(value, "assistant"))
    return json.dumps(value, ensure_ascii=False, default=str)


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
