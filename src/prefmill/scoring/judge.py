"""A language model as a judge: `JudgeScorer` rates completions, or compares those of a prompt.

Sources: Lee et al. 2023, "RLAIF" (arXiv 2309.00267): ratings as expectations over tokens, both
orders against position bias; Tunstall et al. 2023, "Zephyr", and Cui et al. 2023, "UltraFeedback":
ratings as feedback for DPO; Zheng et al. 2023, "Judging LLM-as-a-Judge" (arXiv 2306.05685): a tie
where the two orders disagree.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument
from prefmill.models.contract import OnBadRow
from prefmill.models.described import Described, changed, uncounted, unlike
from prefmill.sampling.kinds import kind_for, sampler_class, sampler_from
from prefmill.sampling.samplers import as_sampler
from prefmill.scoring.judging.criteria import Criterion
from prefmill.scoring.judging.questions import Asker, Questions, Schedule
from prefmill.scoring.judging.readings import Reader
from prefmill.scoring.judging.rubrics import Rubric, rubric_of
from prefmill.scoring.judging.scales import Ask, Mode
from prefmill.scoring.judging.sending import Sending, Structured
from prefmill.scoring.scorers import Scored, Staged

#: how answers are read (`judging/answers.py`): another number is another score
_PARSER = "3"
#: tokens of an answer in which reasons come first, or that has many criteria
_LONG_ANSWER = 1024
#: a judge's options that are its sampler's: of a server, and of a model in this process
_OF_SERVER = ("url", "concurrency", "rate_limit", "retries", "timeout", "api_key_env", "extra")
_OF_LOCAL = ("device", "dtype", "template_date")
#: those that say what the sampler is (`sampling/kinds.py`), and of some kinds alone
_OF_KINDS = (
    "backend",
    "batch_requests",
    "batch_mb",
    "batch_window",
    "batch_files",
    "poll",
    "no_wait",
    "engine_args",
)


@dataclass(frozen=True, kw_only=True)
class JudgeScorer(Described, Staged):
    """A judge's score for every row: AI feedback.

    Args:
        sampler: what answers: an `EndpointSampler`, a `LocalSampler`, or any other `Sampler`; asked
            at temperature 0.
        mode: `rating`: a number for each row. `pairwise`: the candidates of a prompt against one
            another.
        rubric: what is asked: a text or a file with the places {prompt} and {completion}, or for
            pairwise {prompt}, {a} and {b}; a TOML file, or a `Rubric`. Any other place is a column
            of the input.
        scale: rating: the lowest and the highest number that the rubric allows, `"1-5"` or two
            numbers; fractions between them count too. Or what its owner asks, by name: `mt-bench`,
            `prometheus`, `likert`, `percent`. The default is 1 to 10.
        system: a system message, or a file with it.
        criteria: rating: what is asked one by one (`Rubric`), or the column that says it for each
            row.
        ask: `each` criterion in a request of its own (the default), or all `together`.
        reference_answer: the column at {reference}; the texts of this package show it then.
        structured: a JSON schema of the answer is sent along: `on`, or `auto`, which asks again
            without it where the server refuses that; `off`.
        schedule: pairwise: `all` pairs, or each candidate against the prompt's first one
            (`baseline`).
        max_pairs: most pairs of a prompt; taken in rounds in which every candidate meets another,
            so that all meet about equally often.
        top_logprobs: how many alternatives of a token are asked for (rating, where the server tells
            them).
        ten_is_one_token: the judge's tokenizer has "10" as one token; else "1" may be the begin of
            it (`judging.expected.expected_rating`).
        on_refused: a request that the server finds bad (too long, filtered), or answers with what
            cannot be used: an `error` that names the row, or `null`, with a reason.
        price_in, price_out: of a million tokens, for the cost in the report; they decide no score.

    Columns of `rating`: `score`, the expected rating over the probabilities of the rating's token
    where the server tells them, else the number said; `rating`, the number said. With criteria:
    `score`, their weighted sum (`judging.criteria.weighted`), and each one's value on its scale
    under its name, or all of a row in the list `criteria`. Of `pairwise`: `score`, the mean of wins
    (a tie is half) over the distinct other completions that it met; `comparisons`, how many. A
    comparison is asked in both orders, and is a tie where they disagree.

    Texts: `verdict`, what the judge said, word for word (pairwise, criteria: JSON), and `reason`,
    why a row has no score (`errors.BAD_ROW`): unparseable, contradictory, cut_off, refused and the
    like, with the criterion's name. Such a row is null, never a number, and never a sum of some
    criteria. Equal completions of a prompt are asked about once and have one score.

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
    rubric: str | Path | Rubric | None = None
    scale: Any = None
    system: str | Path | None = None
    criteria: str | Sequence[Criterion | Mapping[str, Any]] | None = None
    ask: Ask | None = None
    reference_answer: str | None = None
    structured: Structured = "off"
    schedule: Schedule = "all"
    max_pairs: int | None = None
    top_logprobs: int = 20
    ten_is_one_token: bool = False
    on_refused: Literal["error", "null"] = "error"
    price_in: float | None = None
    price_out: float | None = None

    #: what an option of the command line may say to the sampler
    options_of_parts: ClassVar[tuple[str, ...]] = (
        *_OF_SERVER,
        *_OF_LOCAL,
        *_OF_KINDS,
        "max_new_tokens",
    )

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """A judge over the sampler that the same options describe: a server's with a `url`."""
        kind = kind_for(options)
        is_remote, takes = kind in ("endpoint", "batch"), sampler_class(kind).options()
        for name in cls.options_of_parts:
            if name not in options or name in takes or name == "backend":
                continue
            flag = f"--{name.replace('_', '-')}"
            if name in _OF_KINDS or "backend" in options:
                raise BadArgument(f"judge: {flag} has no meaning with --backend {kind}.")
            if is_remote:
                raise BadArgument(
                    f"judge: {flag} has no meaning with --url: the server has its own."
                )
            raise BadArgument(f"judge: {flag} needs a server.", hint="--url http://HOST:PORT/v1")
        names = {f.name for f in fields(cls)}
        own = {name: value for name, value in options.items() if name in names}
        sampler = {name: value for name, value in options.items() if name not in names}
        if not is_remote:
            sampler["on_too_long"] = own.get("on_refused", "error")
            sampler["device"] = options.get("device", ["auto"])[0]
        judge = cls(sampler=sampler_from({"model": model, **sampler}), **own)
        if "max_new_tokens" not in sampler and judge._is_long:
            longer = replace(judge.sampler, max_new_tokens=_LONG_ANSWER)
            judge = replace(judge, sampler=longer)
        return judge

    def __post_init__(self) -> None:
        super().__post_init__()
        rubric = rubric_of(
            self.rubric,
            self.mode,
            scale=self.scale,
            system=self.system,
            criteria=self.criteria,
            ask=self.ask,
            reference=self.reference_answer is not None,
        )
        # Resolved once: a file is not read again in another process, where it may differ.
        whole = {"rubric": rubric, "sampler": as_sampler(self.sampler)}
        whole |= {name: getattr(rubric, name) for name in ("scale", "system", "criteria", "ask")}
        for name, value in whole.items():
            object.__setattr__(self, name, value)
        problems = self._problems_of_rubric(rubric)
        if problems:
            raise BadArgument("\n".join(f"JudgeScorer: {problem}" for problem in problems))

    def _problems(self) -> list[str]:
        problems = []
        if as_sampler(self.sampler) is None:
            problems.append(f"sampler must be a Sampler; got {type(self.sampler).__name__}")
        problems += unlike(self, mode=("rating", "pairwise"), schedule=("all", "baseline"))
        problems += unlike(self, on_refused=("error", "null"), structured=("off", "auto", "on"))
        problems += unlike(self, ask=(None, "each", "together"))
        if self.max_pairs is not None:
            problems += uncounted(self, "max_pairs", suffix=" or None")
        is_pairwise = self.max_pairs is not None or self.schedule != "all"
        if self.mode == "rating" and is_pairwise:
            problems.append("schedule and max_pairs are for mode 'pairwise'; got mode 'rating'")
        problems += uncounted(self, "top_logprobs", least=0)
        for name, price in (("price_in", self.price_in), ("price_out", self.price_out)):
            if price is None or (isinstance(price, int | float) and 0 <= price < np.inf):
                continue
            problems.append(f"{name} must be a number >= 0 or None; got {price!r}")
        return problems

    def _problems_of_rubric(self, rubric: Rubric) -> list[str]:
        """What of the arguments does not fit the rubric."""
        problems = []
        if self.reference_answer is not None and "reference" not in rubric.columns:
            problems.append(
                "reference_answer is for a rubric with the place {reference}; this one has none"
            )
        if self.structured != "off" and rubric.mark:
            problems.append("structured is not for a scale whose answers end in a mark of its own")
        if self.structured == "on" and not self.sampler.takes_schema:
            problems.append(
                "structured needs a server; a model in this process takes no schema (auto goes on"
                " without)"
            )
        return problems

    # What a run asks

    @property
    def columns(self) -> tuple[str, ...]:
        """score, and rating or comparisons, or one for each criterion of the rubric."""
        if self.mode == "pairwise":
            return ("score", "comparisons")
        if self.criteria:
            return ("score", *self._names)
        return ("score", "rating")

    @property
    def _names(self) -> tuple[str, ...]:
        """The names of the rubric's criteria; none where each row has its own."""
        if isinstance(self.criteria, str):
            return ()
        return tuple(each.name for each in self.criteria or ())  # type: ignore[union-attr]

    @property
    def lists(self) -> tuple[str, ...]:
        """criteria, the values of those that a row has of its own."""
        return ("criteria",) if isinstance(self.criteria, str) else ()

    @property
    def compares(self) -> bool:
        """A comparing judge does."""
        return self.mode == "pairwise"

    @property
    def reads(self) -> tuple[str, ...]:
        """The columns that the rubric shows, and that of the criteria."""
        return self._asker.reads

    @property
    def texts(self) -> tuple[str, ...]:
        """What the judge said, and why a row has no score."""
        return ("verdict", "reason")

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The rubric, how it is read, and what decides the sampler's answers."""
        rubric = self._rubric
        own = {
            "scorer": "judge",
            "mode": self.mode,
            "rubric": _hash(f"{rubric.text}\0{rubric.guide}\0{rubric.system}"),
            "criteria": _hash(repr(rubric.criteria)) if rubric.criteria else "none",
            "ask": str(rubric.ask),
            "reference_answer": str(self.reference_answer),
            "structured": self.structured,
            "schedule": self.schedule,
            "max_pairs": str(self.max_pairs),
            "top_logprobs": str(self.top_logprobs),
            "ten_is_one_token": str(self.ten_is_one_token),
            "on_refused": self.on_refused,
            "scale": f"{rubric.scale!r} {rubric.mark}",
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

    @property
    def posts(self) -> tuple[tuple[Any, Any], ...]:
        """Itself, where its sampler asks in batches."""
        return tuple((self, sampler) for _, sampler in self.sampler.posts)

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

    @property
    def _rubric(self) -> Rubric:
        return self.rubric  # type: ignore[return-value]

    @property
    def _is_structured(self) -> bool:
        return self.structured != "off" and self.sampler.takes_schema

    @property
    def _is_long(self) -> bool:
        """Whether answers are longer than a verdict: reasons come first, or many criteria."""
        return self._rubric.mark is not None or self.ask == "together"

    @property
    def _asker(self) -> Asker:
        return Asker(self._rubric, self.mode, self.reference_answer, self._is_structured)

    @property
    def _reader(self) -> Reader:
        return Reader(self._rubric, self.ten_is_one_token, self._is_structured)

    def prepare(self, batch: pa.RecordBatch) -> Questions:
        """What has to be asked about a batch."""
        if self.mode == "rating":
            return self._asker.ratings(batch)
        return self._asker.pairs(batch, self.schedule, self.max_pairs)

    def run(self, prepared: Questions) -> Scored:
        """Ask, and read the answers."""
        replies, counts = self._sending.ask(prepared)
        reader = self._reader
        if self.mode == "pairwise":
            columns = reader.comparisons(prepared, replies)
        elif self.criteria:
            columns = reader.criteria(prepared, replies, self._names)
        else:
            columns = reader.ratings(prepared, replies)
        return columns.scored(counts)

    @property
    def _sending(self) -> Sending:
        top = self.top_logprobs if self.mode == "rating" and self.ask != "together" else 0
        refused: set[str] = self._kept("refused_schemas", set)
        return Sending(self.sampler, top, self.on_refused == "null", self.structured, refused)


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
