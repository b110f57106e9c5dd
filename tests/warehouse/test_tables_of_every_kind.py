"""Create, append, merge and replace mean the same in every kind of table."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warehouses import address_in, keys_in, put, row, rows_in

from prefmill.errors import BadArgument, RunDiffers, TargetExists
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Commit, fingerprint
from prefmill.warehouse.tables import opened, publish


def test_rows_come_back_as_they_were(kind, tmp_path):
    assert put(kind, tmp_path, "a bn ccc", run="1", mode="create")
    assert rows_in(kind, tmp_path) == [row("a"), row("bn"), row("ccc")]


def test_a_run_that_is_in_the_table_is_nothing_to_do(kind, tmp_path):
    for mode in ("create", "append", "merge", "replace"):
        run = f"run of {mode}"
        assert put(kind, tmp_path, mode, run=run, mode=mode)
        before = rows_in(kind, tmp_path)
        assert not put(kind, tmp_path, mode, run=run, mode=mode)
        assert rows_in(kind, tmp_path) == before


def test_a_table_that_is_there_is_not_created(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    with pytest.raises(TargetExists, match="already there"):
        put(kind, tmp_path, "b", run="2", mode="create")
    assert keys_in(kind, tmp_path) == ["a"]


def test_appended_rows_are_added_once_for_each_run(kind, tmp_path):
    assert put(kind, tmp_path, "a b", run="1", mode="append")
    assert put(kind, tmp_path, "a c", run="2", mode="append")
    assert not put(kind, tmp_path, "a b", run="1", mode="append")
    assert not put(kind, tmp_path, "a c", run="2", mode="append")
    assert keys_in(kind, tmp_path) == ["a", "a", "b", "c"]


def test_one_key_of_two_inputs_is_refused(kind, tmp_path):
    put(kind, tmp_path, "a", run="2026-11-29", mode="append", inputs="one")
    with pytest.raises(RunDiffers, match="read other inputs"):
        put(kind, tmp_path, "b", run="2026-11-29", mode="append", inputs="two")
    assert keys_in(kind, tmp_path) == ["a"]


def test_a_merge_goes_by_pair_id(kind, tmp_path):
    assert put(kind, tmp_path, "a b c", run="1", mode="merge")
    assert put(kind, tmp_path, "b d", run="2", mode="merge", score=5.0)
    assert rows_in(kind, tmp_path) == [row("a"), row("b", 5.0), row("c"), row("d", 5.0)]


def test_a_merge_takes_removed_rows_away(kind, tmp_path):
    put(kind, tmp_path, "a b c", run="1", mode="create")
    put(kind, tmp_path, "b d", run="2", mode="merge", score=5.0, removed=("a", "nobody"))
    assert rows_in(kind, tmp_path) == [row("b", 5.0), row("c"), row("d", 5.0)]


def test_a_merge_goes_back_to_older_inputs(kind, tmp_path):
    put(kind, tmp_path, "a b", run="1", mode="merge")
    put(kind, tmp_path, "a b", run="2", mode="merge", score=2.0)
    assert put(kind, tmp_path, "a b", run="1", mode="merge")
    assert rows_in(kind, tmp_path) == [row("a"), row("b")]


def test_a_merge_refuses_a_key_that_is_twice(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    with pytest.raises(BadArgument, match="'b' more than once"):
        put(kind, tmp_path, "b b", run="2", mode="merge")
    assert keys_in(kind, tmp_path) == ["a"]


def test_replaced_rows_are_gone_and_may_be_appended_again(kind, tmp_path):
    put(kind, tmp_path, "a b", run="1", mode="append")
    put(kind, tmp_path, "c", run="2", mode="replace")
    assert keys_in(kind, tmp_path) == ["c"]
    assert put(kind, tmp_path, "a b", run="1", mode="append")
    assert keys_in(kind, tmp_path) == ["a", "b", "c"]
    assert put(kind, tmp_path, "c", run="2", mode="replace")
    assert keys_in(kind, tmp_path) == ["c"]


@pytest.mark.parametrize("mode", ["append", "merge"])
def test_replace_takes_away_what_a_run_found(kind, mode, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    put(kind, tmp_path, "b", run="2", mode=mode)
    assert put(kind, tmp_path, "b", run="2", mode="replace")
    assert keys_in(kind, tmp_path) == ["b"]
    assert not put(kind, tmp_path, "b", run="2", mode="replace")


def test_a_table_without_rows_has_its_columns(kind, tmp_path):
    put(kind, tmp_path, "", run="1", mode="create")
    with opened(Address.of(address_in(kind, tmp_path))) as table:
        assert table.columns() == list(row("a"))
        assert table.reader().read_all().num_rows == 0
    put(kind, tmp_path, "a", run="2", mode="append")
    assert rows_in(kind, tmp_path) == [row("a")]


def test_a_run_without_rows_is_in_the_table_too(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    put(kind, tmp_path, "", run="2", mode="append")
    assert not put(kind, tmp_path, "", run="2", mode="append")
    assert keys_in(kind, tmp_path) == ["a"]


def test_the_table_tells_its_runs(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    put(kind, tmp_path, "b", run="2", mode="append")
    put(kind, tmp_path, "b", run="3", mode="merge")
    with opened(Address.of(address_in(kind, tmp_path))) as table:
        runs = list(table.runs())
        assert [each.run for each in runs] == ["3", "2", "1"]
        assert [each.newest for each in runs] == [True, False, False]
        assert runs[-1].facts["plan"] == "p"


def test_the_version_follows_the_content(kind, tmp_path):
    versions = []
    for run in ("1", "1", "2"):
        put(kind, tmp_path, "a", run=run, mode="append")
        with opened(Address.of(address_in(kind, tmp_path))) as table:
            versions.append(table.version())
    assert versions[0] == versions[1] != versions[2]


def test_other_columns_are_refused(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    pq.write_table(pa.table({"pair_id": ["b"], "other": [1]}), tmp_path / "other.parquet")
    address = Address.of(address_in(kind, tmp_path))
    commit = Commit("2", fingerprint(""), "append")
    with pytest.raises(BadArgument, match=r"have \['other'\] that it lacks"):
        publish(tmp_path / "other.parquet", address, commit)
    assert keys_in(kind, tmp_path) == ["a"]
    commit = Commit("3", fingerprint(""), "replace")
    assert publish(tmp_path / "other.parquet", address, commit)
    with opened(address) as table:
        assert table.columns() == ["pair_id", "other"]
