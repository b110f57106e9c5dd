"""Rows as conversations: the one reading of them for all that sends a text to a model or a server.

What a row says depends on nothing but the row. A table gives every message the fields of all rows,
so a field that is null is no field, at any depth. Names of the field are read as `role` and
`content`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from prefmill.errors import BadRow, refuse
from prefmill.table.json_values import present

Message = dict[str, Any]

#: Names of (role, content) in the messages of the field: OpenAI's and ShareGPT's.
MESSAGE_KEYS = (("role", "content"), ("from", "value"))
#: What ShareGPT and OASST call the speakers; every chat template knows only the right-hand names.
ROLES = {"human": "user", "gpt": "assistant", "prompter": "user"}
#: What says something in place of a content.
_CALLS = ("tool_calls", "function_call")


@dataclass(frozen=True)
class Conversation:
    """A row: the messages of the prompt, and those that follow.

    unseen  the prompt was a text next to a whole conversation in which it does not stand
    """

    prompt: list[Message]
    completion: list[Message]
    unseen: bool = False

    @property
    def messages(self) -> list[Message]:
        """The whole conversation. A prompt that ends in an assistant's message is continued."""
        if not self.continues:
            return [*self.prompt, *self.completion]
        last, first, *others = self.prompt[-1], *self.completion
        begun = {**last, **first, "content": _joined(last["content"], first["content"])}
        return [*self.prompt[:-1], begun, *others]

    @property
    def continues(self) -> bool:
        """Whether the completion goes on in the prompt's last message, as TRL continues it."""
        return (
            is_open(self.prompt)
            and bool(self.completion)
            and self.completion[0]["role"] == "assistant"
        )


def is_open(prompt: Sequence[Message]) -> bool:
    """Whether a prompt ends in a message of the assistant that an answer continues."""
    if not prompt or prompt[-1]["role"] != "assistant":
        return False
    return not any(prompt[-1].get(name) for name in _CALLS)


def _joined(begin: Any, end: Any) -> Any:
    if isinstance(begin, str) and isinstance(end, str):
        return begin + end
    return [*_parts(begin), *_parts(end)]


def _text_of(part: Any) -> Any:
    return part.get("text") if isinstance(part, dict) else part


def _parts(content: Any) -> list[Any]:
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    return list(content)


def messages_of(value: Any, speaker: str) -> list[Message]:
    """A prompt or completion as messages with `role` and `content`; a text is one of `speaker`.

    Raises `BadRow` (of row 0) for what is no message: without a role, without a content where it
    calls no tool, or a text that is the JSON text of a message list.

    >>> messages_of([{"from": "human", "value": "hi", "weight": None}], "user")
    [{'role': 'user', 'content': 'hi'}]
    """
    value = present(value)
    if isinstance(value, str):
        _refuse_spelled(value)
        return [{"role": speaker, "content": value}]
    if not isinstance(value, list):
        raise _bad(f"is no text and no list of messages; got {type(value).__name__}.")
    return [_message(number, message) for number, message in enumerate(value, 1)]


def _message(number: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise _bad(
            f"has a message {number} that is no message; got {type(message).__name__}, expected"
            " role and content."
        )
    role, content = next((keys for keys in MESSAGE_KEYS if keys[0] in message), MESSAGE_KEYS[0])
    if not isinstance(message.get(role), str):
        raise _bad(
            f"has a message {number} without a role; got {sorted(message)}, expected role and"
            " content (or from and value)."
        )
    text = message.get(content)
    if text is None:
        if not any(message.get(name) for name in _CALLS):
            raise _bad(
                f"has a message {number} ({message[role]}) without a content; got"
                f" {sorted(message)}, expected {role} and {content}."
            )
        text = ""
    if not isinstance(text, str | list):
        kind = type(text).__name__
        raise _bad(
            f"has a message {number} whose content is no text and no list of parts; got {kind},"
            " expected text."
        )
    others = {key: inner for key, inner in message.items() if key not in (role, content)}
    return {"role": ROLES.get(message[role], message[role]), "content": text, **others}


def _refuse_spelled(text: str) -> None:
    """Refuse the JSON text of a message list, as CSV files hold it: a model would read JSON."""
    if text.lstrip()[:1] != "[" or text.rstrip()[-1:] != "]":
        return
    try:
        spelled = json.loads(text)
    except (ValueError, RecursionError):
        return
    if spelled and all(
        isinstance(one, dict) and any(set(keys) <= one.keys() for keys in MESSAGE_KEYS)
        for one in spelled
    ):
        raise _bad(
            "is the JSON text of a message list; got text, expected messages.",
            hint="write it as a list of messages (a JSON file holds them as they are); text that"
            " is meant so goes into one message.",
        )


def _bad(what: str, *, hint: str | None = None) -> BadRow:
    return BadRow("messages", what, row=0, reason="bad_message", hint=hint)


def conversation(prompt: Any, completion: Any = None) -> Conversation:
    """A row as a conversation; without a completion the prompt alone.

    A completion that begins with the prompt's own messages, or next to a text prompt with a message
    that is not the assistant's, is the whole conversation: the prompt is not said twice. Its
    completion is what follows the last message that is not the assistant's. So does TRL read such
    rows. Raises `BadRow` (of row 0).

    >>> whole = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    >>> conversation("Hi", whole).messages == conversation("Hi", "Hello").messages == whole
    True
    """
    asked = messages_of(prompt, "user")
    if completion is None:
        return Conversation(asked, [])
    answer = messages_of(completion, "assistant")
    if not answer:
        raise _bad("has a completion without a message; got [], expected one at least.")
    if isinstance(completion, str) or answer[0]["role"] == "assistant":
        return Conversation(asked, answer)
    if isinstance(prompt, list):
        begin = _repeated(asked, answer)
        return Conversation(answer[:begin] if begin else asked, answer[begin:])
    begin = 1 + max(i for i, message in enumerate(answer) if message["role"] != "assistant")
    if begin == len(answer):
        raise _bad(
            "has a completion that is a whole conversation without an answer; its last message is"
            f" of {answer[-1]['role']!r}."
        )
    stands = any(prompt.strip() in texts_of(message) for message in answer)
    return Conversation(answer[:begin], answer[begin:], bool(prompt.strip()) and not stands)


def _repeated(prompt: list[Message], answer: list[Message]) -> int:
    """How many messages of `answer` say the prompt again, maybe after a system message."""
    before = 0
    while before < len(answer) and answer[before]["role"] in ("system", "developer"):
        before += 1
    for first in {0, before}:
        end = first + len(prompt)
        if prompt and answer[first:end] == prompt and end < len(answer):
            return end
    return 0


def conversations(
    where: str, prompts: Sequence[Any], completions: Sequence[Any] | None = None
) -> list[Conversation]:
    """Every row as a conversation. Raises `BadRow`, with all rows that are none in its `found`."""
    talks, bad = [], []
    for row, prompt in enumerate(prompts):
        completion = None if completions is None else completions[row]
        try:
            talks.append(conversation(prompt, completion))
        except BadRow as error:
            bad.append(error.at(row, where=where))
    refuse(bad)
    return talks


def texts_of(message: Message) -> list[str]:
    """The text parts of a message, without white space around them."""
    texts = [_text_of(part) for part in _parts(message["content"])]
    return [text.strip() for text in texts if isinstance(text, str)]


def plain_text(message: Message) -> str:
    """What a message says to a reader of text: its text parts, then each tool call as JSON.

    Parts stand on lines of their own, as vLLM joins them for templates that take text. Raises
    `BadRow` (of row 0) for a part that is no text.

    >>> parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    >>> plain_text({"role": "user", "content": parts})
    'a\\nb'
    """
    lines = []
    for part in _parts(message["content"] or []):
        text = _text_of(part)
        if not isinstance(text, str):
            kind = type(part).__name__
            if isinstance(part, dict):
                kind = part.get("type", sorted(part))
            raise _bad(
                f"has a part that is no text; got {kind!r}, expected text for who reads text alone."
            )
        lines.append(text)
    calls = list(message.get("tool_calls") or [])
    if message.get("function_call"):
        calls.append(message["function_call"])
    for call in calls:
        inner = call.get("function", call) if isinstance(call, dict) else call
        lines.append(f"tool_call: {json.dumps(inner, ensure_ascii=False)}")
    return "\n".join(lines)


def spoken(messages: Sequence[Message]) -> str:
    """Messages as a reader of text gets them: one as it is, several with their roles before them.

    >>> spoken([{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}])
    'user: Hi\\n\\nassistant: Hello'
    """
    texts = [plain_text(message) for message in messages]
    if len(messages) == 1:
        return texts[0]
    pairs = zip(messages, texts, strict=True)
    return "\n\n".join(f"{message['role']}: {text}" for message, text in pairs)


def row_texts(
    where: str, prompts: Sequence[Any], completions: Sequence[Any]
) -> tuple[list[str], list[str]]:
    """Prompt and completion of every row as texts (`spoken`).

    Raises `BadRow`, with all such rows in its `found`.
    """
    asked, answers, bad = [], [], []
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        try:
            talk = conversation(prompt, completion)
            both = spoken(talk.prompt), spoken(talk.completion)
        except BadRow as error:
            bad.append(error.at(row, where=where))
            continue
        asked.append(both[0])
        answers.append(both[1])
    refuse(bad)
    return asked, answers


def for_server(messages: Sequence[Message]) -> list[Message]:
    """Messages for servers of OpenAI's protocol: the arguments of a tool call are JSON text.

    >>> calls = [{"function": {"name": "f", "arguments": {"x": 1}}}]
    >>> for_server([{"role": "assistant", "content": "", "tool_calls": calls}])[0]["tool_calls"]
    [{'function': {'name': 'f', 'arguments': '{"x": 1}'}}]
    """
    return [
        {key: _calls_spelled(value) if key in _CALLS else value for key, value in message.items()}
        for message in messages
    ]


def _calls_spelled(value: Any) -> Any:
    if isinstance(value, list):
        return [_calls_spelled(one) for one in value]
    if not isinstance(value, dict):
        return value
    call = dict(value)
    if "function" in call:
        call["function"] = _calls_spelled(call["function"])
    if "arguments" in call and not isinstance(call["arguments"], str):
        call["arguments"] = json.dumps(call["arguments"], ensure_ascii=False)
    return call
