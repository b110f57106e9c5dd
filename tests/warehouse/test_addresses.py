"""What people type for a table, and what is never shown of it."""

import pytest
from warehouses import KINDS, address_in, keys_in, parquet_of, row

from prefmill.errors import BadArgument
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Commit, fingerprint
from prefmill.warehouse.tables import opened, publish

HOSTILE = ['a"b', "a'b; DROP TABLE x; --", "select", "ünï cödé", "a b", "A%_?*[x]"]


@pytest.mark.parametrize(
    ("text", "kind", "place", "name"),
    [
        ("delta:out/pairs", "delta", "out/pairs", ()),
        ("delta:/tmp/pairs#1", "delta", "/tmp/pairs#1", ()),
        ("lance:s3:/bucket/pairs.lance", "lance", "s3://bucket/pairs.lance", ()),
        ("iceberg:lake.a.b.pairs", "iceberg", "lake", ("a", "b", "pairs")),
        ("duckdb:x#y.duckdb#main.pairs", "duckdb", "x#y.duckdb", ("main", "pairs")),
        ("sqlite:x.db#a.b", "sqlite", "x.db", ("a.b",)),
        ("postgresql://h/d#s.t", "postgres", "postgresql://h/d", ("s", "t")),
        ("postgresql:/h/d#t", "postgres", "postgresql://h/d", ("t",)),
        ("postgresql:///d#t", "postgres", "postgresql:///d", ("t",)),
        ("postgres:postgres://h/d#t", "postgres", "postgresql://h/d", ("t",)),
        ("postgres:postgresql://h/d#t", "postgres", "postgresql://h/d", ("t",)),
        ("postgres:service=lake#t", "postgres", "service=lake", ("t",)),
        ("postgres:shop#t", "postgres", "shop", ("t",)),
    ],
)
def test_an_address_is_read(text, kind, place, name):
    assert Address.of(text) == Address(kind, place, name)


@pytest.mark.parametrize("text", ["delta:ftp://h/x", "lance:s4://b/x", "delta:https:/h/x"])
def test_a_store_of_another_scheme_is_refused(text):
    with pytest.raises(BadArgument, match="table: no store of the scheme"):
        Address.of(text)


@pytest.mark.parametrize("text", ["duckdb:s3://b/x.duckdb#t", "sqlite:https://h/x.db#t"])
def test_a_database_is_a_file_of_this_machine(text):
    with pytest.raises(BadArgument, match="a file on this machine"):
        Address.of(text)


@pytest.mark.parametrize("text", ["x.parquet", "s3://b/x", "./delta:x", "out/", "data:x", "-", ""])
def test_other_names_are_none(text):
    assert Address.of(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "delta:",
        "delta://out",
        "iceberg:pairs",
        "iceberg:lake.pairs",
        "duckdb:x.duckdb",
        "duckdb:#pairs",
        "duckdb:x#main.",
        "sqlite:///x.db#t",
        "postgresql://me:secret@h/d",
        "postgres:host=h password=secret",
    ],
)
def test_one_that_is_not_whole_is_refused_without_its_secrets(text):
    with pytest.raises(BadArgument, match="expected") as error:
        Address.of(text)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:se/secret@h/d#t",
        "postgresql://me:se?secret@h/d#t",
        "postgresql://me:se@secret@h/d#t",
        "postgresql://h:secret/d#t",
        "postgresql://h/d?password=a@secret#t",
    ],
)
def test_a_password_that_a_url_cannot_hold_is_refused_and_not_shown(text):
    with pytest.raises(
        BadArgument, match=r"(?s)cannot tell user and password .* @ is %40"
    ) as error:
        Address.of(text)
    assert "secret" not in str(error.value) + Address("postgres", text[:-2], ("t",)).shown


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:secret@h:1/d?password=secret&sslkey=secret#t",
        "postgres:host=h user=me password='my secret' dbname=d#t",
    ],
)
def test_secrets_are_not_shown(text):
    shown = Address.of(text).shown
    assert "secret" not in shown
    assert "h" in shown
    assert shown.endswith("#t")


@pytest.mark.parametrize("kind", ["duckdb", "sqlite", "postgres"])
@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_quoted(kind, name, tmp_path):
    of_kind = address_in(kind, tmp_path, name)
    address = Address.of(of_kind if kind == "postgres" else f"{kind}:{tmp_path}/it's #1.db#{name}")
    commit = Commit(name, fingerprint(name), "create", {name: name})
    rows = parquet_of([row("a"), row("b")], tmp_path / "rows.parquet")
    assert publish(rows, address, commit)
    assert not publish(rows, address, commit)
    with opened(address) as table:
        assert table.reader().read_all()["pair_id"].to_pylist() == ["a", "b"]
        assert [each.run for each in table.runs()] == [name]


@pytest.mark.parametrize("kind", KINDS)
def test_run_keys_may_be_any_text(kind, tmp_path):
    from warehouses import put

    for run in HOSTILE:
        assert put(kind, tmp_path, "a", run=run.replace("/", ""), mode="append")
        assert not put(kind, tmp_path, "a", run=run.replace("/", ""), mode="append")
    assert keys_in(kind, tmp_path) == ["a"] * len(HOSTILE)
