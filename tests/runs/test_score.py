"""`prefmill.score`: any source, every row in its place, resumed after kills, refused when something
differs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from command import prefmill
from scored import expected, length, pool

import prefmill as pm
from prefmill.errors import (
    BadArgument,
    BadInput,
    BadRow,
    PrefmillError,
)

os.environ.setdefault("HF_HUB_OFFLINE", "1")

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")

# -- sources and places


def sources(frame: pl.DataFrame, folder: Path) -> dict[str, Any]:
    import duckdb

    frame.write_parquet(folder / "pool.parquet", row_group_size=13)
    frame.write_ndjson(folder / "pool.jsonl")
    frame.write_csv(folder / "pool.csv")
    half = frame.height // 2
    frame[:half].write_parquet(folder / "a.parquet")
    frame[half:].write_parquet(folder / "b.parquet")
    con = duckdb.connect()
    table = frame.to_arrow()
    con.register("pool", table)
    return {
        "parquet": folder / "pool.parquet",
        "jsonl": str(folder / "pool.jsonl"),
        "csv": [folder / "pool.csv"],
        "two files": [folder / "a.parquet", folder / "b.parquet"],
        "polars": frame,
        "polars lazy": frame.lazy(),
        "duckdb": con.sql("FROM pool"),
        "arrow": table,
        "arrow reader": table.to_reader(max_chunksize=7),
        "arrow dataset": pa.dataset.dataset(folder / "pool.parquet")
        if hasattr(pa, "dataset")
        else table,
    }


@pytest.mark.parametrize(
    "name",
    [
        "parquet",
        "jsonl",
        "csv",
        "two files",
        "polars",
        "polars lazy",
        "duckdb",
        "arrow",
        "arrow reader",
        "arrow dataset",
    ],
)
def test_every_source_gives_every_row_its_score_in_its_place(name: str, tmp_path: Path) -> None:
    import pyarrow.dataset  # noqa: F401

    frame = pool()
    report = pm.score(
        sources(frame, tmp_path)[name], tmp_path / "out.parquet", scorer=length, chunk_rows=7
    )
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out.columns == [*frame.columns, "score"]
    assert out.select(frame.columns).rows() == frame.rows()
    assert out["score"].to_list() == expected(frame)
    assert (report.rows_in, report.rows_scored, dict(report.null)) == (
        frame.height,
        frame.height,
        {},
    )
    assert report.chunks > 10


@pytest.mark.parametrize("streaming", [False, True])
def test_datasets(streaming: bool, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="needs the extra prefmill[datasets]")
    frame = pool()
    source = datasets.Dataset.from_polars(frame)
    source = (
        source.to_iterable_dataset(num_shards=3)
        if streaming
        else source.select(range(frame.height))
    )
    pm.score(source, tmp_path / "out.parquet", scorer=length)
    assert pl.read_parquet(tmp_path / "out.parquet")["score"].to_list() == expected(frame)
    with pytest.raises(BadArgument, match="splits"):
        pm.score(
            datasets.DatasetDict({"train": datasets.Dataset.from_polars(frame)}),
            tmp_path / "other.parquet",
            scorer=length,
        )


@pytest.mark.parametrize("target", ["out.jsonl", "out.csv", "out.arrow", "out"])
def test_targets(target: str, tmp_path: Path) -> None:
    frame = pool(5)
    pm.score(frame, tmp_path / target, scorer=length)
    if target == "out":
        import datasets

        got = datasets.load_from_disk(str(tmp_path / target))["score"][:]
    else:
        read = {"out.jsonl": pl.read_ndjson, "out.csv": pl.read_csv, "out.arrow": pl.read_ipc}[
            target
        ]
        got = read(tmp_path / target)["score"].to_list()
    assert list(got) == expected(frame)


def test_groups_reach_the_scorer_whole_and_once(tmp_path: Path) -> None:
    frame = pool(30)
    seen: list[tuple[str, ...]] = []

    def scorer(batch: pa.RecordBatch) -> list[float]:
        prompts, groups = batch["prompt"].to_pylist(), batch["group"].to_pylist()
        assert len({*zip(prompts, groups, strict=True)}) == len(set(prompts)) == len(set(groups))
        seen.append(tuple(dict.fromkeys(prompts)))
        return length(batch)

    pm.score(frame, tmp_path / "out.parquet", scorer=scorer, chunk_rows=5)
    told = [prompt for chunk in seen for prompt in chunk]
    assert len(told) == len(set(told)) == frame["prompt"].n_unique()
    assert len(seen) > 10


def test_message_lists(tmp_path: Path) -> None:
    def said(text: str, role: str) -> list[dict[str, str]]:
        return [{"role": role, "content": text}]

    frame = pl.DataFrame(
        {
            "prompt": [said("p", "user"), said("q", "user"), said("p", "user")],
            "completion": [said(c, "assistant") for c in "abc"],
        }
    )
    seen = []
    pm.score(
        frame,
        tmp_path / "out.parquet",
        scorer=lambda batch: seen.append(batch["group"].to_pylist()) or [1.0] * batch.num_rows,
    )
    assert seen == [[1, 1, 2]]
    assert (
        pl.read_parquet(tmp_path / "out.parquet")["prompt"].to_list() == frame["prompt"].to_list()
    )


def test_rows_without_texts_are_counted_and_null(tmp_path: Path) -> None:
    frame = pl.DataFrame(
        {"prompt": ["p", None, "p", "q", None], "completion": ["a", "b", None, "", None]}
    )
    report = pm.score(frame, tmp_path / "out.parquet", scorer=length)
    assert pl.read_parquet(tmp_path / "out.parquet")["score"].to_list() == [
        1001.0,
        None,
        None,
        1000.0,
        None,
    ]
    assert (report.rows_in, report.rows_scored, dict(report.null)) == (
        5,
        2,
        {"null_prompt": 2, "null_completion": 1},
    )


def test_no_rows(tmp_path: Path) -> None:
    frame = pl.DataFrame(schema={"prompt": pl.String, "completion": pl.String})
    report = pm.score(frame, tmp_path / "out.parquet", scorer=length)
    assert report.rows_in == 0
    assert pl.read_parquet(tmp_path / "out.parquet").columns == ["prompt", "completion", "score"]


@pytest.mark.parametrize(
    ("value", "said"), [(float("nan"), "nan"), (float("inf"), "inf"), (float("-inf"), "-inf")]
)
def test_what_is_no_number_names_the_row(value: float, said: str, tmp_path: Path) -> None:
    frame = pool(10)
    bad = frame.row(17, named=True)

    def scorer(batch: pa.RecordBatch) -> list[float]:
        texts = zip(batch["prompt"].to_pylist(), batch["completion"].to_pylist(), strict=True)
        return [value if text == (bad["prompt"], bad["completion"]) else 1.0 for text in texts]

    with pytest.raises(BadRow, match=rf"row 17 \(id '{bad['id']}'\) got {said}"):
        pm.score(frame, tmp_path / "out.parquet", scorer=scorer)
    assert not (tmp_path / "out.parquet").exists()


def test_wrong_numbers_of_values_and_wrong_scorers(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"shape \(1,\); expected \(\d+,\)"):
        pm.score(pool(5), tmp_path / "out.parquet", scorer=lambda batch: [1.0])
    with pytest.raises(BadInput, match="no numbers"):
        pm.score(pool(5), tmp_path / "out.parquet", scorer=lambda batch: ["high"] * batch.num_rows)
    with pytest.raises(BadArgument, match="not a scorer"):
        pm.score(pool(5), tmp_path / "out.parquet", scorer=3)


def test_a_score_column_that_is_there(tmp_path: Path) -> None:
    frame = pool(5).with_columns(score=pl.lit(1.0))
    with pytest.raises(BadArgument, match="already has a column 'score'"):
        pm.score(frame, tmp_path / "out.parquet", scorer=length)
    pm.score(frame, tmp_path / "out.parquet", scorer=length, score_column="reward")
    assert pl.read_parquet(tmp_path / "out.parquet").columns[-2:] == ["score", "reward"]


def test_a_role_without_a_column_names_the_columns_of_the_input(tmp_path: Path) -> None:
    frame = pl.DataFrame({"instruction": ["p"], "query": ["q"], "answer": ["a"]})
    with pytest.raises(
        PrefmillError,
        match=r"several columns could be the role 'prompt'; got .* among \['instruction', 'query', "
        r"'answer'\]\.",
    ):
        pm.score(frame, tmp_path / "out.parquet", scorer=length)


def test_ensemble_keeps_its_columns(tmp_path: Path) -> None:
    both = pm.Ensemble(
        scorers={"long": length, "short": lambda batch: [-x for x in length(batch)]}, combine="min"
    )
    report = pm.score(pool(5), tmp_path / "out.parquet", scorer=both)
    assert report.columns == ("score", "score_long", "score_short", "score_disagreement")
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out["score"].to_list() == out["score_short"].to_list()


# -- streaming in memory


@pytest.mark.parametrize("rows", [1, 3, 1000])
def test_stream_in_stream_out(rows: int) -> None:
    frame = pool(shuffled=False)
    reader = pm.score_stream(frame.to_arrow().to_reader(max_chunksize=rows), length, chunk_rows=5)
    out = pl.DataFrame(reader.read_all())
    assert out.select(frame.columns).rows() == frame.rows()
    assert out["score"].to_list() == expected(frame)


def test_stream_holds_little(tmp_path: Path) -> None:
    made = 0

    def batches() -> Any:
        nonlocal made
        for number in range(10_000):
            made += 1
            yield pa.record_batch({"prompt": [f"p{number}"], "completion": ["a"]})

    schema = pa.schema({"prompt": pa.string(), "completion": pa.string()})
    reader = pm.score_stream(
        pa.RecordBatchReader.from_batches(schema, batches()), length, chunk_rows=10
    )
    reader.read_next_batch()
    assert made < 200
    reader.close()


def test_stream_errors_come_out() -> None:
    def broken(batch: pa.RecordBatch) -> list[float]:
        raise RuntimeError("no such luck")

    with pytest.raises(Exception, match="no such luck"):
        pm.score_stream(pool(3), broken).read_all()
    with pytest.raises(Exception, match="row 1 got nan"):
        pm.score_stream(
            pl.DataFrame({"prompt": ["p", "p"], "completion": ["a", "b"]}),
            lambda batch: [1.0, float("nan")],
        ).read_all()


# -- with a model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import tiny_models

    return tiny_models.save_reward_model("llama", tmp_path_factory.mktemp("model"))


def test_too_long_rows(model: Path, tmp_path: Path) -> None:
    frame = pool(10)
    lengths = (frame["prompt"].str.len_chars() + frame["completion"].str.len_chars() + 4).to_list()
    longest = lengths.index(max(lengths))
    limit = sorted(lengths)[len(lengths) // 2]
    over = [n > limit for n in lengths]
    with pytest.raises(
        BadInput,
        match=rf"row \d+ \(id 'id-.*'\) is too long; got \d+ tokens, expected at most {limit}",
    ):
        pm.score(
            frame, tmp_path / "a.parquet", scorer=pm.RewardModel(model=model, max_length=limit)
        )
    report = pm.score(
        frame,
        tmp_path / "b.parquet",
        scorer=pm.RewardModel(model=model, max_length=limit, on_too_long="null"),
    )
    assert dict(report.null) == {"too_long": sum(over)}
    assert pl.read_parquet(tmp_path / "b.parquet")["score"].is_null().to_list() == over
    report = pm.score(
        frame,
        tmp_path / "c.parquet",
        scorer=pm.RewardModel(model=model, max_length=limit, on_too_long="truncate"),
    )
    assert (report.truncated, report.rows_scored) == (sum(over), frame.height)
    best = pm.run(
        pm.BestOf(k=10), tmp_path / "b.parquet", tmp_path / "best.parquet"
    )  # rows without a score are never picked
    assert best.pairs_out == frame.height - sum(over)
    assert best.dropped == {"null_score": sum(over)}
    assert over[longest]


def test_a_completion_that_is_cut_away_has_no_log_probability(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import tiny_models

    scorer = pm.LogProb(
        model=tiny_models.save_causal_model("llama", tmp_path / "model"),
        max_length=20,
        on_too_long="truncate",
    )
    frame = pl.DataFrame(
        {
            "prompt": ["short", "a prompt that fills it all", "not so long"],
            "completion": ["a", "b", "cut in the middle of it"],
        }
    )
    report = pm.score(frame, tmp_path / "out.parquet", scorer=scorer)
    out = pl.read_parquet(tmp_path / "out.parquet")
    assert out["score"].is_null().to_list() == [
        False,
        True,
        False,
    ]  # 0 would be the best of all sums
    assert (dict(report.null), report.truncated) == ({"too_long": 1}, 1)


def test_policy_and_reference_share_one_plan(tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra prefmill[score]")
    import tiny_models

    policy, reference = (
        tiny_models.save_causal_model("llama", tmp_path / str(seed), seed=seed) for seed in (0, 1)
    )
    scorer = pm.ImplicitReward(model=policy, reference=reference, beta=0.5)
    frame = pool(8)
    pm.score(frame, tmp_path / "out.parquet", scorer=scorer)
    out = pl.read_parquet(tmp_path / "out.parquet")
    apart = [pm.LogProb(model=model) for model in (policy, reference)]
    for name, each in zip(("policy", "reference"), apart, strict=True):
        pm.score(frame, tmp_path / f"{name}.parquet", scorer=each)
    sums = [
        pl.read_parquet(tmp_path / f"{name}.parquet")["score"].to_numpy()
        for name in ("policy", "reference")
    ]
    np.testing.assert_allclose(out["score"].to_numpy(), 0.5 * (sums[0] - sums[1]), atol=1e-5)
    works = scorer.prepare(pa.record_batch({"prompt": ["p", "p"], "completion": ["a", "b"]})).works
    assert works[0] is works[1]


def test_several_devices(model: Path, tmp_path: Path) -> None:
    frame = pool()
    scorer = pm.RewardModel(model=model, threads=1)
    pm.score(frame, tmp_path / "one.parquet", scorer=scorer, chunk_rows=9)
    pm.score(frame, tmp_path / "two.parquet", scorer=scorer, chunk_rows=9, devices=["cpu", "cpu"])
    one, two = (
        pl.read_parquet(tmp_path / f"{name}.parquet")["score"].to_list() for name in ("one", "two")
    )
    assert one == two
    with pytest.raises(BadInput, match="too long"):  # what fails in a process fails here
        pm.score(
            frame,
            tmp_path / "three.parquet",
            scorer=pm.RewardModel(model=model, max_length=5),
            devices=["cpu", "cpu"],
        )


# -- command line


def test_command(model: Path, tmp_path: Path) -> None:
    frame = pool(10)
    frame.write_parquet(tmp_path / "pool.parquet")
    command = ["score", tmp_path / "pool.parquet", "-o"]
    done = prefmill(*command, tmp_path / "out.parquet", "--model", model, "--json", models=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["rows_in"], told["rows_scored"], told["way"]) == (
        frame.height,
        frame.height,
        "streams",
    )
    assert f"  scored  {frame.height}  100.0 %" in done.stderr
    pm.score(frame, tmp_path / "here.parquet", scorer=str(model))
    assert pl.read_parquet(tmp_path / "here.parquet").equals(
        pl.read_parquet(tmp_path / "out.parquet")
    )
    for bad, text in {
        (): "no model named",
        ("--model", str(tmp_path / "nowhere")): "no directory",
        ("--model", str(model), "--scorer", "magic"): "expected one of",
        ("--model", str(model), "--beta", "1"): "no meaning for --scorer reward",
        ("--model", str(model), "--scorer", "implicit"): "needs a reference model",
        ("--model", str(model), "--template", "fancy"): "no such template",
        ("--model", str(model), "--device", "tpu9"): "no device",
        ("--model", str(model), "--max-length", "99999"): "more than the model takes",
    }.items():
        failed = prefmill(*command, tmp_path / "other.parquet", *bad, models=True)
        assert failed.returncode in (1, 2), (bad, failed.stderr)
        assert text in failed.stderr, (bad, failed.stderr)
        assert "Traceback" not in failed.stderr


def test_errors_are_ours() -> None:
    for wrong in (
        {"share_prefix": "maybe"},
        {"max_length": 0},
        {"batch_tokens": -1},
        {"on_too_long": "cry"},
        {"pooling": "mean"},
    ):
        with pytest.raises(PrefmillError, match=next(iter(wrong))):
            pm.RewardModel(model="x", **wrong)
    with pytest.raises(PrefmillError, match="beta"):
        pm.ImplicitReward(model="x", reference="y", beta=0)
