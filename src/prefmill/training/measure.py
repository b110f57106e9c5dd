"""A reward model on pairs that it has not seen, through the scorer of `prefmill score`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from prefmill.errors import BadInput, BadRow
from prefmill.scoring.bad_rows import RowGuard
from prefmill.table.conversations import messages_of, texts_of
from prefmill.training.report import HeldOut, buckets_of, share_of
from prefmill.training.rows import PairRows, added, arrow, numbered, read_pairs

_PAIRS = 256  # at a time
_SIDES = ("chosen", "rejected")


def read_tests(test: Any, where: str) -> dict[str, PairRows]:
    """Held-out sets by name: a file's own, or `test` for what is in memory."""
    if isinstance(test, str | Path):
        test = [test]
    if isinstance(test, Mapping):
        inputs = dict(test)
    elif isinstance(test, Sequence):
        inputs = {str(each): each for each in test}
    else:
        inputs = {"test": test}
    tests = {name: read_pairs(each, where=where) for name, each in inputs.items()}
    for name, pairs in tests.items():
        if not pairs.frame.height:
            raise BadInput(
                f"{where}: no pairs to measure on in {name!r};"
                f" got {pairs.rows_in} rows, expected at least one usable."
            )
    return tests


def measured(
    guard: RowGuard, name: str, pairs: PairRows, trained: set[str], where: str
) -> HeldOut | None:
    """How the scorer does on `pairs`; None where there are none.

    `trained` are the prompts that were trained on.
    """
    if not pairs.frame.height:
        return None
    keys = pairs.prompts
    groups = numbered(keys)
    scores, reasons = _scored(guard, pairs, groups, where)
    usable = np.array([reason is None for reason in reasons], bool)
    dropped = added(pairs.dropped, Counter(filter(None, reasons)))
    if not usable.any():
        raise BadInput(f"{where}: no pair of {name!r} can be scored; got {dict(dropped)}.")
    rows, groups = pairs.frame.filter(pl.Series(usable)), groups[usable]
    chosen, rejected = scores[:, usable]
    wins = _wins(chosen, rejected)
    column = next((name for name in ("difference", "margin") if name in rows.columns), None)
    used = {keys[place] for place in np.flatnonzero(usable)}
    return HeldOut(
        name=name,
        pairs_in=pairs.rows_in,
        dropped=dropped,
        prompts=len(used),
        prompts_trained=len(used & trained),
        accuracy=share_of(wins, groups),
        longer=share_of(_wins(*(_sizes(rows[side]) for side in _SIDES)), groups),
        margins=buckets_of(rows[column].to_list() if column else None, wins, groups),
        loss=round(float(np.logaddexp(0, rejected - chosen).mean()), 6),
        difference=round(float((chosen - rejected).mean()), 6),
    )


def _scored(
    guard: RowGuard, pairs: PairRows, groups: npt.NDArray[np.int64], where: str
) -> tuple[npt.NDArray[np.float64], list[str | None]]:
    """Scores of both sides, shape (2, pairs), and why a pair has none."""
    order = np.argsort(groups, kind="stable")
    scores = np.zeros((2, len(order)))
    reasons = np.full((2, len(order)), None, object)
    for first in range(0, len(order), _PAIRS):
        part = order[first : first + _PAIRS]
        rows = pairs.frame[part]
        both = pl.concat([rows.select("prompt", completion=side) for side in _SIDES])
        # All candidates of a prompt stand together, as scoring wants them.
        prompts = np.tile(groups[part], 2)
        together = np.argsort(prompts, kind="stable")
        both = both[together]
        columns = {name: arrow(both[name]) for name in ("prompt", "completion")}
        batch = pa.record_batch({**columns, "group": pa.array(prompts[together])})
        try:
            scored = guard.run(guard.prepare(batch))
        except BadRow as error:
            raise pairs.bad(error, int(part[together[error.row] % len(part)]), where) from error
        values, why = np.empty(len(together)), np.full(len(together), None, object)
        values[together] = scored.columns["score"]
        why[together] = scored.reasons or None
        scores[:, part], reasons[:, part] = values.reshape(2, -1), why.reshape(2, -1)
    return scores, [one or other for one, other in reasons.T.tolist()]


def _wins(one: npt.NDArray[Any], other: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    """1 where `one` is more, a half where both are the same."""
    wins: npt.NDArray[np.float64] = (one > other) + (one == other) / 2
    return wins


def _sizes(completions: pl.Series) -> npt.NDArray[np.int64]:
    """Characters of each completion."""
    return np.array([_size(value) for value in completions.to_list()])


def _size(completion: Any) -> int:
    messages = messages_of(completion, "assistant")
    return sum(len(text) for message in messages for text in texts_of(message))
