"""A table is an input like a file of the same rows."""

import pytest
from warehouses import address_in, parquet_of, put, row

import prefmill as pm
from prefmill.errors import BadInput
from prefmill.readers import open_source

ROLES = {"prompt": "prompt", "completion": "chosen", "score": "chosen_score"}


def feedback(kind, folder):
    """Three answers to one prompt, and one to another, as a table and as a file."""
    rows = [row("a", 5.0), row("b", 1.0), row("c", 3.0), row("dd", None)]
    for each in rows[:3]:
        each["prompt"] = rows[0]["prompt"]
    from prefmill.warehouse.address import Address
    from prefmill.warehouse.commit import Commit, fingerprint
    from prefmill.warehouse.tables import publish

    path = parquet_of(rows, folder / "feedback.parquet")
    address = address_in(kind, folder)
    assert publish(path, Address.of(address), Commit("1", fingerprint(""), "create"))
    return address, path


def test_pairs_of_a_table_are_those_of_its_file(kind, tmp_path):
    address, path = feedback(kind, tmp_path)
    of_table = pm.run(pm.Pairs(), address, tmp_path / "table.jsonl", roles=ROLES)
    of_file = pm.run(pm.Pairs(), path, tmp_path / "file.jsonl", roles=ROLES)
    assert of_table.pairs_out == of_file.pairs_out == 1
    assert (tmp_path / "table.jsonl").read_bytes() == (tmp_path / "file.jsonl").read_bytes()
    assert of_table.dropped == of_file.dropped


def test_a_table_that_is_not_there_is_said(kind, tmp_path):
    put(kind, tmp_path, "a", run="1", mode="create")
    absent = address_in(kind, tmp_path, "nobody")
    with pytest.raises(BadInput, match="there is no such table"):
        open_source([absent], temp_dir=tmp_path)


def test_a_table_next_to_a_file_is_one_source(kind, tmp_path):
    address, path = feedback(kind, tmp_path)
    source = open_source([address, str(path)], temp_dir=tmp_path / "temp")
    assert source.rows == 8
    assert source.labels[0] == address
