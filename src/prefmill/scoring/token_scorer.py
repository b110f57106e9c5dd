"""What all scorers over tokens share: how rows become ids, and how a model runs them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadRow, MissingPackage
from prefmill.models.contract import OnBadRow
from prefmill.models.described import Described, changed, uncounted, unlike
from prefmill.models.encoder import Encoder
from prefmill.models.limits import OnTooLong, longest
from prefmill.models.steps import StepLayout
from prefmill.models.tokens import Encoded, TokenRows
from prefmill.scoring.cache import ScoreCache, content_key
from prefmill.scoring.scorers import Floats, Scored, Staged
from prefmill.scoring.stepwise import step_lists
from prefmill.scoring.unfit import refuse_unknown_tokens, refuse_without_tokens

if TYPE_CHECKING:
    from prefmill.scoring.engine import Engine
    from prefmill.scoring.ways.headed import Head
    from prefmill.scoring.work import Work

SharePrefix = Literal["auto", "off"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]

_CHUNK_TOKENS = 1 << 20  # 64 full forward passes: of the last, which is not full, little is seen
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
        from prefmill.models.loading import load_tokenizer

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
        sizes = [each.vocabulary for each in self.engines if each.vocabulary is not None]
        refuse_unknown_tokens(encoded, sizes, self.encoder.tokenizer)
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


def _transformers() -> None:
    try:
        import torch  # noqa: F401
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingPackage.for_extra("score", error.name or "transformers", "score") from None
