"""Draw the pictures of docs/concepts: answers of a prompt as dots on the line of their scores.

    python docs/draw_concepts.py

What a picture shows is what a plan gives: each one is computed when it is drawn. An arc goes from
the chosen answer to the rejected one; a filled dot is in the output.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

import prefmill as pm
import prefmill.polars

PICTURES = Path(__file__).parent / "concepts" / "pictures"
WIDTH, LEFT, UNIT, RADIUS = 680, 190, 92, 11
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 12px; fill: #59636e }
  .inside { font-size: 12px; fill: #1f2328; text-anchor: middle }
  .taken { fill: #ffffff }
  .axis, .arc, .cut { fill: none; stroke: #818b98 }
  .arc { stroke: #0969da; stroke-width: 1.5 }
  .cut { stroke: #bc4c00; stroke-dasharray: 4 3 }
  .dot { fill: #f6f8fa; stroke: #818b98 }
  .in { fill: #0969da; stroke: #0969da }
  @media (prefers-color-scheme: dark) {
    text, .inside { fill: #f0f6fc }
    .small { fill: #9198a1 }
    .taken { fill: #ffffff }
    .dot { fill: #151b23; stroke: #656c76 }
    .in { fill: #1f6feb; stroke: #1f6feb }
    .arc { stroke: #4493f8 }
    .cut { stroke: #f0883e }
  }"""


class Line(NamedTuple):
    """One prompt: its answers by name, which of them come out, and the pairs between them."""

    name: str
    scores: Mapping[str, float]
    taken: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    cuts: Mapping[str, float] | None = None
    said: str = ""


def place(score: float) -> float:
    """Where a score from 1 to 5 is."""
    return LEFT + (score - 1) * UNIT


def height(line: Line) -> int:
    """What a line takes: arcs stand above it, names of cuts below."""
    return 54 + (34 if line.pairs else 0) + below(line)


def below(line: Line) -> int:
    """What words below a line take."""
    return 18 * bool(line.cuts) + 16 * bool(line.said)


def drawn(line: Line, top: int) -> list[str]:
    """The line, its dots and arcs."""
    y = top + height(line) - 26 - below(line)
    parts = [
        f'<text x="12" y="{y + 5}">{line.name}</text>',
        f'<path class="axis" d="M{place(1) - 24} {y}H{place(5) + 24}"/>',
    ]
    for name, cut in (line.cuts or {}).items():
        parts += [
            f'<path class="cut" d="M{place(cut) - 16} {y - 24}V{y + 20}"/>',
            f'<text class="small" x="{place(cut) - 12}" y="{y + 32}">{name}</text>',
        ]
    for chosen, rejected in line.pairs:
        start, end = place(line.scores[chosen]), place(line.scores[rejected])
        up = 16 + (start - end) / 9
        from_y = y - RADIUS
        parts.append(
            f'<path class="arc" d="M{start:g} {from_y}Q{(start + end) / 2:g} {from_y - up:.0f}'
            f' {end:g} {from_y}"/>'
        )
    seen: dict[float, int] = {}
    for name, score in line.scores.items():
        x = place(score) + 2.2 * RADIUS * seen.get(score, 0)
        seen[score] = seen.get(score, 0) + 1
        inside = name in line.taken
        parts += [
            f'<circle class="{"in" if inside else "dot"}" cx="{x:g}" cy="{y}" r="{RADIUS}"/>',
            f'<text class="inside{" taken" if inside else ""}" x="{x:g}" y="{y + 4}">{name}</text>',
        ]
    if line.said:
        parts.append(
            f'<text class="small" x="{LEFT - 24}" y="{y + 14 + below(line)}">{line.said}</text>'
        )
    return parts


def picture(title: str, lines: Sequence[Line]) -> str:
    """Lines below one another, over an axis of the scores 1 to 5."""
    top, parts = 8, []
    for line in lines:
        parts += drawn(line, top)
        top += height(line)
    parts += [
        f'<text class="small" x="{place(n)}" y="{top + 10}" text-anchor="middle">{n}</text>'
        for n in range(1, 6)
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 20}" role="img">',
            f"<title>{title}</title>",
            f"<style>{STYLE}\n</style>",
            *parts,
            "</svg>\n",
        ]
    )


def frame(scores: Mapping[str, float]) -> pl.DataFrame:
    """The answers of one prompt."""
    return pl.DataFrame({"prompt": "p", "completion": list(scores), "score": list(scores.values())})


def paired(name: str, scores: Mapping[str, float], cuts: Any = None, **words: Any) -> Line:
    """A line with the pairs that a plan makes of the scores."""
    plan = pm.Pairs(**{"chosen_min": None, "rejected_below": None, **words})
    answers = frame(scores)
    made = plan.lazy(answers.lazy()).collect().select("chosen", "rejected").rows()
    dropped = pm.pair_report(answers, plan).dropped
    said = "" if made else f"no pair: {', '.join(dropped)}"
    return Line(name, scores, sorted({each for pair in made for each in pair}), made, cuts, said)


def pictures() -> dict[Path, str]:
    """Each picture by its path."""
    four = {"a": 1.0, "b": 2.0, "c": 4.0, "d": 5.0}
    cuts = {"chosen_min": 4.0}
    labels = pm.Unpaired(chosen_min=4, rejected_below=2).lazy(frame(four | {"e": 3.0}).lazy())
    told = dict(labels.select("completion", "label").collect().iter_rows())
    drawings = {
        "strategies": picture(
            "The pairs that each strategy makes of four answers",
            [
                paired(strategy, four, strategy=strategy, **more)
                for strategy, more in {
                    "best_worst": {},
                    "best_random": {},
                    "best_rest": {},
                    "adjacent": {},
                    "all": {},
                    "threshold": {"chosen_min": 4, "rejected_below": 2},
                }.items()
            ],
        ),
        "thresholds": picture(
            "Thresholds of 4 and 4: a pair crosses the line",
            [
                paired("crosses", {"a": 2.0, "b": 5.0}, cuts, chosen_min=4, rejected_below=4),
                paired("both below", {"a": 1.0, "b": 3.0}, cuts, chosen_min=4, rejected_below=4),
                paired("both above", {"a": 4.0, "b": 5.0}, cuts, chosen_min=4, rejected_below=4),
            ],
        ),
        "contrast": picture(
            "Equal scores make no pair, and a margin asks for more",
            [
                paired("a tie", {"a": 4.0, "b": 4.0}),
                paired("a gap of 1", {"a": 4.0, "b": 3.0}),
                paired("min_margin 2", {"a": 4.0, "b": 3.0}, min_margin=2),
                paired("min_margin 2", {"a": 4.0, "b": 1.0}, min_margin=2),
            ],
        ),
        "best-of-k": picture(
            "What best-of-K picks of five answers",
            [
                Line(
                    f"{pick}, k = {k}",
                    five := {**four, "e": 3.0},
                    pm.BestOf(k=k, pick=pick)
                    .lazy(frame(five).lazy())
                    .collect()["completion"]
                    .to_list(),
                )
                for pick, k in (("best", 1), ("best", 2), ("median", 1), ("random", 1))
            ],
        ),
        "labels": picture(
            "Labels of five answers",
            [
                Line(
                    f"label {str(label).lower()}",
                    four | {"e": 3.0},
                    [name for name, given in told.items() if given == label],
                    cuts={"rejected_below": 2.0, "chosen_min": 4.0},
                )
                for label in (True, False)
            ],
        ),
    }
    return {PICTURES / f"{name}.svg": drawing for name, drawing in drawings.items()}


if __name__ == "__main__":
    PICTURES.mkdir(parents=True, exist_ok=True)
    for path, drawing in pictures().items():
        path.write_text(drawing, "utf-8")
