"""Rows as questions to a language model, of whose answer the first token is looked at."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument
from prefmill.models.encoder import Encoder
from prefmill.models.steps import Span, answer_text, tokenised, with_marks
from prefmill.models.tokens import Encoded, Longs, TokenRows
from prefmill.scoring.judging.rubrics import filled
from prefmill.table.conversations import conversations, row_texts

Ask = Literal["chat", "text", "conversation"]


@dataclass(frozen=True)
class Question:
    """What a model is asked of a row.

    ask     chat: `text` is a user's message, and the answer is to follow by the chat template.
            text: `text` is all that the model reads. conversation: it reads the row's own messages
            by its chat template, and the answer is to follow (`text` is not used).
    text    with the places {prompt} and {completion}
    """

    ask: Ask
    text: str = ""


class AskEncoder(Encoder):
    """As `Encoder`: token ids of questions. What comes after a row is the answer."""

    def __init__(self, tokenizer: Any, *, question: Question, **settings: Any) -> None:
        if question.ask == "text":
            settings["template"] = "concat"
        super().__init__(tokenizer, **settings)
        if question.ask != "text" and self.template != "chat":
            raise BadArgument(
                "score: a question as a chat needs a chat template, which this tokenizer lacks.",
                hint="--ask text with a --rubric that is all the text, or --template FILE.",
            )
        if self.on_too_long == "truncate":
            raise BadArgument("score: a question that is cut is another one; got 'truncate'.")
        self.question = question

    @property
    def fingerprint(self) -> dict[str, str]:
        """As of every encoder, and the question."""
        return {**super().fingerprint, "question": json.dumps(asdict(self.question))}

    def encode(
        self,
        prompts: pa.Array,
        completions: pa.Array,
        groups: Longs,
        open_ends: Sequence[bool] | None = None,
    ) -> Encoded:
        """Token rows of the questions about a batch; see `Encoder.encode`."""
        texts, spans = self._questions(*self._given(prompts, completions))
        special, marks = self.question.ask == "text", None
        if self.layout is None:
            ids = self._tokenize(texts, special=special)
        else:
            ids, marks = tokenised(self.tokenizer, spans, self.layout, special=special)
        self._one_bos(ids)
        kept, _ = self._within_limit(ids, None, texts, texts)
        rows = TokenRows.of([ids[i] for i in kept], groups[kept].tolist())
        if marks is not None:
            rows = with_marks(rows, marks, list(map(len, ids)), kept, False)
        return Encoded(rows, np.asarray(kept, np.int64), 0)

    def _questions(self, prompts: list[Any], answers: list[Any]) -> tuple[list[str], list[Span]]:
        """The text of each row, and where its steps end in it."""
        if self.question.ask == "conversation":
            talks = [talk.messages for talk in conversations("score", prompts, answers)]
            texts = self.rendered(talks, another=True)
        else:
            asked, said = row_texts("score", prompts, answers)
            texts = [
                filled(self.question.text, {"prompt": prompt, "completion": completion})
                for prompt, completion in zip(asked, said, strict=True)
            ]
            if self.question.ask == "chat":
                talks = [[{"role": "user", "content": text}] for text in texts]
                texts = self.rendered(talks, open_end=True)
        if self.layout is None:
            return texts, []
        return texts, self.layout.spans(texts, list(map(answer_text, answers)))

    def first_tokens(self, choices: Sequence[str], *, several: bool = False) -> list[int]:
        """The token with which each choice begins, where it is looked at.

        several: a choice may have more tokens, if its first one is that of no other choice. Raises
        `BadArgument` for choices that cannot be told apart so.
        """
        answer = "a" if self.layout is None else self.layout.text("a")
        (text,), spans = self._questions(["q"], [answer])
        if spans:
            text = text[: spans[0].ends[-1] + 1]
        before = self._tokenize([text], special=False)[0]
        if self._tokenize([text], special=True)[0][-1:] != before[-1:]:
            raise BadArgument("score: the tokenizer ends every text with a token of its own.")
        found: list[int] = []
        for choice in choices:
            both = self._tokenize([text + choice], special=False)[0]
            own = both[len(before) :]
            if both[: len(before)] != before or not own:
                raise BadArgument(
                    f"score: the choice {choice!r} merges with the end of the question,"
                    f" {text[-12:]!r}; expected tokens of its own.",
                    hint="end the question as the model's training did, or begin the choices so.",
                )
            if len(own) > 1 and not several:
                tokens = self.tokenizer.convert_ids_to_tokens(own)
                raise BadArgument(
                    f"score: the choice {choice!r} is {len(own)} tokens after the question;"
                    f" got {tokens}, expected one.",
                    hint="--first-token looks at the first of each, where these differ.",
                )
            found.append(own[0])
        if len(set(found)) < len(found):
            raise BadArgument(f"score: choices begin with the same token; got {list(choices)}.")
        return found
