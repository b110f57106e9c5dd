"""What a training is told: a field for each setting, with its default, check and help."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, TypedDict, TypeVar

from prefmill.errors import BadArgument
from prefmill.table.fields import finite, key, one_of, or_none, text, whole

_F = TypeVar("_F", bound=Callable[..., Any])
#: TRL's own defaults; an adapter is trained with ten times as much ("LoRA Without Regret", 2025).
LEARNING_RATES = {"reward": 1e-4, "sft": 2e-5, "dpo": 1e-6}


def _seed(value: object) -> str | None:
    fine = type(value) is int and 0 <= value < 2**32
    return None if fine else "a whole number in 0..2**32-1"


def _share(value: object) -> str | None:
    fine = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1
    return None if fine else "a number in 0..1, without 1"


_ABOVE_0 = finite(0, open_low=True)


class TrainOptions(TypedDict, total=False):
    """Keyword form of `TrainSettings`."""

    steps: int | None
    epochs: float
    batch_size: int
    learning_rate: float | None
    max_length: int | None
    lora_rank: int | None
    seed: int
    device: str


class RewardOptions(TrainOptions, total=False):
    """Keyword form of `RewardSettings`."""

    holdout: float | None
    center: float


class PolicyOptions(TrainOptions, total=False):
    """Keyword form of `PolicySettings`."""

    method: str
    beta: float


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """Settings that all trainings share."""

    steps: int | None = key(or_none(whole(1)), None, help="Of the optimizer.  [default: --epochs]")
    epochs: float = key(_ABOVE_0, 1, help="Times through the pairs.")
    batch_size: int = key(whole(1), 16, help="Pairs in a step.")
    learning_rate: float | None = key(
        or_none(_ABOVE_0),
        None,
        help="The highest.  [default: 1e-4; with --lora-rank 1e-3]",
    )
    max_length: int | None = key(
        or_none(whole(1)),
        None,
        help="Tokens of a conversation.  [default: what the model takes, at most 1024]",
    )
    lora_rank: int | None = key(
        or_none(whole(1)), None, help="Train an adapter of this rank, merged in the end."
    )
    seed: int = key(_seed, 0, help="Of the head, the order and the hold-out.")
    device: str = key(text, "auto", help="auto, cpu, cuda or cuda:N.")

    @property
    def lora(self) -> bool:
        """Whether an adapter is trained, and not all weights."""
        return self.lora_rank is not None

    def rate(self, method: str) -> float:
        """The highest learning rate."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES[method] * (10 if self.lora else 1)

    def check(self, where: str) -> None:
        """Raise `BadArgument` with every value that no training can have."""
        problems = []
        for field in fields(self):
            value = getattr(self, field.name)
            expected = field.metadata["check"](value)
            if expected:
                problems.append(f"{where}: {field.name} must be {expected}; got {value!r}")
        if problems:
            raise BadArgument("\n".join(problems))


@dataclass(frozen=True, kw_only=True)
class RewardSettings(TrainSettings):
    """Settings of a reward model."""

    holdout: float | None = key(
        or_none(_share),
        None,
        help="Share of prompts to measure on.  [default: 0.1; with --test 0]",
        metavar="SHARE",
    )
    center: float = key(finite(), 0.01, help="Weight of the term that keeps rewards around 0.")


@dataclass(frozen=True, kw_only=True)
class PolicySettings(TrainSettings):
    """Settings of a policy."""

    method: str = key(one_of("sft", "dpo"), "sft", help="sft on winners, dpo on pairs.")
    batch_size: int = key(whole(1), 8, help="Rows in a step.")
    beta: float = key(_ABOVE_0, 0.1, help="What a divergence from the model at the start costs.")


def taking(settings: type[TrainSettings]) -> Callable[[_F], _F]:
    """A function that takes the fields of `settings` as keywords, and shows them."""

    def shown(function: _F) -> _F:
        signature = inspect.signature(function)
        own = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
        keywords = [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=field.type,
            )
            for field in fields(settings)
        ]
        whole = signature.replace(parameters=[*own, *keywords])
        function.__signature__ = whole  # type: ignore[attr-defined]
        return function

    return shown
