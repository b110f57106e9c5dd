"""The words that say where the labels of steps are in records, and what they mean.

The rule is in `docs/semantics.md`, "Labels of steps".
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Literal, TypedDict, get_args

from prefmill.errors import PlanError

AfterError = Literal["keep", "drop", "false"]
#: A rating that means true, false, or nothing.
Meaning = float | None

#: What the position of the first error may always be where there is none: no position is -1.
NO_ERROR = ("-1", "N/A")
#: The roles of a record, each a path.
ROLES = ("prompt", "steps", "rating", "first_error", "chosen", "written")
#: Why a record, or a path through one, gives no row; the first that holds.
STEP_REASONS = ("null_prompt", "no_steps", "bad_index", "null_step", "unknown_rating")


class StepOptions(TypedDict, total=False):
    """Keyword form of `StepWords`."""

    prompt: str | None
    steps: str | None
    rating: str | None
    first_error: str | None
    chosen: str | None
    written: str | None
    step_separator: str | None
    steps_from: str | None
    values: Mapping[str, Meaning] | str
    threshold: float | None
    first_index: int | None
    no_error: Sequence[str]
    after_error: AfterError | None


@dataclass(frozen=True, kw_only=True)
class StepWords:
    """Which parts of a record are what. What is None is recognised, or decided by the data.

    Args:
        prompt: a path; of several, with commas, the texts are joined by a blank line.
        steps, rating, first_error, chosen, written: paths.
        step_separator: steps are one text, and this stands between them (or after each).
        steps_from: how the first step begins; what is before it in the text is the prompt.
        values: what ratings mean: a number, or None; also as text, `"good=1,bad=0,?=null"`. Words
            compare without regard to case and white space around them, numbers as numbers.
        threshold: a rating of at least this is true.
        first_index: the position of the first step, 0 or 1.
        no_error: words of `first_error` that say that no step is wrong, `null` for a null; next to
            those of `NO_ERROR`.
        after_error: what becomes of the steps after the first that is wrong. None is `drop` with
            `first_error`, and `keep` with ratings.

    Raises `PlanError` with every problem at once.

    >>> StepWords(steps="steps", rating="ratings", threshold=0.5).options()
    '--steps steps --rating ratings --threshold 0.5'
    """

    prompt: str | None = None
    steps: str | None = None
    rating: str | None = None
    first_error: str | None = None
    chosen: str | None = None
    written: str | None = None
    step_separator: str | None = None
    steps_from: str | None = None
    values: Mapping[str, Meaning] | str = field(default_factory=dict, hash=False)
    threshold: float | None = None
    first_index: int | None = None
    no_error: Sequence[str] = ()
    after_error: AfterError | None = None

    def __post_init__(self) -> None:
        if isinstance(self.no_error, str):
            object.__setattr__(self, "no_error", (self.no_error,))
        problems = list(self._problems())
        try:
            object.__setattr__(self, "values", meanings(self.values))
        except ValueError as error:
            problems.append(f"values: {error}")
        if problems:
            raise PlanError("steps", problems)

    def _problems(self) -> Sequence[str]:
        problems = []
        if self.rating and self.first_error:
            problems.append(
                "rating and first_error are two ways to say the same; got both"
                f" ({self.rating!r}, {self.first_error!r})"
            )
        if self.first_index not in (None, 0, 1) or isinstance(self.first_index, bool):
            problems.append(f"first_index must be 0 or 1; got {self.first_index!r}")
        allowed = get_args(AfterError)
        if self.after_error is not None and self.after_error not in allowed:
            problems.append(f"after_error is not one of {list(allowed)}; got {self.after_error!r}")
        if self.after_error == "keep" and self.first_error:
            problems.append("after_error keep needs a rating of every step; got first_error")
        if self.chosen and self.first_error:
            problems.append("chosen needs a rating of every candidate; got first_error")
        if self.written and not self.chosen:
            problems.append("written stands where no candidate was chosen; it needs chosen")
        if self.steps_from and not self.step_separator:
            problems.append("steps_from is of one text with step_separator; it needs that")
        texts = ("step_separator", "steps_from", *ROLES)
        empty = [name for name in texts if getattr(self, name) == ""]
        return problems + [f"{name} must be text that is not empty; got ''" for name in empty]

    @property
    def means(self) -> Mapping[str, Meaning]:
        """What ratings mean."""
        return meanings(self.values)

    @property
    def is_named(self) -> bool:
        """Whether some word says that the input has records, and not a tree of rollouts."""
        names = set(ROLES) - {"prompt"} | {"step_separator", "steps_from", "first_index"}
        return any(getattr(self, name) is not None for name in names) or bool(self.values)

    @property
    def missing(self) -> bool:
        """Whether a role has to be recognised."""
        has_prompt = self.prompt is not None or self.steps_from is not None
        has_labels = self.rating is not None or self.first_error is not None
        return not (has_prompt and self.steps is not None and has_labels)

    @property
    def after(self) -> AfterError:
        """What becomes of the steps after the first that is wrong."""
        if self.after_error is not None:
            return self.after_error
        return "drop" if self.first_error else "keep"

    def paths(self) -> dict[str, str]:
        """The path of every role that has one."""
        return {role: path for role in ROLES if (path := getattr(self, role)) is not None}

    def options(self) -> str:
        """The words as options of the command line."""
        told = []
        for each in fields(self):
            value = getattr(self, each.name)
            name = f"--{each.name.replace('_', '-')}"
            if each.name == "values" and value:
                told.append(f"{name} {shlex.quote(spelled(self.means))}")
            elif each.name == "no_error":
                told += [f"{name} {shlex.quote(word)}" for word in value]
            elif each.name != "values" and value is not None:
                told.append(f"{name} {shlex.quote(str(value))}")
        return " ".join(told)


def meanings(values: Mapping[str, Meaning] | str) -> dict[str, Meaning]:
    """What ratings mean, of a mapping or of a text. Raises `ValueError`.

    >>> meanings("good=1, a=b=0,?=null")
    {'good': 1.0, 'a=b': 0.0, '?': None}
    """
    if isinstance(values, str):
        parts = [part.strip() for part in values.split(",") if part.strip()]
        # From the right: a word may hold an equals sign, a number does not.
        pairs = [part.rpartition("=")[::2] for part in parts]
        values = {word: _meaning(text) for word, text in pairs}
    found = {str(word): None if value is None else float(value) for word, value in values.items()}
    for word, value in found.items():
        if not word or (value is not None and not math.isfinite(value)):
            raise ValueError(f"got {word!r}={value}, expected WORD=NUMBER or WORD=null")
    return found


def _meaning(text: str) -> Meaning:
    lowered = text.strip().lower()
    if lowered in ("null", "true", "false"):
        return {"null": None, "true": 1.0, "false": 0.0}[lowered]
    try:
        return float(lowered)
    except ValueError:
        raise ValueError(f"got {text!r}, expected a number, true, false or null") from None


def spelled(values: Mapping[str, Meaning]) -> str:
    """Meanings of ratings as an option has them.

    >>> spelled({"good": 1, "?": None})
    'good=1,?=null'
    """
    return ",".join(
        f"{word}={'null' if meaning is None else format(meaning, 'g')}"
        for word, meaning in values.items()
    )
