"""Scorers: Arrow batches of (prompt, completion) in, one float per row out.

A scorer is anything that can be called with a batch and gives one number a row: a plain function
will do. Scorers of this package work in two halves, so that tokenising runs ahead of the model:
`prepare(batch)` needs no model, `run(prepared)` needs nothing else.
"""

from __future__ import annotations

import json
import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput
from prefmill.models.contract import OnBadRow, Part, completed
from prefmill.scoring.functions import Unknown, content_of
from prefmill.table.json_values import holds, is_json, with_marks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """What a scorer gives for a batch of n rows.

    columns  name to float64 values, shape (n,); the first is the score
    null     shape (n,), bool: rows that have no score and are to be null; None: there are none
    counts   what happened: tokens, tokens_run, duplicates, truncated, cached, splits; of servers
             requests, retries, tokens_in, tokens_out, and `retry:REASON` for one reason
    texts    name to n texts or None, which stand after the columns: what a judge said
    reasons  why each of the n rows is null (`errors.BAD_ROW`), None for the others; empty: no
             reason is known (`left_out`)

    A row that stops the run, unless the caller allows it to be null, is raised as `BadRow`.
    """

    columns: Mapping[str, Floats]
    null: npt.NDArray[np.bool_] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    reasons: Sequence[str | None] = ()

    def __post_init__(self) -> None:
        if self.null is not None and not self.null.any():
            object.__setattr__(self, "null", None)

    def numbers(self) -> Floats:
        """The score of each row, NaN where it has none."""
        score = next(iter(self.columns.values()))
        if self.null is None:
            return score
        return np.where(self.null, np.nan, score)


@runtime_checkable
class Scorer(Protocol):
    """What users give: a batch in, one number per row out, in the order of the rows.

    The batch has the columns `prompt` and `completion` (text or message lists, no nulls) and holds
    whole prompts, with all their candidates (`score_stream`: those that stand together). It also
    has `group` (int64: rows of one prompt have one number) and the input's other columns under
    their own names. NaN and infinity are errors of the row (`BadRow`); to leave a row without a
    score, return a masked `pyarrow` array.

    A function may say `compares = False` (a row's score depends on the row alone, so that a prompt
    with very many candidates may come in parts) and `reads = ("gold",)` (the other columns that it
    wants; the others are not read, and may change).
    """

    def __call__(self, batch: pa.RecordBatch, /) -> Any: ...

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the scores, by name.

        A resumed run with another value is refused, and the name is told.
        """
        ...


@runtime_checkable
class Staged(Part, Protocol):
    """A scorer in two halves: everything that a run asks of it.

    `fingerprint`, `columns`, `prepare` and `run` are needed. A class that inherits from this has
    the defaults written here for the rest; an object that does not is given them (`as_scorer`).
    """

    @property
    @abstractmethod
    def columns(self) -> tuple[str, ...]:
        """The names of the numbers that it gives, the score first."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The names of the texts that it gives besides."""
        return ()

    @property
    def compares(self) -> bool | None:
        """Whether a row's score depends on the other rows of its prompt.

        Then no prompt may be cut, and a stream in which a prompt's rows stand apart is refused.
        None: it may, so no prompt is cut.
        """
        return None

    @property
    def reads(self) -> tuple[str, ...] | None:
        """Further columns of the input that it wants; None: all."""
        return ()

    @property
    def chunk_tokens(self) -> int | None:
        """Tokens that a chunk should have at least, where its device needs many to be busy."""
        return None

    @property
    def way(self) -> str:
        """How rows are run, as far as a model is loaded."""
        return ""

    @abstractmethod
    def prepare(self, batch: pa.RecordBatch, /) -> Any:
        """The first half: runs ahead of the model, in a thread of its own."""

    @abstractmethod
    def run(self, prepared: Any, /) -> Scored:
        """The second half."""

    def start(self, prepared: Any, /) -> Callable[[], Scored]:
        """Begin `run`, and return what gives the scores, to be called once, from any thread.

        By default the scores are there when this returns. What runs on a GPU may go on meanwhile.
        """
        scored = self.run(prepared)
        return lambda: scored

    def cost(self, counts: Mapping[str, int], /) -> float | None:
        """What `counts` cost, where a price is known."""
        return None

    def __call__(self, batch: pa.RecordBatch, /) -> Any:
        """The score of each row, NaN where it has none."""
        return self.run(self.prepare(batch)).numbers()


@dataclass(frozen=True)
class FunctionScorer(Staged):
    """A plain function as a scorer; `pm.score(scorer=f)` wraps it so.

    >>> scorer = FunctionScorer(lambda batch: [len(t) for t in batch["completion"].to_pylist()])
    >>> batch = pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "bcd"]})
    >>> scorer(batch)
    array([1., 3.])
    """

    function: Callable[[pa.RecordBatch], Any]
    columns: ClassVar[tuple[str, ...]] = ("score",)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The function's own `fingerprint`, else its name and a hash of all that it reaches.

        Where that cannot be told (`functions.py`) the fingerprint is another one every time, so
        that nothing of another run is used again.
        """
        function = self.function
        own = getattr(function, "fingerprint", None)
        if own is not None:
            if isinstance(own, Mapping):
                return own
            return {"function": str(own)}
        module = getattr(function, "__module__", "")
        name = getattr(function, "__qualname__", type(function).__qualname__)
        try:
            content = content_of(function)
        except Unknown as unknown:
            advice = "an attribute fingerprint of the function would tell"
            content = f"not to be compared, for {unknown}; {advice} ({uuid.uuid4().hex[:8]})"
        return {"function": f"{module}.{name}", "content": content}

    @property
    def compares(self) -> bool | None:
        """Whether it compares, as far as the function says."""
        compares = getattr(self.function, "compares", None)
        if compares is None:
            return None
        return bool(compares)

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The further columns that it is shown: all, unless the function names some."""
        reads = getattr(self.function, "reads", None)
        if reads is None:
            return None
        return tuple(reads)

    def prepare(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch itself; values that no type holds are JSON text, in Arrow's own type for it."""
        if not batch.num_rows or not any(holds(field.type, is_json) for field in batch.schema):
            return batch
        return with_marks(pa.Table.from_batches([batch])).combine_chunks().to_batches()[0]

    def run(self, prepared: pa.RecordBatch) -> Scored:
        """Call the function and check that it gave one number per row."""
        try:
            values, null = _numbers(self.function(prepared))
        except _NotNumbers as error:
            raise BadInput(
                f"score: the scorer gave no numbers; {error}.",
                hint="return one float for every row.",
            ) from None
        if values.shape != (prepared.num_rows,):
            raise BadInput(
                f"score: the scorer gave values of shape {values.shape};"
                f" expected ({prepared.num_rows},): one for every row."
            )
        return Scored({"score": values}, null)


class _NotNumbers(Exception):
    """What a function gave cannot be read as numbers."""


def _numbers(answer: Any) -> tuple[Floats, npt.NDArray[np.bool_] | None]:
    """What a function gave as float64, and which of it is null."""
    null = None
    try:
        if isinstance(answer, pa.ChunkedArray):
            answer = answer.combine_chunks()
        if isinstance(answer, pa.Array):
            null = np.asarray(answer.is_null())
            answer = answer.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
        elif isinstance(answer, np.ma.MaskedArray):
            null, answer = np.ma.getmaskarray(answer), answer.filled(0)
        elif hasattr(answer, "detach"):  # a tensor; NumPy has no bfloat16
            answer = answer.detach().double().cpu()
        return np.asarray(answer, dtype=np.float64), null
    except (TypeError, ValueError, pa.ArrowException) as error:
        raise _NotNumbers(error) from None


@dataclass(frozen=True, kw_only=True)
class Ensemble(Staged):
    """Several scorers as one, with each scorer's own column.

    `combine`:
        mean   the mean of the scores
        min    the smallest score: the reward model that likes the row least decides (scores must
               be on one scale)
        worst  as min, over scores divided by `scales` (one number a scorer, for example each
               model's standard deviation on a calibration set)

    A row that some scorer leaves without a score has none. Columns: score, then the name of each
    scorer with its score.

    >>> long = lambda batch: [len(t) for t in batch["completion"].to_pylist()]
    >>> calm = lambda batch: [-t.count("!") for t in batch["completion"].to_pylist()]
    >>> both = Ensemble(scorers={"long": long, "calm": calm})
    >>> both(pa.record_batch({"prompt": ["p"], "completion": ["ab!"]}))
    array([1.])
    """

    scorers: Mapping[str, Any]
    combine: str = "mean"
    scales: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        names, scales = sorted(self.scorers), self.scales
        if not names:
            raise BadArgument("ensemble: no scorers; expected at least one.")
        if self.combine not in ("mean", "min", "worst"):
            raise BadArgument(
                f"ensemble: combine is not one of ('mean', 'min', 'worst'); got {self.combine!r}."
            )
        scaled = None if scales is None else sorted(scales)
        if scaled != (names if self.combine == "worst" else None):
            raise BadArgument(
                f"ensemble: worst needs one scale for each of {names}, and only worst;"
                f" got {scales!r}."
            )
        for scale in (scales or {}).values():
            if not isinstance(scale, int | float | np.number) or not 0 < scale < np.inf:
                raise BadArgument(f"ensemble: scales must be finite numbers > 0; got {scales!r}.")
        if "score" in names:
            raise BadArgument(
                "ensemble: no scorer can be named 'score': that is the combined column."
            )
        scorers = {name: as_scorer(scorer) for name, scorer in self.scorers.items()}
        object.__setattr__(self, "scorers", scorers)

    def _each(self, change: Callable[[str, Staged], Staged]) -> Self:
        scorers = {name: change(name, scorer) for name, scorer in self.scorers.items()}
        return replace(self, scorers=scorers)

    @property
    def columns(self) -> tuple[str, ...]:
        """score, and one column a scorer."""
        return ("score", *self.scorers)

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of every scorer, its name before."""
        names: list[str] = []
        for name, scorer in self.scorers.items():
            names += [f"{name}_{text}" for text in scorer.texts]
        return tuple(names)

    @property
    def compares(self) -> bool | None:
        """Whether one of them does."""
        answers = [scorer.compares for scorer in self.scorers.values()]
        if True in answers:
            return True
        if None in answers:
            return None
        return False

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What one of them does; None: all columns."""
        wanted: dict[str, None] = {}
        for scorer in self.scorers.values():
            if scorer.reads is None:
                return None
            wanted |= dict.fromkeys(scorer.reads)
        return tuple(wanted)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Those of the scorers, and how they are combined."""
        parts = {"combine": self.combine, "scales": json.dumps(self.scales, sort_keys=True)}
        for name, scorer in self.scorers.items():
            parts |= {f"{name}.{key}": value for key, value in scorer.fingerprint.items()}
        return parts

    @property
    def shape(self) -> Mapping[str, Any]:
        """Those of the scorers."""
        return {name: scorer.shape for name, scorer in self.scorers.items()}

    def with_shape(self, shape: Mapping[str, Any]) -> Self:
        """Every scorer with its own."""
        return self._each(lambda name, scorer: scorer.with_shape(shape[name]))

    @property
    def printed_date(self) -> str | None:
        """The first that one of them prints."""
        dates = (scorer.printed_date for scorer in self.scorers.values())
        return next((date for date in dates if date), None)

    def on_date(self, date: str) -> Self:
        """Every scorer on that date."""
        return self._each(lambda _, scorer: scorer.on_date(date))

    def on_device(self, device: str) -> Self:
        """Every scorer on that device."""
        return self._each(lambda _, scorer: scorer.on_device(device))

    def with_bad_rows(self, on_bad_row: OnBadRow) -> Self:
        """Every scorer with its own bad rows left out."""
        return self._each(lambda _, scorer: scorer.with_bad_rows(on_bad_row))

    def prepare(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Every scorer's own first half."""
        return {name: scorer.prepare(batch) for name, scorer in self.scorers.items()}

    def run(self, prepared: dict[str, Any]) -> Scored:
        """Run one scorer after another."""
        done = {name: scorer.run(prepared[name]) for name, scorer in self.scorers.items()}
        scales = self.scales or dict.fromkeys(done, 1.0)
        own: dict[str, Floats] = {}
        texts: dict[str, Sequence[str | None]] = {}
        counts: dict[str, int] = {}
        for name, scored in done.items():
            own[name] = next(iter(scored.columns.values()))
            texts |= {f"{name}_{text}": values for text, values in scored.texts.items()}
            for key, number in scored.counts.items():
                counts[key] = counts.get(key, 0) + number
        stacked = np.stack([values / scales[name] for name, values in own.items()])
        score = stacked.mean(axis=0) if self.combine == "mean" else stacked.min(axis=0)
        nulls = [np.zeros(len(score), bool)]
        nulls += [scored.null for scored in done.values() if scored.null is not None]
        reasons = [scored.reasons for scored in done.values() if scored.reasons]
        return Scored(
            {"score": score, **own},
            np.logical_or.reduce(nulls),
            counts,
            texts,
            [next(filter(None, of_row), None) for of_row in zip(*reasons, strict=True)],
        )


def as_scorer(scorer: Any) -> Staged:
    """`scorer` in two halves, with the whole contract: itself, completed, or a function wrapped."""
    if callable(getattr(scorer, "prepare", None)) and callable(getattr(scorer, "run", None)):
        return completed(scorer, Staged)  # type: ignore[no-any-return]
    if callable(scorer):
        return FunctionScorer(scorer)
    raise BadArgument(
        f"score: not a scorer; got {type(scorer).__name__}, expected a function over record"
        " batches, or one of RewardModel, LogProb, ImplicitReward, JudgeScorer, EndpointScorer,"
        " Ensemble."
    )
