"""Draw the README's two pictures, the flow and the bars of speed, into docs/pictures.

    python docs/draw_pictures.py

The seconds and ratios come from the tables of benchmarks/README.md; none is written here.
The colours follow the reader's choice of light or dark.
"""

from __future__ import annotations

import re
from pathlib import Path
from xml.sax.saxutils import escape

DOCS = Path(__file__).parent
BENCHMARKS = DOCS.parent / "benchmarks" / "README.md"

WIDTH = 820
STYLE = """
  text { font: 14px system-ui, sans-serif; fill: #1f2328 }
  .small { font-size: 12px; fill: #59636e }
  .title { font-weight: 600 }
  .box { fill: #f6f8fa; stroke: #818b98 }
  .made { fill: #ddf4ff; stroke: #0969da }
  .arrow { stroke: #59636e; stroke-width: 1.5; fill: none; marker-end: url(#tip) }
  .tip { fill: #59636e }
  .other { fill: #afb8c1 }
  .ours { fill: #0969da }
  @media (prefers-color-scheme: dark) {
    text { fill: #f0f6fc }
    .small { fill: #9198a1 }
    .box { fill: #151b23; stroke: #656c76 }
    .made { fill: #0c2d6b; stroke: #4493f8 }
    .arrow { stroke: #9198a1 }
    .tip { fill: #9198a1 }
    .other { fill: #656c76 }
    .ours { fill: #4493f8 }
  }"""
TIP = (
    '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" '
    'orient="auto"><path class="tip" d="M0 0 8 4 0 8z"/></marker>'
)

#: Their rows in the tables of benchmarks/README.md, and what the picture calls them.
PAIRS = {
    "prefmill": "prefmill",
    "prefmill --memory-limit 2GB": "prefmill --memory-limit 2GB",
    "polars group_by over texts": "Polars group_by over the texts",
    "polars copy (no work, all columns)": "Polars copy of the file, no work",
    "duckdb arg_max over texts": "DuckDB arg_max over the texts",
}
POOLS = {
    "prompt 48, answers 128, K 8": "prompt 48, answers 128 tokens, 8 each",
    "prompt 80, answers 80, K 8": "prompt 80, answers 80 tokens, 8 each",
    "prompt 256, answers ≤ 64, K 16": "prompt 256, answers 32 tokens, 16 each",
    "prompt 3 × the completion (48), K 8": "prompt 144, answers 48 tokens, 8 each",
    "prompt 4 × the completion (40), K 16": "prompt 160, answers 40 tokens, 16 each",
    "Encoder: prompt 32, answers 96, K 4, mixed lengths": "encoder, nothing to share",
}


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    """A line of text."""
    return f'<text class="{kind}" x="{x:g}" y="{y:g}" text-anchor="{anchor}">{escape(words)}</text>'


def rectangle(kind: str, x: float, y: float, width: float, height: float, round: int = 6) -> str:
    """A rectangle with round corners."""
    place = f'x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}"'
    return f'<rect class="{kind}" {place} rx="{round}"/>'


def picture(height: int, label: str, parts: list[str]) -> str:
    """The whole file."""
    size = f'viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" aria-label="{label}">'
    return "\n".join([opening, f"<style>{STYLE}\n</style>", TIP, *parts, "</svg>", ""])


# The flow

#: What stands where: name, what it is, left edge, middle, and whether a command makes it.
BOXES = {
    "feedback": ("feedback", "rated answers", 10, 50, False),
    "pairs": ("pairs", "chosen, rejected", 225, 50, True),
    "reward": ("reward model", "", 455, 50, True),
    "prompts": ("prompts", "texts or chats", 10, 165, False),
    "pool": ("pool", "K answers each", 225, 165, True),
    "scored": ("scored pool", "", 455, 165, True),
    "best": ("best of K", "for SFT", 680, 165, True),
}
ACROSS = {
    ("feedback", "pairs"): "pairs",
    ("pairs", "reward"): "train-reward",
    ("prompts", "pool"): "sample",
    ("pool", "scored"): "score",
    ("scored", "best"): "best",
}
BOX = (130, 50)


def flow() -> str:
    """From feedback and prompts to the best of K, and back."""
    parts = []
    width, height = BOX
    for title, note, x, y, made in BOXES.values():
        parts.append(rectangle("made" if made else "box", x, y - height / 2, width, height))
        middle = x + width / 2
        parts.append(text(middle, y - 2 if note else y + 5, title, "title", "middle"))
        if note:
            parts.append(text(middle, y + 15, note, "small", "middle"))
    for (start, end), command in ACROSS.items():
        left, right, y = BOXES[start][2] + width, BOXES[end][2], BOXES[start][3]
        parts.append(f'<path class="arrow" d="M{left} {y}H{right - 2}"/>')
        parts.append(text((left + right) / 2, y - 8, command, "small", "middle"))
    # The reward model scores; the best answers train the next policy.
    x, down = BOXES["reward"][2] + width / 2, BOXES["reward"][3] + height / 2
    parts.append(f'<path class="arrow" d="M{x:g} {down:g}V{165 - height / 2 - 2:g}"/>')
    parts.append(text(x + 8, 112, "scores it", "small"))
    start, end = BOXES["best"][2] + width / 2, BOXES["pool"][2] + width / 2
    parts.append(f'<path class="arrow" d="M{start:g} 190V225H{end:g}V192"/>')
    words = "loop: train on the best, sample again from the trained policy"
    parts.append(text((start + end) / 2, 243, words, "small", "middle"))
    return picture(255, "From feedback to pairs, a reward model and the best of K", parts)


# The bars


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the first table after a heading, by the first cell."""
    part = re.split(rf"^#+ {re.escape(heading)}$", page, flags=re.MULTILINE)[1]
    table = re.search(r"(?:^\|.*\n)+", part, re.MULTILINE)
    assert table, f"no table after {heading!r}"
    cells = [[c.strip(" *") for c in line.split("|")[1:-1]] for line in table[0].splitlines()]
    return {row[0]: row[1:] for row in cells[2:]}


def number(cell: str) -> float:
    """The figure that a cell begins with."""
    return float(cell.split()[0])


def bars(y: int, title: str, values: dict[str, float], unit: str, ours: int) -> list[str]:
    """One bar for each value; the first `ours` of them are prefmill's."""
    parts = [text(10, y, title, "title")]
    longest = max(values.values())
    for place, (name, value) in enumerate(values.items()):
        top = y + 14 + 26 * place
        length = 400 * value / longest
        parts.append(text(285, top + 14, name, "small", "end"))
        parts.append(rectangle("ours" if place < ours else "other", 295, top, length, 18, 3))
        parts.append(text(303 + length, top + 14, f"{value:.{2 if unit == '×' else 1}f} {unit}"))
    return parts


def speed() -> str:
    """The bars of pairs and of scoring."""
    page = BENCHMARKS.read_text("utf-8")
    times = rows(page, "10 million rows")
    seconds = {name: number(times[row][0]) for row, name in PAIRS.items()}
    ratios = {name: number(rows(page, pool)["prefmill"][5]) for pool, name in POOLS.items()}
    first = "Pairs of 10 million rows, whole processes on 2 cores: seconds, less is better"
    second = "Scoring on a CPU: speed over the best plain loop, more is better"
    parts = bars(24, first, seconds, "s", ours=2)
    parts += bars(196, second, ratios, "×", ours=len(ratios))
    return picture(375, "Bars of the speed of pairs and of scoring", parts)


def pictures() -> dict[Path, str]:
    """The pictures by their files."""
    folder = DOCS / "pictures"
    return {folder / "flow.svg": flow(), folder / "speed.svg": speed()}


if __name__ == "__main__":
    for path, drawing in pictures().items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(drawing, "utf-8")
        print(path.relative_to(DOCS.parent))
