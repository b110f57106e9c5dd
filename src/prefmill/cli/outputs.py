"""Options of `prefmill score` that say what is read off a model: labels, steps, choices."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from prefmill.cli.app import Options
from prefmill.cli.options import option
from prefmill.cli.texts import numbers_in

#: what people type for characters that a shell makes hard to type
_ESCAPES = {r"\n": "\n", r"\t": "\t"}


class Outputs(Options):
    """What is read off a model."""

    label: Annotated[
        list[str] | None,
        option(
            help="The label that is the score, where the model has several; again for a column of "
            "each, or all.",
        ),
    ] = None
    weights: Annotated[
        str | None,
        option(metavar="NAME=NUMBER,...", help="Of several labels: the score is their sum."),
    ] = None
    step_separator: Annotated[
        str | None,
        option(
            metavar="TEXT",
            help=r"What ends a step of the completion (\n is a new line): every step is scored.",
        ),
    ] = None
    step_marker: Annotated[
        str | None,
        option(metavar="TEXT", help="Put after each step instead, where the model wants another."),
    ] = None
    steps_apart: Annotated[
        bool, option("--steps-apart", help="Tokenise every step by itself, as TRL and Skywork do.")
    ] = False
    reduce: Annotated[
        str | None,
        option(help="Scores of steps to one: last, min, product or mean.  [default: min]"),
    ] = None
    step_values: Annotated[
        str | None,
        option(
            help="probability (of the label; of one output its sigmoid), or output.  [default: "
            "probability of classifiers]"
        ),
    ] = None


class Choices(Options):
    """What a language model is asked, and between which answers it chooses."""

    choices: Annotated[
        str | None,
        option(
            metavar="TEXT,...",
            help="Of choice: the answers, the good one first, or numbers.  [default: yes,no]",
        ),
    ] = None
    preset: Annotated[
        str | None,
        option(help="Of choice: qwen3-reranker, llama-guard or math-shepherd."),
    ] = None
    ask: Annotated[
        str | None,
        option(
            help="Of choice: the rubric as a message (chat), as all the text (text), or the row's "
            "own messages (conversation).  [default: chat]"
        ),
    ] = None
    score_as: Annotated[
        str | None,
        option(help="Of choice: log-odds or expected (of numbers).  [default: as choices are]"),
    ] = None
    first_token: Annotated[
        bool,
        option("--first-token", help="Of choice: of longer choices look at the first token."),
    ] = False


def outputs_given(given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of these options that were given, as a scorer takes them."""
    made: dict[str, Any] = {}
    if "weights" in given:
        made["weights"] = numbers_in("--weights", given["weights"])
    if "choices" in given:
        made["choices"] = tuple(given["choices"].split(","))
    for name in ("step_separator", "step_marker"):
        if name in given:
            made[name] = _unescaped(given[name])
    return made


def _unescaped(text: str) -> str:
    r"""A text in which `\n` and `\t` are what they mean.

    >>> _unescaped(r"\n\n") == "\n\n"
    True
    """
    for typed, meant in _ESCAPES.items():
        text = text.replace(typed, meant)
    return text
