"""`sample` on prompts that grew keeps the answers that the output has, and samples the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import polars as pl
import pytest
from echo import Echo, prompts, read
from hypothesis import given, settings
from hypothesis import strategies as st

import prefmill as pm
from prefmill.errors import BadRow, RunDiffers
from prefmill.sampling import Answer, Request

HOW = {"n": 4, "keep": ["topic"], "chunk_rows": 12}


def grown() -> tuple[pl.DataFrame, pl.DataFrame]:
    before = prompts()
    more = pl.concat([before[5:], prompts(10, seed=5)])
    return before, more.sample(fraction=1, shuffle=True, seed=1)


@pytest.mark.parametrize("ending", [".parquet", ".jsonl", ".csv", ".arrow"])
def test_new_prompts_alone_are_sampled(ending: str, tmp_path: Path) -> None:
    before, after = grown()
    out, whole = tmp_path / f"out{ending}", tmp_path / f"whole{ending}"
    pm.sample(before, out, sampler=Echo(), **HOW)
    sampler = Echo()
    report = pm.sample(after, out, sampler=sampler, **HOW)
    full = pm.sample(after, whole, sampler=Echo(), **HOW)
    assert out.read_bytes() == whole.read_bytes()
    assert {request.prompt for request in sampler.seen} == set(after["prompt"]) - set(
        before["prompt"]
    )
    assert (report.prompts, report.prompts_before, report.prompts_new) == (45, 35, 10)
    assert len(sampler.seen) == 4 * report.prompts_new
    assert report.finish_reasons == full.finish_reasons
    assert (report.tokens, report.duplicates, report.empty, report.untold) == (
        full.tokens,
        full.duplicates,
        full.empty,
        full.untold,
    )
    again = Echo()
    done = pm.sample(after, out, sampler=again, **HOW)
    assert (again.seen, done.prompts_before, done.answers) == ([], 35, 180)


def test_kept_columns_are_those_of_the_new_input(tmp_path: Path) -> None:
    frame, out = prompts(), tmp_path / "out.parquet"
    pm.sample(frame, out, sampler=Echo(), **HOW)
    sampler = Echo()
    changed = frame.with_columns(topic=pl.col("topic") + 100)
    report = pm.sample(changed, out, sampler=sampler, **HOW)
    assert (sampler.seen, report.prompts_before, report.prompts_new) == ([], 40, 0)
    assert read(out)["topic"].to_list() == [t for t in changed["topic"] for _ in range(4)]


class Refusing(Echo):
    """Refuses some prompts."""

    def __init__(self, *refused: str) -> None:
        super().__init__()
        self.refused = refused

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        found = [i for i, each in enumerate(requests) if each.prompt in self.refused]
        if found:
            raise BadRow("sample", "is refused", row=found[0], reason="refused")
        return super().sample(requests)


def test_prompts_without_answers_are_tried_again(tmp_path: Path) -> None:
    frame, out = prompts(), tmp_path / "out.parquet"
    bad = frame["prompt"][3]
    how = {**HOW, "on_bad_row": "null"}
    first = pm.sample(frame, out, sampler=Refusing(bad), **how)
    assert sum(first.null.values()) == 4
    sampler = Refusing()
    report = pm.sample(frame.reverse(), out, sampler=sampler, **how)
    assert {request.prompt for request in sampler.seen} == {bad}
    assert (report.null, report.prompts_before, report.prompts_new) == ({}, 39, 1)
    assert read(out)["completion"].null_count() == 0


def test_only_the_prompts_may_differ(tmp_path: Path) -> None:
    before, after = grown()
    out = tmp_path / "out.parquet"
    pm.sample(before, out, sampler=Echo(), **HOW)
    with pytest.raises(RunDiffers, match="another seed"):
        pm.sample(after, out, sampler=Echo(), seed=1, **HOW)
    with pytest.raises(RunDiffers, match=r"another sampler.model"):
        pm.sample(after, out, sampler=Echo(model="b"), **HOW)
    with pytest.raises(RunDiffers, match=r"another input.prompts"):
        pm.sample(prompts(3, seed=9), out, sampler=Echo(), **HOW)


def test_a_second_run_that_was_ended_goes_on(tmp_path: Path) -> None:
    before, after = grown()
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    pm.sample(before, out, sampler=Echo(), **HOW)
    held = out.read_bytes()
    first, second = Echo(fails_after=2), Echo()
    with pytest.raises(KeyboardInterrupt):
        pm.sample(after, out, sampler=first, **HOW)
    assert out.read_bytes() == held
    report = pm.sample(after, out, sampler=second, **HOW)
    assert report.chunks_resumed == 2
    assert len(first.seen) + len(second.seen) == 4 * report.prompts_new
    pm.sample(after, whole, sampler=Echo(), **HOW)
    assert out.read_bytes() == whole.read_bytes()


@settings(max_examples=10)
@given(st.lists(st.lists(st.sampled_from("pqrstu")), min_size=2, max_size=4))
def test_any_sequence_of_prompts(
    tmp_path_factory: pytest.TempPathFactory, inputs: list[list[str]]
) -> None:
    folder = tmp_path_factory.mktemp("grown")
    known: set[str] = set()
    for number, texts in enumerate(inputs):
        frame, sampler = pl.DataFrame({"prompt": ["stays", *texts]}), Echo()
        report = pm.sample(frame, folder / "out.parquet", sampler=sampler, n=2, chunk_rows=3)
        whole = folder / f"{number}.parquet"
        pm.sample(frame, whole, sampler=Echo(), n=2, chunk_rows=3)
        assert (folder / "out.parquet").read_bytes() == whole.read_bytes()
        assert {request.prompt for request in sampler.seen} == set(frame["prompt"]) - known
        assert report.prompts_before + report.prompts_new == report.prompts
        known = set(frame["prompt"])


# -- with a model


@pytest.mark.score
def test_a_model_samples_new_prompts_as_it_would_all_of_them(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import pools

    pools.one_thread()
    model, frame = pools.causal("gpt2"), prompts(16)
    sampler = pm.LocalSampler(model=model, max_new_tokens=8, threads=1)
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    pm.sample(frame[:10], out, sampler=sampler, n=2)
    report = pm.sample(frame, out, sampler=sampler, n=2)
    pm.sample(frame, whole, sampler=sampler, n=2)
    names = ("prompt", "completion", "id", "seed", "finish_reason", "n_tokens", "duplicate")
    assert (report.prompts_before, report.prompts_new) == (10, 6)
    assert read(out).select(names).equals(read(whole).select(names))
