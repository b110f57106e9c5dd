"""The formats of output, one entry each: what options, checks and docs know of a format.

To add one: an entry here, and its columns in `prefmill.writers.layouts`. Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Format = Literal[
    "trl",
    "trl-implicit",
    "kto",
    "instruction",
    "openrlhf",
    "llama-factory",
    "pool",
    "prompt-completion",
    "messages",
]
#: What a plan's rows are: pairs, labelled completions, or rows of the input.
Rows = Literal["pairs", "labels", "rows"]


@dataclass(frozen=True)
class Entry:
    """A format: its name, which rows it is for, and its columns before the kept ones."""

    name: Format
    rows: tuple[Rows, ...]
    columns: str
    margin: bool = False  #: it may have a column `margin`
    parts: bool = False  #: a prompt that was joined of two columns is two columns in it


#: By name. The first that takes a plan's rows is their default.
FORMATS: Mapping[str, Entry] = {
    entry.name: entry
    for entry in (
        Entry("trl", ("pairs",), "prompt, chosen, rejected, chosen_score, rejected_score", True),
        Entry(
            "trl-implicit",
            ("pairs",),
            "chosen, rejected (each with the prompt in front), chosen_score, rejected_score",
            True,
        ),
        Entry("kto", ("pairs", "labels"), "prompt, completion, label, score"),
        Entry("instruction", ("pairs",), "instruction, chosen_response, rejected_response"),
        Entry("openrlhf", ("pairs",), "prompt, chosen, rejected, chosen_reward, rejected_reward"),
        Entry(
            "llama-factory",
            ("pairs",),
            "messages: conversations, chosen, rejected; text: instruction, input, chosen, rejected",
            parts=True,
        ),
        Entry("pool", ("rows",), "every column of the input, and the rank or the advantage"),
        Entry("prompt-completion", ("rows",), "prompt, completion"),
        Entry("messages", ("rows",), "messages: the conversation of prompt and completion"),
    )
}


def formats_for(rows: str) -> tuple[Format, ...]:
    """The formats that rows of this kind can have, the default first.

    >>> formats_for("rows")
    ('pool', 'prompt-completion', 'messages')
    """
    return tuple(entry.name for entry in FORMATS.values() if rows in entry.rows)


def in_parts(name: str) -> bool:
    """Whether a prompt that was joined of two columns is two columns in this format.

    >>> in_parts("llama-factory"), in_parts("no such format")
    (True, False)
    """
    return name in FORMATS and FORMATS[name].parts


def margin_for(rows: str) -> bool:
    """Whether rows of this kind can have a column `margin`."""
    return any(FORMATS[name].margin for name in formats_for(rows))


def help_for(rows: str) -> str:
    """What the option `--format` says for rows of this kind.

    >>> help_for("labels")
    'kto.  [default: kto]'
    """
    names = formats_for(rows)
    return f"{', '.join(names)}.  [default: {names[0]}]"
