"""Scorers: Arrow batches of (prompt, completion) in, one float per row out.

A scorer is anything that can be called with a batch and gives one number a row: a plain function
will do. Scorers of this package work in two halves, so that tokenising runs ahead of the model:
`prepare(batch)` needs no model, `run(prepared)` needs nothing else.
"""

from __future__ import annotations

import uuid
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadInput
from prefmill.models.contract import Part, completed
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
    lists    name to n lists of numbers or None, which stand between columns and texts: the scores
             of a row's steps
    reasons  why each of the n rows is null (`errors.BAD_ROW`), None for the others; empty: no
             reason is known (`left_out`)

    A row that stops the run, unless the caller allows it to be null, is raised as `BadRow`.
    """

    columns: Mapping[str, Floats]
    null: npt.NDArray[np.bool_] | None = None
    counts: Mapping[str, int] = field(default_factory=dict)
    texts: Mapping[str, Sequence[str | None]] = field(default_factory=dict)
    reasons: Sequence[str | None] = ()
    lists: Mapping[str, Sequence[Sequence[float] | None]] = field(default_factory=dict)

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
    def lists(self) -> tuple[str, ...]:
        """The names of the lists of numbers that it gives besides: a number for each step."""
        return ()

    @property
    def compares(self) -> bool | None:
        """Whether a row's score depends on the other rows of its prompt.

        Then no prompt may be cut, and a stream in which a prompt's rows stand apart is refused.
        None: it may, so no prompt is cut.
        """
        return None

    @property
    def over_pool(self) -> bool:
        """Whether a row's score depends on all rows of the pool: `settled` gives it in the end."""
        return False

    def settled(
        self, columns: Mapping[str, Floats], null: npt.NDArray[np.bool_], /
    ) -> tuple[Mapping[str, Floats], Mapping[str, int]]:
        """The columns over all rows as they are written, and counts; of those that `run` gave."""
        return columns, {}

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
    #: its fingerprint where it was made, of one that came from another process
    known: Mapping[str, str] | None = field(default=None, repr=False, compare=False)
    columns: ClassVar[tuple[str, ...]] = ("score",)

    def __getstate__(self) -> dict[str, Any]:
        # Another process may know a function's module by another path, or not at all.
        return {"function": self.function, "known": dict(self.fingerprint)}

    @property
    def fingerprint(self) -> Mapping[str, str]:
        """The function's own `fingerprint`, else its name and a hash of all that it reaches.

        Where that cannot be told (`functions.py`) the fingerprint is another one every time, so
        that nothing of another run is used again.
        """
        if self.known is not None:
            return self.known
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
