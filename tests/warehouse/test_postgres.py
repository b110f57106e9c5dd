"""What is Postgres's own: its types, its rights and views, others at work, and its secrets."""

import datetime
import io
import json
import logging
from contextlib import redirect_stderr
from decimal import Decimal

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from warehouses import address_in, keys_in, parquet_of, put, row, rows_in, schema_of

import prefmill as pm
from prefmill.errors import BadArgument, BadInput, RunBusy, StoreFailed
from prefmill.readers import open_source
from prefmill.warehouse import postgres_tables, tables
from prefmill.warehouse.address import Address
from prefmill.warehouse.commit import Commit, fingerprint
from prefmill.warehouse.tables import opened, publish

KIND = "postgres"


@pytest.fixture
def db(postgres, tmp_path):
    """A connection whose names are those of the test's schema."""
    with psycopg.connect("", autocommit=True) as con:
        con.execute(f"CREATE SCHEMA {schema_of(tmp_path)}")
        con.execute(f"SET search_path TO {schema_of(tmp_path)}")
        yield con


def published(table: pa.Table, tmp_path, mode="create", name="pairs"):
    pq.write_table(table, tmp_path / "table.parquet")
    address = Address.of(address_in(KIND, tmp_path, name))
    return publish(tmp_path / "table.parquet", address, Commit(mode, fingerprint(mode), mode))


def read(tmp_path, name="pairs"):
    with opened(Address.of(address_in(KIND, tmp_path, name))) as table:
        return table.reader().read_all()


def version(tmp_path):
    with opened(Address.of(address_in(KIND, tmp_path))) as table:
        return table.version()


def test_types_of_columns_that_a_run_makes(db, tmp_path):
    day = datetime.datetime(2026, 11, 29, 12, 30, 0, 5)
    given = pa.table(
        {
            "text": ["é\t\\N\n", None],
            "float": [0.1, float("inf")],
            "small": pa.array([1, None], pa.int8()),
            "large": pa.array([2**64 - 1, None], pa.uint64()),
            "flag": [True, None],
            "raw": [b"\x00\\x", None],
            "day": [day.date(), None],
            "time": [day, None],
            "instant": pa.array([day.replace(tzinfo=datetime.UTC), None]),
            "price": [Decimal("1.50"), None],
            "turns": [[{"role": "user", "content": "\\u0000 'é\""}], None],
            "json": pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"b": 1}', None])),
        }
    )
    assert published(given, tmp_path)
    query = "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute WHERE attnum > 0"
    assert dict(db.execute(f"{query} AND attrelid = 'pairs'::regclass").fetchall()) == {
        "text": "text",
        "float": "double precision",
        "small": "bigint",
        "large": "numeric(20,0)",
        "flag": "boolean",
        "raw": "bytea",
        "day": "date",
        "time": "timestamp without time zone",
        "instant": "timestamp with time zone",
        "price": "numeric(3,2)",
        "turns": "jsonb",
        "json": "jsonb",
    }
    back = read(tmp_path)
    assert json.loads(back["turns"][0].as_py()) == given["turns"][0].as_py()
    assert json.loads(back["json"][0].as_py()) == {"b": 1}
    for name in given.column_names[:-2]:
        assert back[name].to_pylist() == given[name].to_pylist(), name


def test_types_of_columns_that_others_made(db, tmp_path):
    db.execute("CREATE TYPE grade AS ENUM ('good', 'bad')")
    db.execute("CREATE DOMAIN stars AS smallint")
    db.execute("CREATE TYPE turn AS (role text, content text)")
    db.execute(
        "CREATE TABLE pairs (g grade, s stars, t turn[], n numeric, r real, u uuid, c char(3),"
        " a text[], one turn, span interval, gone int)"
    )
    db.execute("ALTER TABLE pairs DROP COLUMN gone")
    db.execute(
        "INSERT INTO pairs VALUES ('bad', 3, ARRAY[('user', 'hé')::turn], 1.25, 0.1,"
        " 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', 'x', '{a,\"b,c\"}', ('a', NULL), '1 day')"
    )
    (found,) = read(tmp_path).to_pylist()
    assert json.loads(found.pop("t")) == [{"role": "user", "content": "hé"}]
    assert json.loads(found.pop("a")) == ["a", "b,c"]
    assert json.loads(found.pop("one")) == {"role": "a", "content": None}
    assert found.pop("u") == "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"
    assert found == {"g": "bad", "s": 3, "n": 1.25, "r": 0.1, "c": "x", "span": "1 day"}


def test_values_that_arrow_does_not_have_are_refused(db, tmp_path):
    db.execute("CREATE TABLE pairs AS SELECT 'infinity'::date AS day")
    with pytest.raises(BadInput, match="pairs: date too large"):
        read(tmp_path)


@pytest.mark.parametrize("column", ["chosen", "prompt"])
def test_a_nul_is_refused_and_nothing_is_committed(column, db, tmp_path):
    put(KIND, tmp_path, "a", run="1", mode="create")
    bad = row("b")
    bad[column] = "\0" if column == "chosen" else [{"role": "user", "content": "\0"}]
    path = parquet_of([row("c"), bad], tmp_path / "nul.parquet")
    address = Address.of(address_in(KIND, tmp_path))
    with pytest.raises(BadArgument, match=f"'{column}' holds the character NUL.*nothing was"):
        publish(path, address, Commit("2", fingerprint(""), "append"))
    assert keys_in(KIND, tmp_path) == ["a"]
    assert db.execute("SELECT run_key FROM prefmill_runs").fetchall() == [("1",)]


def test_a_replaced_table_keeps_its_rights_indexes_and_views(db, tmp_path):
    put(KIND, tmp_path, "a b", run="1", mode="create")
    db.execute("CREATE INDEX by_id ON pairs (pair_id)")
    db.execute("CREATE VIEW seen AS SELECT pair_id FROM pairs")
    db.execute("GRANT SELECT ON pairs TO PUBLIC")
    told = "SELECT oid, relacl::text FROM pg_class WHERE oid = 'pairs'::regclass"
    before = db.execute(told).fetchone()
    put(KIND, tmp_path, "c", run="2", mode="replace")
    assert db.execute(told).fetchone() == before
    assert db.execute("SELECT * FROM seen").fetchall() == [("c",)]
    with pytest.raises(StoreFailed, match="other objects depend on it"):
        published(pa.table({"pair_id": ["x"]}), tmp_path, "replace")
    assert keys_in(KIND, tmp_path) == ["c"]


def test_a_merge_leaves_what_refers_to_its_rows(db, tmp_path):
    put(KIND, tmp_path, "a b", run="1", mode="create")
    db.execute("ALTER TABLE pairs ADD PRIMARY KEY (pair_id)")
    db.execute("CREATE TABLE notes (id text REFERENCES pairs ON DELETE CASCADE)")
    db.execute("INSERT INTO notes VALUES ('a'), ('b')")
    assert put(KIND, tmp_path, "a c", run="2", mode="merge", score=5.0, removed=("b",))
    assert rows_in(KIND, tmp_path) == [row("a", 5.0), row("c", 5.0)]
    assert db.execute("SELECT id FROM notes").fetchall() == [("a",)]
    with pytest.raises(BadArgument, match="do not fit the table; duplicate key"):
        put(KIND, tmp_path, "c", run="3", mode="append")


def test_any_change_of_others_shows(db, tmp_path):
    put(KIND, tmp_path, "a b", run="1", mode="create")
    versions = [version(tmp_path)]
    for change in (
        "UPDATE pairs SET chosen = 'other' WHERE pair_id = 'a'",
        "INSERT INTO pairs SELECT * FROM pairs WHERE pair_id = 'a'",
        "DELETE FROM pairs WHERE pair_id = 'b'",
    ):
        db.execute(change)
        versions.append(version(tmp_path))
        with opened(Address.of(address_in(KIND, tmp_path))) as table:
            assert [each.newest for each in table.runs()] == [False]
    assert len(set(versions)) == 4
    db.execute("VACUUM FULL pairs")
    db.execute("SET timezone TO 'Asia/Tokyo'")
    assert version(tmp_path) == versions[-1]


def test_a_table_is_read_in_one_snapshot(db, tmp_path, monkeypatch):
    monkeypatch.setattr(postgres_tables, "_BATCH_ROWS", 1)
    put(KIND, tmp_path, "a b c", run="1", mode="create")
    with opened(Address.of(address_in(KIND, tmp_path))) as table:
        before, batches = table.version(), iter(table.reader())
        found = [*next(batches)["pair_id"].to_pylist()]
        put(KIND, tmp_path, "d", run="2", mode="replace")
        found += [key for batch in batches for key in batch["pair_id"].to_pylist()]
        assert found == ["a", "b", "c"]
        assert table.version() == before
    assert keys_in(KIND, tmp_path) == ["d"]


def test_a_writer_that_holds_the_table_is_waited_for_but_not_forever(db, tmp_path, monkeypatch):
    put(KIND, tmp_path, "a", run="1", mode="create")
    monkeypatch.setitem(postgres_tables._SETTINGS, "lock_timeout", "20ms")
    monkeypatch.setattr(tables, "_TRIES", 2)
    with db.transaction():
        db.execute("UPDATE pairs SET chosen = 'x'")
        with pytest.raises(RunBusy, match="another writer changed the table"):
            put(KIND, tmp_path, "b", run="2", mode="append")
        assert keys_in(KIND, tmp_path) == ["a"]  # readers go on
    assert put(KIND, tmp_path, "b", run="2", mode="append")


def test_a_view_is_an_input_and_no_output(db, tmp_path):
    put(KIND, tmp_path, "a b", run="1", mode="create")
    db.execute("CREATE VIEW few AS SELECT * FROM pairs WHERE pair_id = 'b'")
    source = open_source([address_in(KIND, tmp_path, "few")], temp_dir=tmp_path / "temp")
    assert source.rows == 1
    with pytest.raises(BadArgument, match="a view, and runs go into tables"):
        published(pa.table(read(tmp_path)), tmp_path, "append", "few")


def test_a_name_without_a_schema_is_found_as_the_server_finds_it(db, tmp_path, monkeypatch):
    monkeypatch.setenv("PGOPTIONS", f"-c search_path=absent,{schema_of(tmp_path)}")
    assert publish(
        parquet_of([row("a")], tmp_path / "rows.parquet"),
        Address.of("postgres:postgres#pairs"),
        Commit("1", fingerprint(""), "create"),
    )
    assert keys_in(KIND, tmp_path) == ["a"]
    monkeypatch.setenv("PGOPTIONS", "-c search_path=absent")
    with (
        pytest.raises(BadArgument, match="has no schema of its own"),
        opened(Address.of("postgres:postgres#pairs")),
    ):
        pass


def test_names_that_postgres_would_cut_are_refused(db, tmp_path):
    long = "é" * 32
    with pytest.raises(BadArgument, match="up to 63 bytes"):
        published(pa.table({"a": [1]}), tmp_path, name=long)
    with pytest.raises(BadArgument, match="up to 63 bytes"):
        published(pa.table({long: [1]}), tmp_path)


def test_passwords_are_in_no_file_and_no_message(db, tmp_path, caplog):
    feedback = tmp_path / "feedback.csv"
    feedback.write_text("prompt,completion,score\np,a,5\np,b,1\n")
    name = f"#{schema_of(tmp_path)}.pairs"
    words = "postgres:dbname=postgres password=MARK1" + name
    url = "postgresql://tester:MARK2@/postgres?password=MARK3" + name
    said = io.StringIO()
    with caplog.at_level(logging.DEBUG), redirect_stderr(said):
        report = pm.run(pm.Pairs(), feedback, words)
        pm.run(pm.Pairs(), feedback, url, mode="append")
        for number, address in enumerate((words, url)):
            pm.run(pm.Unpaired(), address, tmp_path / f"{number}.jsonl")
    assert report.output == {"": "postgres:dbname=postgres" + name}
    told = db.execute("SELECT prefmill_runs::text FROM prefmill_runs").fetchall()
    assert "MARK" not in said.getvalue() + str(told) + repr(report)
    assert not [vars(record) for record in caplog.records if "MARK" in repr(vars(record))]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 3
    assert [path for path in files if b"MARK" in path.read_bytes()] == []


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("postgresql://me:secret@127.0.0.1:9/d#t", StoreFailed, "127.0.0.1:9/d#t: .*refused"),
        ("postgres:dbname=d secret#t", BadArgument, "no address of a database"),
        ("postgres:dbname=d sslmode=secret#t", StoreFailed, "sslmode"),
        ("postgres:absent#t", StoreFailed, 'database "absent" does not exist'),
    ],
)
def test_a_database_that_is_not_there_is_said(postgres, text, error, match):
    with pytest.raises(error, match=match) as raised, opened(Address.of(text)):
        pass
    assert "d#t" in str(raised.value) or "absent" in str(raised.value)
    assert "me:secret" not in str(raised.value)
