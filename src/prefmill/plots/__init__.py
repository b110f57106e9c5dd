"""Pictures: lines with intervals as PNG or SVG, and their numbers next to them as CSV.

Matplotlib is loaded for it, without a display.

| part         | what                                                             |
|--------------|------------------------------------------------------------------|
| `lines.py`   | lines against any x, and panels of them                          |
| `curves.py`  | best-of-n curves                                                 |
| `in_text.py` | the same as text, for a terminal                                 |
| `marks.py`   | what they are drawn with: strokes, bands, ticks                  |
| `legends.py` | what colours and styles mean, inside the axes or outside         |
| `style.py`   | fonts, inks, a colour for each line                              |
| `files.py`   | where they are saved, with their numbers, both files or none     |
"""

from __future__ import annotations

from prefmill.plots.curves import plot_curve
from prefmill.plots.files import Plotted, check_plot, files_of
from prefmill.plots.in_text import text_curve
from prefmill.plots.lines import Panel, plot_lines, plot_panels

__all__ = [
    "Panel",
    "Plotted",
    "check_plot",
    "files_of",
    "plot_curve",
    "plot_lines",
    "plot_panels",
    "text_curve",
]
