"""What a plan expects of a run in tasks."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest
from buckets import in_buckets

import prefmill as pm
from prefmill.errors import ExpectationFailed, RunDiffers

ROWS = {
    "prompt": ["p", "p", "q", "q", "r"],
    "completion": ["a", "b", "a", "b", "a"],
    "score": [5, 1, 5, 2, 3],
    "source": ["web", "web", "app", None, "web"],
}
TABLE = pl.DataFrame(ROWS)


@pytest.mark.parametrize("name", ["out.parquet", "new/out-*.parquet"])
@pytest.mark.parametrize(
    "expect", [pm.Expect(min_rows=3), pm.Expect(sources=["web", "app"]), pm.Expect(max_dropped=0.1)]
)
def test_a_run_that_breaks_it_publishes_nothing_and_binds_nobody(
    expect: pm.Expect, name: str, tmp_path: Path
) -> None:
    target = tmp_path / name
    with pytest.raises(ExpectationFailed):
        in_buckets(pm.Pairs(expect=expect), TABLE, target)
    assert not list(tmp_path.rglob("out*.parquet"))
    sources = pm.Expect(min_rows=2, sources=["web", "app", "null"])
    report = in_buckets(pm.Pairs(expect=sources), TABLE, target)
    assert [each["holds"] for each in report.expected] == [True, True]
    assert report.sources == {"web": 3, "app": 1, "null": 1}
    assert list(target.parent.glob("out*.parquet"))


def test_a_run_that_was_done_has_to_hold_what_is_expected_now(tmp_path: Path) -> None:
    target = tmp_path / "out.parquet"
    in_buckets(pm.Pairs(), TABLE, target)
    report = in_buckets(pm.Pairs(expect=pm.Expect(min_rows=2)), TABLE, target)
    assert report.notes[-1].startswith("this run was done before")
    assert [each["holds"] for each in report.expected] == [True]
    with pytest.raises(ExpectationFailed, match="min_rows: got 2, expected >= 3"):
        in_buckets(pm.Pairs(expect=pm.Expect(min_rows=3)), TABLE, target)
    assert pl.read_parquet(target).height == 2
    # Sources of that run were not counted.
    with pytest.raises(RunDiffers, match="carried"):
        in_buckets(pm.Pairs(expect=pm.Expect(sources=["web"])), TABLE, target)
