"""What is wrong with preference data, in words: what it is, what to do, and the line to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path

from prefmill.reports.floors import CHANCE, is_high
from prefmill.reports.found import Figures, Floor, Warned
from prefmill.reports.parts import percent, short
from prefmill.rules.rows import UNUSABLE
from prefmill.rules.tails import holm
from prefmill.shown import amount

#: Shares of rows, prompts or comparisons from which on something is said.
_MUCH, _SOME = 0.5, 0.05

_OF_FLOORS = {
    "length": (
        "A model can learn length instead of quality. Compare its accuracy with this floor, and"
        " look whether the judge likes length more than a person does.",
        "prefmill audit {read} --human {column}",
    ),
    "lists": (
        "A model can learn layout instead of quality. Look whether the judge likes lists at equal"
        " length.",
        "prefmill audit {read} --human {column}",
    ),
    "language": (
        "A model can learn language instead of quality. Look at these pairs, and keep those whose"
        " answers are in one language where that is not what you ask for.",
        "prefmill view {file}",
    ),
    "position": (
        "A judge that is shown both answers prefers a place. Ask it in both orders, and take what"
        " holds in both.",
        "prefmill audit {read}",
    ),
    "source": (
        "A model can learn who wrote an answer. Make pairs inside of a source too, or more of"
        " sources that are close.",
        "prefmill audit {sourced}",
    ),
}


def warnings(figures: Figures) -> list[Warned]:
    """All warnings, those about the whole file first; none of a clean file."""
    told = (_of_rows(figures), _of_answers(figures), _of_splits(figures), _of_annotators(figures))
    more = (_of_benchmarks(figures), _of_cuts(figures), _of_floors(figures))
    return [*chain(*told, *more)]


def file_of(name: str) -> str:
    """A file as a word of a command; several, stdin, and tables in memory, have to be named."""
    unnamed = name == "-" or ", " in name or name.startswith("a ")
    return "FILE..." if unnamed else shlex.quote(name)


def _read(figures: Figures) -> str:
    """The input of a command that reads what the report did."""
    return f"{file_of(figures.name)} {figures.given}".strip()


def _pairs(figures: Figures, options: str, target: str) -> str:
    """A line that makes pairs of what the report read, and has no target that is an input."""
    taken = {part for each in figures.name.split(", ") for part in Path(each).parts}
    while target in taken:
        target = f"new-{target}"
    # What thresholds refuse here they refuse there.
    bounds = "--no-thresholds" if figures.refusal else ""
    merged = re.search(r"--aggregate \w+", figures.funnel_of)
    if merged and "--aggregate" not in options:
        options = f"{options} {merged[0]}".strip()
    words = ("prefmill pairs", _read(figures), options, f"-o {target}", bounds)
    return " ".join(filter(None, words))


def _of_rows(figures: Figures) -> Iterator[Warned]:
    funnel = figures.funnel
    check = f"prefmill check {_read(figures)}"
    if figures.rejected:
        what = f"{amount(figures.rejected, 'malformed row was', 'malformed rows were')} set aside."
        yield Warned("malformed", what, "Look at them, and mend the file.", check)
    # Of a scored pool the best are taken: its scores need no thresholds.
    if figures.refusal and figures.kind == "feedback":
        what, _, hint = figures.refusal.partition(" Hint: ")
        advice = f"{hint[:1].upper()}{hint[1:]}"
        yield Warned("thresholds", what, advice, _pairs(figures, "", "pairs.parquet"))
    if funnel and (bad := _unusable(funnel.dropped)):
        rows = sum(bad.values())
        reasons = ", ".join(f"{name} {count:,}" for name, count in bad.items())
        what = f"{rows:,} of {funnel.rows_in:,} rows cannot be used: {reasons}."
        if figures.made_from:
            check = f"prefmill check {file_of(figures.made_from)} {figures.made_by}".strip()
        yield Warned("unusable", what, "See which, and mend them.", check)
    if figures.scores and funnel and not figures.pairs:
        what = "No pair can be made: no prompt has two answers with different scores."
        advice = "Look whether the right column is the prompt, or sample more answers of each."
        yield Warned("no pairs", what, advice, f"prefmill check {_read(figures)}")


def _of_answers(figures: Figures) -> Iterator[Warned]:
    repeats = figures.repeats
    merged = _pairs(figures, "--aggregate mean", "merged.parquet")
    tied, pairs = figures.ties or (0, 0)
    if pairs and tied / pairs > _MUCH:
        what = f"{percent(tied / pairs)} of comparisons inside prompts are ties."
        if repeats is None or repeats.rows:
            advice = "Let the judge use a finer scale, or take the mean of several judgements."
            yield Warned("ties", what, advice, merged)
        else:
            advice = "Let the judge use a finer scale, or judge each answer several times."
            yield Warned("ties", what, advice)
    if repeats is None:
        return
    if repeats.pairs:
        what = (
            f"{amount(repeats.pairs, 'pair is', 'pairs are')} there already, with the same texts."
        )
        line = _pairs(figures, "--repeats drop", "pairs.parquet")
        yield Warned("repeated pairs", what, "Leave the repeats out.", line)
    elif repeats.pairs is None and repeats.rows > _SOME * figures.rows:
        what = f"{repeats.rows:,} of {figures.rows:,} rows repeat an answer of their prompt."
        if figures.kind == "pool":
            yield Warned("repeated answers", what, "Leave the repeats out.")
        else:
            yield Warned("repeated answers", what, "Merge the judgements of an answer.", merged)
    if repeats.contradictory:
        contrary = amount(repeats.contradictory, "pair contradicts", "pairs contradict")
        what = f"{contrary} another one of the same two answers."
        line = f"prefmill votes {_read(figures)} -o scores.parquet"
        yield Warned("contradictory pairs", what, "Make one score of all judgements.", line)
    if repeats.shared_rows > _SOME * figures.rows:
        what = (
            f"{amount(repeats.shared, 'answer stands', 'answers stand')} word for word under"
            f" several prompts, in {amount(repeats.shared_rows, 'row')}."
        )
        advice = "Look whether they are refusals or boilerplate, and leave those out."
        yield Warned("shared answers", what, advice)


def _unusable(dropped: Mapping[str, int]) -> dict[str, int]:
    """The reasons that are about a row's values, not about what a plan selects."""
    return {name: rows for name, rows in dropped.items() if name in UNUSABLE and rows}


def _of_splits(figures: Figures) -> Iterator[Warned]:
    for overlap in figures.overlaps:
        shared = amount(overlap.prompts, "prompt is", "prompts are")
        what = f"{shared} in both {overlap.one} and {overlap.other}."
        advice = "A score on one is no test of the other. Split by prompt."
        line = _pairs(figures, "--split train=0.95,test=0.05", "pairs")
        yield Warned("leak", what, advice, "" if figures.kind == "pool" else line)
    near = figures.near_prompts
    if near and near.across:
        across = amount(near.across, "prompt is", "prompts are")
        what = f"{across} nearly the same as one of another split."
        advice = "Look at them, and leave them out of one of the splits."
        yield Warned("near leak", what, advice)
    if near and near.near > near.across:
        what = (
            f"{near.near - near.across:,} of {near.texts:,} different prompts are nearly the same"
        )
        advice = "Let near prompts be one group, or leave all but one of them out."
        yield Warned("near prompts", f"{what} as an earlier one.", advice)
    alike = figures.alike
    if alike and alike.across:
        across = amount(alike.across, "prompt means", "prompts mean")
        what = f"{across} nearly the same as one of another split, by {alike.encoder}."
        advice = "Read them, and leave those that ask the same out of one of the splits."
        yield Warned("alike leak", what, advice)


def _of_benchmarks(figures: Figures) -> Iterator[Warned]:
    for each in figures.against:
        if each.prompts or each.answers:
            what = (
                f"{amount(each.prompts, 'prompt')} and {amount(each.answers, 'answer')}"
                f" have words of {each.file}."
            )
            advice = "A score on that benchmark says less. Leave those rows out."
            yield Warned("benchmark", what, advice)


def _of_cuts(figures: Figures) -> Iterator[Warned]:
    cut = figures.cut
    if cut is None:
        return
    words = ("prefmill report", _read(figures), f"--tokenizer {shlex.quote(cut.tokenizer)}")
    again = f"{' '.join(words)} --max-length"
    if cut.same:
        what = (
            f"{amount(cut.same, 'pair is', 'pairs are')} the same after {cut.limit:,} tokens:"
            " both answers differ only beyond."
        )
        advice = "Nothing can be learned from them. Train with a larger --max-length, or leave them"
        if cut.enough is None:
            yield Warned("cut pairs", what, f"{advice} out.", f"{again} {2 * cut.limit}")
        else:
            advice = f"{advice} out: from {cut.enough:,} tokens on all of them differ."
            yield Warned("cut pairs", what, advice, f"{again} {cut.enough}")
    if cut.pairs_cut > _SOME * cut.pairs:
        what = (
            f"{cut.pairs_cut:,} of {cut.pairs:,} pairs have an answer that is longer than"
            f" {cut.limit:,} tokens with its prompt."
        )
        advice = (
            "Training of a reward model leaves them out, DPO does not see their end. The longest"
            f" has {cut.longest:,} tokens: look what a larger --max-length leaves."
        )
        yield Warned("long pairs", what, advice, f"{again} {cut.longest}")
    if cut.unread > _SOME * (cut.pairs + cut.unread):
        what = f"{amount(cut.unread, 'pair')} cannot be read by the tokenizer's template."
        line = f"prefmill check {_read(figures)}"
        yield Warned("unread pairs", what, "Look at their prompts and answers.", line)


def _of_annotators(figures: Figures) -> Iterator[Warned]:
    known = [part for part in figures.annotators if part.agrees is not None]
    for part, p in zip(known, holm([part.p or 0.0 for part in known]), strict=True):
        if p < CHANCE:
            what = (
                f"Where others agree on an answer, {short(part.name, 80)} says the opposite: the"
                f" correlation is {part.agrees:.2f} over {part.met:,} answers."
            )
            advice = "Look whether the scale was read upside down, and leave the rows out if not."
            yield Warned("annotator", what, advice)


def _of_floors(figures: Figures) -> Iterator[Warned]:
    read = sourced = _read(figures)
    if "--source " not in figures.given:
        sourced = f"{read} --source {shlex.quote(figures.source or 'COLUMN')}"
    words = {"read": read, "sourced": sourced, "column": _columns(figures)}
    words["file"] = file_of(figures.name)  # `view` shows all columns, whatever they are called
    for floor in figures.floors:
        # A file may well be in the order of scores: only of two answers side by side it matters.
        placed = floor.name != "position" or figures.kind == "pairs"
        if placed and is_high(floor):
            advice, line = _OF_FLOORS[floor.name]
            yield Warned(floor.name, floor_told(floor), advice, line.format(**words))


def _columns(figures: Figures) -> str:
    """A place for what a person said: of answers side by side a score each, or one verdict."""
    scores = re.search(r"--score (\S+)", figures.line)
    several = scores[1].count(",") if scores and figures.kind == "pairs" else 0
    return ",".join(["COLUMN"] * (several + 1))


def floor_told(floor: Floor) -> str:
    """A high floor in words."""
    share, low, high = (percent(each or 0.0) for each in (floor.share, floor.low, floor.high))
    return (
        f"A guess that takes {floor.what} is right about {share} of {floor.pairs:,} pairs"
        f" ({low} to {high}); of shuffled labels it would be 50 %."
    )
