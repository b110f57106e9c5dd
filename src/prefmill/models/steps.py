"""Where the steps of a completion end, in its text and in the tokens of its row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import numpy as np

from prefmill.errors import BadArgument, BadRow, refuse
from prefmill.models.tokens import TokenRows

_WHERE = "score"


@dataclass(frozen=True)
class StepLayout:
    """How the steps of a completion stand in the text that a model reads.

    separator  ends a step in the completion, as it is given
    marker     ends a step in the text that the model reads; None: the separator
    apart      every step and every separator is tokenised by itself, as TRL and Skywork do it;
               else the row is tokenised whole, as Qwen's and Math-Shepherd's owners do

    What stands after the last separator is a step too, and gets the marker that it lacks. Pieces
    of white space are no steps.

    >>> layout = StepLayout("; ")
    >>> layout.text("1+1; =2"), layout.ends("1+1; =2; ")
    ('1+1; =2; ', [4, 8])
    >>> StepLayout("; ", "<end>").text("1+1; ; =2")
    '1+1<end>=2<end>'
    """

    separator: str
    marker: str | None = None
    apart: bool = False

    @property
    def end(self) -> str:
        """What ends a step in the text that the model reads."""
        return self.separator if self.marker is None else self.marker

    def text(self, completion: str) -> str:
        """The completion as the model reads it."""
        pieces = completion.split(self.separator)
        if self.marker is not None:
            return "".join(piece + self.marker for piece in pieces if piece.strip())
        return completion + self.separator if pieces[-1].strip() else completion

    def ends(self, text: str) -> list[int]:
        """The last character of the end of each step, in a text that the model reads."""
        pieces, end = text.split(self.end), len(self.end)
        sizes = accumulate(len(piece) + end for piece in pieces[:-1])
        return [size - 1 for piece, size in zip(pieces, sizes, strict=False) if piece.strip()]

    def answers(self, completions: Sequence[Any]) -> list[Any]:
        """Completions, texts or messages, as the model reads them.

        Raises `BadRow` for those without a step, and for messages whose last is no text.
        """
        made, bad = [], []
        for row, completion in enumerate(completions):
            try:
                made.append(self._answer(completion))
            except BadRow as error:
                bad.append(error.at(row))
        refuse(bad)
        return made

    def _answer(self, completion: Any) -> Any:
        key = ""
        content = completion
        if isinstance(completion, list) and completion and isinstance(completion[-1], dict):
            key = "value" if completion[-1].get("content") is None else "content"
            content = completion[-1].get(key)
        if not isinstance(content, str):
            what = f"has steps that are not in a text; got {type(content).__name__}."
            raise BadRow(_WHERE, what, row=0, reason="bad_message")
        text = self.text(content)
        if not self.ends(text):
            raise no_steps(0, "got an answer of white space and separators")
        if not key:
            return text
        return [*completion[:-1], {**completion[-1], key: text}]

    def spans(self, texts: Sequence[str], answers: Sequence[str]) -> list[Span]:
        """Where each answer stands in the text of its row, and the ends of its steps there.

        Raises `BadRow` where a chat template leaves some out.
        """
        spans, bad = [], []
        for row, (text, answer) in enumerate(zip(texts, answers, strict=True)):
            kept = next((t for t in (answer, answer.rstrip(), answer.strip()) if t in text), "")
            begin, found = text.rfind(kept), self.ends(kept)
            wanted = len(self.ends(answer))
            if len(found) < wanted:
                got = f"of {wanted} steps the chat template keeps the ends of {len(found)}"
                hint = "--step-marker with a text that the template does not cut, or another one."
                bad.append(no_steps(row, got, hint))
            spans.append(Span(text, begin, tuple(begin + place for place in found)))
        refuse(bad)
        return spans


@dataclass(frozen=True)
class Span:
    """A row's text, where the completion begins in it, and the last character of each step."""

    text: str
    begin: int
    ends: tuple[int, ...]


def no_steps(row: int, what: str, hint: str | None = None) -> BadRow:
    """The error for a row in which the end of no step, or of too few, can be scored."""
    what = f"has no step that could be scored; {what}."
    return BadRow(_WHERE, what, row=row, reason="no_steps", hint=hint)


def answer_text(answer: Any) -> str:
    """The text of an answer as `StepLayout.answers` gives them."""
    if isinstance(answer, str):
        return answer
    last = answer[-1]
    return str(last["value"] if last.get("content") is None else last["content"])


def tokenised(
    tokenizer: Any, spans: Sequence[Span], layout: StepLayout, *, special: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """The ids of each text, and the tokens at which its steps end.

    Those are the tokens that hold the last character of a step's end, whatever else they hold; or
    the last one before it, where a tokenizer drops white space. `special`: special tokens are put
    around a text, and a BOS token before steps that are tokenised by themselves.
    """
    if not spans:
        return [], []
    if layout.apart:
        return _apart(tokenizer, spans, layout, special=special)
    if not tokenizer.is_fast:
        raise BadArgument(
            "score: this tokenizer does not say which characters its tokens stand for.",
            hint="--steps-apart tokenises every step by itself, if the model was trained so.",
        )
    texts = [span.text for span in spans]
    encoding = tokenizer(
        texts, add_special_tokens=special, return_offsets_mapping=True, verbose=False
    )
    ends = []
    for span, offsets in zip(spans, encoding["offset_mapping"], strict=True):
        # Tokens of no characters are those that stand around a text.
        places = [token for token, (begin, end) in enumerate(offsets) if end > begin]
        begins = np.maximum.accumulate([offsets[token][0] for token in places] or [0])
        found = np.searchsorted(begins, span.ends, side="right") - 1
        ends.append([places[place] for place in found.tolist() if 0 <= place < len(places)])
    return encoding["input_ids"], ends


def _apart(
    tokenizer: Any, spans: Sequence[Span], layout: StepLayout, *, special: bool
) -> tuple[list[list[int]], list[list[int]]]:
    """As `tokenised`: the text before the steps, then each of them and its end by themselves."""
    pieces: list[list[str]] = []
    for span in spans:
        steps = [span.text[: span.begin]]
        begin = span.begin
        for end in span.ends:
            last = end + 1 - len(layout.end)
            steps += [span.text[begin:last], layout.end]
            begin = end + 1
        pieces.append(steps)
    flat = [piece for steps in pieces for piece in steps]
    made = iter(tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"])
    bos = [tokenizer.bos_token_id] if special and tokenizer.bos_token_id is not None else []
    rows, ends = [], []
    for steps in pieces:
        ids, places = list(bos), []
        for number in range(len(steps)):
            ids += next(made)
            if number and number % 2 == 0:
                places.append(len(ids) - 1)
        rows.append(ids)
        ends.append(places)
    return rows, ends


def with_marks(
    rows: TokenRows,
    marks: Sequence[Sequence[int]],
    lengths: Sequence[int],
    kept: Sequence[int],
    cuts_left: bool,
) -> TokenRows:
    """The rows, of which the tokens `marks` are marked.

    kept       which of the texts the rows are
    lengths    tokens of each text; a row may have fewer, cut from its left or its right

    Raises `BadRow` for rows of which no marked token is left.
    """
    made, bad = np.zeros(len(rows.ids), bool), []
    for row, text in enumerate(kept):
        length = int(rows.lengths[row])
        cut = lengths[text] - length if cuts_left else 0
        left = [mark - cut for mark in marks[text] if 0 <= mark - cut < length]
        if not left:
            bad.append(no_steps(text, "the ends of all its steps were cut away"))
        made[int(rows.offsets[row]) + np.asarray(left, np.int64)] = True
    refuse(bad)
    return replace(rows, marks=made)
