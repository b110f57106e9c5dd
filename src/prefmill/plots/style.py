"""How pictures look: fonts, inks, and a colour for each line."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from prefmill.errors import MissingPackage

# Okabe and Ito's colours, which people who see no red or no green can tell apart; yellow, too light
# for lines, is left out.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#444444"
_STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#666666",
    "axes.labelcolor": "#222222",
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.color": "#e4e4e4",
    "axes.axisbelow": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 11,
    "legend.fontsize": 9,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",
    "legend.framealpha": 0.85,
    "svg.fonttype": "none",
    "svg.hashsalt": "prefmill",
    "text.parse_math": False,
}
DPI = 150


@contextmanager
def styled() -> Iterator[None]:
    """Our style, whatever the caller's is; that is put back."""
    matplotlib = loaded_matplotlib()
    with matplotlib.rc_context(), warnings.catch_warnings():
        # A box for a letter is no reason to draw nothing.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def loaded_matplotlib() -> Any:
    """Matplotlib. Raises `MissingPackage`."""
    try:
        import matplotlib
    except ImportError:
        raise MissingPackage.for_extra("plot", "matplotlib", "report") from None
    return matplotlib


def colours_of(count: int) -> Sequence[str]:
    """A colour for each of `count` lines; of many they are a scale, in the lines' order."""
    if count <= len(COLOURS):
        return COLOURS[:count]
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return [to_hex(colormaps["viridis"](0.9 * i / (count - 1))) for i in range(count)]
