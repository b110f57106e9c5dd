"""The storage of a type is not its value, and uniting types changes none (faults/pairs.md, kinds 1
and 2).
"""

from __future__ import annotations

import datetime
import decimal
import json
import uuid
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import prefmill as pm
import prefmill.datasets as pmd
from prefmill.errors import BadArgument, BadInput
from prefmill.readers import Source, open_source
from prefmill.table.json_values import values_of

datasets = pytest.importorskip("datasets")

PLAN = pm.Pairs(chosen_min=None, rejected_below=None)
ENGINES = ("duckdb", "polars")
ASKED = [{"role": "user", "content": "a\nb"}]


def json_texts(texts: list[str | None]) -> pa.Array:
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def messages_of_json(contents: list[str]) -> pa.Array:
    """One message a row, whose content is JSON."""
    parts = pa.StructArray.from_arrays(
        [pa.array(["user"] * len(contents)), json_texts(contents)], names=["role", "content"]
    )
    return pa.ListArray.from_arrays(list(range(len(contents) + 1)), parts)


def write(path: Path, table: pa.Table) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(table, path)
    else:
        with pa.ipc.new_file(path, table.schema) as file:
            file.write_table(table)
    return path


def lines(path: Path, *rows: Any) -> Path:
    path.write_text(
        "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
    )
    return path


def read(tmp_path: Path, *inputs: Path) -> tuple[Source, list[dict[str, Any]]]:
    """The source, and its rows as Python values."""
    source = open_source([str(path) for path in inputs], temp_dir=tmp_path / "stage")
    rows: list[dict[str, Any]] = []
    for file in source.files:
        table = pq.read_table(file, partitioning=None)
        rows += (
            dict(zip(table.column_names, row, strict=True))
            for row in zip(*map(values_of, table.columns), strict=True)
        )
    return source, rows


def pairs_of(path: Path, out: Path, host: str, **more: Any) -> list[dict[str, Any]]:
    pm.run(PLAN, path, out, engine=host, overwrite=True, **more)
    return [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


# --- kind 1: extension types
# --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_json_column_is_its_texts(tmp_path, host, name):
    table = pa.table(
        {"prompt": ["p", "p"], "completion": json_texts(['"a\\nb"', '"\\"c\\""']), "score": [2, 1]}
    )
    (pair,) = pairs_of(write(tmp_path / name, table), tmp_path / "out.jsonl", host)
    assert (pair["chosen"], pair["rejected"]) == ("a\nb", '"c"')


@pytest.mark.parametrize("host", ENGINES)
def test_json_column_is_its_messages(tmp_path, host):
    table = pa.table(
        {
            "prompt": json_texts([json.dumps(ASKED)] * 2),
            "completion": messages_of_json(['"x"', '"y\\n"']),
            "score": [2, 1],
        }
    )
    (pair,) = pairs_of(write(tmp_path / "a.parquet", table), tmp_path / "out.jsonl", host)
    assert pair["prompt"] == ASKED
    assert (pair["chosen"][0]["content"], pair["rejected"][0]["content"]) == ("x", "y\n")


def test_json_of_duckdb_is_decoded(tmp_path):
    import duckdb

    query = """SELECT 'p' AS prompt, '"a"'::JSON AS completion, 2 AS score UNION ALL SELECT 'p', '"b"'::JSON, 1"""
    duckdb.connect().execute(f"COPY ({query}) TO '{tmp_path}/d.parquet'")
    (pair,) = pairs_of(tmp_path / "d.parquet", tmp_path / "out.jsonl", "duckdb")
    assert (pair["chosen"], pair["rejected"]) == ("a", "b")


def test_json_column_in_a_dataset(tmp_path):
    rows = {"prompt": ["p", "p"], "completion": ["a\nb", "c"], "score": [2, 1]}
    features = datasets.Features(
        {
            "prompt": datasets.Value("string"),
            "completion": datasets.Json(),
            "score": datasets.Value("int64"),
        }
    )
    ds = datasets.Dataset.from_dict(rows, features=features)
    assert pmd.pairs(ds, chosen_min=None, rejected_below=None)[0]["chosen"] == "a\nb"
    assert pmd.report(PLAN, ds).pairs_out == 1
    nested = datasets.Dataset(
        pa.table(
            {"prompt": ["p", "p"], "completion": messages_of_json(['"x"', '"y"']), "score": [2, 1]}
        )
    )
    assert pmd.pairs(nested, chosen_min=None, rejected_below=None)[0]["chosen"] == [
        {"role": "user", "content": "x"}
    ]


def test_json_column_in_frames_is_refused(tmp_path):
    table = pa.table(
        {
            "prompt": ["p"],
            "completion": json_texts(['"a"']),
            "nested": messages_of_json(['"x"']),
            "score": [2],
        }
    )
    for name in ("completion", "nested"):
        with pytest.raises(BadArgument, match="JSON text"):
            PLAN.lazy(pl.DataFrame(table).lazy(), completion=name)
    with pytest.raises(BadInput, match=r"stream: the column 'completion' is JSON text"):
        pm.score_stream(table, lambda batch: [0.0] * batch.num_rows)


def test_json_column_is_scored_by_its_value(tmp_path):
    table = pa.table({"prompt": ["p", "p"], "completion": json_texts(['"a\\nb"', '"c"'])})
    said: list[str] = []

    def scorer(batch: pa.RecordBatch) -> list[float]:
        said.extend(batch["completion"].to_pylist())
        return [0.0] * batch.num_rows

    pm.score(table, tmp_path / "out.parquet", scorer=scorer)
    assert said == ["a\nb", "c"]


def test_text_that_is_marked_as_json_and_is_not(tmp_path):
    path = write(tmp_path / "a.parquet", pa.table({"c": json_texts(['{"a":1}', '{"a'])}))
    with pytest.raises(BadInput, match=r"a\.parquet: the column 'c' is marked as JSON"):
        open_source([str(path)], temp_dir=tmp_path / "stage")


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
# -----------------------------------------------------------------------------------------------------------

SAID = [{"role": "assistant", "content": "x"}]


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize(
    "values",
    [
        ["text", SAID],
        ["text", [{"type": "text", "text": "t"}]],
        ["text", {"answer": 1}],
        [["a", 1, None], []],
        [{}, {"a": 1}],
        [True, 1],
        [{"a": 1}, {"b": None}],
        [[{"a": 1}, {"b": 2}], None],
        [[{"a": 1}], [{}]],
        [{"deep": [{"x": 1}, {}]}, {"deep": []}],
        [[[1, "a"]], [[{"k": [None]}]]],
        [18446744073709551616, 4.5],
        ["a", [1]],
    ],
    ids=repr,
)
def test_values_of_every_row_stay(tmp_path, values, together):
    """Whatever kinds stand in one column, over one file or two, each row has its own value back."""
    files = [lines(tmp_path / "a.jsonl", *({"v": v} for v in values))]
    if not together:
        files = [lines(tmp_path / f"{n}.jsonl", {"v": v}) for n, v in enumerate(values)]
    _, rows = read(tmp_path, *files)
    assert [row["v"] for row in rows] == values
    assert [type(row["v"]) for row in rows] == [type(v) for v in values]


def test_a_column_of_text_and_scalars_is_text(tmp_path):
    """Numeric text is a score, so text beside numbers is text, as `docs/semantics.md` says."""
    source, rows = read(tmp_path, lines(tmp_path / "a.jsonl", {"s": "5"}, {"s": 4.5}, {"s": True}))
    assert [row["s"] for row in rows] == ["5", "4.5", "true"]
    assert source.columns.field("s").type == pa.string()


@pytest.mark.parametrize(
    "values",
    [["text", SAID], [SAID, "text"], ["x", {"answer": 1}], ["x", [{"type": "text", "text": "t"}]]],
    ids=repr,
)
@pytest.mark.parametrize("role", ["prompt", "completion"])
def test_mixed_kinds_are_no_text(tmp_path, role, values):
    other = {"prompt": "completion", "completion": "prompt"}[role]
    path = lines(
        tmp_path / "a.jsonl", *({role: v, other: "o", "score": n} for n, v in enumerate(values))
    )
    with pytest.raises(
        BadInput,
        match=rf"the column '{role}' cannot be the role '{role}'; got .*line 1.* and .*line 2",
    ):
        pm.run(PLAN, path, None)
    with pytest.raises(BadInput, match="line 2"):
        pm.score(path, tmp_path / "out.parquet", scorer=lambda batch: [0.0] * batch.num_rows)


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("scores", [[True, 0.5], [2, True], [18446744073709551616, 4.5]], ids=repr)
def test_scores_of_several_kinds(tmp_path, host, scores):
    path = lines(
        tmp_path / "a.jsonl", *({"prompt": "p", "completion": str(s), "score": s} for s in scores)
    )
    (pair,) = pairs_of(path, tmp_path / "out.jsonl", host)
    assert (pair["chosen_score"], pair["rejected_score"]) == (float(scores[0]), float(scores[1]))


CALLS = [
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "a", "arguments": {"city": "Oslo"}}}
        ],
    },
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "b", "arguments": {"n": 5, "unit": None}}}
        ],
    },
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {"type": "function", "function": {"name": "c", "arguments": {"n": 4.5, "x": []}}}
        ],
    },
]


@pytest.mark.parametrize("host", ENGINES)
@pytest.mark.parametrize("name", ["out.jsonl", "out.jsonl.gz", "out.parquet", "out/"])
def test_tool_calls_keep_their_own_keys(tmp_path, host, name):
    rows = [
        {
            "prompt": ASKED,
            "completion": [call],
            "score": n,
            "schema": [{"name": n} if n else {"f": {}}],
        }
        for n, call in enumerate(CALLS)
    ]
    path = lines(tmp_path / "a.jsonl", *rows)
    target = tmp_path / name
    pm.run(PLAN, path, f"{target}/" if name == "out/" else target, engine=host, keep=["schema"])
    if name == "out/":
        made = datasets.load_from_disk(str(target))[0]
    elif name == "out.parquet":
        made = datasets.Dataset.from_parquet(str(target), cache_dir=str(tmp_path / "cache"))[0]
    else:
        made = (
            pl.read_ndjson(target).to_dicts()[0]
            if name.endswith("gz")
            else json.loads(target.read_text())
        )
    if not name.endswith("gz"):  # Polars' reader has one type for all rows again
        assert made["chosen"] == [CALLS[2]]
        assert made["rejected"] == [CALLS[0]]
        assert (made["chosen_schema"], made["rejected_schema"]) == ([{"name": 2}], [{"f": {}}])
    assert made["chosen_score"] == 2.0


def test_tool_calls_reach_the_template_as_they_are():
    from prefmill.table.conversations import messages_of
    from prefmill.table.json_values import JSON_FIELD

    calls = CALLS[1]["tool_calls"]
    stored = {
        "role": "assistant",
        "content": "",
        "name": None,
        "tool_calls": {JSON_FIELD: json.dumps(calls)},
    }
    assert messages_of([stored], "assistant") == [
        {"role": "assistant", "content": "", "tool_calls": calls}
    ]
    # a struct of a Parquet file has every key in every row; one that is null was another row's
    typed = {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"function": {"name": "a", "arguments": {"city": "Oslo", "n": None}}}],
    }
    assert messages_of([typed], "assistant")[0]["tool_calls"] == [
        {"function": {"name": "a", "arguments": {"city": "Oslo"}}}
    ]


def test_messages_whose_content_is_of_several_kinds(tmp_path):
    parts = [{"type": "text", "text": "t"}, {"type": "image"}]
    rows = [{"m": [{"role": "user", "content": "a"}]}, {"m": [{"role": "user", "content": parts}]}]
    _, found = read(tmp_path, lines(tmp_path / "a.jsonl", *rows))
    assert found == rows


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


def test_json_columns_in_sql_are_refused():
    """The text of a JSON value is not the value; a function of DuckDB takes it out."""
    import duckdb

    import prefmill.duckdb

    con = duckdb.connect()
    prefmill.duckdb.install(con)
    con.execute(
        """CREATE TABLE t AS SELECT 'p' AS prompt, '"a"'::JSON AS completion, 5 AS score UNION ALL SELECT 'p', '"b"'::JSON, 1"""
    )
    con.execute(
        """CREATE TABLE n AS SELECT [{'role': 'user', 'content': '"x"'::JSON}] AS prompt, 'a' AS completion, 5 AS score"""
    )
    for query in (
        "FROM preference_pairs(t)",
        "FROM preference_pairs(n)",
        "FROM best_of(n)",
        PLAN.sql("t"),
        PLAN.sql("n"),
    ):
        with pytest.raises(duckdb.InvalidInputException, match="JSON"):
            con.execute(query).fetchall()
    query = "FROM preference_pairs(t, completion := completion->>'$')"
    assert con.execute(query).fetchall() == [("p", "a", "b", 5.0, 1.0)]  # what the hint says
    con.execute(
        """CREATE TABLE named AS SELECT 'p' AS prompt, 'a' AS completion, 5 AS score, {'JSON': 1} AS j"""
    )
    assert con.execute(PLAN.sql("named")).fetchall() == []  # a name is not a type


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
