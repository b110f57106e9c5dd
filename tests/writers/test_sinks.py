"""Kinds of files: types, row groups, order, memory, any text."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from written import labels, pairs, read

from prefmill.writers import sinks
from prefmill.writers.arrow import arrow_schema
from prefmill.writers.write import write


def test_parquet_types_and_row_groups(tmp_path: Path) -> None:
    rows = 120_000
    one = pl.DataFrame(
        {
            "prompt": ["p"],
            "chosen": ["c"],
            "rejected": ["r"],
            "chosen_score": [1.0],
            "rejected_score": [0.0],
        }
    )
    frame = one.select(pl.all().repeat_by(rows).explode()).with_columns(
        chosen_kind=pl.lit("k", pl.Categorical)
    )
    path = write([frame], frame.schema, tmp_path / "a.parquet").paths[""]
    file = pq.ParquetFile(path)
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [
        50_000,
        50_000,
        20_000,
    ]
    assert [str(t) for t in file.schema_arrow.types] == [
        "string",
        "string",
        "string",
        "double",
        "double",
        "string",
    ]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert file.read()["chosen_kind"][0].as_py() == "k"


def test_long_texts_get_small_row_groups(tmp_path: Path) -> None:
    frame = (
        pairs()
        .select(pl.all().repeat_by(2_000).explode())
        .with_columns(chosen=pl.lit("x" * 50_000))
    )
    path = write([frame], frame.schema, tmp_path / "a.parquet").paths[""]
    assert pq.read_metadata(path).row_group(0).num_rows < 2_000


@pytest.mark.parametrize("extension", ["parquet", "jsonl", "csv", "arrow"])
def test_order_and_no_frames(extension: str, tmp_path: Path) -> None:
    frame = labels(20_000)
    path = write(frame.iter_slices(777), frame.schema, tmp_path / f"deep/er/a.{extension}").paths[
        ""
    ]
    assert read(path).equals(frame)
    empty = write([], frame.schema, tmp_path / f"b.{extension}")
    assert empty.rows == {"": 0}
    if extension == "jsonl":
        assert Path(empty.paths[""]).read_bytes() == b""
    else:
        assert read(empty.paths[""]).columns == frame.columns
    assert read(
        write([frame[:0], frame[:2], frame[:0]], frame.schema, tmp_path / f"c.{extension}").paths[
            ""
        ]
    ).equals(frame[:2])


def test_csv_keeps_null_and_empty_apart(tmp_path: Path) -> None:
    frame = labels(2).with_columns(completion=pl.lit(""), id=pl.lit(None, pl.String))
    path = write([frame], frame.schema, tmp_path / "a.csv").paths[""]
    assert (
        Path(path).read_bytes()
        == b'prompt,completion,label,score,id\np0,"",true,0.0,\np0,"",false,1.0,\n'
    )


def test_jsonl_is_one_object_a_line(tmp_path: Path) -> None:
    path = write([pairs()], pairs().schema, tmp_path / "a.jsonl.gz", file_format="jsonl").paths[""]
    lines = gzip.decompress(Path(path).read_bytes()).decode().split("\n")
    assert [json.loads(line) for line in lines[:-1]] == pairs().to_dicts()
    assert lines[-1] == ""


TEXT = st.text(st.characters(codec="utf-8"), max_size=20)


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(st.tuples(TEXT, TEXT, TEXT | st.none()), min_size=1, max_size=8))
@pytest.mark.parametrize("extension", ["parquet", "jsonl", "csv", "tsv"])
def test_any_text_comes_back(extension: str, rows: list[tuple], tmp_path: Path) -> None:
    prompts, completions, notes = zip(*rows, strict=True)
    frame = pl.DataFrame(
        {
            "prompt": prompts,
            "completion": completions,
            "label": True,
            "score": 0.1,
            "note": pl.Series(notes, dtype=pl.String),
        }
    )
    path = write([frame], frame.schema, tmp_path / f"a.{extension}", overwrite=True).paths[""]
    if extension in ("csv", "tsv"):
        parse = pa.csv.ParseOptions(
            delimiter="\t" if extension == "tsv" else ",", newlines_in_values=True
        )
        types = arrow_schema(frame.schema)
        convert = pa.csv.ConvertOptions(
            column_types=types,
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        got = pl.from_arrow(pa.csv.read_csv(path, parse_options=parse, convert_options=convert))
    elif extension == "jsonl":
        got = pl.DataFrame(
            [json.loads(line) for line in Path(path).read_text("utf-8").split("\n")[:-1]],
            schema=frame.schema,
        )
    else:
        got = pl.from_arrow(pq.read_table(path))
    assert got.equals(frame)


def many(prompts: int, rows: int) -> pl.DataFrame:
    return labels(rows).with_columns(
        prompt=pl.format("prompt {} é", pl.int_range(rows) * 7919 % prompts)
    )


class Boom(Exception):
    pass


# --- the engine's facts that this module stands on


def test_frames_source_keeps_order_and_asks_one_by_one(tmp_path: Path) -> None:
    given, taken = list(labels(1_000).iter_slices(10)), []

    def pull() -> pl.DataFrame | None:
        taken.append(len(taken))
        return given[taken[-1]] if taken[-1] < len(given) else None

    lazy = sinks.frames_source(labels().schema, pull)
    assert taken == []
    assert lazy.collect().equals(labels(1_000))
    assert "PREFMILL" in lazy.explain()


def test_frames_source_raises_what_pull_raises(tmp_path: Path) -> None:
    error = Boom("inside")

    def pull() -> pl.DataFrame | None:
        raise error

    with pytest.raises(Boom) as caught:
        sinks.frames_source(labels().schema, pull).sink_parquet(tmp_path / "a.parquet")
    assert caught.value is error


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    alive, most = 0, 0

    class Watched(pl.DataFrame):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def stream() -> Iterator[pl.DataFrame]:
        nonlocal alive, most
        for _ in range(100):
            frame = Watched(many(50, 1_000))
            alive += 1
            most = max(most, alive)
            yield frame
            del frame

    write(stream(), labels().schema, tmp_path / "a.parquet")
    assert most <= 3


def test_narrow_types() -> None:
    schema = pl.Schema(
        {
            "a": pl.Binary,
            "b": pl.List(pl.List(pl.String)),
            "c": pl.Enum(["x"]),
            "d": pl.Struct({"e": pl.Int8}),
        }
    )
    narrow = arrow_schema(schema)
    assert narrow.types == [
        pa.binary(),
        pa.list_(pa.list_(pa.string())),
        pa.string(),
        pa.struct({"e": pa.int8()}),
    ]
