"""The storage of a type is not its value, and uniting types changes none (faults/pairs.md, kinds 1
and 2).
"""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typed import ASKED, CALLS, ENGINES, PLAN, lines, pairs_of, read, write

import prefmill as pm
import prefmill.datasets as pmd
from prefmill.errors import BadArgument, BadInput

datasets = pytest.importorskip("datasets")

BYTES = {
    "picture": pa.array([{"bytes": b"\x89PNG", "path": "a.png"}, {"bytes": None, "path": "b.png"}]),
    "blob": pa.array([b"\x00\xff", None]),
    "fixed": pa.array([b"ab", b"cd"], pa.binary(2)),
    "list": pa.array([[b"x"], []]),
}


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("name", ["out.parquet", "out.arrow", "out/"])
def test_bytes_are_written(tmp_path, host, name):
    table = pa.table({"prompt": ["p", "q"], "completion": ["a", "b"], "score": [2, 1], **BYTES})
    path = write(tmp_path / "a.parquet", table)
    out = tmp_path / name
    pm.run(pm.BestOf(), path, f"{out}/" if name == "out/" else out, engine=host)
    if name == "out/":
        made = datasets.load_from_disk(str(out)).with_format("arrow")[:]
    else:
        made = pq.read_table(out) if out.suffix == ".parquet" else pa.ipc.open_file(out).read_all()
    for column, values in BYTES.items():
        assert made[column].to_pylist() == values.to_pylist()


@pytest.mark.parametrize("host", ENGINES)
def test_advantages_and_kept_columns_with_bytes(tmp_path, host):
    path = write(
        tmp_path / "a.parquet",
        pa.table({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [2, 1], **BYTES}),
    )
    pm.run(pm.Advantage(), path, tmp_path / "adv.parquet", engine=host)
    assert pq.read_table(tmp_path / "adv.parquet")["blob"].to_pylist() == [b"\x00\xff", None]
    pm.run(PLAN, path, tmp_path / "pairs.parquet", engine=host, keep=["picture"])
    assert pq.read_table(tmp_path / "pairs.parquet")["chosen_picture"].to_pylist() == [
        {"bytes": b"\x89PNG", "path": "a.png"}
    ]


@pytest.mark.parametrize("name", ["out.jsonl", "out.csv"])
def test_bytes_in_text_files_are_refused(tmp_path, name):
    path = write(
        tmp_path / "a.parquet",
        pa.table(
            {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [2, 1], "b": [b"x", b"y"]}
        ),
    )
    with pytest.raises(BadArgument, match="text files hold no bytes"):
        pm.run(PLAN, path, tmp_path / name, keep=["b"])
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("host", ENGINES)
def test_uuids_are_their_text(tmp_path, host):
    ids = [uuid.UUID(int=1), uuid.UUID(int=2**100)]
    column = pa.ExtensionArray.from_storage(
        pa.uuid(), pa.array([one.bytes for one in ids], pa.binary(16))
    )
    path = write(
        tmp_path / "a.parquet",
        pa.table({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [2, 1], "id": column}),
    )
    (pair,) = pairs_of(path, tmp_path / "out.jsonl", host, keep=["id"])
    assert (pair["chosen_id"], pair["rejected_id"]) == tuple(map(str, ids))


def test_extension_booleans_are_booleans(tmp_path):
    column = pa.ExtensionArray.from_storage(pa.bool8(), pa.array([1, 0, None], pa.int8()))
    _, rows = read(tmp_path, write(tmp_path / "a.parquet", pa.table({"b": column})))
    assert [row["b"] for row in rows] == [True, False, None]


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_durations_keep_their_value(tmp_path, host, unit):
    took = datetime.timedelta(minutes=1, seconds=5)
    plain, nested = (
        pa.array([took] * 2, pa.duration(unit)),
        pa.array([[{"t": took}]] * 2, pa.list_(pa.struct([("t", pa.duration(unit))]))),
    )
    table = pa.table(
        {"prompt": ["p", "p"], "completion": ["a", "b"], "score": [2, 1], "t": plain, "n": nested}
    )
    pm.run(pm.BestOf(), write(tmp_path / "a.parquet", table), tmp_path / "out.parquet", engine=host)
    made = pl.read_parquet(tmp_path / "out.parquet")
    assert made["t"].to_list() == [took]
    assert made["n"].to_list() == [[{"t": took}]]


@pytest.mark.parametrize("host", ENGINES)
def test_csv_with_a_duration(tmp_path, host):
    column = pa.array([datetime.timedelta(seconds=65), None], pa.duration("ms"))
    path = write(
        tmp_path / "a.parquet",
        pa.table({"prompt": ["p", "p"], "completion": ["a", "b"], "score": [2, 1], "t": column}),
    )
    pm.run(PLAN, path, tmp_path / "out.csv", engine=host, keep=["t"])
    assert (tmp_path / "out.csv").read_text().splitlines()[1] == "p,a,b,2.0,1.0,PT1M5S,"


def test_enum_ids_break_ties_by_their_bytes():
    """In the order of the declaration `b` would be the smaller id, and so the first."""
    ids = pl.Series("id", ["b", "a", "c"], dtype=pl.Enum(["b", "a", "c"]))
    frame = pl.DataFrame(
        {"prompt": ["p"] * 3, "completion": ["B", "A", "C"], "score": [1, 1, 1], "id": ids}
    )
    plan = pm.BestOf(k=3, tie_break="id")
    expected = ["C", "B", "A"]
    for host in ("in-memory", "streaming"):
        assert plan.lazy(frame.lazy()).collect(engine=host)["completion"].to_list() == expected
    import duckdb

    import prefmill.duckdb

    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.execute(
        "CREATE TABLE t (prompt VARCHAR, completion VARCHAR, score INT, id ENUM('b', 'a', 'c'))"
    )
    con.execute("INSERT INTO t VALUES ('p', 'B', 1, 'b'), ('p', 'A', 1, 'a'), ('p', 'C', 1, 'c')")
    assert [row[1] for row in con.execute(plan.sql("t", id="id")).fetchall()] == expected
    con.execute(
        "ALTER TABLE t ALTER id TYPE INT USING CASE id WHEN 'b' THEN 9 WHEN 'a' THEN 10 ELSE 11 END"
    )
    assert [row[1] for row in con.execute(plan.sql("t", id="id")).fetchall()] == [
        "C",
        "A",
        "B",
    ]  # integers by value


@pytest.mark.parametrize("host", ENGINES)
def test_enum_ids_in_files(tmp_path, host):
    ids = pl.Series("id", ["b", "a"], dtype=pl.Enum(["b", "a"]))
    pl.DataFrame(
        {"prompt": ["p"] * 2, "completion": ["B", "A"], "score": [1, 1], "id": ids}
    ).write_parquet(tmp_path / "a.parquet")
    pm.run(
        pm.BestOf(k=2, tie_break="id"), tmp_path / "a.parquet", tmp_path / "out.jsonl", engine=host
    )
    assert [
        json.loads(line)["completion"] for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ] == ["B", "A"]


@pytest.mark.parametrize("host", ENGINES)
def test_decimals_beyond_38_digits(tmp_path, host):
    scores = pa.array([decimal.Decimal("1" * 45), decimal.Decimal("2" * 45)], pa.decimal256(60, 0))
    path = write(
        tmp_path / "a.parquet",
        pa.table({"prompt": ["p", "p"], "completion": ["a", "b"], "score": scores}),
    )
    (pair,) = pairs_of(path, tmp_path / "out.jsonl", host)
    assert (pair["chosen"], pair["chosen_score"]) == ("b", float("2" * 45))


# --- kind 2: types together

SAID = [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize(
    "ids",
    [
        [9007199254740993, 9007199254740992, 9223372036854775808],
        [18446744073709551615, 18446744073709551614],
        [-9007199254740993, -9007199254740992, 18446744073709551615],
        [2**100, 2**100 + 1],
    ],
    ids=repr,
)
def test_big_integers_are_exact(tmp_path, host, ids):
    path = lines(
        tmp_path / "a.jsonl",
        *({"prompt": "p", "completion": str(i), "score": n, "id": i} for n, i in enumerate(ids)),
    )
    (pair,) = pairs_of(path, tmp_path / "out.jsonl", host, keep=["id"])
    assert (int(pair["chosen_id"]), int(pair["rejected_id"])) == (ids[-1], ids[0])
    report = pm.run(
        pm.Pairs(chosen_min=None, rejected_below=None, strategy="all"),
        path,
        None,
        engine=host,
        roles={"group": "id"},
    )
    assert report.groups_in == len(ids)


def untyped(*batches: list[dict[str, Any]]) -> Any:
    """A stream whose batches of 1,000 rows begin with these rows."""

    def rows() -> Any:
        for batch in batches:
            yield from batch
            yield from [batch[-1]] * (1000 - len(batch))

    return datasets.IterableDataset.from_generator(rows)


def row(prompt: Any, completion: Any, score: Any) -> dict[str, Any]:
    return {"prompt": prompt, "completion": completion, "score": score}


@pytest.mark.parametrize(
    ("second", "expected"),
    [
        ([5, 4.5], 5.0),
        ([decimal.Decimal("4.5"), decimal.Decimal("0.5")], 4.5),
        ([2**63, 1], 2.0**63),
        ([None, 3], 3.0),
        ([True, False], 3.0),
    ],
    ids=repr,
)
def test_untyped_streams_take_scores_as_they_come(second, expected):
    ds = untyped(
        [row("p", "a", 3), row("p", "b", 2)],
        [row("p", f"c{n}", score) for n, score in enumerate(second)],
    )
    best = max(
        pmd.pairs(ds, chosen_min=None, rejected_below=None), key=lambda pair: pair["chosen_score"]
    )
    assert best["chosen_score"] == expected


def test_untyped_streams_with_empty_lists_and_optional_keys():
    named = [{"role": "user", "content": "q", "name": "n"}]
    first = [
        row([{"role": "user", "content": "q"}], [], 1),
        row([{"role": "user", "content": "q"}], SAID, 2),
        row(named, SAID, 1),
    ]
    pairs = list(pmd.pairs(untyped(first), chosen_min=None, rejected_below=None))
    assert [pair["prompt"][0]["name"] for pair in pairs] == [
        None
    ]  # the named prompt is another one


@pytest.mark.parametrize("clustered", [True, False])
def test_keys_of_later_rows_are_not_cut_off(clustered):
    """500 prompts that differ in a name which only later rows have became one."""
    later = [row([{"role": "user", "content": "q", "name": f"n{n}"}], "a", n) for n in range(500)]
    ds = untyped([row([{"role": "user", "content": "q"}], "a", 0)], later)
    with pytest.raises(BadInput, match=r"the key 'name'(.|\n)*Features"):
        list(pmd.pairs(ds, chosen_min=None, rejected_below=None, clustered=clustered))


def test_score_takes_keys_of_later_rows(tmp_path):
    def rows() -> Any:
        yield from (
            {"prompt": [{"role": "user", "content": "q"}], "completion": "a"} for _ in range(8192)
        )
        yield from (
            {"prompt": [{"role": "user", "content": "q", "name": f"n{n}"}], "completion": "a"}
            for n in range(3)
        )

    pm.score(
        datasets.IterableDataset.from_generator(rows),
        tmp_path / "out.parquet",
        scorer=lambda batch: [0.0] * batch.num_rows,
    )
    made = pl.read_parquet(tmp_path / "out.parquet")
    assert [p[0]["name"] for p in made["prompt"].tail(4).to_list()] == [None, "n0", "n1", "n2"]


def test_streams_of_what_arrow_cannot_unite_name_the_rows():
    ds = untyped([row("p", "a", 1)], [row("p", 5, 1), row("p", "a", 1)])
    with pytest.raises(BadInput, match=r"stream: rows 1000 to 1999: the column 'completion'"):
        list(pmd.pairs(ds, chosen_min=None, rejected_below=None))


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("empty", [[None], [], None, [{"x": None}], [[]]], ids=repr)
def test_shards_with_nothing_in_a_nested_column(tmp_path, host, empty):
    """A shard whose nested values are all null, or empty, goes with one that has them; also where
    nobody uses the column.
    """
    first = pa.table(
        {"prompt": ["p"], "completion": ["a"], "score": [1], "extra": pa.array([empty])}
    )
    filled: Any = [{"x": "text"}] if empty != [[]] else [["text"]]
    second = pa.table(
        {"prompt": ["p"], "completion": ["b"], "score": [2], "extra": pa.array([filled])}
    )
    for order in ((first, second), (second, first)):
        for n, table in enumerate(order):
            write(tmp_path / f"{n}.parquet", table)
        pm.run(
            PLAN,
            f"{tmp_path}/?.parquet",
            tmp_path / "out.jsonl",
            engine=host,
            overwrite=True,
            keep=["extra"],
        )
        pair = json.loads((tmp_path / "out.jsonl").read_text())
        assert (pair["chosen"], pair["chosen_extra"]) == ("b", filled)
        assert pair["rejected_extra"] in (empty, [None])


def test_slices_are_measured(monkeypatch):
    """Long texts first, then short rows: by their mean a slice would hold all the long ones."""
    from prefmill.writers.arrow import arrow_schema, arrow_tables

    frame = pl.DataFrame({"t": ["x" * 10_000] * 100 + ["y"] * 100_000})
    tables = list(arrow_tables(frame, arrow_schema(frame.schema), 100_000))
    assert max(table.nbytes for table in tables) <= 200_000
    assert sum(table.num_rows for table in tables) == frame.height
    assert pa.concat_tables(tables)["t"].to_pylist() == frame["t"].to_list()


def test_a_function_that_scores_sees_the_type(tmp_path):
    path = lines(
        tmp_path / "a.jsonl",
        {"prompt": ASKED, "completion": [CALLS[0]]},
        {"prompt": ASKED, "completion": [CALLS[1]]},
    )
    said: list[Any] = []

    def scorer(batch: pa.RecordBatch) -> list[float]:
        said.extend(
            json.loads(message["tool_calls"])
            for answer in batch["completion"].to_pylist()
            for message in answer
        )
        return [0.0] * batch.num_rows

    pm.score(path, tmp_path / "out.jsonl", scorer=scorer)
    assert said == [CALLS[0]["tool_calls"], CALLS[1]["tool_calls"]]
    assert [
        json.loads(line)["completion"] for line in (tmp_path / "out.jsonl").read_text().splitlines()
    ] == [[CALLS[0]], [CALLS[1]]]
