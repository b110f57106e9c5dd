"""Any cut of any input into splits, buckets and parts gives what a local run gives."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from buckets import CUTS, assert_as_local, in_buckets
from engines import ALL_PROMPTS, needs_all_prompts
from hypothesis import given
from hypothesis import strategies as st
from laws import common
from strategies import Problem, problems

from prefmill.errors import BadArgument
from prefmill.runs.cluster.driver import Cut


@common
@given(problem=problems(max_rows=24), cut=CUTS, files=st.integers(1, 3))
def test_any_cut_gives_the_local_run(problem: Problem, cut: Cut, files: int) -> None:
    table = problem.table()
    with tempfile.TemporaryDirectory() as name:
        folder, inputs = Path(name), []
        for place in range(files):
            first, last = (len(table) * each // files for each in (place, place + 1))
            inputs.append(folder / f"in-{place}.parquet")
            pq.write_table(table.slice(first, last - first), inputs[-1])
        more = {"roles": problem.roles, "allow_empty": True}
        if needs_all_prompts(problem.plan):
            with pytest.raises(BadArgument, match=ALL_PROMPTS):
                in_buckets(problem.plan, inputs, folder / "out.parquet", cut=cut, **more)
        else:
            assert_as_local(problem.plan, inputs, folder, cut=cut, **more)
