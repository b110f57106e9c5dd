"""Scorers: Arrow batches of (prompt, completion) in, one float per row out.

A scorer is anything that can be called with a batch and gives one number a row: a plain function
will do. Scorers of this module work in two halves, so that tokenising runs ahead of the model:
`prepare(batch)` needs no model, `run(prepared)` needs nothing else.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput
from prefmill.scoring.functions import Unknown, content_of
from prefmill.table.json_values import holds, is_json, with_marks

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Scored:
    """What a scorer gives for a batch of n rows.

    columns  name to float64 values, shape (n,); the first is the score
    null     shape (n,), bool: rows that have no score and are to be null (too long); None: there
    are none
    counts   what happened: tokens, tokens_run, duplicates, truncated, cached, splits; requests,
    retries, tokens_in, tokens_out of
             servers, `retry:REASON` for one reason
    texts    name to n texts or None, which stand behind the columns: what a judge said, and why a
    row has no score reasons  why each of the n rows is null (`errors.BAD_ROW`), None for the
    others; empty: no reason is known (`left_out`)

    A row that stops the run, unless the caller allows it to be null, is raised as `BadRow`.
    """

    columns: Mapping[str, Floats]
    null: npt.NDArray[np.bool_] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    reasons: Sequence[str | None] = ()


@runtime_checkable
class Scorer(Protocol):
    """A batch with the columns `prompt`, `completion` (text or message lists, no nulls) to one
    number per row, in the order of the rows.

    The batch holds whole prompts, with all their candidates (`score_stream`: those that stand
    together). Besides these two it has `group` (int64: rows of one prompt have one number) and the
    input's other columns under their own names. NaN and infinity are errors of the row (`BadRow`);
    to leave a row without a score, return a masked `pyarrow` array.

    A function may say `compares = False` (a row's score hangs on nothing but the row, so that a
    prompt with very many candidates may come in parts) and `reads = ("gold",)` (the other columns
    that it wants; the others are not read, and may change).
    """

    def __call__(self, batch: pa.RecordBatch, /) -> Any: ...

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """What decides the scores, by name: a resumed run with another value is refused, and the
        name is told.
        """
        ...


@runtime_checkable
class Staged(Protocol):
    """A scorer in two halves; `columns` are the names of what it gives, the score first; `texts`,
    where it has them, of its texts.

    `compares` says whether a row's score hangs on the other rows of its prompt (without it: yes),
    `reads` names further columns of the input that it wants (without it: none; None: all).
    """

    @property
    def columns(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> Mapping[str, str]: ...
    def prepare(self, batch: pa.RecordBatch) -> Any: ...
    def run(self, prepared: Any) -> Scored: ...


@dataclass(frozen=True)
class FunctionScorer:
    """A plain function as a scorer; `pm.score(scorer=f)` wraps it so.

    >>> scorer = FunctionScorer(lambda batch: [len(text) for text in batch["completion"].to_pylist()])
    >>> batch = pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "bcd"]})
    >>> scorer.run(scorer.prepare(batch)).columns["score"]
    array([1., 3.])
    """

    function: Callable[[pa.RecordBatch], Any]
    columns: ClassVar[tuple[str, ...]] = ("score",)

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The function's own `fingerprint` if it has one, else its name and a hash of all that it
        reaches.

        Where that cannot be told (`functions.py`) the fingerprint is another one every time, so
        that nothing of another run is used again.
        """
        own = getattr(self.function, "fingerprint", None)
        if own is not None:
            return own if isinstance(own, Mapping) else {"function": str(own)}
        name = f"{getattr(self.function, '__module__', '')}.{getattr(self.function, '__qualname__', type(self.function).__qualname__)}"
        try:
            content = content_of(self.function)
        except Unknown as unknown:
            advice = "an attribute fingerprint of the function would tell"
            content = f"not to be compared, for {unknown}; {advice} ({uuid.uuid4().hex[:8]})"
        return {"function": name, "content": content}

    @property
    def compares(self) -> bool:
        """Whether it may rank inside a prompt: unless the function says no."""
        return bool(getattr(self.function, "compares", True))

    @property
    def reads(self) -> tuple[str, ...] | None:
        """The further columns that it is shown: all, unless the function names some."""
        reads = getattr(self.function, "reads", None)
        return None if reads is None else tuple(reads)

    def prepare(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch itself; values that no type holds are JSON text, in Arrow's own type for it."""
        if not batch.num_rows or not any(holds(field.type, is_json) for field in batch.schema):
            return batch
        return with_marks(pa.Table.from_batches([batch])).combine_chunks().to_batches()[0]

    def run(self, prepared: pa.RecordBatch) -> Scored:
        """Call the function and check that it gave one number per row."""
        found = self.function(prepared)
        null = None
        try:
            if isinstance(found, pa.ChunkedArray):
                found = found.combine_chunks()
            if isinstance(found, pa.Array):
                null = np.asarray(found.is_null())
                found = found.cast(pa.float64()).fill_null(0.0).to_numpy(zero_copy_only=False)
            elif isinstance(found, np.ma.MaskedArray):
                null, found = np.ma.getmaskarray(found), found.filled(0)
            elif hasattr(found, "detach"):  # a tensor; NumPy has no bfloat16
                found = found.detach().double().cpu()
            values = np.asarray(found, dtype=np.float64)
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise BadInput(
                f"score: the scorer gave no numbers; {error}.",
                hint="return one float for every row.",
            ) from None
        if values.shape != (prepared.num_rows,):
            raise BadInput(
                f"score: the scorer gave values of shape {values.shape}; expected ({prepared.num_rows},): one for every row."
            )
        return Scored({"score": values}, null if null is not None and null.any() else None)


@dataclass(frozen=True, kw_only=True)
class Ensemble:
    """Several scorers as one: the mean, the smallest, or (`worst`) the smallest after each is put
    on one scale; each scorer's own column is kept.

    `combine`:
        mean   the mean of the scores
        min    the smallest score: the reward model that likes the row least decides (scores must be
            on one scale)
        worst  as min, over scores divided by `scales` (one number a scorer, for example each
        model's standard deviation on a calibration
               set)

    A row that some scorer leaves without a score has none. Columns: score, then the name of each
    scorer with its score.

    >>> long = lambda batch: [len(t) for t in batch["completion"].to_pylist()]
    >>> calm = lambda batch: [-t.count("!") for t in batch["completion"].to_pylist()]
    >>> both = Ensemble(scorers={"long": long, "calm": calm})
    >>> scored = both.run(both.prepare(pa.record_batch({"prompt": ["p"], "completion": ["ab!"]})))
    >>> {name: float(column[0]) for name, column in scored.columns.items()}
    {'score': 1.0, 'long': 3.0, 'calm': -1.0}
    """

    scorers: Mapping[str, Any]
    combine: str = "mean"
    scales: Mapping[str, float] | None = None

    def __post_init__(self) -> None:
        if not self.scorers:
            raise BadArgument("ensemble: no scorers; expected at least one.")
        if self.combine not in ("mean", "min", "worst"):
            raise BadArgument(
                f"ensemble: combine is not one of ('mean', 'min', 'worst'); got {self.combine!r}."
            )
        if (self.combine == "worst") != (self.scales is not None) or (
            self.scales is not None and set(self.scales) != set(self.scorers)
        ):
            raise BadArgument(
                f"ensemble: worst needs one scale for each of {sorted(self.scorers)}, and only worst; got {self.scales!r}."
            )
        if not all(
            isinstance(x, int | float | np.number) and 0 < x < np.inf
            for x in (self.scales or {}).values()
        ):
            raise BadArgument(f"ensemble: scales must be finite numbers > 0; got {self.scales!r}.")
        if "score" in self.scorers:
            raise BadArgument(
                "ensemble: no scorer can be named 'score': that is the combined column."
            )
        object.__setattr__(
            self, "scorers", {name: as_scorer(scorer) for name, scorer in self.scorers.items()}
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """score, and one column a scorer."""
        return ("score", *self.scorers)

    @property
    def compares(self) -> bool:
        """Whether one of them does."""
        return any(getattr(scorer, "compares", True) for scorer in self.scorers.values())

    @property
    def reads(self) -> tuple[str, ...] | None:
        """What one of them does; None: all columns."""
        each = [getattr(scorer, "reads", ()) for scorer in self.scorers.values()]
        return (
            None if None in each else tuple(dict.fromkeys(name for reads in each for name in reads))
        )

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts of every scorer, its name before."""
        return tuple(
            f"{name}_{text}" for name, scorer in self.scorers.items() for text in text_names(scorer)
        )

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """Those of the scorers, and how they are combined."""
        parts = {
            f"{name}.{key}": value
            for name, scorer in self.scorers.items()
            for key, value in scorer.fingerprint.items()
        }
        return {"combine": self.combine, "scales": json.dumps(self.scales, sort_keys=True), **parts}

    @property
    def shape(self) -> dict[str, Any]:
        """Those of the scorers."""
        return {name: getattr(scorer, "shape", {}) for name, scorer in self.scorers.items()}

    def with_shape(self, shape: Mapping[str, Any]) -> Ensemble:
        """Every scorer with its own."""
        return replace(
            self,
            scorers={
                name: s.with_shape(shape[name]) if shape[name] else s
                for name, s in self.scorers.items()
            },
        )

    def prepare(self, batch: pa.RecordBatch) -> dict[str, Any]:
        """Every scorer's own first half."""
        return {name: scorer.prepare(batch) for name, scorer in self.scorers.items()}

    def run(self, prepared: dict[str, Any]) -> Scored:
        """Run one scorer after another."""
        done = {name: scorer.run(prepared[name]) for name, scorer in self.scorers.items()}
        own = {name: next(iter(scored.columns.values())) for name, scored in done.items()}
        scales = self.scales or dict.fromkeys(own, 1.0)
        stacked = np.stack([values / scales[name] for name, values in own.items()])
        score = stacked.mean(axis=0) if self.combine == "mean" else stacked.min(axis=0)
        nulls = [scored.null for scored in done.values() if scored.null is not None]
        counts: dict[str, int] = {}
        for scored in done.values():
            for key, number in scored.counts.items():
                counts[key] = counts.get(key, 0) + number
        texts = {
            f"{name}_{text}": values
            for name, scored in done.items()
            for text, values in scored.texts.items()
        }
        whys = [scored.reasons for scored in done.values() if scored.reasons]
        reasons = [next((why for why in of_row if why), None) for of_row in zip(*whys, strict=True)]
        return Scored(
            {"score": score, **own},
            np.logical_or.reduce(nulls) if nulls else None,
            counts,
            texts,
            reasons,
        )

    def __call__(self, batch: pa.RecordBatch) -> Floats:
        """The combined score of each row, NaN where it has none."""
        scored = self.run(self.prepare(batch))
        return (
            scored.columns["score"]
            if scored.null is None
            else np.where(scored.null, np.nan, scored.columns["score"])
        )


def as_scorer(scorer: Any) -> Staged:
    """`scorer` in two halves: itself, or a function wrapped."""
    # Not isinstance(scorer, Staged): before Python 3.12 that reads every member, and the
    # fingerprint of a model is a hash of its weights.
    if callable(getattr(scorer, "prepare", None)) and callable(getattr(scorer, "run", None)):
        return scorer  # type: ignore[no-any-return]
    if callable(scorer):
        return FunctionScorer(scorer)
    raise BadArgument(
        f"score: not a scorer; got {type(scorer).__name__}, expected a function over record batches, or one of RewardModel, LogProb,"
        " ImplicitReward, JudgeScorer, EndpointScorer, Ensemble."
    )


def text_names(scorer: Any) -> tuple[str, ...]:
    """The texts that `scorer` gives beside its columns."""
    return tuple(getattr(scorer, "texts", ()))


def printed_date(part: Any) -> str | None:
    """The date that the templates of a scorer or sampler print (`strftime_now`), YYYY-MM-DD; None:
    they print none.
    """
    if isinstance(part, Ensemble):
        return next((date for each in part.scorers.values() if (date := printed_date(each))), None)
    inner = (getattr(part, name, None) for name in ("sampler", "parity"))
    own: str | None = getattr(part, "printed_date", None)
    return own or next(
        (date for each in inner if each is not None and (date := printed_date(each))), None
    )


def with_template_date(part: Any, date: str) -> Any:
    """The same scorer or sampler on that date, where its template prints one and none was given."""
    if printed_date(part) is None:
        return part
    if isinstance(part, Ensemble):
        return replace(
            part,
            scorers={name: with_template_date(each, date) for name, each in part.scorers.items()},
        )
    changed: dict[str, Any] = {
        name: with_template_date(getattr(part, name), date)
        for name in ("sampler", "parity")
        if getattr(part, name, None) is not None
    }
    if getattr(part, "printed_date", None) and part.template_date is None:
        changed["template_date"] = date
    return replace(part, **changed)


def on_its_date(part: Any, before: Mapping[str, Any]) -> Any:
    """A scorer or sampler on the date of the run that goes on, whose fingerprint was `before`; else
    on today's, for the whole run.
    """
    date = printed_date(part)
    if date is None:
        return part
    begun = (value for name, value in before.items() if name.rpartition(".")[2] == "template_date")
    return with_template_date(part, next(begun, None) or date)


def on_device(scorer: Any, device: str) -> Any:
    """The same scorer on another device; functions stay as they are."""
    if isinstance(scorer, Ensemble):
        return replace(
            scorer, scorers={name: on_device(each, device) for name, each in scorer.scorers.items()}
        )
    if hasattr(getattr(scorer, "sampler", None), "device"):  # a judge over a model in this process
        return replace(scorer, sampler=replace(scorer.sampler, device=device))
    return replace(scorer, device=device) if hasattr(scorer, "device") else scorer
