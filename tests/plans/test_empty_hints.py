"""The hint about an empty output names what would change it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

import prefmill as pm
from prefmill.cli.show import nothing_hint

SET = {"chosen_min": 4, "rejected_below": 4}


@pytest.mark.parametrize(
    ("prompts", "scores", "said", "unsaid"),
    [
        ("pp", [5, 5], "2 of 2 rows dropped as tie", "--rejected-below"),
        ("pq", [5, 5], "2 of 2 rows dropped as single_completion", "--rejected-below"),
        ("pq", [1, 2], "2 of 2 rows dropped as single_completion", "--chosen-min"),
        ("pp", [5, 6], "smallest score seen 5, rejected_below 4: raise --rejected-below", "tie"),
        ("pp", [1, 2], "largest score seen 2, chosen_min 4: lower --chosen-min", "tie"),
    ],
)
def test_no_hint_names_a_threshold_that_changes_nothing(
    prompts: str, scores: list[int], said: str, unsaid: str, tmp_path: Path
) -> None:
    rows = pl.DataFrame({"prompt": list(prompts), "completion": ["a", "b"], "score": scores})
    rows.write_parquet(tmp_path / "in.parquet")
    plan = pm.Pairs(**SET)
    hint = nothing_hint(plan, pm.run(plan, tmp_path / "in.parquet", None))
    assert said in hint
    assert unsaid not in hint
