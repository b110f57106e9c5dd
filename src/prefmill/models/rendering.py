"""Rows as the texts that are tokenised: conversations by a chat template, or two texts joined."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

from prefmill.errors import BadRow, refuse
from prefmill.models.templates import ChatTemplate
from prefmill.table.conversations import Conversation, Message, plain_text, texts_of


def joined(
    prompts: list[str], completions: list[str], open_ends: Sequence[bool] | None, eos: str
) -> list[str]:
    """Prompt and completion as one text, which ends in `eos` as the tokenizer ends texts."""
    ends = open_ends or [False] * len(prompts)
    texts = []
    for prompt, completion, is_open in zip(prompts, completions, ends, strict=True):
        text = prompt + completion
        texts.append(text if is_open or text.endswith(eos) else text + eos)
    return texts


def whole_texts(
    chat: ChatTemplate, talks: list[list[Message]], open_ends: Sequence[bool] | None
) -> list[str]:
    """Whole conversations as texts.

    Those that `open_ends` marks stop where their last message does.
    """
    texts = rendered(chat, talks)
    cut_off = [i for i, is_cut in enumerate(open_ends or ()) if is_cut]
    if cut_off:
        try:
            open_texts = rendered(chat, [talks[i] for i in cut_off], cut_off=True)
        except BadRow as error:
            refuse([bad.at(cut_off[bad.row]) for bad in error.found])
            raise
        for i, text in zip(cut_off, open_texts, strict=True):
            texts[i] = text
    return texts


def rendered(
    chat: ChatTemplate,
    talks: list[list[Message]],
    *,
    open_end: bool = False,
    cut_off: bool = False,
    another: bool = False,
) -> list[str]:
    """Conversations as texts; the ends are those of `Encoder.rendered`."""
    talks = _in_words(chat, talks)
    return chat.render(talks, open_end=open_end, cut_off=cut_off, another=another)


def not_whole(talks: list[Conversation], texts: list[str]) -> list[int]:
    """The rows whose completions do not stand whole in their rendered conversation."""
    cut = []
    for row, (talk, text) in enumerate(zip(talks, texts, strict=True)):
        parts = chain.from_iterable(texts_of(message) for message in talk.completion)
        if any(part not in text for part in parts):
            cut.append(row)
    return cut


def _in_words(chat: ChatTemplate, talks: list[list[Message]]) -> list[list[Message]]:
    """Conversations whose contents are as the template takes them.

    Of parts, texts alone; as one text where it knows no parts.
    """
    made, bad = [], []
    for row, talk in enumerate(talks):
        if all(isinstance(message["content"], str) for message in talk):
            made.append(talk)
            continue
        try:
            texts = [_text_of_parts(message["content"]) for message in talk]
        except BadRow as error:
            bad.append(error.at(row, where="score"))
            continue
        if not chat.takes_parts:
            pairs = zip(talk, texts, strict=True)
            talk = [{**message, "content": text} for message, text in pairs]
        made.append(talk)
    refuse(bad)
    return made


def _text_of_parts(content: Any) -> str:
    """A content as one text.

    Raises `BadRow` (of row 0) for a part that is not text: a tokenizer reads nothing else.
    """
    if isinstance(content, str):
        return content
    return plain_text({"content": content})
