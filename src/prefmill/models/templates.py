"""Chat templates: rendered as Transformers does, on a fixed date, and in bounded time.

A template comes with a model folder, so it is not trusted. Transformers' sandbox lets it reach
nothing, but lets it loop and compute as long as it likes. Here a conversation has `SECONDS`, and
numbers and texts cannot be multiplied beyond bounds.
"""

from __future__ import annotations

import ctypes
import datetime
import functools
import hashlib
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from prefmill.errors import BadArgument, BadInput, BadRow, refuse
from prefmill.table.conversations import Message, is_open

#: The most time that one conversation may take. What templates do takes milliseconds.
SECONDS = 10.0
_BITS = 4096  # of a whole number that a template may make
_CHARACTERS = 10_000_000  # of a text, or elements of a list
_TAG = "PREFMILL_GOES_ON_HERE "
# Names under which a message's reasoning is passed; Transformers fills the last from the others.
_REASONING = ("reasoning_content", "thinking", "reasoning")


def today() -> datetime.date:
    """The day that a template is told where nobody names one."""
    return datetime.date.today()


def date_of(text: str | None) -> datetime.date | None:
    """A date that is spelled YYYY-MM-DD. Raises `BadArgument`.

    >>> date_of("2026-11-28")
    datetime.date(2026, 11, 28)
    """
    if text is None:
        return None
    try:
        return datetime.date.fromisoformat(text)
    except (TypeError, ValueError):
        raise BadArgument(
            f"template: template_date is no date; got {text!r}, expected YYYY-MM-DD."
        ) from None


def source_of(template: str) -> str:
    """The Jinja template in the file `template`. Raises `BadArgument`."""
    try:
        return Path(template).read_text(encoding="utf-8")
    except OSError:
        raise BadArgument(
            f"score: no such template; got {template!r}, expected auto, chat, pair, concat or a"
            " file that holds a Jinja template."
        ) from None


class _Stop(BaseException):
    """Raised in the thread of a template that has had its time."""


class ChatTemplate:
    """One template of one tokenizer.

    source  a Jinja template; None: the tokenizer's own
    date    what `strftime_now` prints; None: today, when this is made
    """

    def __init__(
        self,
        tokenizer: Any,
        source: str | None = None,
        *,
        date: datetime.date | None = None,
        where: str = "score",
    ) -> None:
        from transformers import PreTrainedTokenizerBase

        self.tokenizer, self.where = tokenizer, where
        self.source: str = source if source is not None else tokenizer.get_chat_template()
        stock = PreTrainedTokenizerBase.apply_chat_template
        self.own_code = type(tokenizer).apply_chat_template is not stock
        self.date = date or today()
        self._compiled: Any = None
        self._takes_parts: bool | None = None
        if self.prints_date and self.own_code:
            raise BadArgument(
                "score: the tokenizer renders its template by code of its own, with the date of the"
                " day; expected one that can be fixed.",
                hint="--template FILE with a Jinja template that prints no date.",
            )

    @property
    def prints_date(self) -> bool:
        """Whether the template asks for the date."""
        return "strftime_now" in self.source

    @property
    def fingerprint(self) -> str:
        """What decides the texts, but for the date."""
        return hashlib.sha256(self.source.encode()).hexdigest()[:16]

    @property
    def takes_parts(self) -> bool:
        """Whether a content that is a list of parts is written as their texts.

        Else it is written as Python would print the list.
        """
        if self._takes_parts is None:
            parts = [{"type": "text", "text": "prefmill"}]
            try:
                (text,) = self.render([[{"role": "user", "content": parts}]])
            except BadRow:
                text = ""
            is_list = "'text'" in text or '"text"' in text
            self._takes_parts = "prefmill" in text and not is_list
        return self._takes_parts

    def render(
        self,
        talks: Sequence[Sequence[Message]],
        *,
        open_end: bool = False,
        cut_off: bool = False,
        another: bool = False,
    ) -> list[str]:
        """Conversations as texts.

        open_end: as a policy is asked: with the generation prompt behind, or open where the
            assistant is to go on.
        cut_off: the last message goes on: nothing ends it.
        another: another message is to follow, whoever spoke last.
        Raises `BadRow` for conversations that the template refuses, `BadInput` for a template that
        does not end.
        """
        texts: list[str] = []
        bad: list[BadRow] = []

        def work() -> None:
            for row, talk in enumerate(talks):
                try:
                    goes_on = cut_off or (open_end and is_open(talk) and not another)
                    texts.append(self._one(talk, open_end or another, goes_on))
                # Whatever a template raises is about the data it was given.
                except Exception as error:
                    what = f"is refused by the chat template; {type(error).__name__}: {error}."
                    bad.append(BadRow("score", what, row=row, reason="template_failed"))
                    texts.append("")

        _bounded(work, lambda: len(texts), self.where)
        refuse(bad)
        return texts

    def _one(self, talk: Sequence[Message], open_end: bool, goes_on: bool) -> str:
        chat = [_with_reasoning(message) for message in talk]
        if goes_on:
            chat[-1] = {**chat[-1], "content": _tagged(chat[-1]["content"])}
        if self.own_code:
            text: str = self.tokenizer.apply_chat_template(
                chat,
                chat_template=self.source,
                tokenize=False,
                add_generation_prompt=open_end and not goes_on,
            )
        else:
            if self._compiled is None:
                self._compiled = _environment(self.date).from_string(self.source)
            text = self._compiled.render(
                messages=chat,
                tools=None,
                documents=None,
                add_generation_prompt=open_end and not goes_on,
                **self.tokenizer.special_tokens_map,
            )
        if goes_on:
            return _cut_at_tag(text)
        return text


def _with_reasoning(message: Message) -> Message:
    names = (name for name in _REASONING if message.get(name) is not None)
    name = next(names, None)
    if name is None:
        return message
    return {"thinking": message[name], **message, "reasoning_content": message[name]}


def _tagged(content: Any) -> Any:
    if isinstance(content, str):
        return content + _TAG
    *others, last = content
    return [*others, {**last, "text": last["text"] + _TAG}]


def _cut_at_tag(text: str) -> str:
    """The text up to the tag.

    Where the template trims what a message says, the space before it goes too.
    """
    place = text.rfind(_TAG.strip())
    if place < 0:
        raise ValueError(
            "the last message does not stand in the text, so that it cannot be continued"
        )
    if text.startswith(_TAG, place):
        return text[:place]
    return text[:place].rstrip()


def _bounded(work: Callable[[], None], done: Callable[[], int], where: str) -> None:
    """Run `work` in a thread of its own, and stop it when `done` has not risen for `SECONDS`."""
    thread = threading.Thread(target=_quiet(work), name="prefmill-template", daemon=True)
    thread.start()
    while thread.is_alive():
        before = done()
        thread.join(SECONDS)
        if thread.is_alive() and done() == before:
            name = ctypes.c_ulong(thread.ident or 0)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(name, ctypes.py_object(_Stop))
            thread.join(SECONDS)
            raise BadInput(
                f"{where}: the chat template does not end; got {SECONDS:g} seconds for one"
                " conversation, expected milliseconds.",
                hint="--template FILE names another template.",
            )


def _quiet(work: Callable[[], None]) -> Callable[[], None]:
    def run() -> None:
        try:
            work()
        except _Stop:
            return

    return run


@functools.cache
def _theirs() -> Any:
    """Transformers' own environment, with its sandbox, extensions, filters and functions."""
    from transformers.utils.chat_template_utils import _compile_jinja_template

    return _compile_jinja_template("{# prefmill #}").environment


def _environment(date: datetime.date) -> Any:
    """Transformers' environment on one day, in which no single step can take for ever."""
    ours = _theirs().overlay()
    day = datetime.datetime.combine(date, datetime.time())
    # `lipsum` and `random` draw: a row would have another text every time.
    known = {name: value for name, value in ours.globals.items() if name != "lipsum"}
    ours.globals = {**known, "strftime_now": day.strftime}
    rounded = _rounder(ours.filters["round"])
    ours.filters = {**ours.filters, "round": rounded, "random": _no_chance}
    ours.intercepted_binops = frozenset({"*", "**"})
    ours.call_binop = _product
    return ours


def _no_chance(value: Any) -> Any:
    raise ValueError("the filter random gives another text every time")


def _rounder(inner: Callable[..., Any]) -> Callable[..., Any]:
    def bounded(value: Any, precision: int = 0, method: Any = "common") -> Any:
        if abs(precision) > 300:  # a power of ten
            raise OverflowError(f"round to {precision} digits")
        return inner(value, precision, method)

    return bounded


def _product(context: Any, operator: str, left: Any, right: Any) -> Any:
    """`*` and `**`: a single step, which nothing interrupts, could make a text of any size."""
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if operator == "**":
        if not numbers or abs(right) > _BITS or _bits(left) * abs(right) > _BITS:
            raise OverflowError("a power that is too large")
        # Bounded above: neither number nor exponent can be large.
        return left**right
    if numbers:
        if _bits(left) + _bits(right) > _BITS:
            raise OverflowError("a product that is too large")
    elif isinstance(left, int) or isinstance(right, int):
        number, sequence = (left, right) if isinstance(left, int) else (right, left)
        if number > 0 and number * len(sequence) > _CHARACTERS:
            raise OverflowError("a repetition that is too long")
    return left * right


def _bits(number: float) -> int:
    if isinstance(number, int):
        return int(number).bit_length()
    return 64
