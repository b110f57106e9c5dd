"""A chunk of prompts, their answers, and what a ledger keeps of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa

from prefmill.errors import BAD_ROW, BadInput, BadRow
from prefmill.models.contract import OnBadRow
from prefmill.runs.resumable.chunks import FIRST
from prefmill.sampling import Answer, Request
from prefmill.sampling.samplers import Sampler, whole_text
from prefmill.sampling.seeds import Asked
from prefmill.table.chance import spelled
from prefmill.table.conversations import messages_of

#: Names of counts: of answers, by reason.
REASON = "finish_reason:"


@dataclass(frozen=True)
class Answering:
    """A sampler, what is asked of it, and what becomes of a prompt that it cannot answer."""

    part: Sampler
    asked: Asked
    on_bad_row: OnBadRow

    def chunk(self, frame: pl.DataFrame) -> tuple[dict[str, pa.Array], dict[str, int]]:
        """The columns of a chunk's answers, and what was counted.

        Raises `BadRow` with the place of the prompt as its row.
        """
        draws = self.asked.draws
        texts = spelled(frame["prompt"]).to_list()
        prompts, bad = _plain_prompts(frame["prompt"].to_list())
        seeds = [seed for text in texts for seed in self.asked.seeds(text)]
        temperatures = [temperature for temperature, _ in draws] * len(prompts)
        asked = [prompt for prompt in prompts for _ in draws]
        requests = [Request(*each) for each in zip(asked, temperatures, seeds, strict=True)]
        of_prompt = [place // len(draws) for place in range(len(requests))]
        refused = {place: bad[each] for place, each in enumerate(of_prompt) if each in bad}
        answers = self._answers(requests, refused)
        reasons = [answer.finish_reason for answer in answers]
        completions = [
            None if answer.finish_reason in BAD_ROW else whole_text(answer.text)
            for answer in answers
        ]
        ids = [name for text in texts for name in self.asked.ids(text)]
        columns = {
            "completion": pa.array(completions, pa.large_string()),
            "id": pa.array(ids, pa.large_string()),
            "temperature": pa.array(temperatures, pa.float64()),
            "seed": pa.array(seeds, pa.int64()),
            "finish_reason": pa.array(map(whole_text, reasons), pa.large_string()),
            "logprob": pa.array([_finite(answer.logprob) for answer in answers], pa.float64()),
            "n_tokens": pa.array([answer.n_tokens for answer in answers], pa.int64()),
            "duplicate": pa.array(_repeated(completions, len(draws)), pa.bool_()),
        }
        counts = {
            "tokens": sum(answer.n_tokens or 0 for answer in answers),
            "untold": sum(answer.n_tokens is None for answer in answers),
            "empty": sum(text == "" for text in completions),
            "duplicates": columns["duplicate"].true_count,
        }
        for place, reason in enumerate(reasons):
            counts[REASON + reason] = counts.get(REASON + reason, 0) + 1
            if reason in BAD_ROW:
                counts.setdefault(FIRST + reason, int(frame["row"][of_prompt[place]]))
        return columns, counts

    def _answers(self, requests: list[Request], bad: Mapping[int, BadRow]) -> list[Answer]:
        """The answer to every request; a bad one, such as `bad` already are, costs no other.

        Unless it ends the run.
        """
        answers: list[Answer | None] = [None] * len(requests)
        left = list(range(len(requests)))
        while left:
            for place, error in bad.items():
                if self.on_bad_row == "error":
                    raise error.at(place // len(self.asked.draws)) from error
                answers[place] = Answer("", error.reason, None, None)
            left = [place for place in left if place not in bad]
            try:
                drawn = list(self.part.sample([requests[place] for place in left])) if left else []
            except BadRow as error:
                bad = {left[each.row]: each for each in error.found}
                continue
            if len(drawn) != len(left):
                raise BadInput(
                    f"sample: the sampler gave {len(drawn)} answers;"
                    f" expected {len(left)}, one for every request."
                )
            for place, answer in zip(left, drawn, strict=True):
                answers[place] = answer
            break
        return [answer for answer in answers if answer is not None]


def _finite(logprob: float | None) -> float | None:
    """A log-probability, or None for what is none."""
    return logprob if logprob is not None and math.isfinite(logprob) else None


def _plain_prompts(prompts: list[Any]) -> tuple[list[Any], dict[int, BadRow]]:
    """Texts, and messages as samplers take them; and what is neither, by its place."""
    plain: list[Any] = []
    bad = {}
    for place, prompt in enumerate(prompts):
        try:
            messages = messages_of(prompt, "user")
            plain.append(prompt if isinstance(prompt, str) else messages)
        except BadRow as error:
            bad[place] = error.at(place, where="sample")
            plain.append("")
    return plain, bad


def _repeated(texts: Sequence[str | None], size: int) -> list[bool]:
    """Which of the texts, `size` a prompt, stand earlier in their prompt.

    >>> _repeated(["a", "a", "a", "b"], 2)
    [False, True, False, False]
    """
    repeated: list[bool] = []
    for first in range(0, len(texts), size):
        seen: set[str | None] = set()
        for text in texts[first : first + size]:
            repeated.append(text is not None and text in seen)
            seen.add(text)
    return repeated
