"""`RewardModel`: a Transformers model that gives scores to conversations, or to tokens."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput
from prefmill.models.described import unlike
from prefmill.models.labels import is_softmax, is_token_classifier, label_indices
from prefmill.models.tokens import TokenRows
from prefmill.scoring.labels import Label, Labels, one_label
from prefmill.scoring.scorers import Floats
from prefmill.scoring.stepwise import Stepwise, step_columns
from prefmill.scoring.token_scorer import TokenScorer

if TYPE_CHECKING:
    from prefmill.scoring.engine import Engine
    from prefmill.scoring.ways.headed import Head

Pooling = Literal["auto", "hf", "last"]
#: how scores follow from outputs; another number is another score
_RULE = "2"


@dataclass(frozen=True, kw_only=True)
class RewardModel(Stepwise, TokenScorer):
    """A Transformers classifier as a reward model: a score for a conversation, or for every step.

    Args:
        model: a directory that `save_pretrained` wrote, or a hub id.
        revision: of a hub id: a commit hash pins it. The fingerprint is of the content of the
            files in any case.
        base: of an adapter (PEFT): the model that it changes, a directory or hub id; None: the one
            that the adapter names.
        label: the model's label that is the score, by name or number; needed where it has several.
            Several of them, or `all`, are a column each, and need `weights`.
        weights: by label, of the score: the sum of these labels, each times its weight.
        pooling: the token whose state is scored: `hf` as Transformers' heads do (the last that is
            not the pad token), `last` the last one; `auto` as the owner of the model's files does:
            `last` for value heads and OpenRLHF's models, else `hf`.
        template: how a row becomes one text: `auto`, `chat`, `pair`, `concat`, or a file that
            holds a Jinja template (`Encoder`).
        template_date: what a template prints as the date of today (`strftime_now`), YYYY-MM-DD;
            None: the day on which a run begins.
        max_length: most tokens of a row, at most what the model takes (the default).
        on_too_long: longer rows are an `error`, `null` (no score), or cut (`truncate`); counted in
            any case.
        device: `auto`, `cpu`, `cuda`, `cuda:N`.
        dtype: `auto` is float32 on a CPU; on CUDA the checkpoint's, but bfloat16 for float32.
        batch_tokens: tokens of one forward pass.
        share_prefix: `auto` runs what rows begin with alike once, where that pays.
        invariant: constant shapes: a row's score is bitwise the same whatever its neighbours are,
            at some cost.
        compile: through `torch.compile`; pays on long jobs only.
        threads: of torch.
        cache: a folder that keeps scores by content, so that a grown pool scores its new rows only.

    Raw scores, no sigmoid. The head is computed in float32. Of a classifier with several labels
    (softmax, as Transformers tells it) the score is the log-odds of `label`, which rank as its
    probability does. With `problem_type` regression or multi_label_classification it is the
    label's own output. Of several labels each column is so, and the score is their weighted sum. A
    configuration with OpenRLHF's `normalize_reward` has its mean and deviation applied. Sources: of
    the pooling rule `modeling_layers.py` of Transformers 5, of the labels its text-classification
    pipeline.

    >>> RewardModel(model="org/reward-model", revision="0123abc").share_prefix
    'auto'
    """

    kind: ClassVar[str] = "reward"

    label: Label = None
    weights: Mapping[str, float] | None = None
    pooling: Pooling = "auto"

    def _problems(self) -> list[str]:
        problems = [*Labels(self.label, self.weights).problems(), *self._step_problems()]
        if self.step_separator is not None and len(Labels(self.label, self.weights).named) > 1:
            problems.append(f"steps are scored by one label; got {self.label!r}")
        return [*super()._problems(), *problems, *unlike(self, pooling=("auto", "hf", "last"))]

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """As of every scorer; of one label alone the list is of no meaning."""
        return super().from_options(model, {**options, **one_label(options)})

    @property
    def labels(self) -> Labels:
        """The labels that are read; what `all` are the configuration says."""
        return self._kept("labels", lambda: Labels(self.label, self.weights).of(self.config))

    @property
    def columns(self) -> tuple[str, ...]:
        """The score, and the labels that it is made of."""
        return self.labels.columns

    def _own_fingerprint(self) -> dict[str, str]:
        own = {**self._step_fingerprint, "pooling": self._pooling(), "rule": _RULE}
        return {**self.labels.fingerprint, **own}

    def _a_row(self) -> list[int]:
        """The ids of a conversation, for code that does not run on made-up ones."""
        texts = pa.array(["What is 2 + 2?"]), pa.array(["It is 4."])
        return self.encoder.encode(*texts, np.zeros(1, np.int64)).rows.row(0).tolist()  # type: ignore[no-any-return]

    def _pooling(self) -> Any:
        """The token that is scored: as asked, or as the owner of the model's files does."""
        from prefmill.models.value_heads import pooling_of

        if self.pooling != "auto":
            return self.pooling
        return self._kept("pooling", lambda: pooling_of(self._folder(), self._base()))

    def _engines(self) -> list[Engine]:
        kind = self._kind()
        of_tokens = kind == "token" or self.layout is not None
        if of_tokens and self.pooling != "auto":
            raise BadArgument(
                "score: the model's outputs are of tokens, the last or the ends of steps;"
                f" got pooling {self.pooling!r}.",
                hint="leave --pooling out.",
            )
        make = self._token_head if of_tokens else self._row_head
        engine = self._engine(self._folder(), kind, make, self._base())
        _normalisation(engine.model.config)
        if not of_tokens and self._pooling() == "last" and engine.headed.body is None:
            raise BadArgument(
                f"score: pooling 'last' is not this model's to choose: {engine.reason}.",
                hint="leave --pooling out.",
            )
        return [engine]

    def _kind(self) -> Literal["reward", "token"]:
        """Whether the folder's own class, or its adapter's task, gives outputs of tokens."""
        from prefmill.models.adapters import CONFIG
        from prefmill.models.folders import read_json

        if self._base() is None:
            return "token" if is_token_classifier(self.config) else "reward"
        task = read_json(self._folder() / CONFIG).get("task_type")
        return "token" if task == "TOKEN_CLS" else "reward"

    def _row_head(self, model: Any) -> Head:
        """What reads one score off a row."""
        from prefmill.models.labels import is_stock
        from prefmill.scoring.heads import RewardHead, head_in_float32, outputs_of

        outputs = outputs_of(model, self._a_row)
        head_in_float32(model, outputs)
        indices = label_indices(model.config, self.labels.named, outputs)
        softmax = is_softmax(model.config, outputs, is_stock=is_stock(model))
        return RewardHead(indices, self._pooling(), softmax=softmax)

    def _token_head(self, model: Any) -> Head:
        """What reads outputs off tokens: the last one, or those at which steps end."""
        from prefmill.scoring.heads import head_in_float32
        from prefmill.scoring.token_heads import TokenHead, token_outputs

        outputs = token_outputs(model, self._a_row)
        head_in_float32(model, outputs)
        indices = label_indices(model.config, self.labels.named, outputs)
        # A token has one class, whoever wrote the code.
        softmax = is_softmax(model.config, outputs, is_stock=True)
        if self.reduce == "product" and not self._squashes(softmax, model.config):
            raise BadArgument(
                "score: a product is of probabilities, and the model's one output is none;"
                " got reduce 'product'.",
                hint="--step-values probability if the model was trained with a sigmoid.",
            )
        return TokenHead(indices, softmax=softmax, steps=self.layout is not None)

    def _squashes(self, softmax: bool, config: Any) -> bool:
        """Whether the scores of steps are probabilities."""
        if self.step_values != "auto":
            return self.step_values == "probability"
        return softmax or getattr(config, "problem_type", None) == "multi_label_classification"

    def _values(self, of_engines: list[Floats], rows: TokenRows) -> Floats:
        engine: Any = self.engines[0]
        normal, outputs = _normalisation(engine.model.config), of_engines[0]
        if normal is not None:
            mean, deviation = normal
            outputs = np.asarray((outputs - mean) / deviation)
        if self.layout is None:
            return self.labels.combined(outputs)
        squash = self._squashes(engine.head.softmax, engine.model.config)
        return step_columns(outputs, rows, self.reduce, squash=squash)

    def _warn(self) -> None:
        head: Any = self.engines[0].head
        if getattr(head, "differ", 0) and "told" not in self._state:
            self._state["told"] = True
            warnings.warn(
                f"rows end in the pad token, and pooling is {head.pooling!r}: 'hf' scores the last"
                " token that is no pad, 'last' the end itself; use what the model was trained with",
                stacklevel=3,
            )


def _normalisation(config: Any) -> tuple[float, float] | None:
    """The mean and the deviation that a configuration wants applied; None: it wants none."""
    if not getattr(config, "normalize_reward", False):
        return None
    mean, std = getattr(config, "mean", None), getattr(config, "std", None)
    numbers = [n for n in (mean, std) if isinstance(n, int | float) and np.isfinite(n)]
    if len(numbers) == 2 and numbers[1] > 0:
        return float(numbers[0]), float(numbers[1])
    raise BadInput(
        "score: normalize_reward in config.json needs a mean and a std > 0 beside it;"
        f" got mean {mean!r} and std {std!r}."
    )
