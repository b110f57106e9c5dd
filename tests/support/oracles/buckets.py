"""Runs in buckets next to local runs of the same plan: equal files, and equal reports."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl
from hypothesis import strategies as st

import prefmill as pm
from prefmill.runs.account.report import RunReport
from prefmill.runs.cluster import spread
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.executor import Inline

#: Several splits, buckets and parts of any input.
TINY = Cut(split_rows=2, buckets=3, part_bytes=64, row_bytes=16)
#: What a report says of the machine, or of where the output is.
_OWN = ("seconds", "peak_rss_mb", "worker_rss_mb", "engine", "output")

CUTS = st.builds(
    Cut,
    split_rows=st.integers(1, 6),
    buckets=st.integers(1, 7),
    part_bytes=st.sampled_from([1, 16, 64, 300, 10_000]),
    row_bytes=st.sampled_from([1, 16, 100]),
)


def told(report: RunReport) -> dict[str, Any]:
    """A report but for what is the machine's own."""
    return {name: value for name, value in asdict(report).items() if name not in _OWN}


def in_buckets(plan: Any, inputs: Any, output: Path, *, cut: Cut = TINY, **more: Any) -> RunReport:
    """A run in tasks of this process."""
    return spread.run(plan, inputs, output, executor=Inline(), cut=cut, **more)


def assert_as_local(
    plan: Any, inputs: Any, folder: Path, name: str = "out.parquet", *, cut: Cut = TINY, **more: Any
) -> RunReport:
    """Both runs write the same files and say the same, or refuse with the same words."""
    local, mine = folder / "local" / name, folder / "buckets" / name
    for target in (local, mine):
        target.parent.mkdir(parents=True, exist_ok=True)
    expected, refusal = outcome(lambda: pm.run(plan, inputs, local, engine="duckdb", **more))
    got, refused = outcome(lambda: in_buckets(plan, inputs, mine, cut=cut, **more))
    assert refused == refusal
    if expected is None or got is None:
        return expected  # type: ignore[return-value]
    assert told(got) == told(expected)
    files = [path.name for path in visible(local.parent)]
    assert [path.name for path in visible(mine.parent)] == files
    for path in files:
        same_file(mine.parent / path, local.parent / path)
    return got


def outcome(run: Any) -> tuple[RunReport | None, str]:
    """What a run gave, or the error that it raised."""
    try:
        return run(), ""
    except pm.PrefmillError as error:
        return None, f"{type(error).__name__}: {error}"


def visible(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if not path.name.startswith("."))


def same_file(mine: Path, local: Path) -> None:
    if local.is_dir():
        import datasets

        loaded, expected = (datasets.load_from_disk(str(path)) for path in (mine, local))
        if isinstance(expected, datasets.DatasetDict):
            assert {name: part.to_list() for name, part in loaded.items()} == {
                name: part.to_list() for name, part in expected.items()
            }
        else:
            assert loaded.features == expected.features
            assert loaded.to_list() == expected.to_list()
    elif local.suffix == ".arrow":  # in batches of whoever wrote them
        assert pl.read_ipc(mine).equals(pl.read_ipc(local)), local.name
    elif local.suffix == ".parquet":
        frame, expected = (pl.read_parquet(path, glob=False) for path in (mine, local))
        assert frame.schema == expected.schema
        assert frame.equals(expected, null_equal=True), local.name
    else:
        assert mine.read_bytes() == local.read_bytes(), local.name
