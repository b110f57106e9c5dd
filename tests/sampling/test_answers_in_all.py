"""`-n` is how many answers a prompt gets in all, at whatever temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import prefmill as pm
from prefmill.errors import BadArgument, PlanError
from prefmill.loops.recipe import read_recipe
from prefmill.sampling import Answer, Request


class Echo:
    fingerprint = {"sampler": "echo"}  # noqa: RUF012

    def sample(self, requests: Sequence[Request]) -> list[Answer]:
        return [Answer(str(request.seed), "stop", None, None) for request in requests]


@pytest.mark.parametrize(
    ("n", "temperatures", "wanted"),
    [
        (4, (0.8, 0.9), {0.8: 2, 0.9: 2}),
        (5, (0.8, 0.9), {0.8: 3, 0.9: 2}),
        (4, (0.0, 0.9), {0.0: 1, 0.9: 3}),
        (4, (0.9, 0.0, 0.5), {0.9: 2, 0.0: 1, 0.5: 1}),
        (4, (0.7,), {0.7: 4}),
        (8, (0.0,), {0.0: 1}),
    ],
)
def test_n_is_the_number_of_answers(
    tmp_path: Path, n: int, temperatures: tuple[float, ...], wanted: dict[float, int]
) -> None:
    prompts = pl.DataFrame({"prompt": ["a", "b", "c"]})
    done = pm.sample(
        prompts, tmp_path / "pool.parquet", sampler=Echo(), n=n, temperatures=temperatures
    )
    pool = pl.read_parquet(tmp_path / "pool.parquet")
    assert done.answers == pool.height == 3 * sum(wanted.values())
    for _, rows in pool.group_by("prompt"):
        assert dict(rows["temperature"].value_counts().iter_rows()) == wanted


def test_more_answers_keep_those_that_were_drawn(tmp_path: Path) -> None:
    """The seed of an answer hangs on temperature and index, not on how many there are."""
    prompts = pl.DataFrame({"prompt": ["a", "b"]})
    pools = []
    for n in (4, 6):
        pm.sample(prompts, tmp_path / f"{n}.parquet", sampler=Echo(), n=n)
        pools.append(pl.read_parquet(tmp_path / f"{n}.parquet"))
    assert set(pools[0]["id"]) < set(pools[1]["id"])


def test_fewer_answers_than_temperatures(tmp_path: Path) -> None:
    prompts = pl.DataFrame({"prompt": ["a"]})
    with pytest.raises(
        BadArgument,
        match=r"fewer answers than temperatures; got n 1.*\nHint: --temperature 0\.8 alone, or -n "
        r"2",
    ):
        pm.sample(prompts, tmp_path / "pool.parquet", sampler=Echo(), n=1, temperatures=[0.8, 0.9])
    pm.sample(
        prompts, tmp_path / "pool.parquet", sampler=Echo(), n=1
    )  # temperatures that nobody named are no reason to refuse
    assert pl.read_parquet(tmp_path / "pool.parquet")["temperature"].to_list() == [0.8]
    recipe: dict[str, Any] = {
        "policy": {"model": "m"},
        "prompts": {"train": "p", "heldout_share": 0.5},
        "score": {"model": "rm"},
    }
    with pytest.raises(PlanError, match=r"\[sample\] n: got 1 for the temperatures \[0\.8, 0\.9\]"):
        read_recipe({**recipe, "sample": {"n": 1}})
    assert read_recipe({**recipe, "sample": {"n": 1, "temperatures": [1.0]}}).sample.n == 1
