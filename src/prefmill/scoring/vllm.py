"""vLLM in this process as the engine of a reward model: `VllmReward`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from types import SimpleNamespace
from typing import Any, Self

import numpy as np
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow, ScoresDiffer
from prefmill.models import value_heads
from prefmill.models.described import changed, uncounted
from prefmill.models.labels import is_softmax, label_indices
from prefmill.models.tokens import Longs, TokenRows
from prefmill.models.vllm_engine import (
    InVllm,
    engine_problems,
    engine_text,
    longest_of,
    open_engine,
    refuse_longer,
    tokens_prompts,
)
from prefmill.scoring.parity import compared
from prefmill.scoring.reward import RewardModel
from prefmill.scoring.scorers import Floats, Scored
from prefmill.scoring.token_scorer import Prepared

#: how scores follow from vLLM's outputs; another number is another score
_RULE = "1"
#: what vLLM decides for itself
_OWN = {
    "device": "auto",
    "batch_tokens": None,
    "share_prefix": "auto",
    "invariant": False,
    "compile": False,
    "threads": None,
}
_CHUNK_TOKENS = 1 << 20


@dataclass(frozen=True)
class PreparedHere(Prepared):
    """A batch whose first rows may be compared."""

    first: pa.RecordBatch


@dataclass(frozen=True)
class VllmWork:
    """Rows that are ready to run: each distinct one once."""

    rows: TokenRows
    distinct: Longs  #: shape (distinct,): the rows that are run
    inverse: Longs  #: shape (rows,): which of these each row is

    @property
    def tokens(self) -> int:
        """Tokens of the rows that are run; which of them vLLM has seen before it does not tell."""
        return int(self.rows.lengths[self.distinct].sum())


class VllmEngine:
    """What `RewardModel` asks of an engine, by vLLM.

    indices, softmax: as of `RewardHead`. pad: trailing tokens of this id are left out, so that the
    last token, which vLLM scores, is the one that Transformers' heads do; None: rows stay.
    """

    way, reason, splits = "vllm", "", 0
    vocabulary: int | None

    def __init__(
        self, llm: Any, config: Any, indices: Sequence[int], *, softmax: bool, pad: int | None
    ) -> None:
        self._llm, self._indices, self._softmax, self._pad = llm, list(indices), softmax, pad
        self.vocabulary = config.get_text_config().vocab_size
        self.model = SimpleNamespace(config=config)
        self.limit = longest_of(llm)

    def plan(self, rows: TokenRows) -> VllmWork:
        """Each distinct row, once."""
        distinct, inverse = rows.distinct()
        return VllmWork(rows, distinct, inverse)

    def plans_like(self, other: Any) -> bool:
        """Whether another engine's plan will do."""
        return type(other) is VllmEngine

    def start(self, work: VllmWork) -> Callable[[], Floats]:
        """Run `work`, and return what gives the values, shape (rows, labels)."""
        from vllm import PoolingParams

        ids = [self._ids(work.rows, row) for row in work.distinct.tolist()]
        try:
            refuse_longer(ids, self.limit, "score")
        except BadRow as error:
            place = int(work.distinct[error.row])
            raise error.at(place) from error
        values = np.zeros((len(ids), len(self._indices)))
        if ids:
            outputs = self._llm.encode(
                tokens_prompts(ids),
                pooling_params=PoolingParams(use_activation=False),
                pooling_task="classify",
                use_tqdm=False,
            )
            for row, output in enumerate(outputs):
                values[row] = self._scores(output.outputs.data)
        return lambda: values[work.inverse]

    def _ids(self, rows: TokenRows, row: int) -> list[int]:
        ids: list[int] = rows.row(row).tolist()
        while self._pad is not None and len(ids) > 1 and ids[-1] == self._pad:
            ids.pop()
        return ids

    def _scores(self, data: Any) -> Floats:
        """The labels' raw scores, or their log-odds where labels exclude each other."""
        raw = np.asarray(data.detach().float().cpu().numpy(), np.float64).reshape(-1)
        if max(self._indices) >= len(raw):
            raise BadInput(
                f"score: vLLM gives {len(raw)} outputs; expected more than {max(self._indices)}."
            )
        if not self._softmax:
            return raw[self._indices]
        others = [np.logaddexp.reduce(np.delete(raw, index)) for index in self._indices]
        return np.asarray(raw[self._indices] - np.array(others))


@dataclass(frozen=True, kw_only=True)
class VllmReward(InVllm, RewardModel):
    """A reward model that vLLM serves, inside this process.

    Args:
        model, revision, label, weights, pooling, template, template_date, max_length, on_too_long,
            trust_remote_code, cache: as of `RewardModel`.
        dtype: `auto` is the checkpoint's, and bfloat16 or float16 for float32: vLLM's own rule.
        engine_args: further arguments of `vllm.LLM`, as `{"tensor_parallel_size": 2}`.
        parity: a `RewardModel` of the same weights; the first `parity_rows` rows are scored by it
            too, on the CPU unless it says otherwise, and a difference of more than `tolerance`
            times the largest score raises `ScoresDiffer`.

    The ids are made here and the scores are raw (`use_activation=False`). vLLM takes a folder of a
    `...ForSequenceClassification` model; value heads and adapters it does not.

    >>> VllmReward(model="org/rm", engine_args={"max_model_len": 4096}).max_length
    4096
    """

    engine_args: Mapping[str, Any] = field(default_factory=dict)
    parity: RewardModel | None = None
    parity_rows: int = 8
    tolerance: float = 0.02

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.engine_args.get("max_model_len")
        if self.max_length is None and type(length) is int:
            object.__setattr__(self, "max_length", length)
        if self.parity is not None and self.parity.device == "auto":
            object.__setattr__(self, "parity", replace(self.parity, device="cpu"))

    def _problems(self) -> list[str]:
        problems = super()._problems() + engine_problems(self.engine_args)
        for name, default in _OWN.items():
            if getattr(self, name) != default:
                problems.append(f"{name} is vLLM's own business; got {getattr(self, name)!r}")
        problems += uncounted(self, "parity_rows")
        if not isinstance(self.tolerance, int | float) or not 0 < self.tolerance < np.inf:
            problems.append(f"tolerance must be a number > 0; got {self.tolerance!r}")
        return problems

    @classmethod
    def options(cls) -> frozenset[str]:
        """Those of a reward model that are not vLLM's own business."""
        return super().options() - _OWN.keys() - {"base"}

    @classmethod
    def from_options(cls, model: str, options: Mapping[str, Any]) -> Self:
        """As of a reward model; `parity` is a folder or hub id."""
        own = dict(options)
        if "parity" in own:
            same = ("template", "template_date", "label", "weights", "pooling", "max_length")
            shared = {name: own[name] for name in same if name in own}
            own["parity"] = RewardModel.from_options(own["parity"], shared)
        return super().from_options(model, own)

    def _fingerprint(self) -> Mapping[str, str]:
        args = engine_text(self.engine_args)
        own = {"scorer": f"vllm:{_RULE}", "dtype": self.dtype, "engine_args": args}
        return {**super()._fingerprint(), **own}

    def on_date(self, date: str) -> Self:
        """The same on that date, and the model that is compared too."""
        own = super().on_date(date)
        parity = None if own.parity is None else own.parity.on_date(date)
        return changed(own, parity=parity)

    @property
    def chunk_tokens(self) -> int | None:
        """As many as keep a GPU busy."""
        return _CHUNK_TOKENS

    def _engines(self) -> list[Any]:
        if self._base() is not None:
            raise BadArgument(
                f"score: vLLM takes no adapter here; got {str(self.model)!r}.",
                hint="merge it into its model (merge_and_unload of PEFT) and name that folder.",
            )
        head = value_heads.find(self._folder())
        if head is not None:
            raise BadArgument(
                f"score: vLLM reads no value head; got {head.name!r} in {str(self.model)!r}.",
                hint="without --backend vllm Transformers scores with it.",
            )
        config, outputs = self.config, int(self.config.num_labels)
        indices = label_indices(config, self.labels.named, outputs)
        softmax = is_softmax(config, outputs, is_stock=not getattr(config, "auto_map", None))
        pad = getattr(config.get_text_config(), "pad_token_id", None)
        llm = open_engine(
            self._folder(),
            "pooling",
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
            engine_args=self.engine_args,
            where="score",
        )
        pad = pad if self._pooling() == "hf" else None
        return [VllmEngine(llm, config, indices, softmax=softmax, pad=pad)]

    def prepare(self, batch: pa.RecordBatch) -> Prepared:
        """Tokens of a batch. Raises `BadArgument` for rows that are pairs of texts."""
        prepared = super().prepare(batch)
        types = prepared.encoded.rows.types
        if types is not None and types.any():
            raise BadArgument(
                "score: token ids do not say which of the two texts a token is of;"
                " got template 'pair' and vLLM.",
                hint="without --backend vllm Transformers scores such rows.",
            )
        own = {each.name: getattr(prepared, each.name) for each in fields(prepared)}
        return PreparedHere(**own, first=batch.slice(0, 4 * self.parity_rows))

    def start(self, prepared: Prepared) -> Callable[[], Scored]:
        """Run a batch, and compare the first rows of the first one."""
        fetch = super().start(prepared)
        if self.parity is None or "compared" in self._state or not prepared.total:
            return fetch
        scored = fetch()
        assert isinstance(prepared, PreparedHere)
        self._compare(prepared.first, scored)
        return lambda: scored

    def _compare(self, first: pa.RecordBatch, scored: Scored) -> None:
        assert self.parity is not None
        self._state["compared"] = True
        null = np.zeros(first.num_rows, bool)
        if scored.null is not None:
            null = scored.null[: first.num_rows]
        rows = np.flatnonzero(~null)[: self.parity_rows]
        some, remote = first.take(pa.array(rows)), scored.columns["score"][rows]
        looks = compared(self.parity, some, remote, self.tolerance)
        if looks is not None:
            raise ScoresDiffer(
                f"score: vLLM gives other scores than Transformers; {looks}.",
                hint="nothing was written. Without --backend vllm the model is scored here.",
            )

    def _warn(self) -> None:
        """Nothing: the token that is scored is the one that is asked for."""
