"""Splits: a prompt has its place by its hash alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest
from written import labels, left_in, pairs, read

from prefmill.errors import BadArgument
from prefmill.table.chance import prompt_hash
from prefmill.writers.write import write


def never() -> Iterator[pl.DataFrame]:
    raise AssertionError("a frame was taken")
    yield


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
