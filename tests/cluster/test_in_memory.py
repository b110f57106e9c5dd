"""What a task leaves in the memory of a cluster, without one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from prefmill.runs.cluster.in_memory import NOTHING, MemoryShelf, task_in_memory
from prefmill.runs.cluster.pieces import Done, Piece


@dataclass(frozen=True)
class Told:
    shelf: Any = NOTHING


def table(*numbers: int) -> pa.Table:
    return pa.table({"x": list(numbers)})


def left_by(done: Done, keys: int) -> Any:
    return task_in_memory((Told(), lambda work, number: done), 0, keys, [])


def test_pieces_of_one_key_are_joined_in_their_order():
    pieces = [Piece(0, table(1)), Piece(1, table(2)), Piece(0, table(3, 4)), Piece(-1, table(5))]
    beside = {"wanted": [Piece(2, table(6)), Piece(2, table(7))]}
    (note, own, _, keys), *dealt = left_by(Done([*pieces, Piece(-1, table(8))], beside=beside), 4)
    assert [rows and rows["x"].to_pylist() for rows in dealt] == [[1, 3, 4], [2], [6, 7], None]
    assert {key: rows["x"].to_pylist() for key, rows in own.items()} == {-1: [5, 8]}
    assert keys == {0, 1, 2}
    assert note["rss_mb"] > 0


def test_a_task_that_deals_nothing_leaves_its_head_alone():
    note, own, schema, keys = left_by(Done(note={"rows": 3}), 0)
    assert note["rows"] == 3
    assert own == {}
    assert schema is None
    assert not keys


def test_keys_are_those_of_the_driver_and_of_tasks():
    shelf = MemoryShelf(lambda reference: reference)
    shelf.put("same", 0, Done([Piece(4, table(1))]))
    shelf.dealt = {("same", 1): frozenset({1, 2}), ("same", 2): frozenset({7}), ("x", 1): {9}}
    assert shelf.keys("same", range(2)) == {1, 2, 4}
    assert shelf.keys("same", []) == set()
