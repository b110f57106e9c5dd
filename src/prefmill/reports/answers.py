"""Sections about answers: what the best of n is worth, and what a limit of tokens cuts."""

from __future__ import annotations

from prefmill.reports.found import Cut, Figures
from prefmill.reports.lines import Line, Lines
from prefmill.reports.parts import Grid, Section, percent


def best_of(figures: Figures) -> Section | None:
    """What the best of n answers of a prompt scores on average."""
    points = figures.best_of
    if not points:
        return None
    words = [
        "What the best of n answers of a prompt scores on average: what best-of-n, or training on"
        " the best, can win by these scores. A judge that errs is chosen for its errors, too."
    ]
    best = Line(
        "best of n",
        [each.best for each in points],
        [each.low for each in points],
        [each.high for each in points],
    )
    mean = Line("mean", [each.mean for each in points])
    labels = [f"{each.n:,}" for each in points]
    rows = [
        (
            f"{each.n:,}",
            f"{each.best:.4g}",
            _between(each.low, each.high),
            f"{each.mean:.4g}",
            f"{each.prompts:,}",
        )
        for each in points
    ]
    head = ("n", "best of n", "95 % interval", "mean", "prompts with n")
    drawn = Lines("Score by the number of answers", labels, [best, mean], "n")
    return Section("Best of n", words, [drawn, Grid("Best of n", head, rows)])


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def cut(figures: Figures) -> Section | None:
    """Which answers a limit of tokens cuts, and which pairs it makes the same."""
    cut = figures.cut
    if cut is None:
        return None
    words = [
        f"Prompt and answer together, by the tokenizer in {cut.tokenizer}, in tokens. Of a longer"
        f" one it cuts the {cut.end} ones off, as scoring with --on-too-long truncate does. TRL's"
        " DPO keeps the first ones. TRL's reward trainer and prefmill train-reward leave a pair"
        " out that has a longer answer."
    ]
    return Section(
        f"At {cut.limit:,} tokens", words, [Grid("What a limit cuts", ("", ""), _cut_rows(cut))]
    )


def _cut_rows(cut: Cut) -> list[tuple[str, str]]:
    rows = [
        ("answers", f"{cut.answers:,}"),
        ("longer than the limit", _of(cut.cut, cut.answers)),
        ("tokens of the longest", f"{cut.longest:,}"),
    ]
    if cut.pairs or cut.unread:
        rows.append(("pairs", f"{cut.pairs:,}"))
        rows.append(("with an answer that is longer", _of(cut.pairs_cut, cut.pairs)))
        rows.append(("the same after the cut", _of(cut.same, cut.pairs)))
    if cut.enough is not None:
        rows.append(("a limit that keeps all different", f"{cut.enough:,}"))
    if cut.unread:
        rows.append(("pairs that its template cannot read", f"{cut.unread:,}"))
    return rows


def _of(count: int, whole: int) -> str:
    return f"{count:,} ({percent(count / max(1, whole))})"
