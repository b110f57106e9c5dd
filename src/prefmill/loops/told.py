"""What a loop has come to, in words: figures, warnings, and the sections of its report."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from prefmill.loops.findings import CUT_OFF, best_stage, ways
from prefmill.loops.plot import PANELS
from prefmill.loops.report import HEADINGS, NOTES, cells
from prefmill.reports.found import Warned
from prefmill.reports.lines import Line, Lines
from prefmill.reports.parts import Grid, Section, percent

#: The share of rows without a score from which on something is said.
_SOME = 0.05


@dataclass(frozen=True)
class StageCounts:
    """What became of the samples of a stage.

    Of `prompts` were drawn `answers`, `cut_off` of them at the limit of tokens; `scored` of them
    have a score, `unscored` ones not, by reason. `candidates` are those of all stages that
    selection could take, `dropped` by reason; `selected` were trained on, with `mean` score.
    """

    stage: int
    prompts: int
    answers: int
    cut_off: int
    scored: int
    unscored: Mapping[str, int]
    candidates: int
    dropped: Mapping[str, int]
    selected: int
    selected_from: str
    mean: float | None


@dataclass(frozen=True)
class Stages:
    """The figures of a loop.

    `asked` are the stages of the recipe. `stages` are the figures of each policy that is measured,
    by name, as `stages.parquet` has them; `samples` what became of the samples of each stage;
    `prompts` how many there are, and why others were left out. `said` are findings in sentences;
    `stopped` is the rule that ended the loop, or None. `unfinished`: there are steps to do.
    """

    folder: str
    asked: int
    unfinished: bool
    stopped: str | None
    prompts: Mapping[str, int]
    stages: Sequence[Mapping[str, Any]]
    samples: Sequence[StageCounts]
    max_new_tokens: int | None
    said: Sequence[str]


def warnings_of(report: Stages) -> Iterator[Warned]:
    """What needs a look."""
    folder = shlex.quote(report.folder)
    if report.unfinished:
        done = len(report.stages)
        what = f"The loop is not done: {done} of {report.asked + 1} policies are measured."
        advice = "The same command goes on where it ended."
        yield Warned("unfinished", what, advice, f"prefmill loop RECIPE -o {folder}")
    yield from _of_judges(report)
    yield from _of_answers(report)


def _of_judges(report: Stages) -> Iterator[Warned]:
    if len(report.stages) < 2:
        return
    best, last = best_stage(report.stages), int(report.stages[-1]["stage"])
    both = ways(report.stages[0], report.stages[-1])
    if both == ("up", "down"):
        what = "The judge that selected likes the last policy better, the second one likes it less."
        advice = (
            "That is what reward hacking looks like. Read answers of both policies, and take an"
            " earlier one, or a better judge."
        )
        line = f"prefmill view {shlex.quote(f'{report.folder}/stage-{last}/heldout/score.parquet')}"
        yield Warned("reward hacking", what, advice, line)
    if both[0] == "down":
        what = "Training lowered the reward that it selected for."
        advice = "Take a smaller learning rate, or fewer epochs, in a folder of its own."
        line = (
            f"prefmill loop RECIPE -o NEW --set train.epochs=1 --reuse {shlex.quote(report.folder)}"
        )
        yield Warned("lower reward", what, advice, line)
    elif best != last:
        place = (
            "the model it began with" if best == 0 else f"{report.folder}/stage-{best - 1}/policy"
        )
        what = f"The largest mean reward is that of stage {best}, not of the last one ({last})."
        yield Warned("best stage", what, f"Take the policy of stage {best}: {place}.")


def _of_answers(report: Stages) -> Iterator[Warned]:
    last = report.stages[-1] if report.stages else {}
    pooled = report.samples[-1] if report.samples else None
    shares = [last.get("cut_off") or 0.0]
    shares += [pooled.cut_off / pooled.answers] if pooled and pooled.answers else []
    if max(shares) > CUT_OFF:
        what = f"{percent(max(shares))} of answers of the last stage were cut off."
        advice = "Their scores are those of unfinished answers. Let answers be longer."
        tokens = 2 * report.max_new_tokens if report.max_new_tokens else "TOKENS"
        line = f"prefmill loop RECIPE -o NEW --set sample.max_new_tokens={tokens}"
        yield Warned("cut off", what, advice, line)
    for each in report.samples:
        lost = sum(each.unscored.values())
        if lost > _SOME * (each.scored + lost):
            reasons = ", ".join(f"{name} {rows:,}" for name, rows in each.unscored.items())
            what = f"{lost:,} samples of stage {each.stage} have no score: {reasons}."
            scored = f"{report.folder}/stage-{each.stage}/scored.parquet"
            line = f"prefmill check {shlex.quote(scored)}"
            yield Warned("unscored", what, "Look at them, and at what the scorer reads.", line)


def sections_of(report: Stages) -> list[Section]:
    """The parts of the report."""
    return [_run(report), _policies(report), _samples(report), _time(report), _notes()]


def _run(report: Stages) -> Section:
    state = "at work, or killed" if report.unfinished else "done"
    rows = [
        ("stages asked for", f"{report.asked:,}"),
        ("policies measured", f"{len(report.stages):,}"),
        ("state", report.stopped or state),
    ]
    rows += [(f"prompts: {name}", f"{count:,}") for name, count in report.prompts.items()]
    return Section("The loop", report.said, [Grid("What was found", ("", ""), rows)])


def _policies(report: Stages) -> Section:
    shown = [cells(row) for row in report.stages]
    # A figure is a row: with their intervals all of them do not stand side by side.
    rows = [(name, *values) for name in HEADINGS if any(values := [row[name] for row in shown])]
    table = Grid("Figures by policy", ("", *(f"stage {row['stage']}" for row in shown)), rows)
    labels = [str(row["stage"]) for row in report.stages]
    pictures = []
    for panel in PANELS:
        drawn = [
            Line(
                name,
                [row.get(column) for row in report.stages],
                [row.get(f"{column}_low") for row in report.stages],
                [row.get(f"{column}_high") for row in report.stages],
            )
            for column, name in panel.lines.items()
            if sum(row.get(column) is not None for row in report.stages) > 1
        ]
        if drawn:
            title = panel.title[:1].upper() + panel.title[1:]
            pictures.append(Lines(title, labels, drawn, "stage"))
    return Section("Held-out prompts, by policy", (), [table, *pictures] if shown else pictures)


def _samples(report: Stages) -> Section:
    head = ("stage", "prompts", "answers", "cut off", "scored", "candidates", "selected")
    rows = [
        (
            f"{each.stage}",
            *(f"{count:,}" for count in (each.prompts, each.answers, each.cut_off)),
            *(f"{count:,}" for count in (each.scored, each.candidates, each.selected)),
        )
        for each in report.samples
    ]
    lost = [
        (f"{each.stage}", kind, reason, f"{count:,}")
        for each in report.samples
        for kind, reasons in (("no score", each.unscored), ("not a candidate", each.dropped))
        for reason, count in reasons.items()
    ]
    scores = [
        (
            f"{row['stage']}",
            f"{row['pool_mean']:.4g}",
            f"{row['pool_best']:.4g}",
            "" if each.mean is None else f"{each.mean:.4g}",
            each.selected_from,
        )
        for row, each in zip(report.stages, report.samples, strict=False)
        if row.get("pool_mean") is not None
    ]
    words = ["Candidates are the samples of all stages so far. Each of them is selected or not."]
    parts = [Grid("What became of samples", head, rows)] if rows else []
    if lost:
        parts.append(Grid("Why samples are out", ("stage", "what", "reason", "rows"), lost))
    if scores:
        names = ("stage", "mean of samples", "best of each prompt", "mean of selected", "of stages")
        parts.append(Grid("Their scores", names, scores))
    return Section("What was trained on", words if rows else ["Nothing yet."], parts)


def _time(report: Stages) -> Section:
    steps = list(dict.fromkeys(step for row in report.stages for step in row["seconds"]))
    rows = [
        (f"{row['stage']}", *(f"{row['seconds'].get(step, 0):.1f}" for step in steps))
        for row in report.stages
    ]
    words = ["Seconds of wall time, of the process that finished the step."]
    return Section("Time", words, [Grid("Seconds by step", ("stage", *steps), rows)])


def _notes() -> Section:
    return Section("How to read this", NOTES)
