"""Scorers that run a Transformers model: `RewardModel`, `LogProb`, `ImplicitReward`.

Each is a frozen description that loads nothing until it scores, so that it can be printed, compared
and sent to another process.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage, refuse
from prefmill.models.tokens import Encoded, Encoder, OnTooLong
from prefmill.scoring.cache import ScoreCache, content_key
from prefmill.scoring.scorers import Floats, Scored

SharePrefix = Literal["auto", "off"]
_CHUNK_TOKENS = 1 << 20  # 64 full forward passes: of the last, which is not full, little is seen
#: how scores follow from outputs; another number is another score
_RULE = "2"
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Pooling = Literal["hf", "last"]


@dataclass(frozen=True)
class Prepared:
    """A batch whose tokens are made and whose work is planned; everything that needs no model."""

    encoded: Encoded
    total: int  #: rows of the batch
    keys: list[bytes] | None  #: of the token rows, where there is a cache
    known: npt.NDArray[np.bool_]  #: shape (token rows,): which are in the cache
    cached: Floats  #: shape (token rows, columns)
    works: list[Any]  #: one for each engine, over the rows that are not known


@dataclass(frozen=True, kw_only=True)
class _TokenScorer(ABC):
    """What all scorers over tokens share: how rows become ids, and how a model runs."""

    kind: ClassVar[str]
    columns: ClassVar[tuple[str, ...]] = ("score",)
    compares: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    model: str | Path
    revision: str | None = None
    template: str = "auto"
    template_date: str | None = None
    max_length: int | None = None
    on_too_long: OnTooLong = "error"
    device: str = "auto"
    dtype: Dtype = "auto"
    batch_tokens: int | None = None
    share_prefix: SharePrefix = "auto"
    invariant: bool = False
    compile: bool = False
    threads: int | None = None
    trust_remote_code: bool = False
    cache: str | Path | None = None
    _state: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        said = []
        if self.share_prefix not in ("auto", "off"):
            said.append(f"share_prefix is not one of ('auto', 'off'); got {self.share_prefix!r}")
        if self.on_too_long not in ("error", "null", "truncate"):
            said.append(
                f"on_too_long is not one of ('error', 'null', 'truncate'); got {self.on_too_long!r}"
            )
        for name in ("max_length", "batch_tokens", "threads"):
            value = getattr(self, name)
            if value is not None and (type(value) is not int or value < 1):
                said.append(f"{name} must be a whole number >= 1 or None; got {value!r}")
        said += self._problems()
        if said:
            raise BadArgument("\n".join(f"{type(self).__name__}: {each}" for each in said))

    def _problems(self) -> list[str]:
        return []

    def __getstate__(self) -> dict[str, Any]:
        """Another process gets the description, and loads for itself."""
        return {f.name: {} if f.name == "_state" else getattr(self, f.name) for f in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)

    # -- loading
    # ------------------------------------------------------------------------------------------------------------------------

    def _kept(self, name: str, make: Any) -> Any:
        if name not in self._state:
            self._state[name] = make()
        return self._state[name]

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything that decides a score but for rounding, by name."""
        return self._kept("fingerprint", self._fingerprint)  # type: ignore[no-any-return]

    def _fingerprint(self) -> Mapping[str, str]:
        from prefmill.models import loading as models

        encoder = self.encoder  # first: it refuses a folder before its code is looked for elsewhere
        where = models.pick_device(self.device)
        dtype = models.dtype_of(self._folder(), self.dtype, where)
        return {
            "scorer": self.kind,
            "model": models.content_hash(self._folder()),
            "template": encoder.fingerprint,
            **({} if encoder.template_date is None else {"template_date": encoder.template_date}),
            "max_length": str(encoder.limit),
            "on_too_long": self.on_too_long,
            "dtype": dtype,
            **self._own_fingerprint(),
        }

    def _own_fingerprint(self) -> dict[str, str]:
        return {}

    @property
    def shape(self) -> dict[str, Any]:
        """What may move the last bit of a score: a resumed run goes on with the values that it
        began with.
        """
        import torch

        shape = {
            name: getattr(self, name)
            for name in ("batch_tokens", "share_prefix", "invariant", "compile")
        }
        return {**shape, "threads": self.threads or torch.get_num_threads()}

    @property
    def chunk_tokens(self) -> int | None:
        """About how many tokens a chunk should have at least, where the device needs many to be
        busy.
        """
        from prefmill.models import loading as models

        return _CHUNK_TOKENS if models.pick_device(self.device).type == "cuda" else None

    def with_shape(self, shape: Mapping[str, Any]) -> Any:
        """The same scorer with another `shape`."""
        return replace(self, **shape)

    @property
    def printed_date(self) -> str | None:
        """The date that the template prints; None: it prints none."""
        return self.encoder.template_date

    def _folder(self) -> Path:
        from prefmill.models import loading as models

        return self._kept("folder", lambda: models.folder_of(str(self.model), self.revision))  # type: ignore[no-any-return]

    @property
    def config(self) -> Any:
        """The model's configuration, loaded on first use."""
        from prefmill.models import loading as models

        make = lambda: models.config_of(self._folder(), trust_remote_code=self.trust_remote_code)  # noqa: E731
        return self._kept("config", make)

    @property
    def encoder(self) -> Encoder:
        """The tokenizer and its template, loaded on first use."""
        return self._kept("encoder", self._encoder)  # type: ignore[no-any-return]

    def _encoder(self) -> Encoder:
        _transformers()
        from prefmill.models import loading as models

        config = self.config
        tokenizer = models.load_tokenizer(self._folder(), trust_remote_code=self.trust_remote_code)
        own = models.longest(config, tokenizer)
        if self.max_length is not None and own is not None and self.max_length > own:
            raise BadArgument(
                f"score: max_length {self.max_length} is more than the model takes; got a limit of {own}."
            )
        return Encoder(
            tokenizer,
            template=self.template,
            limit=self.max_length or own,
            on_too_long=self.on_too_long,
            starts=self.invariant,
            needs_completion=self.kind != "reward",
            template_date=self.template_date,
        )

    def _engine(self, folder: Path, kind: Any, head: Any) -> Any:
        """A loaded model with its head, probed."""
        import torch

        from prefmill.models import loading as models
        from prefmill.scoring.engine import Engine

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = models.load(
            folder,
            kind,
            device=self.device,
            dtype=self.dtype,
            trust_remote_code=self.trust_remote_code,
        )
        return Engine(
            loaded.model,
            head(loaded.model),
            loaded.device,
            share=self.share_prefix == "auto",
            batch_tokens=self.batch_tokens,
            invariant=self.invariant,
            compile=self.compile,
        )

    @property
    def engines(self) -> list[Any]:
        """The loaded models, on first use."""
        return self._kept("engines", self._engines)  # type: ignore[no-any-return]

    @abstractmethod
    def _engines(self) -> list[Any]:
        """One for each model that runs."""

    def _values(self, found: list[Floats]) -> Floats:
        """The columns of the scorer from those of its engines."""
        return found[0]

    def load(self) -> str:
        """Load everything now, and say how rows will be run."""
        engine = self.engines[0]
        return str(engine.way) if not engine.reason else f"{engine.way}: {engine.reason}"

    def unload(self) -> None:
        """Let the models go; they are loaded again when they are needed."""
        self._state.pop("engines", None)

    # -- scoring
    # ------------------------------------------------------------------------------------------------------------------------

    def prepare(self, batch: pa.RecordBatch) -> Prepared:
        """Tokens and plan of a batch: runs ahead of the model, in a thread of its own."""
        groups = (
            batch["group"].to_numpy()
            if "group" in batch.schema.names
            else np.arange(batch.num_rows)
        )
        open_ends = None
        if "finish_reason" in self.reads and "finish_reason" in batch.schema.names:
            open_ends = [reason == "length" for reason in batch["finish_reason"].to_pylist()]
        encoded = self.encoder.encode(batch["prompt"], batch["completion"], groups, open_ends)
        rows = encoded.rows
        if self.kind != "reward":
            refuse_without_tokens(encoded)
        keys, known, cached = (
            None,
            np.zeros(len(rows), bool),
            np.zeros((len(rows), len(self.columns))),
        )
        if self.cache is not None and len(rows):
            keys = [content_key(rows.key(i)) for i in range(len(rows))]
            known, cached = self._cache().get(keys)
        left = rows.take(np.flatnonzero(~known)) if known.any() else rows
        first, *others = self.engines
        _check_tokens(encoded, self.engines, self.encoder.tokenizer)
        work = first.plan(left)
        # A second model of the same kind runs what the first runs, from one plan.
        works = [
            work,
            *(work if engine.plans_like(first) else engine.plan(left) for engine in others),
        ]
        return Prepared(encoded, batch.num_rows, keys, known, cached, works)

    def _cache(self) -> ScoreCache:
        assert self.cache is not None
        folder = Path(self.cache)
        of_values = {
            **self.fingerprint,
            "on_too_long": "truncate" if self.on_too_long == "truncate" else "error",
        }
        return self._kept("cache", lambda: ScoreCache(folder, of_values, len(self.columns)))  # type: ignore[no-any-return]

    def run(self, prepared: Prepared) -> Scored:
        """The scores of a prepared batch."""
        return self.start(prepared)()

    def start(self, prepared: Prepared) -> Callable[[], Scored]:
        """Begin `run`, and return what gives the scores, to be called once, from any thread: a GPU
        goes on meanwhile.
        """
        splits = sum(engine.splits for engine in self.engines)
        new = np.flatnonzero(~prepared.known)
        try:
            fetches = [
                engine.start(work)
                for engine, work in zip(self.engines, prepared.works, strict=True)
            ]
        except BadRow as error:  # its row is a place among those that were run
            raise error.at(int(prepared.encoded.kept[new[error.row]])) from error
        splits = sum(engine.splits for engine in self.engines) - splits
        self._warn()
        return lambda: self._scored(prepared, self._values([fetch() for fetch in fetches]), splits)

    def _scored(self, prepared: Prepared, found: Floats, splits: int) -> Scored:
        rows, new = prepared.encoded.rows, np.flatnonzero(~prepared.known)
        values = prepared.cached.copy()
        values[~prepared.known] = found
        if prepared.keys is not None and len(found):
            finite = np.isfinite(found).all(axis=1)
            self._cache().put([prepared.keys[i] for i in new[finite]], found[finite])
        kept = prepared.encoded.kept
        columns = {name: np.zeros(prepared.total) for name in self.columns}
        for i, column in enumerate(columns.values()):
            column[kept] = values[:, i]
        null = np.ones(prepared.total, bool)
        null[kept] = False
        work = prepared.works[0]
        counts = {
            "tokens": int(rows.lengths.sum()),
            "tokens_run": work.tokens,
            "duplicates": len(work.inverse) - len(work.distinct),
            "truncated": prepared.encoded.truncated,
            "cut_by_template": prepared.encoded.cut_by_template,
            "cached": int(prepared.known.sum()),
            "splits": splits,
        }
        reasons = ["too_long" if lost else None for lost in null.tolist()]
        return Scored(columns, null if null.any() else None, counts, reasons=reasons)

    def _warn(self) -> None:  # noqa: B027  (most have nothing to say)
        """Say once what a user should know of the rows seen so far."""

    def __call__(self, batch: pa.RecordBatch) -> Floats:
        """The score of each row of `batch`, NaN where it has none."""
        scored = self.run(self.prepare(batch))
        values = scored.columns[self.columns[0]]
        return values if scored.null is None else np.where(scored.null, np.nan, values)


@dataclass(frozen=True, kw_only=True)
class RewardModel(_TokenScorer):
    """A Transformers sequence-classification model as a reward model: one score for a conversation.

    Args:
        model: a directory that `save_pretrained` wrote, or a hub id.
        revision: of a hub id: a commit hash pins it. The fingerprint is of the content of the files
            in any case.
        label: the model's label that is the score, by name or number; needed where it has several.
        pooling: the token whose state is scored: `hf` as Transformers' heads do (the last that is
            not the pad token), `last` the last one.
        template: how a row becomes one text: `auto`, `chat`, `pair`, `concat`, or a file that holds
            a Jinja template (`Encoder`).
        template_date: what a template prints as the date of today (`strftime_now`), YYYY-MM-DD;
            None: the day on which a run begins.
        max_length: most tokens of a row, at most what the model takes (the default).
        on_too_long: longer rows are an `error`, `null` (no score), or cut (`truncate`); counted in
            any case.
        device: `auto`, `cpu`, `cuda`, `cuda:N`. dtype: `auto` is float32 on a CPU; on CUDA the
            checkpoint's, but bfloat16 for float32.
        batch_tokens: tokens of one forward pass. share_prefix: `auto` runs a prompt once for its
            candidates where that pays.
        invariant: constant shapes: a row's score is bitwise the same whatever its neighbours are,
            at some cost.
        compile: through `torch.compile`; pays on long jobs only. threads: of torch.
        cache: a folder that keeps scores by content, so that a grown pool scores its new rows only.

    Raw scores, no sigmoid. Of a classifier with several labels (softmax, as Transformers tells it)
    the score is the log-odds of `label`, which rank as its probability does. With `problem_type`
    regression or multi_label_classification it is the label's own output. A configuration with
    OpenRLHF's `normalize_reward` has its mean and deviation applied. The head is computed in
    float32. Source of the pooling rule: `modeling_layers.py` of Transformers 5; of the labels: its
    text-classification pipeline.

    >>> RewardModel(model="org/reward-model", revision="0123abc").share_prefix
    'auto'
    """

    kind: ClassVar[str] = "reward"

    label: str | int | None = None
    pooling: Pooling = "hf"

    def _problems(self) -> list[str]:
        return (
            []
            if self.pooling in ("hf", "last")
            else [f"pooling is not one of ('hf', 'last'); got {self.pooling!r}"]
        )

    def _own_fingerprint(self) -> dict[str, str]:
        return {"label": str(self.label), "pooling": self.pooling, "rule": _RULE}

    def _engines(self) -> list[Any]:
        from prefmill.models import loading as models
        from prefmill.scoring.heads import RewardHead, head_in_float32, outputs_of

        def head(model: Any) -> RewardHead:
            outputs = outputs_of(model)
            head_in_float32(model, outputs)
            label = models.label_index(model.config, self.label, outputs)
            softmax = models.is_softmax(model.config, outputs, is_stock=models.is_stock(model))
            return RewardHead(label, self.pooling, softmax=softmax)

        engine = self._engine(self._folder(), "reward", head)
        config = engine.model.config
        if getattr(config, "normalize_reward", False):
            mean, std = getattr(config, "mean", None), getattr(config, "std", None)
            if not (
                isinstance(mean, int | float)
                and isinstance(std, int | float)
                and np.isfinite(mean)
                and 0 < std < np.inf
            ):
                raise BadInput(
                    f"score: normalize_reward in config.json needs a mean and a std > 0 beside it; got mean {mean!r} and std {std!r}."
                )
        if self.pooling == "last" and engine.body is None:
            raise BadArgument(
                f"score: pooling 'last' is not this model's to choose: {engine.reason}.",
                hint="leave --pooling out.",
            )
        return [engine]

    def _values(self, found: list[Floats]) -> Floats:
        config = self.engines[0].model.config
        if getattr(config, "normalize_reward", False):
            return np.asarray((found[0] - float(config.mean)) / float(config.std))
        return found[0]

    def _warn(self) -> None:
        head = self.engines[0].head
        if head.differ and "told" not in self._state:
            self._state["told"] = True
            warnings.warn(
                f"rows end in the pad token, and pooling is {self.pooling!r}: 'hf' scores the last token that is no pad,"
                " 'last' the end itself; use what the model was trained with",
                stacklevel=3,
            )


@dataclass(frozen=True, kw_only=True)
class LogProb(_TokenScorer):
    """The log-probability of the completion under a causal language model: columns `score` (the
    sum) and `mean` (per token).

    The completion's tokens are those behind the longest common prefix of the row's ids and the
    prompt's own ids (with the generation prompt, for chats). Where the pool has a column
    `finish_reason`, an answer that was cut off (`length`) has no end token, as none was drawn. A
    completion without tokens has no score (`no_tokens`). Nats. Equal to the sum of the negative
    cross-entropies that Transformers' loss has over these tokens. Arguments as in `RewardModel`.
    """

    kind: ClassVar[str] = "logprob"
    columns: ClassVar[tuple[str, ...]] = ("score", "mean")
    reads: ClassVar[tuple[str, ...]] = ("finish_reason",)

    def _engines(self) -> list[Any]:
        from prefmill.scoring.heads import LogProbHead

        return [self._engine(self._folder(), "causal", lambda model: LogProbHead())]


@dataclass(frozen=True, kw_only=True)
class ImplicitReward(_TokenScorer):
    """DPO's implicit reward: beta * (log pi(y|x) - log pi_ref(y|x)), with `model` as the policy and
    `reference` beside it.

    Both models see the same ids, from one plan; their tokenizers must be the same. Both are in
    memory at a time.
    Source: Rafailov et al. 2023, "Direct Preference Optimization", equation 5 without the partition
    function, which cancels in a comparison.
    """

    kind: ClassVar[str] = "implicit"
    columns: ClassVar[tuple[str, ...]] = ("score", "policy_logprob", "reference_logprob")
    reads: ClassVar[tuple[str, ...]] = ("finish_reason",)

    reference: str | Path
    reference_revision: str | None = None
    beta: float = 0.1

    def _problems(self) -> list[str]:
        ok = (
            isinstance(self.beta, int | float)
            and not isinstance(self.beta, bool)
            and np.isfinite(self.beta)
            and self.beta > 0
        )
        return [] if ok else [f"beta must be a finite number > 0; got {self.beta!r}"]

    def _reference_folder(self) -> Path:
        from prefmill.models import loading as models

        return self._kept(
            "reference", lambda: models.folder_of(str(self.reference), self.reference_revision)
        )  # type: ignore[no-any-return]

    def _own_fingerprint(self) -> dict[str, str]:
        from prefmill.models import loading as models

        return {
            "reference": models.content_hash(self._reference_folder()),
            "beta": repr(float(self.beta)),
        }

    def _engines(self) -> list[Any]:
        from prefmill.models import loading as models
        from prefmill.scoring.heads import LogProbHead

        models.config_of(self._reference_folder(), trust_remote_code=self.trust_remote_code)
        other = models.load_tokenizer(
            self._reference_folder(), trust_remote_code=self.trust_remote_code
        )
        if other.get_vocab() != self.encoder.tokenizer.get_vocab():
            raise BadInput(
                "score: the policy and the reference have different tokenizers; expected the same vocabulary."
            )
        folders = (self._folder(), self._reference_folder())
        return [self._engine(folder, "causal", lambda model: LogProbHead()) for folder in folders]

    def _values(self, found: list[Floats]) -> Floats:
        policy, reference = found[0][:, 0], found[1][:, 0]
        return np.stack((self.beta * (policy - reference), policy, reference), axis=1)


def _check_tokens(encoded: Encoded, engines: list[Any], tokenizer: Any) -> None:
    """Refuse ids that a model's embedding does not have: on a GPU they would end the process."""
    sizes = [engine.vocabulary for engine in engines if engine.vocabulary is not None]
    rows = encoded.rows
    if not sizes or not len(rows.ids) or int(rows.ids.max()) < min(sizes):
        return
    places = np.flatnonzero(rows.ids >= min(sizes))
    owners, first = np.unique(
        np.searchsorted(rows.offsets, places, side="right") - 1, return_index=True
    )
    hint = "the token was added to the tokenizer alone: resize the model's embedding, and train it."
    bad = []
    for row, token in zip(owners.tolist(), rows.ids[places[first]].tolist(), strict=True):
        name = tokenizer.convert_ids_to_tokens(token)
        what = f"has the token {name!r}, which the model does not; got id {token}, expected one below {min(sizes)}."
        place = int(encoded.kept[row])
        bad.append(BadRow("score", what, row=place, reason="unknown_token", hint=hint))
    refuse(bad)


def refuse_without_tokens(encoded: Encoded) -> None:
    """Raise `BadRow` for rows without a completion token that something predicts: the empty sum is
    0, and no other is as high.
    """
    rows = encoded.rows
    none = np.flatnonzero(rows.lengths <= np.maximum(rows.starts, 1)).tolist()
    what = "has no token that could be scored; got an empty completion, and nothing that ends it."
    refuse([BadRow("score", what, row=int(encoded.kept[i]), reason="no_tokens") for i in none])


def _transformers() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackage.for_extra("score", error.name or "transformers", "score") from None
