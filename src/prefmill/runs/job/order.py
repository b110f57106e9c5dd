"""Output order as keys: numbers of slots that ascend, and bytes that compare as they do."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

#: A key of output order, as bytes whose order is that of the numbers.
Keys = npt.NDArray[np.bytes_]
#: Columns that begin with a position of a prompt's own: no other prompt has it.
_OWN = ("_first", "_pos")


def part_key(order: Sequence[str]) -> list[str]:
    """The numbers of output order that say in which part of the output a slot is."""
    known = order[:1] if order[0] in _OWN else order
    return numbers(known)


def numbers(order: Sequence[str]) -> list[str]:
    """The names of columns of order, as numbers."""
    return [f"_o{place}" for place in range(len(order))]


def order_columns(order: Sequence[str]) -> list[str]:
    """Columns of order as numbers that all ascend."""
    return [
        f"{f'-{name[1:]}' if name[0] == '-' else name}::BIGINT AS _o{place}"
        for place, name in enumerate(order)
    ]


def keys_of(slots: pa.Table, order: Sequence[str]) -> Keys:
    """The key of each slot by which the output is divided, shape (slots,)."""
    return as_keys([slots[name].to_numpy() for name in part_key(order)])


def as_keys(columns: Sequence[npt.NDArray[np.int64]]) -> Keys:
    """Rows of numbers as bytes of the same order, shape (rows,).

    >>> keys = as_keys([np.array([1, 1, -2]), np.array([5, 300, 7])])
    >>> np.argsort(keys).tolist()
    [2, 0, 1]
    """
    lifted = [(column.astype(np.int64).view(np.uint64) ^ np.uint64(1 << 63)) for column in columns]
    table = np.stack(lifted, axis=1).astype(">u8") if lifted else np.zeros((0, 1), ">u8")
    return np.ascontiguousarray(table).view(f"S{8 * table.shape[1]}").reshape(-1)
