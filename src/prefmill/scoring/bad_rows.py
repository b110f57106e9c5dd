"""One way for a bad row: scorers raise `BadRow`; what runs them stops, or goes on without it.

    batch ──prepare──▶ Ready ──run──▶ Scored over all rows of the batch; bad ones are null, with
                                      their reasons

A bad row never costs the others of its batch: with `null` the batch is prepared again without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from prefmill.errors import BadRow, refuse
from prefmill.models.contract import OnBadRow
from prefmill.models.described import OVERFLOW
from prefmill.scoring.scorers import Scored, Staged

_Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ready:
    """A batch that is prepared but for its bad rows.

    `kept` are the other rows, `work` is what the scorer made of them.
    """

    batch: pa.RecordBatch
    kept: _Longs
    work: Any
    bad: tuple[BadRow, ...]


@dataclass(frozen=True)
class RowGuard:
    """A scorer in two halves that treats bad rows as `on_bad_row` says.

    `error` raises the first, `null` leaves them without a score.

    >>> def score(batch):
    ...     for row, text in enumerate(batch["completion"].to_pylist()):
    ...         if not text:
    ...             raise BadRow("mine", "is empty.", row=row, reason="no_tokens")
    ...     return [len(text) for text in batch["completion"].to_pylist()]
    >>> from prefmill.scoring.scorers import as_scorer
    >>> guard = RowGuard(as_scorer(score), "null")
    >>> batch = pa.record_batch({"prompt": ["p", "p"], "completion": ["", "abc"]})
    >>> scored = guard.run(guard.prepare(batch))
    >>> scored.columns["score"].tolist(), scored.reasons
    ([0.0, 3.0], ['no_tokens', None])
    """

    scorer: Staged
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
        """The second half, over all rows of the batch; bad ones are null, `reasons` says why."""
        return self.start(ready)()

    def start(self, ready: Ready) -> Callable[[], Scored]:
        """Begin `run`, and return what gives the scores, to be called once, from any thread.

        Bad rows are raised here; what runs on a GPU goes on meanwhile.
        """
        while len(ready.kept) or not ready.bad:
            try:
                fetch = self.scorer.start(ready.work)
            except BadRow as error:
                kept, bad = self._without(error, ready.kept, ready.bad)
                ready = self._prepare(ready.batch, kept, bad)
                continue
            return partial(self._finish, ready, fetch)
        columns = {name: np.zeros(0) for name in self.scorer.columns}
        texts: dict[str, Sequence[str | None]] = {name: [] for name in self.scorer.texts}
        nothing = Scored(columns, texts=texts, lists={name: [] for name in self.scorer.lists})
        return partial(_spread, nothing, [], ready)

    def _finish(self, ready: Ready, fetch: Callable[[], Scored]) -> Scored:
        scored = fetch()
        strange = not_finite(scored)
        if strange and self.on_bad_row == "error":
            refuse([row.at(int(ready.kept[row.row])) for row in strange])
        return _spread(scored, strange, ready)

    def _without(
        self, error: BadRow, kept: _Longs, bad: tuple[BadRow, ...]
    ) -> tuple[_Longs, tuple[BadRow, ...]]:
        """The rows that are left, and the bad ones with those of `error`; with `error` raise it."""
        new = {int(kept[each.row]): each for each in error.found}
        moved = [each.at(row) for row, each in new.items()]
        if self.on_bad_row == "error":
            try:
                refuse(moved)
            except BadRow as first:
                raise first from error
        return kept[~np.isin(kept, list(new))], (*bad, *moved)


def not_finite(scored: Scored) -> list[BadRow]:
    """The rows that have NaN or infinity in a column, and are not null."""
    bad: dict[int, BadRow] = {}
    columns: dict[str, npt.NDArray[np.float64]] = dict(scored.columns)
    for name, lists in scored.lists.items():
        # A list is as strange as the strangest of its numbers: their sum is NaN or infinite.
        with np.errstate(invalid="ignore"):
            columns[name] = np.array([np.sum(numbers or [0.0]) for numbers in lists], np.float64)
    for column, values in columns.items():
        strange = ~np.isfinite(values)
        if scored.null is not None:
            strange &= ~scored.null
        rows = np.flatnonzero(strange).tolist()
        for row in rows:
            what = (
                f"got {values[row]} as its {column} ({len(rows)} such rows in its chunk);"
                " expected a number."
            )
            error = BadRow("score", what, row=row, reason="not_finite", hint=OVERFLOW)
            bad.setdefault(row, error)
    return [bad[row] for row in sorted(bad)]


def _spread(scored: Scored, strange: Sequence[BadRow], ready: Ready) -> Scored:
    """`scored`, of the rows that were kept, over all rows of the batch."""
    rows, kept = ready.batch.num_rows, ready.kept
    null = np.zeros(len(kept), bool) if scored.null is None else scored.null.copy()
    reasons: list[str | None] = [None] * rows
    for i in np.flatnonzero(null).tolist():
        reasons[kept[i]] = (scored.reasons[i] if scored.reasons else None) or "left_out"
    for each in strange:
        null[each.row], reasons[kept[each.row]] = True, each.reason
    for each in ready.bad:
        reasons[each.row] = each.reason
    columns, texts, lists = {}, {}, {}
    for name, values in scored.columns.items():
        columns[name] = np.zeros(rows)
        columns[name][kept] = np.where(null, 0.0, values)
    for name, some in scored.texts.items():
        whole = np.full(rows, None, object)
        whole[kept] = some
        texts[name] = whole.tolist()
    for name, numbers in scored.lists.items():
        of_rows: list[Sequence[float] | None] = [None] * rows
        for row, one, is_null in zip(kept.tolist(), numbers, null.tolist(), strict=True):
            of_rows[row] = None if is_null else one
        lists[name] = of_rows
    nulls = np.array([reason is not None for reason in reasons], bool)
    if not nulls.any():
        return Scored(columns, None, scored.counts, texts, lists=lists)
    return Scored(columns, nulls, scored.counts, texts, reasons, lists)
