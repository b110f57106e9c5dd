"""Files: every layout in every kind of file, split, published whole or not at all."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prefmill.errors import BadArgument, BadInput, MissingPackage, TargetExists
from prefmill.table.chance import prompt_hash
from prefmill.writers import sinks
from prefmill.writers import write as writers
from prefmill.writers.arrow import arrow_schema
from prefmill.writers.formats import formats_for
from prefmill.writers.layouts import convert, output_schema
from prefmill.writers.write import write

SCORES = {"chosen_score": [5.0, 4.5, 4.0], "rejected_score": [1.0, 2.5, 3.0]}
TEXTS = {
    "prompt": ["p0", "p1", "p2"],
    "chosen": ["c0", "", "c2"],
    "rejected": ["r0", 'r"1\n', "r2 \u2028 é 🙂"],
}
FILES = [
    "parquet",
    "jsonl",
    "jsonl.gz",
    "jsonl.zst",
    "ndjson",
    "csv",
    "csv.gz",
    "tsv",
    "arrow",
    "ipc",
    "feather",
]


def said(role: str, *contents: str) -> list[dict]:
    return [{"role": role, "content": content} for content in contents]


def pairs(prompts: str = "text", completions: str = "text") -> pl.DataFrame:
    """Three pairs; each side `text`, `messages`, or `sharegpt`."""
    columns: dict = {}
    for name, texts in TEXTS.items():
        role, kind = ("user", prompts) if name == "prompt" else ("assistant", completions)
        if kind == "text":
            columns[name] = texts
        elif kind == "messages":
            columns[name] = [said(role, text) for text in texts]
        else:
            columns[name] = [
                [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text}]
                for text in texts
            ]
    return pl.DataFrame(columns | SCORES | {"chosen_id": [1, 2, 3], "rejected_id": [4, 5, 6]})


def labels(rows: int = 4) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "prompt": [f"p{i // 2}" for i in range(rows)],
            "completion": [f"c{i}" for i in range(rows)],
            "label": [i % 2 == 0 for i in range(rows)],
            "score": [float(i) for i in range(rows)],
            "id": [f"i{i}" for i in range(rows)],
        }
    )


def read(path: str | Path) -> pl.DataFrame:
    name = str(path)
    if ".parquet" in name:
        return pl.read_parquet(path)
    if ".jsonl" in name or ".ndjson" in name:
        return pl.read_ndjson(path)
    if ".csv" in name or ".tsv" in name:
        return pl.read_csv(
            path, separator="\t" if ".tsv" in name else ",", empty_string_is_null=False
        )
    if Path(path).is_dir():
        import datasets

        return pl.DataFrame(datasets.load_from_disk(name).with_format("arrow")[:])
    return pl.read_ipc(path)


def left_in(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*"))


# --- layouts


def test_trl_text_is_left_alone() -> None:
    assert convert(pairs()).equals(pairs())


CONVERSATION = {
    name: [said("user" if name == "prompt" else "assistant", text) for text in texts]
    for name, texts in TEXTS.items()
}


@pytest.mark.parametrize(
    ("prompts", "completions"),
    [
        k
        for k in itertools.product(("text", "messages", "sharegpt"), repeat=2)
        if k != ("text", "text")
    ],
)
def test_trl_is_messages_throughout(prompts: str, completions: str) -> None:
    out = convert(pairs(prompts, completions))
    assert out.to_dict(as_series=False) == CONVERSATION | SCORES | {
        "chosen_id": [1, 2, 3],
        "rejected_id": [4, 5, 6],
    }
    assert out.equals(convert(pairs(), chat=True))
    assert out.schema == output_schema(pairs(prompts, completions).schema)


def test_roles_and_further_fields() -> None:
    prompt = [
        {"name": "n", "role": "prompter", "content": "a"},
        {"name": None, "role": "system", "content": None},
    ]
    frame = pairs().with_columns(prompt=pl.Series([prompt] * 3))
    out = convert(frame)["prompt"]
    assert out[0].to_list() == [
        {"role": "user", "content": "a", "name": "n"},
        {"role": "system", "content": None, "name": None},
    ]
    whole = convert(frame, format="trl-implicit")["chosen"][2].to_list()
    assert whole == [*out[0].to_list(), {"role": "assistant", "content": "c2", "name": None}]


@pytest.mark.parametrize("prompts", ["text", "messages", "sharegpt"])
@pytest.mark.parametrize("completions", ["text", "messages", "sharegpt"])
def test_implicit(prompts: str, completions: str) -> None:
    out = convert(pairs(prompts, completions), format="trl-implicit")
    assert out.columns == [
        "chosen",
        "rejected",
        "chosen_score",
        "rejected_score",
        "chosen_id",
        "rejected_id",
    ]
    for side in ("chosen", "rejected"):
        if (prompts, completions) == ("text", "text"):
            expected: list = [p + c for p, c in zip(TEXTS["prompt"], TEXTS[side], strict=True)]
        else:
            expected = [
                p + c for p, c in zip(CONVERSATION["prompt"], CONVERSATION[side], strict=True)
            ]
        assert out[side].to_list() == expected
    assert convert(pairs(), format="trl-implicit", chat=True)["chosen"][1].to_list() == said(
        "user", "p1"
    ) + said("assistant", "")
    assert convert(pairs()[:0], format="trl-implicit", chat=True).is_empty()


def test_kto_of_labels() -> None:
    assert convert(labels(), format="kto").equals(labels())
    assert convert(labels()).equals(labels())
    chat = convert(labels(), chat=True)
    assert chat["prompt"][0].to_list() == said("user", "p0")
    assert chat["completion"][3].to_list() == said("assistant", "c3")


def test_kto_of_pairs_has_all_chosen_then_all_rejected() -> None:
    assert convert(pairs(), format="kto").to_dict(as_series=False) == {
        "prompt": TEXTS["prompt"] * 2,
        "completion": TEXTS["chosen"] + TEXTS["rejected"],
        "label": [True] * 3 + [False] * 3,
        "score": SCORES["chosen_score"] + SCORES["rejected_score"],
        "id": [1, 2, 3, 4, 5, 6],
    }


def test_instruction_and_openrlhf() -> None:
    kept = {"chosen_id": [1, 2, 3], "rejected_id": [4, 5, 6]}
    out = convert(pairs(), format="instruction").to_dict(as_series=False)
    assert (
        out
        == {
            "instruction": TEXTS["prompt"],
            "chosen_response": TEXTS["chosen"],
            "rejected_response": TEXTS["rejected"],
        }
        | kept
    )
    rewards = {"chosen_reward": SCORES["chosen_score"], "rejected_reward": SCORES["rejected_score"]}
    assert convert(pairs(), format="openrlhf").to_dict(as_series=False) == TEXTS | rewards | kept
    assert (
        convert(pairs("messages"), format="openrlhf").to_dict(as_series=False)
        == CONVERSATION | rewards | kept
    )


def test_llama_factory() -> None:
    kept = {"chosen_id": [1, 2, 3], "rejected_id": [4, 5, 6]}
    sides = {side: TEXTS[side] for side in ("chosen", "rejected")}
    out = convert(pairs(), format="llama-factory").to_dict(as_series=False)
    assert out == {"instruction": TEXTS["prompt"], "input": [""] * 3} | sides | kept
    for kinds in (("text", "messages"), ("messages", "text"), ("sharegpt", "sharegpt")):
        chat = convert(pairs(*kinds), format="llama-factory").to_dict(as_series=False)
        assert chat["conversations"] == [
            [{"from": "human", "value": text}] for text in TEXTS["prompt"]
        ]
        assert chat["rejected"] == [{"from": "gpt", "value": text} for text in TEXTS["rejected"]]
    several = pairs("messages", "messages").with_columns(
        chosen=pl.col("chosen").list.concat("rejected")
    )
    with pytest.raises(BadInput, match="skips 3 of 3 pairs"):
        convert(several, format="llama-factory")


@pytest.mark.parametrize("format", ["trl", "trl-implicit"])
def test_margin_follows_the_scores(format: str) -> None:
    out = convert(pairs(), format=format, margin_scale=0.5)
    assert out["margin"].to_list() == [2.0, 1.0, 0.5]
    assert out.columns[-5:] == [
        "chosen_score",
        "rejected_score",
        "margin",
        "chosen_id",
        "rejected_id",
    ]
    assert out["margin"].dtype == pl.Float64


@pytest.mark.parametrize(
    "kinds", [("text", "text"), ("messages", "text"), ("sharegpt", "messages")]
)
@pytest.mark.parametrize("format", formats_for("pairs"))
def test_output_schema_is_that_of_the_rows(format: str, kinds: tuple[str, str]) -> None:
    if format == "instruction" and kinds != ("text", "text"):
        return
    frame = pairs(*kinds)
    assert output_schema(frame.schema, format=format) == convert(frame, format=format).schema


@pytest.mark.parametrize(
    ("frame", "options", "message"),
    [
        (
            pairs("messages"),
            {"format": "instruction"},
            "format: 'instruction' holds text only; got message lists .*\nHint: use --format trl",
        ),
        (
            labels(),
            {"format": "openrlhf"},
            "format: labels have no chosen and rejected side; got 'openrlhf', expected 'kto'.*\nHint: use --format kto",
        ),
        (
            labels(),
            {"margin_scale": 1.0},
            "margin: got labels, expected pairs in the format 'trl' or.*\nHint: leave",
        ),
        (pairs(), {"margin_scale": 1.0, "format": "kto"}, "margin: got 'kto', expected"),
        (
            pairs(),
            {"margin_scale": float("nan")},
            "margin: the scale must be a finite number; got nan",
        ),
        (pairs(), {"format": "dpo"}, "format: unknown; got 'dpo', expected one of"),
        (
            pairs().drop("rejected_score"),
            {},
            "format: neither pairs nor labels: no column 'rejected_score'; got ",
        ),
        (
            pairs().rename({"chosen_id": "chosen_response"}),
            {"format": "instruction"},
            "kept column has the name 'chosen_response'.*\nHint: rename",
        ),
        (
            pairs().rename({"chosen_id": "chosen_label", "rejected_id": "rejected_label"}),
            {"format": "kto"},
            "kept column has the name 'label'",
        ),
        (
            pairs().with_columns(prompt=pl.lit(1)),
            {},
            "prompt: neither text nor a message list; got Int",
        ),
    ],
)
def test_what_a_format_cannot_hold(frame: pl.DataFrame, options: dict, message: str) -> None:
    with pytest.raises(BadArgument, match=r"(?s)" + message):
        output_schema(frame.schema, **options)


# --- files


@pytest.mark.parametrize("extension", FILES)
@pytest.mark.parametrize(
    "kinds", [("text", "text"), ("messages", "text"), ("sharegpt", "sharegpt")]
)
@pytest.mark.parametrize("format", formats_for("pairs"))
def test_every_layout_in_every_file(
    format: str, kinds: tuple[str, str], extension: str, tmp_path: Path
) -> None:
    frame, target = pairs(*kinds), tmp_path / f"pairs.{extension}"
    options: dict = {"format": format}
    nested = kinds != ("text", "text")
    if nested and (format == "instruction" or extension[:3] in ("csv", "tsv")):
        with pytest.raises(BadArgument, match="Hint"):
            write(never(), frame.schema, target, **options)
        assert left_in(tmp_path) == []
        return
    written = write([frame[:2], frame[2:]], frame.schema, target, **options)
    parts = [convert(part, format=format) for part in (frame[:2], frame[2:])]
    expected = pl.concat(parts)
    assert written == writers.Written({"": str(target)}, {"": expected.height})
    got = read(target)
    assert got.equals(expected), got
    assert got.schema == expected.schema
    assert left_in(tmp_path) == [target.name]


def never() -> Iterator[pl.DataFrame]:
    raise AssertionError("a frame was taken")
    yield


@pytest.mark.parametrize("kinds", [("text", "text"), ("messages", "text")])
@pytest.mark.parametrize("extension", [".parquet", ".jsonl", ".arrow", ""])
def test_datasets_sees_the_right_features(
    kinds: tuple[str, str], extension: str, tmp_path: Path
) -> None:
    datasets = pytest.importorskip("datasets")
    value = datasets.Value
    text = (
        value("string")
        if kinds[0] == "text"
        else datasets.List({"role": value("string"), "content": value("string")})
    )
    frame = pairs(*kinds)
    path = write([frame], frame.schema, tmp_path / f"pairs{extension}", margin_scale=1.0).paths[""]
    if extension:
        kind = {".parquet": "parquet", ".jsonl": "json", ".arrow": "arrow"}[extension]
        data = datasets.load_dataset(
            kind, data_files=path, split="train", cache_dir=str(tmp_path / "cache")
        )
    else:
        data = datasets.load_from_disk(path)
    scores = dict.fromkeys(("chosen_score", "rejected_score", "margin"), value("float64"))
    kept = dict.fromkeys(("chosen_id", "rejected_id"), value("int64"))
    assert dict(data.features) == {"prompt": text, "chosen": text, "rejected": text} | scores | kept
    assert data.to_list() == convert(frame, margin_scale=1.0).to_dicts()


def test_datasets_labels_and_splits(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    frame = labels(400)
    written = write(
        [frame],
        frame.schema,
        f"{tmp_path}/out/",
        split={"train": 0.5, "test": 0.5 - 1e-9, "none": 1e-9},
    )
    data = datasets.load_from_disk(str(tmp_path / "out"))
    assert isinstance(data, datasets.DatasetDict)
    assert list(data) == ["train", "test", "none"]
    assert {name: part.num_rows for name, part in data.items()} == written.rows
    assert written.rows["none"] == 0
    assert sum(written.rows.values()) == 400
    assert data["none"].features["label"] == datasets.Value("bool")
    assert str(data["test"].split) == "test"
    assert written.paths["train"] == str(tmp_path / "out" / "train")
    assert datasets.load_from_disk(written.paths["train"]).to_list() == data["train"].to_list()
    again = write([frame], frame.schema, f"{tmp_path}/again", split={"train": 0.5, "test": 0.5})
    one, two = (
        json.loads(Path(p, "state.json").read_text())["_fingerprint"] for p in again.paths.values()
    )
    assert one != two  # the key of every cached `map`


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


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
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


# --- splits


def by_hand(text: str, seed: int) -> float:
    return (
        int.from_bytes(
            hashlib.md5(f"split:{seed}:".encode() + text.encode()).digest()[:8], "little"
        )
        / 2**64
    )


def many(prompts: int, rows: int) -> pl.DataFrame:
    return labels(rows).with_columns(
        prompt=pl.format("prompt {} é", pl.int_range(rows) * 7919 % prompts)
    )


def test_shares_and_the_hash_by_hand(tmp_path: Path) -> None:
    frame, shares = many(20_000, 30_000), {"train": 0.7, "dev": 0.2, "test": 0.1}
    written = write(
        frame.iter_slices(9_000), frame.schema, tmp_path / "a.parquet", split=shares, seed=3
    )
    assert left_in(tmp_path) == ["a-dev.parquet", "a-test.parquet", "a-train.parquet"]
    parts = {name: pl.read_parquet(path) for name, path in written.paths.items()}
    assert {name: part.height for name, part in parts.items()} == written.rows
    bounds = {"train": (0, 0.7), "dev": (0.7, 0.9), "test": (0.9, 1)}
    for name, part in parts.items():
        low, high = bounds[name]
        assert all(
            low - 1e-9 <= by_hand(prompt, 3) < high + 1e-9 for prompt in part["prompt"].unique()
        )
        assert abs(part["prompt"].n_unique() / 20_000 - shares[name]) < 0.02
        assert part.equals(
            frame.filter(pl.col("prompt").is_in(part["prompt"].implode()))
        )  # in the order of the rows


def test_more_rows_never_move_a_prompt(tmp_path: Path) -> None:
    few, more = many(100, 100), many(1000, 3000).reverse()
    shares = {"train": 0.5, "test": 0.5}
    one = write([few], few.schema, tmp_path / "one.jsonl", split=shares)
    two = write([more, few], few.schema, tmp_path / "two.jsonl", split=shares)
    first = {name: set(read(path)["prompt"]) for name, path in one.paths.items()}
    second = {name: set(read(path)["prompt"]) for name, path in two.paths.items()}
    assert not second["train"] & second["test"]
    assert all(first[name] <= second[name] for name in shares)
    other = write([few], few.schema, tmp_path / "three.jsonl", split=shares, seed=1)
    assert set(read(other.paths["train"])["prompt"]) != first["train"]


def test_an_empty_split_is_written(tmp_path: Path) -> None:
    written = write(
        [pairs()[:1]], pairs().schema, tmp_path / "a.parquet", split={"train": 0.5, "test": 0.5}
    )
    assert sorted(written.rows.values()) == [0, 1]
    for name, path in written.paths.items():
        assert pl.read_parquet(path).schema == pairs().schema
        assert pl.read_parquet(path).height == written.rows[name]


def test_many_splits_on_few_threads(tmp_path: Path) -> None:
    frame, shares = many(2_000, 5_000), {f"s{i}": 0.125 for i in range(8)}
    written = write(frame.iter_slices(100), frame.schema, tmp_path / "a.parquet", split=shares)
    assert sum(written.rows.values()) == 5_000


def test_message_lists_hash_as_the_page_says() -> None:
    lists = pl.Series(
        [
            [{"role": "user", "content": "é"}, {"role": None, "content": "x"}],
            [],
            [{"role": "user", "content": None}],
        ]
    )
    spelled = ["4:user2:é0:1:x", "", "4:user0:"]
    assert prompt_hash(lists, b"7:").equals(prompt_hash(pl.Series(spelled), b"7:"))
    sharegpt = pl.Series([[{"from": "human", "value": "x"}]])
    assert (
        prompt_hash(sharegpt, b"7:").item() == prompt_hash(pl.Series(["5:human1:x"]), b"7:").item()
    )
    parts = pl.Series([[{"role": "user", "content": [{"type": "text"}]}]])
    with pytest.raises(BadArgument, match="cannot be hashed"):
        prompt_hash(parts, b"")


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"train": 0.9, "test": 0.2}, "split: the shares must sum to 1; got 1.1"),
        ({}, "the shares must sum to 1; got 0"),
        ({"train": 1.5, "test": -0.5}, "share of 'test' must be above 0; got -0.5"),
        ({"train": float("nan"), "test": 0.5}, "share of 'train' must be above 0; got nan"),
        ({"a/b": 1.0}, "got 'a/b', expected letters"),
        ({"": 1.0}, "got '', expected letters"),
    ],
)
def test_bad_splits(split: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match=message):
        write(never(), pairs().schema, tmp_path / "a.parquet", split=split)


def test_a_null_prompt_has_no_split(tmp_path: Path) -> None:
    frame = labels().with_columns(prompt=pl.lit(None, pl.String))
    with pytest.raises(BadArgument, match="a prompt is null; got 4"):
        write([frame], frame.schema, tmp_path / "a.parquet", split={"train": 0.5, "test": 0.5})


def test_without_split_nothing_is_hashed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("prefmill.table.chance.hashlib.md5", None)
    write([pairs()], pairs().schema, tmp_path / "a.parquet")


# --- whole or not at all

TARGETS = ["a.parquet", "a.jsonl", "a.csv.gz", "a.arrow", "a"]


class Boom(Exception):
    pass


def failing(frame: pl.DataFrame, error: BaseException, after: int = 3) -> Iterator[pl.DataFrame]:
    for _ in range(after):
        yield frame
    raise error


@pytest.mark.parametrize("after", [0, 1, 30])
@pytest.mark.parametrize("split", [None, {"train": 0.5, "test": 0.5}])
@pytest.mark.parametrize("name", TARGETS)
def test_an_error_midway_leaves_nothing(
    name: str, split: dict | None, after: int, tmp_path: Path
) -> None:
    error = Boom("midway")
    with pytest.raises(Boom) as caught:
        write(failing(many(50, 2_000), error, after), labels().schema, tmp_path / name, split=split)
    assert caught.value is error
    assert left_in(tmp_path) == []
    assert not [thread for thread in threading.enumerate() if thread.name == "prefmill-sink"]


@pytest.mark.parametrize("name", TARGETS)
def test_an_error_keeps_the_old_target(name: str, tmp_path: Path) -> None:
    old = write([labels(2)], labels().schema, tmp_path / name).paths[""]
    before = left_in(tmp_path)
    with pytest.raises(Boom):
        write(failing(labels(), Boom()), labels().schema, tmp_path / name, overwrite=True)
    assert left_in(tmp_path) == before
    assert read(old).equals(labels(2))


@pytest.mark.parametrize("name", ["a.parquet", "a"])
def test_an_interrupt_leaves_nothing(name: str, tmp_path: Path) -> None:
    def endless() -> Iterator[pl.DataFrame]:
        for number in itertools.count():
            if number == 20:
                os.kill(os.getpid(), signal.SIGINT)
            yield many(50, 2_000)

    with pytest.raises(KeyboardInterrupt):
        write(endless(), labels().schema, tmp_path / name)
    assert left_in(tmp_path) == []


@pytest.mark.parametrize("name", TARGETS)
def test_an_existing_target_is_an_error_before_any_work(name: str, tmp_path: Path) -> None:
    write([labels(2)], labels().schema, tmp_path / name)
    with pytest.raises(TargetExists, match=r"is already there.\nHint: use --overwrite"):
        write(never(), labels().schema, tmp_path / name)
    assert read(
        write([labels(3)], labels().schema, tmp_path / name, overwrite=True).paths[""]
    ).equals(labels(3))
    assert not [left for left in left_in(tmp_path) if left.startswith(".")]


def test_one_existing_split_is_enough(tmp_path: Path) -> None:
    (tmp_path / "a-test.parquet").touch()
    with pytest.raises(TargetExists, match=r"a-test.parquet"):
        write(never(), labels().schema, tmp_path / "a.parquet", split={"train": 0.5, "test": 0.5})


def test_an_error_of_the_disk_comes_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.LazyFrame, "sink_parquet", full)
    with pytest.raises(OSError, match="No space left"):
        write(itertools.repeat(labels()), labels().schema, tmp_path / "a.parquet")
    assert left_in(tmp_path) == []


def test_a_directory_of_others_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "precious").touch()
    with pytest.raises(BadArgument, match="none of `datasets`"):
        write(never(), labels().schema, tmp_path / "mine", overwrite=True)
    assert left_in(tmp_path) == ["mine", "mine/precious"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("a.xlsx", {}, "cannot tell the file format from the name"),
        ("a.parquet.gz", {}, "cannot tell the file format"),
        ("a.gz", {}, "cannot tell the file format"),
        ("a.parquet", {"file_format": "orc"}, "unknown file format; got 'orc'"),
        ("folder.parquet", {}, "is no regular file"),
        ("file", {}, "is a file; expected a datasets directory"),
    ],
)
def test_bad_targets(name: str, options: dict, message: str, tmp_path: Path) -> None:
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(BadArgument, match=message):
        write(never(), labels().schema, tmp_path / name, **options)


def test_check_target_is_the_check_of_write(tmp_path: Path) -> None:
    writers.check_target(tmp_path / "new" / "a.parquet", split={"train": 0.5, "test": 0.5})
    assert left_in(tmp_path) == []
    (tmp_path / "a-test.parquet").touch()
    for options, error in (
        ({}, TargetExists),
        ({"split": {"test": 0.5}}, BadArgument),
        ({"file_format": "orc"}, BadArgument),
    ):
        with pytest.raises(error):
            writers.check_target(tmp_path / "a.parquet", **{"split": {"test": 1.0}} | options)
    writers.check_target(tmp_path / "a.parquet", split={"test": 1.0}, overwrite=True)


def test_file_format_wins_over_the_name(tmp_path: Path) -> None:
    path = write(
        [labels()], labels().schema, tmp_path / "a.txt", file_format="jsonl", split={"all": 1}
    ).paths["all"]
    assert path.endswith("a-all.txt")
    assert pl.read_ndjson(path).equals(labels())


def test_datasets_absent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        MissingPackage,
        match=r"'datasets' is not installed.\nHint: in a checkout of prefmill: pip install '\.\[datasets\]'",
    ):
        write(never(), labels().schema, tmp_path / "out")
    assert left_in(tmp_path) == []


def test_a_frame_of_another_schema(tmp_path: Path) -> None:
    with pytest.raises(BadArgument, match="a frame of another schema"):
        write([labels(), labels().drop("id")], labels().schema, tmp_path / "a.parquet")
    assert left_in(tmp_path) == []


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
