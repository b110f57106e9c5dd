"""Every command killed at random instants, on every kind of target: 1,000 times in the torture.

`PREFMILL_KILLS=200` asks for another number. `tests/support/kills/kill_cases.py` has the table.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kill_cases import CASES
from programs import told_by

TORTURE = int(os.environ.get("PREFMILL_KILLS", "1000"))
#: Groups of cases, each with its share of the kills and of the processes.
SHARES = {"files": 0.3, "commands": 0.2, "pools": 0.14, "grown": 0.16, "tables": 0.12}
LONG = [
    pytest.param(group, round(TORTURE * share / 2), seed, marks=pytest.mark.torture)
    for group, share in {**SHARES, "objects": 0.08}.items()
    for seed in (1, 2)
]
#: Two groups share a process, which imports for seconds what they run.
SHORT = [("files,commands", 26, 5), ("pools,grown", 16, 7), ("tables,objects", 14, 9)]


@pytest.mark.parametrize(("group", "kills", "seed"), [*SHORT, *LONG])
def test_killed_at_random_instants_there_is_old_or_new(
    group: str, kills: int, seed: int, tmp_path: Path
) -> None:
    told = told_by("kill_lives.py", tmp_path / "kills", kills, seed, "--only", group)
    assert sum(told["killed"].values()) >= kills
    assert told["looks"] >= kills


@pytest.mark.parametrize(
    "words",
    [
        ("--case", "unpair object", "--moment", "before"),
        pytest.param((), marks=pytest.mark.torture),
    ],
)
def test_killed_at_every_request_of_a_store(words: tuple[str, ...], tmp_path: Path) -> None:
    told = told_by("request_lives.py", tmp_path / "kills", *words)
    assert told.get("unpair object: before", 0) >= 15
    assert words or {name.split(":")[0] for name in told} == {
        name for name, case in CASES.items() if case.group == "objects"
    }


def test_every_group_is_killed() -> None:
    groups = {case.group for case in CASES.values()}
    assert {*SHARES, "objects"} == groups
    assert {group for both, _, _ in SHORT for group in both.split(",")} == groups
    assert sum(kills for _, kills, _ in SHORT) >= 50
    assert sum(each.values[1] for each in LONG) >= TORTURE
