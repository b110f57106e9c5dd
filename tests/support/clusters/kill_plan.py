"""A plan on a cluster and here: what the tests of losses compare; as a program, one that is killed.

    python kill_plan.py POOL OUTPUT ADDRESS SHUFFLE

Says every step of its progress on a line, `PHASE SHARE`, and last, as JSON, how many tasks it ran.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import polars as pl

import prefmill as pm
from prefmill.runs.cluster import spread
from prefmill.runs.cluster.driver import Cut
from prefmill.runs.cluster.on_ray import RayTasks

PLAN = pm.Pairs(strategy="best_random", seed=11)
ROWS, SPLITS, BUCKETS = 24_000, 6, 4
#: Pieces are above the 100 KB that Ray keeps with the driver, so that they can be lost.
CUT = Cut(ROWS // SPLITS, BUCKETS, part_bytes=1 << 20, row_bytes=400)


def pool() -> pl.DataFrame:
    """Six answers a prompt far apart, with ties, nulls, and pairs of one text twice."""
    prompts, completions, scores = [], [], []
    for row in range(ROWS):
        prompt = row * 7_919 % (ROWS // 6)
        answer = row % 5 if prompt % 7 == 0 else row
        prompts.append(None if row % 997 == 5 else f"what is {prompt}? " * 9)
        completions.append(f"{answer} is so. " * 25)
        scores.append(None if row % 89 == 3 else row * 17 % 23 / 2)
    return pl.DataFrame({"prompt": prompts, "completion": completions, "score": scores})


def on_cluster(source: Path, target: Path, address: str, shuffle: Any, tell: Any = None) -> Any:
    """The plan's run in many small tasks."""
    return spread.run(
        PLAN, source, target, address=address, shuffle=shuffle, cut=CUT, progress=tell
    )


def told(report: pm.RunReport) -> dict[str, Any]:
    """A report without what says where and how fast a run was."""
    told = report.as_json()
    told["notes"] = [note for note in report.notes if not note.startswith("shuffle: ")]
    for name in ("seconds", "peak_rss_mb", "worker_rss_mb", "engine", "output"):
        del told[name]
    return told


def main(source: str, target: str, address: str, shuffle: str) -> None:
    """Run it, and say how far it is."""
    tasks: list[str] = []
    run = RayTasks.run

    def counted(self: RayTasks, work: Any, stage: Any, numbers: Any) -> Any:
        tasks.extend([stage.name] * len(numbers))
        return run(self, work, stage, numbers)

    RayTasks.run = counted  # type: ignore[method-assign]

    def tell(phase: str, share: float | None) -> None:
        print(phase, share, flush=True)

    report = on_cluster(Path(source), Path(target), address, shuffle, tell)
    print(json.dumps({"tasks": len(tasks), "report": told(report)}), flush=True)


if __name__ == "__main__":  # pytest imports every file, for doctests
    main(*sys.argv[1:])
