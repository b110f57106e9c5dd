"""Chunking changes no meaning: a scorer that compares the candidates of a prompt sees all of them,
and the columns that it reads.
"""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

import prefmill as pm
from prefmill.errors import BadRow
from prefmill.sampling import Answer, Request
from prefmill.scoring.judging.questions import pairs_of


class Longer:
    """A judge that likes the longer text."""

    fingerprint = {"sampler": "longer"}  # noqa: RUF012

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        answers = []
        for request in requests:
            assert isinstance(request.prompt, list)
            _, a, b = request.prompt[0]["content"].split("|")
            answers.append(Answer("A" if len(a) > len(b) else "B", "stop", None, 1))
        return answers


def judge(**more: Any) -> pm.JudgeScorer:
    return pm.JudgeScorer(sampler=Longer(), mode="pairwise", rubric="{prompt}|{a}|{b}", **more)


def pool_of(sizes: Sequence[int]) -> pl.DataFrame:
    """Prompts with so many candidates each, of lengths 1, 2, 3, ..."""
    rows = [(f"p{p}", "x" * (n + 1), n) for p, size in enumerate(sizes) for n in range(size)]
    return pl.DataFrame(rows, schema=["prompt", "completion", "gold"], orient="row")


def scores(path: Path) -> list[float | None]:
    return pl.read_parquet(path)["score"].to_list()


def test_pairwise_is_one_tournament(tmp_path: Path) -> None:
    """40 candidates were cut into tournaments of 16, so that three had won all."""
    pm.score(pool_of([40]), tmp_path / "out.parquet", scorer=judge(), chunk_rows=1)
    assert scores(tmp_path / "out.parquet") == pytest.approx([n / 39 for n in range(40)])


@pytest.mark.parametrize("chunk_rows", [1, 2, 7, 1000])
def test_a_function_that_ranks_inside_a_prompt(tmp_path: Path, chunk_rows: int) -> None:
    """By files, resumed or not, and by a stream: the batch holds whole prompts."""

    def rank(batch: pa.RecordBatch) -> pl.Series:
        frame = pl.DataFrame(batch)
        return frame.select(pl.col("completion").str.len_chars().rank().over("group"))["completion"]

    pool = pool_of([40, 1, 20])
    wanted = [float(n + 1) for n in (*range(40), 0, *range(20))]
    pm.score(
        pool,
        tmp_path / "out.parquet",
        scorer=lambda batch: rank(batch).to_arrow(),
        chunk_rows=chunk_rows,
    )
    assert scores(tmp_path / "out.parquet") == wanted
    out = pm.score_stream(
        pool, lambda batch: rank(batch).to_arrow(), chunk_rows=chunk_rows
    ).read_all()
    assert out["score"].to_pylist() == wanted


def test_a_run_that_goes_on_cuts_no_prompt(tmp_path: Path) -> None:
    """The chunks of the first call are those of the second, whole prompts in both."""
    calls: list[int] = []

    def share(batch: pa.RecordBatch) -> list[float]:
        calls.append(batch.num_rows)
        if len(calls) == 2:
            raise BadRow("share", "is the second.", row=0, reason="refused")
        return [1 / batch.num_rows] * batch.num_rows

    share.fingerprint = "share"
    pool = pool_of([20, 40])
    with pytest.raises(BadRow):
        pm.score(pool, tmp_path / "out.parquet", scorer=share, chunk_rows=1)
    done = pm.score(pool, tmp_path / "out.parquet", scorer=share, chunk_rows=30)
    assert (done.chunks_resumed, calls) == (1, [20, 40, 40])
    assert scores(tmp_path / "out.parquet") == pytest.approx([1 / 20] * 20 + [1 / 40] * 40)


def test_a_function_may_say_that_it_compares_nothing(tmp_path: Path) -> None:
    sizes: list[int] = []

    def alone(batch: pa.RecordBatch) -> list[float]:
        sizes.append(batch.num_rows)
        return [1.0] * batch.num_rows

    alone.compares = False
    pm.score(pool_of([40]), tmp_path / "out.parquet", scorer=alone, chunk_rows=2)
    assert max(sizes) == 32, "16 chunks' rows: memory stays bounded"


def test_ensembles_compare_where_one_does(tmp_path: Path) -> None:
    both = pm.Ensemble(scorers={"judge": judge(), "length": lambda batch: [0.0] * batch.num_rows})
    pm.score(pool_of([40]), tmp_path / "out.parquet", scorer=both, chunk_rows=1)
    assert pl.read_parquet(tmp_path / "out.parquet")["score_judge"].to_list() == pytest.approx(
        [n / 39 for n in range(40)]
    )


# -- pairs


@pytest.mark.parametrize("schedule", ["all", "baseline"])
@pytest.mark.parametrize("most", [1, 12, 2000, 5000])
def test_so_many_pairs_and_no_more_are_made(schedule: Any, most: int) -> None:
    """All pairs of 4,000 candidates, 8 million, were made for 12 of them."""
    tracemalloc.start()
    found = pairs_of(4000, schedule, most)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found) == min(most, 3999 if schedule == "baseline" else most)
    assert len(set(found)) == len(found)
    assert peak < 3_000_000
    if schedule == "all" and most == 2000:
        assert sorted(n for pair in found for n in pair) == list(range(4000)), (
            "in the first round each meets one"
        )


# -- other columns


def test_a_function_sees_the_other_columns(tmp_path: Path) -> None:
    """As TRL's reward functions do; also where the prompts do not stand together."""
    pool = pool_of([3, 3]).with_columns(
        tags=pl.col("gold").map_elements(lambda n: [str(n)], return_dtype=pl.List(pl.String))
    )
    mixed = pool[[0, 3, 1, 4, 2, 5]]

    def right(batch: pa.RecordBatch) -> list[float]:
        said = zip(
            batch["completion"].to_pylist(),
            batch["gold"].to_pylist(),
            batch["tags"].to_pylist(),
            strict=True,
        )
        return [
            float(len(text) == gold + 1 and tags == [str(gold)]) + gold for text, gold, tags in said
        ]

    for name, rows in (("together", pool), ("mixed", mixed)):
        pm.score(rows, tmp_path / f"{name}.parquet", scorer=right, chunk_rows=2)
        assert scores(tmp_path / f"{name}.parquet") == [gold + 1.0 for gold in rows["gold"]]
    out = pm.score_stream(pool, right, chunk_rows=2).read_all()
    assert out["score"].to_pylist() == [gold + 1.0 for gold in pool["gold"]]


def test_what_a_function_reads_is_part_of_the_input(tmp_path: Path) -> None:
    """Another gold is another run; a column that the function does not name is not."""

    def gold(batch: pa.RecordBatch) -> list[float]:
        return [float(n) for n in batch["gold"].to_pylist()]

    gold.reads = ("gold",)
    gold.fingerprint = "gold"
    pool = pool_of([2, 2])
    pm.score(pool, tmp_path / "out.parquet", scorer=gold)
    again = pm.score(pool.with_columns(other=pl.lit(1)), tmp_path / "out.parquet", scorer=gold)
    assert again.chunks_resumed == again.chunks
    with pytest.raises(ValueError, match=r"another input\.content"):
        pm.score(pool.with_columns(gold=pl.col("gold") + 1), tmp_path / "out.parquet", scorer=gold)


def test_columns_are_named_by_role_first(tmp_path: Path) -> None:
    """Where the roles have other names, a column called completion is not the completion."""

    def echo(batch: pa.RecordBatch) -> list[float]:
        return [float(text) for text in batch["completion"].to_pylist()]

    pool = pl.DataFrame({"question": ["q"], "answer": ["7"], "completion": ["9"], "group": [5]})
    roles: Any = {"prompt": "question", "completion": "answer"}
    pm.score(pool, tmp_path / "out.parquet", scorer=echo, roles=roles)
    assert scores(tmp_path / "out.parquet") == [7.0]


# -- what is refused before anything is scored


def never(batch: pa.RecordBatch) -> list[float]:
    raise AssertionError("scored before the target was looked at")


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_message_lists_go_into_no_csv(tmp_path: Path, suffix: str) -> None:
    talk = [{"role": "user", "content": "hi"}]
    pool = pl.DataFrame(
        {"prompt": [talk], "completion": [[{"role": "assistant", "content": "yo"}]]}
    )
    with pytest.raises(ValueError, match=re.compile("csv|list", re.IGNORECASE)):
        pm.score(pool, tmp_path / f"out.{suffix}", scorer=never)


@pytest.mark.parametrize(
    ("column", "name"), [("Score", "score"), ("SCORE", "score"), ("quality", "Quality")]
)
def test_a_column_that_differs_in_case_only(tmp_path: Path, column: str, name: str) -> None:
    """`Score` next to `score` could not be read again."""
    pool = pool_of([2]).with_columns(pl.lit(1).alias(column))
    with pytest.raises(
        ValueError, match=rf"already has a column '{column}'.*\nHint: --score-column"
    ):
        pm.score(pool, tmp_path / "out.parquet", scorer=never, score_column=name)


def test_two_columns_of_a_scorer_that_differ_in_case_only(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="differ in case only"):
        pm.score(
            pool_of([2]),
            tmp_path / "out.parquet",
            scorer=pm.Ensemble(scorers={"rm": never, "RM": never}),
        )


def test_a_stream_does_not_compare_half_a_prompt(tmp_path: Path) -> None:
    """Rows of a prompt that stand apart would be two tournaments: refused where the scorer says
    that it compares, else scored.
    """
    pool = pool_of([3, 3])
    mixed = pool[[0, 3, 1, 4, 2, 5]]
    assert (
        pm.score_stream(pool, judge(), chunk_rows=1).read_all()["score"].to_pylist()
        == [0.0, 0.5, 1.0] * 2
    )
    both = pm.Ensemble(scorers={"judge": judge(), "length": lambda batch: [0.0] * batch.num_rows})
    for scorer in (judge(), both):
        with pytest.raises(
            ValueError,
            match=r"row 2 has a prompt that earlier rows have.*\nHint: sort the source by prompt",
        ):
            pm.score_stream(mixed, scorer, chunk_rows=1).read_all()
    pm.score(mixed, tmp_path / "out.parquet", scorer=judge(), chunk_rows=1)
    assert scores(tmp_path / "out.parquet") == [0.0, 0.0, 0.5, 0.5, 1.0, 1.0]
    assert (
        pm.score_stream(mixed, lambda batch: [1.0] * batch.num_rows, chunk_rows=1)
        .read_all()["score"]
        .to_pylist()
        == [1.0] * 6
    )


def test_values_of_many_shapes_are_json_text(tmp_path: Path) -> None:
    """A column of objects with other keys in every row: a function reads each as its own row has
    it.
    """
    pool = tmp_path / "pool.jsonl"
    pool.write_text(
        "".join(
            f'{{"prompt": "p", "completion": "c", "meta": {meta}}}\n'
            for meta in ('{"a": 1}', '{"b": "x"}', '{"a": []}')
        )
    )
    read: list[Any] = []

    def meta(batch: pa.RecordBatch) -> list[float]:
        read.extend(json.loads(text) for text in batch["meta"].to_pylist())
        return [0.0] * batch.num_rows

    pm.score(pool, tmp_path / "out.parquet", scorer=meta)
    assert read == [{"a": 1}, {"b": "x"}, {"a": []}]
