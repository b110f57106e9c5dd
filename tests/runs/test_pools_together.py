"""A pool that says its prompts stand together gives what one gives that says nothing.

One pass in order replaces the hashing; a claim that is not true costs that pass, and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import prefmill
from prefmill.runs import run as runs_run
from prefmill.runs.job import together
from prefmill.runs.job.job import Job
from prefmill.table.together import TOGETHER
from prefmill.writers.write import write

PROMPTS = st.sampled_from(["p", "q", "", None, "p "])
CELLS = st.tuples(
    PROMPTS,
    st.sampled_from(["a", "b", "a longer answer", None]),
    st.sampled_from([1.0, 2.0, 2.0, -0.0, float("nan"), float("inf"), None]),
)
ROWS = st.lists(CELLS, max_size=14)
SCHEMA = pl.Schema({"prompt": pl.String, "completion": pl.String, "score": pl.Float64})


def written(frame: pl.DataFrame, path: Path, claim: str | None = "prompt") -> Path:
    frames = [frame] if frame.height else []
    write(frames, frame.schema, path, format="pool", together=claim, overwrite=True)
    return path


def told(report: prefmill.RunReport) -> dict[str, Any]:
    fields = report.as_json()
    return {
        name: value
        for name, value in fields.items()
        if name not in ("engine", "seconds", "peak_rss_mb", "output")
    }


def both(paths: list[Path], folder: Path, plan: Any, **options: Any) -> str:
    """The engine that `auto` took; its output and account are those of DuckDB."""
    given_, reports = [str(path) for path in paths], []
    outputs = [folder / "auto.parquet", folder / "duckdb.parquet"]
    for engine, output in zip(("auto", "duckdb"), outputs, strict=True):
        report = prefmill.run(
            plan, given_, output, engine=engine, overwrite=True, allow_empty=True, **options
        )
        reports.append(report)
    assert told(reports[0]) == told(reports[1])
    one, other = (pl.read_parquet(output) for output in outputs)
    assert one.equals(other, null_equal=True)
    assert one.schema == other.schema
    return reports[0].engine


@settings(max_examples=30)
@given(
    st.lists(ROWS, min_size=1, max_size=3),
    st.booleans(),
    st.integers(1, 3),
    st.sampled_from(["best", "worst", "median", "random"]),
    st.sampled_from([None, 1.5]),
)
def test_any_pool_that_claims_gives_what_hashing_gives(
    tmp_path_factory: pytest.TempPathFactory,
    files: list[list[tuple[Any, ...]]],
    ordered: bool,
    k: int,
    pick: Any,
    min_score: float | None,
) -> None:
    folder = tmp_path_factory.mktemp("together")
    if ordered:  # by file; a prompt may come again in another one
        files = [sorted(rows, key=lambda row: (row[0] is None, row[0] or "")) for rows in files]
    paths = [
        written(pl.DataFrame(rows, schema=SCHEMA, orient="row"), folder / f"{number}.parquet")
        for number, rows in enumerate(files)
    ]
    both(paths, folder, prefmill.BestOf(k=k, pick=pick, min_score=min_score))


def pool(*prompts: Any) -> pl.DataFrame:
    rows = len(prompts)
    columns = {"prompt": prompts, "completion": [f"c{n}" for n in range(rows)]}
    scores = [float(n * 7 % 5) for n in range(rows)]
    return pl.DataFrame(columns | {"score": scores, "id": range(rows)})


@pytest.mark.parametrize(
    ("prompts", "streams"),
    [
        (["p", "p", "q"], True),
        (["p", "q", "p"], False),
        ([None, "p", "p", None, "q"], True),
        (["p", None, "p"], False),
    ],
)
def test_what_streams(tmp_path: Path, prompts: list[Any], streams: bool) -> None:
    path = written(pool(*prompts), tmp_path / "pool.parquet")
    engine = both([path], tmp_path, prefmill.BestOf(k=2))
    assert engine == ("polars" if streams else "duckdb")


def test_a_prompt_in_two_files_is_one(tmp_path: Path) -> None:
    paths = [written(pool("p", "q"), tmp_path / "a.parquet")]
    paths.append(written(pool("q", "r"), tmp_path / "b.parquet"))
    # The run goes on in the second file.
    assert both(paths, tmp_path, prefmill.BestOf()) == "polars"
    assert both(paths[::-1], tmp_path, prefmill.BestOf()) == "duckdb"


def test_messages_as_prompts_stream(tmp_path: Path) -> None:
    asked = [[{"role": "user", "content": text}] for text in "aabbc"]
    path = written(pool(*asked), tmp_path / "pool.parquet")
    assert both([path], tmp_path, prefmill.BestOf()) == "polars"


@pytest.mark.parametrize(
    "plan",
    [
        prefmill.BestOf(scope="pool"),
        prefmill.BestOf(aggregate="mean"),
        prefmill.BestOf(tie_break="id"),
        prefmill.BestOf(length_control=True),
        prefmill.BestOf(pick="rso"),
    ],
)
def test_other_plans_are_ranked_by_hashing(tmp_path: Path, plan: prefmill.BestOf) -> None:
    path = written(pool("p", "p", "q", "q"), tmp_path / "pool.parquet")
    assert both([path], tmp_path, plan) == "duckdb"


def test_a_group_or_another_prompt_is_ranked_by_hashing(tmp_path: Path) -> None:
    frame = pool("p", "p", "q").with_columns(other=pl.Series(["x", "y", "x"]))
    path = written(frame, tmp_path / "pool.parquet")
    assert both([path], tmp_path, prefmill.BestOf(), roles={"group": "other"}) == "duckdb"
    assert both([path], tmp_path, prefmill.BestOf(), roles={"prompt": "other"}) == "duckdb"
    unclaimed = written(frame, tmp_path / "plain.parquet", claim=None)
    assert both([unclaimed], tmp_path, prefmill.BestOf()) == "duckdb"


@pytest.mark.parametrize("rows", [1, 2, 3, 7])
def test_chunks_never_cut_a_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    monkeypatch.setattr(together, "_LEAST_ROWS", rows)
    monkeypatch.setattr(together, "_ROWS", rows)
    path = written(pool(*"aabbbcddddeeeeeeff"), tmp_path / "pool.parquet")
    engine = both([path], tmp_path, prefmill.BestOf(k=2), format="prompt-completion", keep=["id"])
    assert engine == "polars"


def test_a_prompt_with_too_many_rows_is_left_to_the_engine_that_spills(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(together, "_LEAST_ROWS", 1)
    monkeypatch.setattr(together, "_ROWS", 1)
    path = written(pool(*"a" * 20), tmp_path / "pool.parquet")
    assert both([path], tmp_path, prefmill.BestOf()) == "duckdb"


def test_nothing_is_published_before_the_claim_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(pool("p", "q", "p"), tmp_path / "pool.parquet")
    output = tmp_path / "best.parquet"
    output.write_bytes(b"before")
    seen = []

    real = runs_run.picked_frames

    def frames(job: Any) -> Any:
        try:
            yield from real(job)
        finally:
            seen.append(output.read_bytes())

    monkeypatch.setattr(runs_run, "picked_frames", frames)
    prefmill.run(prefmill.BestOf(), str(path), output, overwrite=True)
    assert seen == [b"before"]
    assert pl.read_parquet(output).height == 2


def length(batch: Any) -> list[int]:
    return [len(text) for text in batch["completion"].to_pylist()]


@pytest.mark.parametrize(
    ("prompts", "claims"),
    [("ppqr", True), ("pqpr", False), (["p", None, "q"], True), (["p", None, "p"], False)],
)
def test_score_says_what_is_true(tmp_path: Path, prompts: Any, claims: bool) -> None:
    source = tmp_path / "pool.parquet"
    pool(*prompts).drop("score").write_parquet(source)
    prefmill.score(str(source), tmp_path / "scored.parquet", scorer=length)
    metadata = pq.read_metadata(tmp_path / "scored.parquet").metadata
    assert metadata.get(TOGETHER.encode()) == (b"prompt" if claims else None)


@settings(max_examples=30)
@given(ROWS, st.booleans(), st.sampled_from([0, 50]))
def test_a_curve_is_that_of_hashing(
    tmp_path_factory: pytest.TempPathFactory,
    rows: list[tuple[Any, ...]],
    ordered: bool,
    resamples: int,
) -> None:
    folder = tmp_path_factory.mktemp("curve")
    if ordered:
        rows = sorted(rows, key=lambda row: (row[0] is None, row[0] or ""))
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    paths = [written(frame, folder / f"{claim}.parquet", claim) for claim in ("prompt", None)]
    curves = [prefmill.curve(str(path), resamples=resamples) for path in paths]
    assert curves[0].as_json() == curves[1].as_json()


def test_a_curve_reads_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(pool(*"aabbbc"), tmp_path / "pool.parquet")
    expected = prefmill.curve(pl.read_parquet(path), resamples=10).points

    def never(*_: Any) -> None:
        raise AssertionError("ranked by hashing")

    monkeypatch.setattr(Job, "narrow", never)
    assert prefmill.curve(str(path), resamples=10).points.equals(expected)
