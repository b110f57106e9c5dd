"""Scorers that run a Transformers model: `RewardModel`, `LogProb`, `ImplicitReward`.

Each is a frozen description that loads nothing until it scores, so that it can be printed, compared
and sent to another process.
"""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput, BadRow, MissingPackage, refuse
from prefmill.models.contract import OnBadRow
from prefmill.models.described import Described, changed, uncounted, unlike
from prefmill.models.encoder import Encoded, Encoder, OnTooLong
from prefmill.models.labels import is_softmax, is_token_classifier, label_indices
from prefmill.models.steps import StepLayout
from prefmill.models.tokens import TokenRows
from prefmill.scoring.cache import ScoreCache, content_key
from prefmill.scoring.labels import Label, Labels, one_label
from prefmill.scoring.scorers import Floats, Scored, Staged
from prefmill.scoring.stepwise import Stepwise, step_columns, step_lists

if TYPE_CHECKING:
    from prefmill.scoring.engine import Engine, Head
    from prefmill.scoring.work import Work

SharePrefix = Literal["auto", "off"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Pooling = Literal["auto", "hf", "last"]

_CHUNK_TOKENS = 1 << 20  # 64 full forward passes: of the last, which is not full, little is seen
#: how scores follow from outputs; another number is another score
_RULE = "2"
_SHAPE = ("batch_tokens", "share_prefix", "invariant", "compile")


@dataclass(frozen=True)
class Prepared:
    """A batch whose tokens are made and whose work is planned; everything that needs no model."""

    encoded: Encoded
    total: int  #: rows of the batch
    keys: list[bytes] | None  #: of the token rows, where there is a cache
    known: npt.NDArray[np.bool_]  #: shape (token rows,): which are in the cache
    cached: Floats  #: shape (token rows, columns, and steps of the row with most)
    works: list[Work]  #: one for each engine, over the rows that are not known


@dataclass(frozen=True, kw_only=True)
class TokenScorer(Described, Staged):
    """What all scorers over tokens share: how rows become ids, and how a model runs."""

    kind: ClassVar[str]
    #: whether a score is of the completion's own tokens, of which there then must be one
    scores_completions: ClassVar[bool] = False
    compares: ClassVar[bool] = False
    reads: ClassVar[tuple[str, ...]] = ()

    model: str | Path
    revision: str | None = None
    base: str | Path | None = None
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

    def _problems(self) -> list[str]:
        optional = ("max_length", "batch_tokens", "threads")
        counts = [name for name in optional if getattr(self, name) is not None]
        return [
            *unlike(self, share_prefix=("auto", "off")),
            *unlike(self, on_too_long=("error", "null", "truncate")),
            *uncounted(self, *counts, suffix=" or None"),
        ]

    # What a run asks

    @property
    def columns(self) -> tuple[str, ...]:
        """The score alone."""
        return ("score",)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Everything that decides a score but for rounding, by name."""
        return self._kept("fingerprint", self._fingerprint)

    def _fingerprint(self) -> Mapping[str, str]:
        from prefmill.models.folders import content_hash
        from prefmill.models.loading import dtype_of, pick_device

        encoder = self.encoder  # first: it refuses a folder before its code is looked for elsewhere
        folder, base = self._folder(), self._base()
        dtype = dtype_of(base or folder, self.dtype, pick_device(self.device))
        under = {} if base is None else {"base": content_hash(base)}
        return {
            "scorer": self.kind,
            "model": content_hash(folder),
            **under,
            **encoder.fingerprint,
            "max_length": str(encoder.limit),
            "on_too_long": self.on_too_long,
            "dtype": dtype,
            **self._own_fingerprint(),
        }

    def _own_fingerprint(self) -> dict[str, str]:
        return {}

    @property
    def shape(self) -> Mapping[str, Any]:
        """What may move the last bit of a score: how rows are put together, and threads."""
        import torch

        shape = {name: getattr(self, name) for name in _SHAPE}
        return {**shape, "threads": self.threads or torch.get_num_threads()}

    def with_shape(self, shape: Mapping[str, Any]) -> Self:
        """The same scorer with another `shape`."""
        if shape == self.shape:
            return self
        return changed(self, **shape)

    @property
    def chunk_tokens(self) -> int | None:
        """About how many tokens keep a GPU busy; a CPU is so with any."""
        from prefmill.models.loading import pick_device

        if pick_device(self.device).type == "cuda":
            return _CHUNK_TOKENS
        return None

    @property
    def printed_date(self) -> str | None:
        """The date that the template prints; None: it prints none."""
        return self.encoder.template_date

    def on_date(self, date: str) -> Self:
        """The same on that date, where the template prints one and none was given."""
        if self.template_date is not None or self.printed_date is None:
            return self
        return changed(self, template_date=date)

    def on_device(self, device: str) -> Self:
        """The same on another device."""
        return changed(self, device=device)

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """With `null`, rows that are too long have no score."""
        skips = on_bad_row == "null" and self.on_too_long == "error"
        if skips:
            return changed(self, on_too_long="null")
        return self

    @property
    def way(self) -> str:
        """How rows are run, once the models are loaded."""
        if "engines" in self._state:
            return self.load()
        return ""

    def load(self) -> str:
        """Load everything now, and say how rows will be run."""
        engine = self.engines[0]
        if engine.reason:
            return f"{engine.way}: {engine.reason}"
        return engine.way

    def unload(self) -> None:
        """Let the models go; they are loaded again when they are needed."""
        self._state.pop("engines", None)

    # Loading

    def _folder(self) -> Path:
        from prefmill.models.folders import folder_of

        return self._kept("folder", lambda: folder_of(str(self.model), self.revision))

    def _base(self) -> Path | None:
        """The folder of the model that an adapter changes; None: the model is no adapter."""
        from prefmill.models.adapters import base_of

        named = None if self.base is None else str(self.base)
        return self._kept("base", lambda: base_of(self._folder(), named))

    @property
    def config(self) -> Any:
        """The model's configuration, loaded on first use."""
        return self._kept("config", self._config)

    def _config(self) -> Any:
        from prefmill.models.loading import config_of

        folder = self._base() or self._folder()
        return config_of(folder, trust_remote_code=self.trust_remote_code)

    @property
    def encoder(self) -> Encoder:
        """The tokenizer and its template, loaded on first use."""
        return self._kept("encoder", self._encoder)

    def _encoder(self) -> Encoder:
        _transformers()
        from prefmill.models.adapters import tokenizer_folder
        from prefmill.models.loading import load_tokenizer, longest

        config = self.config
        place = tokenizer_folder(self._folder(), self._base())
        tokenizer = load_tokenizer(place, trust_remote_code=self.trust_remote_code)
        own = longest(config, tokenizer)
        if self.max_length is not None and own is not None and self.max_length > own:
            raise BadArgument(
                f"score: max_length {self.max_length} is more than the model takes;"
                f" got a limit of {own}."
            )
        return self._encoder_of(
            tokenizer,
            template=self.template,
            limit=self.max_length or own,
            on_too_long=self.on_too_long,
            starts=self.invariant,
            needs_completion=self.scores_completions,
            template_date=self.template_date,
            steps=self.layout,
        )

    def _encoder_of(self, tokenizer: Any, **settings: Any) -> Encoder:
        from prefmill.models.ended import encoder_of

        return encoder_of(self.config, tokenizer, **settings)

    @property
    def layout(self) -> StepLayout | None:
        """How the steps of a completion stand in its text; None: it is scored as a whole."""
        return None

    def _engine(
        self, folder: Path, kind: Any, head: Callable[[Any], Head], base: Path | None = None
    ) -> Engine:
        """A loaded model with its head, probed; `base` is of an adapter in `folder`."""
        import torch

        from prefmill.models.loading import load
        from prefmill.scoring.engine import Engine

        if self.threads is not None:
            torch.set_num_threads(self.threads)
        loaded = load(
            folder,
            kind,
            base=base,
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
    def engines(self) -> list[Engine]:
        """The loaded models, on first use."""
        return self._kept("engines", self._engines)

    @abstractmethod
    def _engines(self) -> list[Engine]:
        """One for each model that runs."""

    def _values(self, of_engines: list[Floats], rows: TokenRows) -> Floats:
        """The columns of the scorer from those of its engines; then the steps of each row."""
        return of_engines[0]

    # Scoring

    def prepare(self, batch: pa.RecordBatch) -> Prepared:
        """Tokens and plan of a batch: runs ahead of the model, in a thread of its own."""
        names = batch.schema.names
        is_grouped = "group" in names
        groups = batch["group"].to_numpy() if is_grouped else np.arange(batch.num_rows)
        open_ends = None
        if "finish_reason" in self.reads and "finish_reason" in names:
            open_ends = [reason == "length" for reason in batch["finish_reason"].to_pylist()]
        encoded = self.encoder.encode(batch["prompt"], batch["completion"], groups, open_ends)
        rows = encoded.rows
        if self.scores_completions:
            refuse_without_tokens(encoded)
        keys = None
        width = len(self.columns) + int(rows.mark_counts.max(initial=0))
        known, cached = np.zeros(len(rows), bool), np.zeros((len(rows), width))
        if self.cache is not None and len(rows):
            keys = [content_key(rows.key(i)) for i in range(len(rows))]
            known, cached = self._cache().get(keys, width)
        left = rows.take(np.flatnonzero(~known)) if known.any() else rows
        first, *others = self.engines
        _check_tokens(encoded, self.engines, self.encoder.tokenizer)
        # A second model of the same kind runs what the first runs, from one plan.
        works = [first.plan(left)]
        for engine in others:
            works.append(works[0] if engine.plans_like(first) else engine.plan(left))
        return Prepared(encoded, batch.num_rows, keys, known, cached, works)

    def _cache(self) -> ScoreCache:
        assert self.cache is not None
        folder = Path(self.cache)
        # What is null for its length has no value to keep.
        cuts = self.on_too_long == "truncate"
        values = {**self.fingerprint, "on_too_long": "truncate" if cuts else "error"}
        return self._kept("cache", lambda: ScoreCache(folder, values))

    def run(self, prepared: Prepared) -> Scored:
        """The scores of a prepared batch."""
        return self.start(prepared)()

    def start(self, prepared: Prepared) -> Callable[[], Scored]:
        """Begin `run`, and return what gives the scores; a GPU goes on meanwhile."""
        before = sum(engine.splits for engine in self.engines)
        new = np.flatnonzero(~prepared.known)
        pairs = zip(self.engines, prepared.works, strict=True)
        try:
            fetches = [engine.start(work) for engine, work in pairs]
        except BadRow as error:  # its row is a place among those that were run
            raise error.at(int(prepared.encoded.kept[new[error.row]])) from error
        splits = sum(engine.splits for engine in self.engines) - before
        self._warn()
        rows = prepared.works[0].rows

        def fetch_all() -> Scored:
            fresh = self._values([fetch() for fetch in fetches], rows)
            return self._scored(prepared, fresh, splits)

        return fetch_all

    def _scored(self, prepared: Prepared, fresh: Floats, splits: int) -> Scored:
        encoded, new = prepared.encoded, np.flatnonzero(~prepared.known)
        values, steps = prepared.cached.copy(), encoded.rows.mark_counts
        values[~prepared.known, : fresh.shape[1]] = fresh
        if prepared.keys is not None and len(fresh):
            finite = new[np.isfinite(fresh).all(axis=1)].tolist()
            widths = len(self.columns) + steps
            kept = [values[i, : widths[i]] for i in finite]
            self._cache().put([prepared.keys[i] for i in finite], kept)
        columns = {name: np.zeros(prepared.total) for name in self.columns}
        for i, column in enumerate(columns.values()):
            column[encoded.kept] = values[:, i]
        null = np.ones(prepared.total, bool)
        null[encoded.kept] = False
        work = prepared.works[0]
        counts = {
            "tokens": int(encoded.rows.lengths.sum()),
            "tokens_run": work.tokens,
            "duplicates": len(work.inverse) - len(work.distinct),
            "truncated": encoded.truncated,
            "cut_by_template": encoded.cut_by_template,
            "cached": int(prepared.known.sum()),
            "splits": splits,
        }
        reasons = ["too_long" if left_out else None for left_out in null.tolist()]
        lists: dict[str, list[list[float] | None]] = {}
        for name in self.lists:
            lists[name] = [None] * prepared.total
            of_rows = step_lists(values[:, len(self.columns) :], steps)
            for place, numbers in zip(encoded.kept.tolist(), of_rows, strict=True):
                lists[name][place] = numbers
        return Scored(columns, null, counts, reasons=reasons, lists=lists)

    def _warn(self) -> None:
        """Say once what a user should know of the rows seen so far."""


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
        if not of_tokens and self._pooling() == "last" and engine.body is None:
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


def _check_tokens(encoded: Encoded, engines: list[Engine], tokenizer: Any) -> None:
    """Refuse ids that a model's embedding does not have: on a GPU they would end the process."""
    sizes = [engine.vocabulary for engine in engines if engine.vocabulary is not None]
    rows = encoded.rows
    if not sizes or not len(rows.ids) or int(rows.ids.max()) < min(sizes):
        return
    places = np.flatnonzero(rows.ids >= min(sizes))
    owners = np.searchsorted(rows.offsets, places, side="right") - 1
    owners, first = np.unique(owners, return_index=True)
    hint = "the token was added to the tokenizer alone: resize the model's embedding, and train it."
    bad = []
    for row, token in zip(owners.tolist(), rows.ids[places[first]].tolist(), strict=True):
        name = tokenizer.convert_ids_to_tokens(token)
        what = (
            f"has the token {name!r}, which the model does not;"
            f" got id {token}, expected one below {min(sizes)}."
        )
        place = int(encoded.kept[row])
        bad.append(BadRow("score", what, row=place, reason="unknown_token", hint=hint))
    refuse(bad)


def refuse_without_tokens(encoded: Encoded) -> None:
    """Raise `BadRow` for rows without a completion token that something predicts.

    Their empty sum would be 0, and no other is as high.
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
