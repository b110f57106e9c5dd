"""What a language model says of a completion: `LogProb`, `ImplicitReward`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from prefmill.errors import BadArgument, BadInput
from prefmill.models.tokens import TokenRows
from prefmill.scoring.scorers import Floats
from prefmill.scoring.token_scorer import TokenScorer

if TYPE_CHECKING:
    from prefmill.scoring.engine import Engine


@dataclass(frozen=True, kw_only=True)
class LogProb(TokenScorer):
    """The log-probability of the completion under a causal language model, in nats.

    Columns: `score` (the sum) and `mean` (per token). Arguments as in `RewardModel`.

    The completion's tokens are those after the longest common prefix of the row's ids and the
    prompt's own ids (with the generation prompt, for chats). Where the pool has a column
    `finish_reason`, an answer that was cut off (`length`) has no end token, as none was drawn. A
    completion without tokens has no score (`no_tokens`). The sum equals that of the negative
    cross-entropies that Transformers' loss has over these tokens.
    """

    kind: ClassVar[str] = "logprob"
    scores_completions: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("finish_reason",)

    @property
    def columns(self) -> tuple[str, ...]:
        """The sum, and the mean of a token."""
        return ("score", "mean")

    def _engines(self) -> list[Engine]:
        from prefmill.scoring.heads import LogProbHead

        folder, base = self._folder(), self._base()
        return [self._engine(folder, "causal", lambda model: LogProbHead(), base)]


@dataclass(frozen=True, kw_only=True)
class ImplicitReward(TokenScorer):
    """DPO's implicit reward: beta * (log pi(y|x) - log pi_ref(y|x)), for `model` and `reference`.

    Both models see the same ids, from one plan; their tokenizers must be the same. Both are in
    memory at a time.
    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 5 without the
    partition function, which cancels in a comparison.
    """

    kind: ClassVar[str] = "implicit"
    scores_completions: ClassVar[bool] = True
    reads: ClassVar[tuple[str, ...]] = ("finish_reason",)

    reference: str | Path
    reference_revision: str | None = None
    beta: float = 0.1

    @property
    def columns(self) -> tuple[str, ...]:
        """The reward, and the log-probability under either model."""
        return ("score", "policy_logprob", "reference_logprob")

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """As of every scorer; a reference has to be named."""
        if "reference" not in options:
            raise BadArgument("score: implicit needs a reference model.", hint="--reference DIR")
        return super().from_options(model, options)

    def _problems(self) -> list[str]:
        problems, beta = super()._problems(), self.beta
        is_number = isinstance(beta, int | float) and not isinstance(beta, bool)
        if not is_number or not 0 < beta < np.inf:
            problems.append(f"beta must be a finite number > 0; got {beta!r}")
        return problems

    def _reference(self) -> Path:
        from prefmill.models.folders import folder_of

        name, revision = str(self.reference), self.reference_revision
        return self._kept("reference", lambda: folder_of(name, revision))

    def _reference_base(self) -> Path | None:
        """Of a reference that is an adapter: the model that it changes."""
        from prefmill.models.adapters import base_of, is_adapter

        named = None
        if self.base is not None and is_adapter(self._reference()):
            named = str(self.base)
        return self._kept("reference_base", lambda: base_of(self._reference(), named))

    def _own_fingerprint(self) -> dict[str, str]:
        from prefmill.models.folders import content_hash

        base = self._reference_base()
        under = {} if base is None else {"reference_base": content_hash(base)}
        return {
            "reference": content_hash(self._reference()),
            **under,
            "beta": repr(float(self.beta)),
        }

    def _engines(self) -> list[Engine]:
        from prefmill.models.adapters import tokenizer_folder
        from prefmill.models.loading import config_of, load_tokenizer
        from prefmill.scoring.heads import LogProbHead

        trusted = self.trust_remote_code
        reference, under = self._reference(), self._reference_base()
        config_of(under or reference, trust_remote_code=trusted)
        other = load_tokenizer(tokenizer_folder(reference, under), trust_remote_code=trusted)
        if other.get_vocab() != self.encoder.tokenizer.get_vocab():
            raise BadInput(
                "score: the policy and the reference have different tokenizers;"
                " expected the same vocabulary."
            )
        folders = ((self._folder(), self._base()), (reference, under))
        return [
            self._engine(folder, "causal", lambda model: LogProbHead(), base)
            for folder, base in folders
        ]

    def _values(self, of_engines: list[Floats], rows: TokenRows) -> Floats:
        policy, reference = of_engines[0][:, 0], of_engines[1][:, 0]
        return np.stack((self.beta * (policy - reference), policy, reference), axis=1)
