"""Conversations to token ids, by one fixed template.

A conversation is tokenised whole. Nothing is ever put together from tokenised parts, so that a row
has the ids that the model was trained on, whatever the tokenizer merges across the seam of prompt
and completion.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow, refuse
from prefmill.models.beginnings import beginnings, moved
from prefmill.models.limits import OnTooLong, refuse_empty, too_long
from prefmill.models.rendering import joined, not_whole, rendered, whole_texts
from prefmill.models.special_tokens import pair_ids, refuse_two_bos, separates_pairs
from prefmill.models.steps import StepLayout, answer_text, tokenised, with_marks
from prefmill.models.templates import ChatTemplate, date_of, source_of
from prefmill.models.tokens import Encoded, Longs, TokenRows
from prefmill.table.conversations import Conversation, Message, conversations


class Encoder:
    """Conversations to token ids, by one fixed template.

    | template | ids of a row                                                                    |
    |----------|---------------------------------------------------------------------------------|
    | `chat`   | the tokenizer's chat template over prompt + completion, as TRL trains           |
    | `pair`   | `tokenizer(prompt, completion)`: two texts, as cross-encoders are trained       |
    | `concat` | `tokenizer(prompt + completion + eos)`: one text, as TRL trains on plain rows   |
    | `auto`   | `chat` if the tokenizer has a template, else `pair` if it has a separator of    |
    |          | pairs, else `concat`                                                            |
    | a path   | `chat` with the Jinja template in that file                                     |

    What the messages of a row are is the business of `prefmill.table.conversations`, for every
    template alike.

    Args:
        template_date: what a template prints as the date (`strftime_now`), as YYYY-MM-DD; None:
            today.
        limit: the most tokens of a row; longer ones are an error, left out (`null`), or cut
            (`truncate`, at the tokenizer's `truncation_side`).
        starts: find where the completion begins: the longest common prefix of the row's ids with
            those of the prompt alone.
        needs_completion: leave a row out, as too long, whose completion was cut away wholly.
        steps: mark the tokens at which the steps of a completion end, and lay it out so.
        where: the command, for messages.
    """

    def __init__(
        self,
        tokenizer: Any,
        *,
        template: str = "auto",
        limit: int | None = None,
        on_too_long: OnTooLong = "error",
        starts: bool = False,
        needs_completion: bool = False,
        template_date: str | None = None,
        steps: StepLayout | None = None,
        where: str = "score",
    ) -> None:
        allowed = get_args(OnTooLong)
        if on_too_long not in allowed:
            raise BadArgument(f"score: on_too_long is not one of {allowed}; got {on_too_long!r}.")
        self.where, self.layout = where, steps
        self.tokenizer, self.limit, self.on_too_long = tokenizer, limit, on_too_long
        self.starts, self.needs_completion = starts or needs_completion, needs_completion
        if template == "auto":
            template = self._usual_template()
        jinja = None
        if template not in ("chat", "pair", "concat"):
            jinja, template = source_of(template), "chat"
        if template == "chat" and not (jinja or tokenizer.chat_template):
            raise BadArgument(
                "score: the tokenizer has no chat template; got template='chat'.",
                hint="name a file that holds one, or use concat.",
            )
        self.template = template
        self.chat: ChatTemplate | None = None
        if template == "chat":
            self.chat = ChatTemplate(tokenizer, jinja, date=date_of(template_date), where=where)
        if steps is not None and template == "pair":
            raise BadArgument(
                "score: steps are those of one text; got template 'pair'.",
                hint="--template concat, or chat.",
            )
        self._told_bos = self._told_cut = self._told_unseen = False

    def _usual_template(self) -> str:
        if self.tokenizer.chat_template:
            return "chat"
        # What a language model continues is one text.
        if self.needs_completion or not separates_pairs(self.tokenizer):
            return "concat"
        return "pair"

    @property
    def fingerprint(self) -> dict[str, str]:
        """What decides the ids besides the tokenizer's own files, by name."""
        steps = {} if self.layout is None else {"steps": repr(self.layout)}
        if self.chat is None:
            return {"template": self.template, **steps}
        template = {"template": f"{self.template}:{self.chat.fingerprint}", **steps}
        if self.chat.prints_date:
            template["template_date"] = self.chat.date.isoformat()
        return template

    @property
    def template_date(self) -> str | None:
        """The date that the template prints; None: it prints none."""
        return self.fingerprint.get("template_date")

    def encode(
        self,
        prompts: pa.Array,
        completions: pa.Array,
        groups: Longs,
        open_ends: Sequence[bool] | None = None,
    ) -> Encoded:
        """Token rows of a batch of texts or message lists, without nulls.

        Rows that `open_ends` marks stop where the completion does: it was cut off, and nothing
        ended it. Raises `BadRow`, with all rows of its kind in `found`: a row over the limit with
        `on_too_long="error"`, without tokens, that the template refuses, or that begins with two
        BOS tokens.
        """
        questions, answers = self._given(prompts, completions)
        types: list[list[int]] | None = None
        marks: list[list[int]] | None = None
        talks: list[Conversation] | None = None
        lost_text = 0
        if self.template == "chat":
            talks = conversations("score", questions, answers)
            self._warn_unseen(talks)
            assert self.chat is not None
            texts = whole_texts(self.chat, [talk.messages for talk in talks], open_ends)
            lost_text = 0 if self.layout else self._cut_by_template(talks, texts)
            ids, marks = self._marked(texts, answers, special=False)
            self._one_bos(ids)
        else:
            self._refuse_messages([*questions, *answers])
            conversations("score", questions, answers)  # refuses texts that are JSON
            if self.template == "pair":
                ids, types = pair_ids(self.tokenizer, questions, answers)
            else:
                texts = joined(questions, answers, open_ends, self.tokenizer.eos_token or "")
                ids, marks = self._marked(texts, answers, special=True)
                self._one_bos(ids)
        whole = list(ids)
        kept, truncated = self._within_limit(ids, types, questions, answers)
        starts = [0] * len(ids)
        if self.starts:
            starts = self._starts(questions, talks, whole, ids, groups)
        # A row whose completion was cut away wholly is too long: nothing would be summed, and 0 is
        # the best sum.
        if self.needs_completion:
            lost = {i for i in kept if len(ids[i]) < len(whole[i]) and starts[i] >= len(ids[i])}
            kept, truncated = [i for i in kept if i not in lost], truncated - len(lost)
        rows = TokenRows.of(
            [ids[i] for i in kept], groups[kept].tolist(), [starts[i] for i in kept]
        )
        if types is not None:
            of_rows = [np.asarray(types[i], np.int32) for i in kept]
            rows = replace(rows, types=np.concatenate([np.zeros(0, np.int32), *of_rows]))
        if marks is not None:
            rows = with_marks(rows, marks, list(map(len, whole)), kept, self._cuts_left)
        return Encoded(rows, np.asarray(kept, np.int64), truncated, lost_text)

    def _given(self, prompts: pa.Array, completions: pa.Array) -> tuple[list[Any], list[Any]]:
        """The values of a batch, none of them null, completions with their steps laid out."""
        questions, answers = prompts.to_pylist(), completions.to_pylist()
        for name, values in (("prompt", questions), ("completion", answers)):
            what = f"has no {name}; got null, expected text or messages."
            nulls = [i for i, value in enumerate(values) if value is None]
            refuse([BadRow("score", what, row=i, reason=f"null_{name}") for i in nulls])
        if self.layout is not None:
            answers = self.layout.answers(answers)
        return questions, answers

    def prompts(self, prompts: list[Any]) -> list[list[int]]:
        """The ids of prompts alone, as a policy reads them.

        Texts stand as they are, chats with the generation prompt after them. A chat that ends in a
        message of the assistant stays open, so that the answer goes on in it. Raises `BadRow` with
        the place of the prompt as its row.
        """
        if self.template == "chat":
            return self._open([talk.prompt for talk in conversations("score", prompts)])
        self._refuse_messages(prompts)
        return self._tokenize(prompts, special=True)

    def _refuse_messages(self, values: list[Any]) -> None:
        if any(not isinstance(value, str) for value in values):
            raise BadInput(
                f"{self.where}: message lists need a chat template;"
                f" got template {self.template!r}.",
                hint="use a model whose tokenizer has a chat template, or name a file that holds"
                " one.",
            )

    # Texts

    def rendered(
        self,
        talks: list[list[Message]],
        *,
        open_end: bool = False,
        cut_off: bool = False,
        another: bool = False,
    ) -> list[str]:
        """Conversations as texts, by the chat template.

        With `open_end` an answer is to follow, with `cut_off` the last one goes on, with `another`
        a message follows even the assistant's. Raises `BadRow` for those that the template refuses.
        """
        assert self.chat is not None
        return rendered(self.chat, talks, open_end=open_end, cut_off=cut_off, another=another)

    def _warn_unseen(self, talks: list[Conversation]) -> None:
        row = next((row for row, talk in enumerate(talks) if talk.unseen), None)
        if row is not None and not self._told_unseen:
            self._told_unseen = True
            warnings.warn(
                f"the completion of row {row} is a whole conversation in which its prompt does not"
                " stand; the conversation alone is read",
                stacklevel=3,
            )

    def _cut_by_template(self, talks: list[Conversation], texts: list[str]) -> int:
        """How many completions do not stand whole in their rendered conversation; told once."""
        cut = not_whole(talks, texts)
        if cut and not self._told_cut:
            self._told_cut = True
            warnings.warn(
                f"the chat template leaves out a part of completions (the first is row {cut[0]}),"
                " as those of reasoning models cut what is thought: what it leaves out is not read",
                stacklevel=3,
            )
        return len(cut)

    # Ids

    def _tokenize(self, texts: list[str], *, special: bool) -> list[list[int]]:
        if not texts:
            return []
        encoding = self.tokenizer(texts, add_special_tokens=special, verbose=False)
        return encoding["input_ids"]  # type: ignore[no-any-return]

    def _marked(
        self, texts: list[str], answers: list[Any], *, special: bool
    ) -> tuple[list[list[int]], list[list[int]] | None]:
        """The ids of texts, and of each the tokens at which steps end; None: nobody asks."""
        if self.layout is None:
            return self._tokenize(texts, special=special), None
        spans = self.layout.spans(texts, [answer_text(answer) for answer in answers])
        return tokenised(self.tokenizer, spans, self.layout, special=special)

    def _open(self, talks: list[list[Message]]) -> list[list[int]]:
        """The ids of prompts that are messages."""
        ids = self._tokenize(self.rendered(talks, open_end=True), special=False)
        self._one_bos(ids)
        return ids

    @property
    def _cuts_left(self) -> bool:
        """Whether rows that are too long lose their begin."""
        return bool(self.tokenizer.truncation_side == "left")

    def _one_bos(self, ids: list[list[int]]) -> None:
        """Refuse a second BOS at the front, which costs accuracy in silence.

        Say once if there is none where the tokenizer adds one.
        """
        bos = self.tokenizer.bos_token_id
        if bos is None or not ids:
            return
        refuse_two_bos(self.tokenizer, ids, self.template)
        if self.template != "chat" or self._told_bos or all(row[:1] == [bos] for row in ids):
            return
        if self.tokenizer("")["input_ids"][:1] == [bos]:
            self._told_bos = True
            warnings.warn(
                "the chat template begins without the BOS token that the tokenizer adds to plain"
                " text",
                stacklevel=2,
            )

    def _within_limit(
        self,
        ids: list[list[int]],
        types: list[list[int]] | None,
        prompts: list[Any],
        completions: list[Any],
    ) -> tuple[list[int], int]:
        """Rows to keep, after cutting those that are to be cut (in place), and how many were."""
        limit = self.limit
        refuse_empty(ids)
        every = list(range(len(ids)))
        # Without a limit nothing is over it, but empty rows are refused all the same.
        if limit is None:
            return every, 0
        over = [i for i, row in enumerate(ids) if len(row) > limit]
        if self.on_too_long == "error":
            refuse([too_long(i, len(ids[i]), limit) for i in over])
        if self.on_too_long == "null":
            left_out = set(over)
            return [i for i in every if i not in left_out], 0
        # A pair is cut by the tokenizer, which knows where its separators go.
        if self.template == "pair":
            some = [prompts[i] for i in over], [completions[i] for i in over]
            cut_ids, cut_types = pair_ids(self.tokenizer, *some, limit)
            for j, i in enumerate(over):
                ids[i] = cut_ids[j]
                if types is not None and cut_types is not None:
                    types[i] = cut_types[j]
        else:
            for i in over:
                ids[i] = ids[i][-limit:] if self._cuts_left else ids[i][:limit]
        return every, len(over)

    # Where completions begin

    def _starts(
        self,
        prompts: list[Any],
        talks: list[Conversation] | None,
        whole: list[list[int]],
        ids: list[list[int]],
        groups: Longs,
    ) -> list[int]:
        """Where the completion begins in `ids`.

        It does where it does in the `whole` rows, moved by what was cut from the left.
        """

        def alone(rows: list[int]) -> list[list[int]]:
            if talks is None:
                return self.prompts([prompts[row] for row in rows])
            return self._open([talks[row].prompt for row in rows])

        if self.template == "pair":  # cut within both texts: there the rows as they are decide
            return beginnings(ids, groups, talks, alone)
        starts = beginnings(whole, groups, talks, alone)
        return moved(starts, whole, ids, cuts_left=self._cuts_left)
