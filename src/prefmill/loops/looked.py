"""`prefmill.loop_report`: what a loop has come to, from its folder, done or not.

    state.json, the files of stages ──▶ figures of each policy, what became of each stage's samples
    ──▶ the same faces as any report: lines for a terminal, a page, a notebook

Nothing is written, and no lock is taken: a loop that runs may be looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from prefmill.errors import BadInput
from prefmill.loops.figures import draws_itself, rows_of
from prefmill.loops.findings import findings, stop_rule
from prefmill.loops.folder import Record, read_state
from prefmill.loops.recipe import StopSection
from prefmill.loops.told import StageCounts, Stages, sections_of, warnings_of
from prefmill.reports.faces import Faces
from prefmill.reports.found import Warned
from prefmill.reports.parts import Section
from prefmill.telemetry.watch import watched


@dataclass(frozen=True)
class StagesReport(Stages, Faces):
    """What a loop has come to: see `docs/loop.md`.

    `folder` ... `said`: the figures, as `Stages` has them.
    """

    @property
    def warnings(self) -> list[Warned]:
        """What needs a look, in words."""
        return [*warnings_of(self)]

    @cached_property
    def _parts(self) -> list[Section]:
        return sections_of(self)

    @property
    def _title(self) -> str:
        return f"Report on {self.folder} (loop)"

    def as_json(self) -> dict[str, Any]:
        """Plain values only."""
        told = {"ok": self.ok, "warnings": [asdict(each) for each in self.warnings]}
        return {**told, **asdict(self)}


@dataclass(frozen=True)
class _Seen:
    """The folder of a loop that somebody else may work in."""

    folder: Path
    steps: Mapping[str, Record]


@watched("report")
def loop_report(folder: str | Path) -> StagesReport:
    """Look at the folder of a loop: the figures of each policy, what became of each stage's
    samples, and what needs a look.

    Args:
        folder: the output of `prefmill.loop`, done or not. It may be at work.

    Cost: reads the answers to held-out prompts, and the scores of samples. Raises `BadInput` where
    there is no loop.

    >>> loop_report("nowhere")
    Traceback (most recent call last):
    ...
    prefmill.errors.BadInput: report: no loop in 'nowhere': no state.json.
    Hint: name the folder that prefmill loop wrote (-o; runs/RECIPE without it).
    """
    state = read_state(Path(folder))
    if state is None:
        raise BadInput(
            f"report: no loop in {str(folder)!r}: no state.json.",
            hint="name the folder that prefmill loop wrote (-o; runs/RECIPE without it).",
        )
    decides, steps = state["decides"], state["steps"]
    asked = int(decides["stages"])
    seen = _Seen(Path(folder), steps)
    evaluate = decides["evaluate"]
    kl = evaluate["kl"] and draws_itself(evaluate["temperature"], decides["sample"])
    rows = rows_of(seen, range(asked + 1), measures_kl=kl)
    stopped = stop_rule(rows, StopSection(**decides["stop"])) if rows else None
    last = f"stage-{asked}/heldout/"
    whole = [f"{last}score", *([f"{last}second"] if "second" in decides["inputs"] else [])]
    whole += [f"{last}kl"] if kl and asked else []
    figures = steps.get("prompts", {}).get("figures", {})
    return StagesReport(
        folder=str(folder),
        asked=asked,
        unfinished=not stopped and not steps.keys() >= {*whole},
        stopped=stopped,
        prompts={name: count for name, count in figures.items() if count},
        stages=rows,
        samples=[_counts(stage, steps) for stage in range(asked) if _at(stage, "sample") in steps],
        max_new_tokens=decides["sample"].get("max_new_tokens"),
        said=findings(rows, stopped) if rows else ["No policy is measured so far."],
    )


def _at(stage: int, step: str) -> str:
    return f"stage-{stage}/{step}"


def _counts(stage: int, steps: Mapping[str, Record]) -> StageCounts:
    sample, score, select = (
        steps.get(_at(stage, step), {}).get("figures", {}) for step in ("sample", "score", "select")
    )
    dropped = {name: rows for name, rows in select.get("dropped", {}).items() if rows}
    return StageCounts(
        stage=stage,
        prompts=sample.get("prompts", 0),
        answers=sample.get("answers", 0),
        cut_off=sample.get("cut_off", 0),
        scored=score.get("rows_scored", 0),
        unscored={name: rows for name, rows in score.get("null", {}).items() if rows},
        candidates=select.get("rows_in", 0) + dropped.get("cut_off", 0),
        dropped=dropped,
        selected=select.get("selected_rows", 0),
        selected_from=select.get("selected_from", ""),
        mean=select.get("selected_mean"),
    )
