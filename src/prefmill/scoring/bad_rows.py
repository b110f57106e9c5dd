"""One way for a bad row: scorers raise `BadRow`, and what runs them stops with its name or goes on
without it.

    batch ──prepare──▶ Ready ──run──▶ Scored over all rows of the batch; the bad ones are null, each
    with its reason

A bad row never costs the others of its batch: with `null` the batch is prepared again without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, is_dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadArgument, BadRow, refuse
from prefmill.scoring.scorers import Ensemble, Scored, text_names

OnBadRow = Literal["error", "null"]

_Longs = npt.NDArray[np.int64]


def check_on_bad_row(where: str, on_bad_row: object) -> None:
    """Raise `BadArgument` for a value that `on_bad_row` cannot have."""
    if on_bad_row not in get_args(OnBadRow):
        raise BadArgument(
            f"{where}: on_bad_row is not one of {get_args(OnBadRow)}; got {on_bad_row!r}."
        )


@dataclass(frozen=True)
class Ready:
    """A batch that is prepared, but for its bad rows: `kept` are the others, `work` what the scorer
    made of them.
    """

    batch: pa.RecordBatch
    kept: _Longs
    work: Any
    bad: tuple[BadRow, ...]


@dataclass(frozen=True)
class RowGuard:
    """A scorer in two halves that treats bad rows as `on_bad_row` says: `error` raises the first,
    `null` leaves them without a score.

    >>> def score(batch):
    ...     for row, text in enumerate(batch["completion"].to_pylist()):
    ...         if not text:
    ...             raise BadRow("mine", "is empty.", row=row, reason="no_tokens")
    ...     return [len(text) for text in batch["completion"].to_pylist()]
    >>> from prefmill.scoring.scorers import as_scorer
    >>> guard = RowGuard(as_scorer(score), "null")
    >>> scored = guard.run(guard.prepare(pa.record_batch({"prompt": ["p", "p"], "completion": ["", "abc"]})))
    >>> scored.columns["score"].tolist(), scored.reasons
    ([0.0, 3.0], ['no_tokens', None])
    """

    scorer: Any
    on_bad_row: OnBadRow = "error"

    def prepare(self, batch: pa.RecordBatch) -> Ready:
        """The first half of the scorer over the rows that it takes."""
        return self._prepare(batch, np.arange(batch.num_rows), ())

    def _prepare(self, batch: pa.RecordBatch, kept: _Longs, bad: tuple[BadRow, ...]) -> Ready:
        while len(kept) or not bad:
            left = batch if len(kept) == batch.num_rows else batch.take(pa.array(kept))
            try:
                return Ready(batch, kept, self.scorer.prepare(left), bad)
            except BadRow as error:
                kept, bad = self._without(error, kept, bad)
        return Ready(batch, kept, None, bad)

    def run(self, ready: Ready) -> Scored:
        """The second half, over all rows of the batch: those that are bad are null, and `reasons`
        says why.
        """
        return self.start(ready)()

    def start(self, ready: Ready) -> Callable[[], Scored]:
        """Begin `run`, and return what gives the scores, to be called once, from any thread.

        A scorer that has a `start` of its own raises bad rows here; what runs on a GPU goes on
        meanwhile.
        """
        while len(ready.kept) or not ready.bad:
            try:
                fetch = self._start(ready.work)
            except BadRow as error:
                kept, bad = self._without(error, ready.kept, ready.bad)
                ready = self._prepare(ready.batch, kept, bad)
                continue
            return partial(self._finish, ready, fetch)
        columns = {name: np.zeros(0) for name in self.scorer.columns}
        nothing = Scored(columns, texts={name: [] for name in text_names(self.scorer)})
        return partial(_spread, nothing, [], ready)

    def _start(self, work: Any) -> Callable[[], Scored]:
        if hasattr(self.scorer, "start"):
            return self.scorer.start(work)  # type: ignore[no-any-return]
        scored: Scored = self.scorer.run(work)
        return lambda: scored

    def _finish(self, ready: Ready, fetch: Callable[[], Scored]) -> Scored:
        scored = fetch()
        strange = not_finite(scored)
        if strange and self.on_bad_row == "error":
            refuse([row.at(int(ready.kept[row.row])) for row in strange])
        return _spread(scored, strange, ready)

    def _without(
        self, error: BadRow, kept: _Longs, bad: tuple[BadRow, ...]
    ) -> tuple[_Longs, tuple[BadRow, ...]]:
        """The rows that are left, and the bad ones with those of `error` among them; with `error`
        raise it.
        """
        found = {int(kept[each.row]): each for each in error.found}
        moved = [each.at(row) for row, each in found.items()]
        if self.on_bad_row == "error":
            try:
                refuse(moved)
            except BadRow as first:
                raise first from error
        return kept[~np.isin(kept, list(found))], (*bad, *moved)


def with_bad_rows(scorer: Any, on_bad_row: OnBadRow) -> Any:
    """A scorer or sampler with its own options for bad rows as `on_bad_row` wants them: with `null`
    it leaves such rows out in one go.
    """
    if on_bad_row == "error":
        return scorer
    if isinstance(scorer, Ensemble):
        return replace(
            scorer,
            scorers={
                name: with_bad_rows(each, on_bad_row) for name, each in scorer.scorers.items()
            },
        )
    own: dict[str, Any] = {
        name: "null"
        for name in ("on_too_long", "on_refused")
        if getattr(scorer, name, None) == "error"
    }
    if is_dataclass(getattr(scorer, "sampler", None)):  # of a judge
        own["sampler"] = with_bad_rows(scorer.sampler, on_bad_row)
    return replace(scorer, **own) if own else scorer


def not_finite(scored: Scored) -> list[BadRow]:
    """The rows that have NaN or infinity in a column, and are not null."""
    hint = "in half precision this is an overflow: --dtype float32 or bfloat16; else the weights are broken."
    found: dict[int, BadRow] = {}
    for column, values in scored.columns.items():
        strange = ~np.isfinite(values)
        if scored.null is not None:
            strange &= ~scored.null
        for row in np.flatnonzero(strange).tolist():
            what = f"got {values[row]} as its {column} ({int(strange.sum())} such rows in its chunk); expected a number."
            found.setdefault(row, BadRow("score", what, row=row, reason="not_finite", hint=hint))
    return [found[row] for row in sorted(found)]


def _spread(scored: Scored, strange: Sequence[BadRow], ready: Ready) -> Scored:
    """`scored`, of the rows that were kept, over all rows of the batch."""
    rows, kept = ready.batch.num_rows, ready.kept
    null = np.zeros(len(kept), bool) if scored.null is None else scored.null.copy()
    why: list[str | None] = [None] * rows
    for i in np.flatnonzero(null).tolist():
        why[kept[i]] = (scored.reasons[i] if scored.reasons else None) or "left_out"
    for each in strange:
        null[each.row], why[kept[each.row]] = True, each.reason
    for each in ready.bad:
        why[each.row] = each.reason
    columns, texts = {}, {}
    for name, values in scored.columns.items():
        columns[name] = np.zeros(rows)
        columns[name][kept] = np.where(null, 0.0, values)
    for name, said in scored.texts.items():
        whole = np.full(rows, None, object)
        whole[kept] = said
        texts[name] = whole.tolist()
    nulls = np.array([reason is not None for reason in why], bool)
    return Scored(
        columns, nulls if nulls.any() else None, scored.counts, texts, why if nulls.any() else ()
    )
