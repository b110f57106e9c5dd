"""`score` on a pool that grew takes the scores that the output has, and scores the other rows."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scored import expected, length, pool

import prefmill as pm
from prefmill.errors import RunDiffers, TargetExists

READERS = {
    ".parquet": pl.read_parquet,
    ".jsonl": pl.read_ndjson,
    ".csv": pl.read_csv,
    ".arrow": pl.read_ipc,
}


class Counting:
    """A scorer of rows, or of whole prompts, that keeps what it was shown."""

    def __init__(self, *, compares: bool = False, stops_after: int = 10**9, name: str = "1"):
        self.compares, self.reads, self.fingerprint = compares, (), f"counting {name}"
        self.rows: list[tuple[str, str]] = []
        self.left = stops_after

    def __call__(self, batch: pa.RecordBatch) -> Any:
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        prompts, completions = batch["prompt"].to_pylist(), batch["completion"].to_pylist()
        self.rows += zip(prompts, completions, strict=True)
        if not self.compares:
            return length(batch)
        # The score of a row is about all rows of its prompt, and their order.
        groups: dict[str, list[str]] = {}
        for prompt, completion in zip(prompts, completions, strict=True):
            groups.setdefault(prompt, []).append(completion)
        return [
            float(hash("|".join(groups[prompt])) % 1000) + len(completion)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]


def grown(seed: int = 5) -> tuple[pl.DataFrame, pl.DataFrame]:
    before = pool()
    more = pool(10, seed=seed)
    # New prompts, and new answers to prompts that were there, in between.
    late = before[::9].with_columns(pl.col("completion") + " late")
    after = pl.concat([before, more, late]).sample(fraction=1, shuffle=True, seed=1)
    return before, after


@pytest.mark.parametrize("ending", READERS)
def test_new_rows_alone_are_scored(ending: str, tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / f"out{ending}"
    pm.score(before, out, scorer=Counting(), chunk_rows=7)
    scorer = Counting()
    report = pm.score(after, out, scorer=scorer, chunk_rows=7)
    assert READERS[ending](out)["score"].to_list() == expected(after)
    known = set(before.select("prompt", "completion").rows())
    rows = after.select("prompt", "completion").rows()
    assert Counter(scorer.rows) == Counter(row for row in rows if row not in known)
    assert report.rows_new == len(scorer.rows)
    assert report.rows_before + report.rows_new == report.rows_scored == report.rows_in == len(rows)
    whole = tmp_path / f"whole{ending}"
    pm.score(after, whole, scorer=Counting(), chunk_rows=7)
    assert out.read_bytes() == whole.read_bytes()
    again = Counting()
    assert pm.score(after, out, scorer=again).rows_before == report.rows_before
    assert not again.rows
    assert [path.name for path in (tmp_path / f".{out.name}.prefmill").glob("*.arrow")] == []


def test_a_scorer_that_compares_sees_every_prompt_that_changed_and_no_other(
    tmp_path: Path,
) -> None:
    before, after = grown()
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    pm.score(before, out, scorer=Counting(compares=True))
    scorer = Counting(compares=True)
    report = pm.score(after, out, scorer=scorer)
    pm.score(after, whole, scorer=Counting(compares=True))
    assert out.read_bytes() == whole.read_bytes()

    def groups(frame: pl.DataFrame) -> dict[str, list[str]]:
        by = frame.group_by("prompt", maintain_order=True).agg("completion")
        return dict(by.iter_rows())

    old, new = groups(before), groups(after)
    changed = {prompt for prompt, answers in new.items() if old.get(prompt) != answers}
    assert {prompt for prompt, _ in scorer.rows} == changed
    assert 0 < len(changed) < len(new)
    assert report.rows_new == len(scorer.rows) == sum(len(new[prompt]) for prompt in changed)


def test_what_the_scorer_reads_is_part_of_a_row(tmp_path: Path) -> None:
    frame = pool().with_columns(gold=pl.lit("a"), other=pl.lit(1))

    def scorer_of(seen: list[int]) -> Any:
        def scorer(batch: pa.RecordBatch) -> list[float]:
            seen.append(batch.num_rows)
            return [float(ord(text)) for text in batch["gold"].to_pylist()]

        scorer.fingerprint, scorer.compares, scorer.reads = "gold", False, ("gold",)
        return scorer

    out = tmp_path / "out.parquet"
    pm.score(frame, out, scorer=scorer_of([]))
    changed = frame.with_columns(
        gold=pl.when(pl.int_range(pl.len()) < 5).then(pl.lit("b")).otherwise("gold"),
        other=pl.lit(2),
    )
    seen: list[int] = []
    report = pm.score(changed, out, scorer=scorer_of(seen))
    assert (sum(seen), report.rows_new) == (5, 5)
    scores = pl.read_parquet(out)
    assert scores["score"].to_list() == [98.0] * 5 + [97.0] * (frame.height - 5)
    assert scores["other"].to_list() == [2] * frame.height


def test_rows_without_a_score_are_tried_again(tmp_path: Path) -> None:
    frame = pool()
    first = frame["completion"][0]

    def scorer_of(bad: set[str], seen: list[str]) -> Any:
        def scorer(batch: pa.RecordBatch) -> Any:
            texts = batch["completion"].to_pylist()
            seen.extend(texts)
            return np.ma.masked_array([1.0] * len(texts), [text in bad for text in texts])

        scorer.fingerprint, scorer.compares, scorer.reads = "some", False, ()
        return scorer

    out = tmp_path / "out.parquet"
    before = pm.score(frame, out, scorer=scorer_of({first}, []))
    assert sum(before.null.values()) == before.null["left_out"] > 0
    seen: list[str] = []
    after = pm.score(frame.reverse(), out, scorer=scorer_of(set(), seen))
    assert set(seen) == {first}
    assert not after.null
    assert after.rows_before + after.rows_new == frame.height


def test_null_texts_stay_counted(tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": ["p", None, "q"], "completion": ["a", "b", None]})
    out = tmp_path / "out.parquet"
    pm.score(frame, out, scorer=Counting())
    scorer = Counting()
    report = pm.score(pl.concat([frame, frame]), out, scorer=scorer)
    assert (report.rows_before, report.rows_new, scorer.rows) == (2, 0, [])
    assert report.null == {"null_prompt": 2, "null_completion": 2}
    assert pl.read_parquet(out)["score"].to_list() == [1001.0, None, None] * 2


def test_pairs_keep_the_scores_of_both_sides(tmp_path: Path) -> None:
    pairs = pl.DataFrame(
        {
            "prompt": [f"p{i}" for i in range(20)],
            "chosen": [f"c{i}" * 3 for i in range(20)],
            "rejected": [f"r{i}" for i in range(20)],
            "chosen_score": [0.5] * 20,
        }
    )
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    pm.score(pairs[:15], out, scorer=Counting())
    scorer = Counting()
    report = pm.score(pairs, out, scorer=scorer)
    pm.score(pairs, whole, scorer=Counting())
    assert out.read_bytes() == whole.read_bytes()
    assert (report.rows_before, report.rows_new, len(scorer.rows)) == (30, 10, 10)


def test_messages_are_compared_as_they_stand(tmp_path: Path) -> None:
    def said(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    frame = pl.DataFrame({"prompt": [said("p"), said("q")], "completion": [said("a"), said("b")]})
    more = pl.DataFrame({"prompt": [said("p")], "completion": [said("b")]})
    seen: list[int] = []

    def scorer(batch: pa.RecordBatch) -> list[float]:
        seen.append(batch.num_rows)
        return [float(len(str(each))) for each in batch["completion"].to_pylist()]

    scorer.fingerprint, scorer.compares, scorer.reads = "messages", False, ()
    pm.score(frame, tmp_path / "out.parquet", scorer=scorer)
    pm.score(pl.concat([frame, more]), tmp_path / "out.parquet", scorer=scorer)
    assert seen == [2, 1]


def test_only_the_input_may_differ(tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / "out.parquet"
    pm.score(before, out, scorer=Counting())
    held = out.read_bytes()
    with pytest.raises(RunDiffers, match=r"another scorer.function"):
        pm.score(after, out, scorer=Counting(name="2"))
    with pytest.raises(RunDiffers, match="another columns"):
        pm.score(after, out, scorer=Counting(), score_column="reward")
    # A pool with no row in common is a mistake in the name of the output.
    with pytest.raises(RunDiffers, match=r"another input.rows"):
        pm.score(pool(3, seed=9), out, scorer=Counting())
    assert out.read_bytes() == held
    assert pm.score(pool(3, seed=9), out, scorer=Counting(), overwrite=True).rows_before == 0


def test_an_output_that_was_changed_gives_no_scores(tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / "out.parquet"
    pm.score(before, out, scorer=Counting())
    stat = out.stat()
    os.utime(out, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    with pytest.raises(RunDiffers, match=r"another input"):
        pm.score(after, out, scorer=Counting())
    os.utime(out, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert pm.score(after, out, scorer=Counting()).rows_before > 0


def test_overwriting_scores_everything(tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / "out.parquet"
    pm.score(before, out, scorer=Counting())
    scorer = Counting()
    report = pm.score(after, out, scorer=scorer, overwrite=True)
    assert (report.rows_before, len(scorer.rows)) == (0, after.height)


def test_an_empty_pool_grows(tmp_path: Path) -> None:
    frame, out = pool(), tmp_path / "out.parquet"
    pm.score(frame[:0], out, scorer=Counting())
    report = pm.score(frame, out, scorer=Counting())
    assert (report.rows_before, report.rows_new) == (0, frame.height)


# -- ended in the middle of the second run


def test_a_second_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / "out.parquet"
    pm.score(before, out, scorer=Counting())
    held = out.read_bytes()
    first, second = Counting(stops_after=2), Counting()
    with pytest.raises(KeyboardInterrupt):
        pm.score(after, out, scorer=first, chunk_rows=7)
    assert out.read_bytes() == held
    report = pm.score(after, out, scorer=second, chunk_rows=7)
    assert report.chunks_resumed == 2
    assert len(first.rows) + len(second.rows) == report.rows_new
    assert pl.read_parquet(out)["score"].to_list() == expected(after)


def test_a_pool_that_grows_once_more_meanwhile(tmp_path: Path) -> None:
    before, after = grown()
    out, latest = tmp_path / "out.parquet", pl.concat([after, pool(4, seed=8)])
    pm.score(before, out, scorer=Counting())
    with pytest.raises(KeyboardInterrupt):
        pm.score(after, out, scorer=Counting(stops_after=2), chunk_rows=7)
    scorer = Counting()
    report = pm.score(latest, out, scorer=scorer, chunk_rows=7)
    assert report.rows_before == before.height
    assert len(scorer.rows) == report.rows_new == latest.height - before.height
    assert pl.read_parquet(out)["score"].to_list() == expected(latest)
    # And back to the pool of the first run, which is no longer there.
    with pytest.raises(KeyboardInterrupt):
        pm.score(pl.concat([latest, pool(4, seed=7)]), out, scorer=Counting(stops_after=0))
    report = pm.score(latest, out, scorer=scorer)
    assert (report.rows_new, report.rows_before) == (0, latest.height)


def test_an_output_that_changed_between_two_lives_is_kept(tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / "out.parquet"
    pm.score(before, out, scorer=Counting())
    with pytest.raises(KeyboardInterrupt):
        pm.score(after, out, scorer=Counting(stops_after=2), chunk_rows=7)
    out.write_bytes(b"precious")
    with pytest.raises(TargetExists):
        pm.score(after, out, scorer=Counting(), chunk_rows=7)
    assert out.read_bytes() == b"precious"
    out.unlink()
    scorer = Counting()  # what was taken of the old one is in the ledger
    report = pm.score(after, out, scorer=scorer, chunk_rows=7)
    assert report.rows_before == before.height
    assert pl.read_parquet(out)["score"].to_list() == expected(after)


# -- random growth

ROWS = st.lists(st.tuples(st.sampled_from("pqr"), st.sampled_from(["", "a", "bb", "c c"])))


@settings(max_examples=15)
@given(st.lists(ROWS, min_size=2, max_size=4), st.booleans())
def test_any_sequence_of_pools(
    tmp_path_factory: pytest.TempPathFactory,
    pools: list[list[tuple[str, str]]],
    compares: bool,
) -> None:
    folder = tmp_path_factory.mktemp("grown")
    known: set[Any] = set()
    for number, rows in enumerate(pools):
        rows = [("stays", "here"), *rows]
        frame = pl.DataFrame(rows, schema=["prompt", "completion"], orient="row")
        scorer, whole = Counting(compares=compares), folder / f"{number}.parquet"
        report = pm.score(frame, folder / "out.parquet", scorer=scorer)
        pm.score(frame, whole, scorer=Counting(compares=compares))
        assert (folder / "out.parquet").read_bytes() == whole.read_bytes()
        assert report.rows_before + report.rows_new == len(rows)
        groups: dict[str, list[str]] = {}
        for prompt, completion in rows:
            groups.setdefault(prompt, []).append(completion)
        units: list[Any] = [(p, *answers) for p, answers in groups.items()] if compares else rows
        new = [unit for unit in units if unit not in known]
        assert len(scorer.rows) == (sum(len(unit) - 1 for unit in new) if compares else len(new))
        known = set(units)
