"""`prefmill.sample`: every prompt and answer accounted for, seeds that hang on nothing else,
resumed after kills, refused when something differs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from echo import SCHEMA, Echo, prompts, read

import prefmill as pm
from prefmill.errors import (
    BadArgument,
    BadInput,
    ColumnMissing,
    PrefmillError,
    TargetExists,
)
from prefmill.sampling import Answer, Request

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# -- rows


def test_every_prompt_and_answer_is_accounted_for(tmp_path: Path) -> None:
    texts = ["p", None, "q", "p", "", None, "p", "r"]
    frame = pl.DataFrame({"question": texts, "topic": list(range(8))})
    sampler = Echo()
    done = pm.sample(
        frame,
        tmp_path / "pool.parquet",
        sampler=sampler,
        n=7,
        temperatures=[0.9, 0, 0.5],
        keep=["topic"],
        stage=2,
        chunk_rows=8,
    )
    pool = read(tmp_path / "pool.parquet")
    assert dict(pool.schema) == {**SCHEMA, "topic": pl.Int64()}
    assert pool["prompt"].to_list() == [text for text in ("p", "q", "", "r") for _ in range(7)]
    assert pool["temperature"].to_list() == [0.9, 0.9, 0.9, 0.0, 0.5, 0.5, 0.5] * 4
    assert pool["topic"].to_list() == [
        topic for topic in (0, 2, 4, 7) for _ in range(7)
    ]  # of the first row
    assert pool["id"].n_unique() == pool["seed"].n_unique() == 28
    assert pool["seed"].min() >= 0
    assert pool["stage"].to_list() == [2] * 28
    assert pool["source"].to_list() == ["Echo"] * 28
    for row, request in zip(pool.iter_rows(named=True), sampler.seen, strict=True):
        assert (row["prompt"], row["temperature"], row["seed"]) == (
            request.prompt,
            request.temperature,
            request.seed,
        )
        answer = Echo.answer(request)
        found = Answer(
            *(row[name] for name in ("completion", "finish_reason", "logprob", "n_tokens"))
        )
        assert found == answer
    again = pool.select(pl.col("completion").is_first_distinct().over("prompt").not_())[
        "completion"
    ]
    assert pool["duplicate"].to_list() == again.to_list()
    assert (done.prompts_in, done.prompts, done.null_prompts, done.duplicate_prompts) == (
        8,
        4,
        2,
        2,
    )
    reasons = dict(pool["finish_reason"].value_counts().iter_rows())
    assert (done.answers, dict(done.finish_reasons)) == (28, reasons)
    assert (done.stopped, done.cut_off) == (reasons["stop"], reasons["length"])
    assert done.duplicates == pool["duplicate"].sum()
    assert done.empty == (pool["completion"] == "").sum()
    assert (done.tokens, done.untold, done.chunks) == (pool["n_tokens"].sum(), 0, 4)
    assert json.loads(json.dumps(done.as_json()))["stopped"] == done.stopped


def test_sources_and_targets(tmp_path: Path) -> None:
    import duckdb

    frame = prompts(30)
    pm.sample(frame, tmp_path / "pool.parquet", sampler=Echo(), n=4, chunk_rows=7)
    wanted = read(tmp_path / "pool.parquet")
    frame.write_parquet(tmp_path / "p.parquet", row_group_size=4)
    frame.write_ndjson(tmp_path / "p.jsonl")
    frame.write_csv(tmp_path / "p.csv")
    frame[:9].write_parquet(tmp_path / "a.parquet")
    frame[9:].write_parquet(tmp_path / "b.parquet")
    con = duckdb.connect()
    table = frame.to_arrow()
    con.register("prompts", table)
    files = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    sources = [
        tmp_path / "p.parquet",
        str(tmp_path / "p.jsonl"),
        [tmp_path / "p.csv"],
        files,
        frame.lazy(),
        con.sql("FROM prompts"),
        table,
    ]
    for number, source in enumerate(sources):
        pm.sample(source, tmp_path / f"{number}.parquet", sampler=Echo(), n=4, chunk_rows=50)
        assert read(tmp_path / f"{number}.parquet").equals(wanted)
    pm.sample(frame, tmp_path / "pool.jsonl", sampler=Echo(), n=4)
    assert pl.read_ndjson(tmp_path / "pool.jsonl", schema=wanted.schema).equals(wanted)
    pm.sample(frame, tmp_path / "pool.csv", sampler=Echo(), n=4)
    assert (tmp_path / "pool.csv").read_text().startswith("prompt,completion,id,")
    again = pm.sample(
        tmp_path / "pool.parquet", tmp_path / "again.parquet", sampler=Echo(), n=4
    )  # a pool will do
    assert (again.prompts, again.duplicate_prompts) == (30, 90)
    assert read(tmp_path / "again.parquet").equals(wanted)


def test_messages(tmp_path: Path) -> None:
    def said(
        *texts: str, keys: tuple[str, str] = ("role", "content"), who: str = "user"
    ) -> list[dict[str, str]]:
        return [{keys[0]: who, keys[1]: text} for text in texts]

    for number, (keys, who) in enumerate(
        ((("role", "content"), "user"), (("from", "value"), "human"))
    ):
        lists = [
            said("a", "b", keys=keys, who=who),
            said("ab", keys=keys, who=who),
            None,
            said("a", "b", keys=keys, who=who),
        ]
        frame = pl.DataFrame({"prompt": lists})
        sampler = Echo()
        done = pm.sample(
            frame, tmp_path / f"{number}.parquet", sampler=sampler, n=1, temperatures=1
        )
        assert (done.prompts, done.null_prompts, done.duplicate_prompts) == (2, 1, 1)
        assert read(tmp_path / f"{number}.parquet")["prompt"].to_list() == lists[:2]
        assert [request.prompt for request in sampler.seen] == [said("a", "b"), said("ab")]
    with pytest.raises(BadArgument, match="CSV holds no lists"):
        pm.sample(frame, tmp_path / "pool.csv", sampler=Echo())


def test_a_seed_hangs_on_prompt_temperature_index_seed_and_stage(tmp_path: Path) -> None:
    def run(frame: pl.DataFrame, name: str, **more: Any) -> pl.DataFrame:
        pm.sample(
            frame,
            tmp_path / f"{name}.parquet",
            sampler=Echo(),
            **{"n": 6, "temperatures": [0.8, 0.9], **more},
        )
        return read(tmp_path / f"{name}.parquet").sort("id")

    frame = prompts(50)
    whole = run(frame, "whole")
    shuffled = frame.sample(fraction=1, shuffle=True, seed=1)
    assert run(shuffled, "shuffled", chunk_rows=7).equals(whole)
    shards = [run(frame[i::3], f"shard{i}", chunk_rows=20 + i) for i in range(3)]
    columns = list(SCHEMA)
    assert pl.concat(shards).sort("id").select(columns).equals(whole)
    more = run(frame, "more", n=15, temperatures=[0.9, 0.3, 0.8])
    assert (
        more.join(whole, on=columns[:-1], how="semi", nulls_equal=True).height == whole.height
    )  # all but `duplicate`
    for name, other in {
        "seed": run(frame, "seed", seed=1),
        "stage": run(frame, "stage", stage=1),
    }.items():
        assert not set(other["seed"]) & set(whole["seed"]), name
        assert not set(other["id"]) & set(whole["id"]), name
    other = run(frame, "source", source="another")
    assert set(other["seed"]) == set(whole["seed"])
    assert not set(other["id"]) & set(whole["id"])
    assert pl.concat([whole["seed"], more["seed"]]).n_unique() == more.height


def test_errors(tmp_path: Path) -> None:
    frame, out = prompts(4), tmp_path / "pool.parquet"
    for wrong in (
        {"n": 0},
        {"n": True},
        {"seed": 2**63},
        {"seed": 0.5},
        {"stage": "x"},
        {"temperatures": []},
        {"temperatures": [-1]},
        {"temperatures": [float("nan")]},
        {"temperatures": [0.8, 0.8]},
        {"temperatures": [True]},
        {"chunk_rows": 0},
    ):
        with pytest.raises(BadArgument, match=next(iter(wrong))):
            pm.sample(frame, out, sampler=Echo(), **wrong)
    with pytest.raises(BadArgument, match="not a sampler"):
        pm.sample(frame, out, sampler=3)
    with pytest.raises(BadArgument, match="cannot keep"):
        pm.sample(frame, out, sampler=Echo(), keep=["id"])
    with pytest.raises(ColumnMissing, match="'nothing'"):
        pm.sample(frame, out, sampler=Echo(), keep=["nothing"])
    with pytest.raises(ColumnMissing, match="no column for the role 'prompt'; got \\['topic'\\]"):
        pm.sample(frame.select("topic"), out, sampler=Echo())
    with pytest.raises(BadArgument, match="cannot be the role 'prompt'"):
        pm.sample(frame, out, sampler=Echo(), prompt="topic")

    class Short(Echo):
        def sample(self, requests: Sequence[Request]) -> list[Answer]:
            return super().sample(requests)[1:]

    with pytest.raises(BadInput, match="gave 31 answers; expected 32"):
        pm.sample(frame, out, sampler=Short())
    (tmp_path / "there.parquet").write_bytes(b"precious")
    with pytest.raises(TargetExists, match="sample: "):
        pm.sample(frame, tmp_path / "there.parquet", sampler=Echo())
    assert (tmp_path / "there.parquet").read_bytes() == b"precious"
    assert pm.sample(frame[:0], out, sampler=Echo(), overwrite=True).answers == 0
    assert read(out).schema == SCHEMA


# -- with a model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import pools

    pools.one_thread()
    return pools.causal("gpt2")


@pytest.mark.score
def test_prompts_without_room(model: Path, tmp_path: Path) -> None:
    frame = pl.DataFrame({"prompt": ["short", "short", "long" * 130], "id": ["a", "b", "c"]})
    with pytest.raises(
        BadInput,
        match=r"row 2 \(id 'c'\) is too long; got \d+ tokens and 9 new ones, expected at most 512",
    ):
        pm.sample(
            frame,
            tmp_path / "a.parquet",
            sampler=pm.LocalSampler(model=model, max_new_tokens=9),
            n=4,
        )
    sampler = pm.LocalSampler(model=model, max_new_tokens=9, on_too_long="null")
    done = pm.sample(frame, tmp_path / "b.parquet", sampler=sampler, n=4)
    pool = read(tmp_path / "b.parquet")
    assert done.finish_reasons["too_long"] == 4
    assert pool["completion"].is_null().to_list() == [False] * 4 + [True] * 4
    assert not pool["duplicate"][4:].any()
    scored = pm.score(
        tmp_path / "b.parquet", tmp_path / "c.parquet", scorer=lambda batch: [0.0] * batch.num_rows
    )
    assert dict(scored.null) == {"null_completion": 4}


@pytest.mark.score
def test_command(model: Path, tmp_path: Path) -> None:
    frame = prompts(6).rename({"prompt": "question"})
    frame.write_ndjson(tmp_path / "prompts.jsonl")
    out = tmp_path / "pool.parquet"
    command = [
        sys.executable,
        "-m",
        "prefmill",
        "sample",
        str(tmp_path / "prompts.jsonl"),
        "-o",
        str(out),
    ]
    more = [
        "--model",
        str(model),
        "-n",
        "3",
        "--temperature",
        "0",
        "--temperature",
        "1.2",
        "--max-new-tokens",
        "8",
        "--stop",
        "e",
    ]
    done = subprocess.run(
        [*command, *more, "--keep", "topic", "--json", "--threads", "1"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["prompts"], told["answers"], told["way"]) == (6, 18, "together")
    assert "answers 18 100.0 %" in " ".join(done.stderr.split()), done.stderr
    sampler = pm.LocalSampler(model=model, max_new_tokens=8, stop="e", threads=1)
    pm.sample(
        frame,
        tmp_path / "here.parquet",
        sampler=sampler,
        n=3,
        temperatures=[0, 1.2],
        keep=["topic"],
    )
    assert read(tmp_path / "here.parquet").equals(read(out))


def test_wrong_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from prefmill.cli.main import app

    prompts(2).write_ndjson(tmp_path / "prompts.jsonl")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for bad, text in {
        (): "no model named",
        ("--model", "x", "--concurrency", "3"): "--concurrency has no meaning without --url",
        ("--model", "x", "--retries", "0"): "--retries has no meaning without --url",
        ("--model", "/nowhere"): "sample: no directory '/nowhere'",
        (
            "--model",
            "x",
            "--url",
            "http://localhost:1/v1",
            "--device",
            "cpu",
        ): "--device has no meaning with --url",
        ("--model", str(tmp_path / "nowhere")): "no directory",
        ("--model", "x", "--top-p", "2"): "top_p",
        ("--model", "x", "--json", "-o", "-"): "both want stdout",
    }.items():
        output = () if "-o" in bad else ("-o", str(tmp_path / "pool.parquet"))
        with pytest.raises(PrefmillError, match=text):
            app(["sample", str(tmp_path / "prompts.jsonl"), *output, *bad], standalone_mode=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["prompts.jsonl"]
