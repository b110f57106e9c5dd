"""Token rows: what a model reads, one row of ids for every (prompt, completion), no padding."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int32]
Longs = npt.NDArray[np.int64]


@dataclass(frozen=True)
class TokenRows:
    """Rows of token ids, end to end.

    ids      shape (tokens,), int32
    offsets  shape (rows + 1,), int64: row i is `ids[offsets[i]:offsets[i + 1]]`
    groups   shape (rows,), int64: rows of one prompt have one number
    starts   shape (rows,), int32: the first token that belongs to the completion (length of the
             row: none does)
    types    shape (tokens,), int32, or None: token type ids of text pairs
    marks    shape (tokens,), bool, or None: the tokens at which steps end
    """

    ids: Ints
    offsets: Longs
    groups: Longs
    starts: Ints
    types: Ints | None = None
    marks: npt.NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def lengths(self) -> Longs:
        """Tokens of each row, shape (rows,)."""
        return np.diff(self.offsets)

    def row(self, number: int) -> Ints:
        """The ids of one row."""
        return self.ids[self.offsets[number] : self.offsets[number + 1]]

    def type_row(self, number: int) -> Ints | None:
        """The token types of one row."""
        if self.types is None:
            return None
        return self.types[self.offsets[number] : self.offsets[number + 1]]

    def key(self, number: int) -> bytes:
        """The content of one row: equal rows, and only they, have equal keys."""
        types = self.type_row(number)
        # The start belongs to the content: with another one other tokens are scored.
        more = b"" if types is None else b"|" + types.tobytes()
        start = int(self.starts[number]).to_bytes(4, "little", signed=True)
        if self.marks is not None:
            more += b"|" + np.packbits(self.marks[self._span(number)]).tobytes()
        return self.row(number).tobytes() + more + start

    def marked(self, which: Longs) -> tuple[Longs, Longs, Longs]:
        """The marked tokens of the rows `which`.

        That is the place of each one's row in `which`, its own place in the row, and how many
        each row has.
        """
        assert self.marks is not None
        of_rows = [np.flatnonzero(self.marks[self._span(row)]) for row in which.tolist()]
        counts = self.mark_counts[which]
        tokens = np.concatenate([np.zeros(0, np.int64), *of_rows])
        return np.repeat(np.arange(len(which)), counts), tokens, counts

    @cached_property
    def mark_counts(self) -> Longs:
        """How many tokens of each row are marked, shape (rows,)."""
        if self.marks is None or not len(self):
            return np.zeros(len(self), np.int64)
        sums = np.concatenate([[0], np.cumsum(self.marks, dtype=np.int64)])
        return np.asarray(np.diff(sums[self.offsets]))

    def _span(self, number: int) -> slice:
        return slice(self.offsets[number], self.offsets[number + 1])

    def distinct(self) -> tuple[Longs, Longs]:
        """The first row of each content, and for every row the number of its content.

        Shapes (distinct,) and (rows,).
        """
        numbers: dict[bytes, int] = {}
        first: list[int] = []
        inverse = np.empty(len(self), np.int64)
        for row in range(len(self)):
            number = numbers.setdefault(self.key(row), len(numbers))
            if number == len(first):
                first.append(row)
            inverse[row] = number
        return np.asarray(first, np.int64), inverse

    def take(self, which: Longs) -> TokenRows:
        """The rows `which`, in that order."""
        taken = TokenRows.of(
            [self.row(i) for i in which], self.groups[which].tolist(), self.starts[which].tolist()
        )
        if not len(which):
            return taken
        if self.types is not None:
            types = [self.types[self._span(i)] for i in which]
            taken = replace(taken, types=np.concatenate(types))
        if self.marks is not None:
            marks = [self.marks[self._span(i)] for i in which]
            taken = replace(taken, marks=np.concatenate(marks))
        return taken

    @classmethod
    def of(
        cls,
        rows: Sequence[Sequence[int] | Ints],
        groups: Sequence[int] | None = None,
        starts: Sequence[int] | None = None,
    ) -> TokenRows:
        """Rows from lists of ids, each row a group of its own unless `groups` says otherwise.

        >>> TokenRows.of([[1, 2, 3], [4]]).row(1)
        array([4], dtype=int32)
        """
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        ids = [np.zeros(0, np.int32), *(np.asarray(row, np.int32) for row in rows)]
        return cls(
            np.concatenate(ids),
            offsets,
            np.arange(len(rows)) if groups is None else np.asarray(groups, np.int64),
            np.zeros(len(rows), np.int32) if starts is None else np.asarray(starts, np.int32),
        )


@dataclass(frozen=True)
class Encoded:
    """What `Encoder.encode` gives: the token rows, and which of the rows asked for they are.

    kept             shape (rows,): the number, in the batch, of each token row; those that are
                     missing were too long
    truncated        rows that were cut to the limit
    cut_by_template  rows whose completion does not stand whole in the rendered conversation
    """

    rows: TokenRows
    kept: Longs
    truncated: int
    cut_by_template: int = 0


def common_prefix(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> int:
    """How many leading ids `a` and `b` share.

    >>> common_prefix(np.array([1, 2, 3]), np.array([1, 2, 4, 5]))
    2
    """
    n = min(len(a), len(b))
    differ = np.flatnonzero(a[:n] != b[:n])
    return int(differ[0]) if len(differ) else n
