"""What all plots of a report share: SVG that takes its colours and type from the page around it.

Matplotlib draws with placeholder colours; they become CSS variables, so one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from energynets.errors import MissingExtraError

if TYPE_CHECKING:
    from energynets.compare.comparison import Row

NUM_COLORS = 8
WIDTH = 9.2  # inches, at 10 points a comfortable size of type on a page
INK, MUTED, GRID, PAPER = "#010101", "#020202", "#030303", "#050505"
_SERIES = [f"#0404{number:02x}" for number in range(NUM_COLORS)]
_DASHES: Any = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))  # so that grey prints can tell lines apart
_MARKERS = "osD^vPX*"
_VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--rule", PAPER: "--paper"} | {
    color: f"--series-{number}" for number, color in enumerate(_SERIES)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "legend.fontsize": 9.5,
    "lines.linewidth": 1.6,
    "text.color": INK,
}


@contextmanager
def drawing(
    name: str, columns: int, height: float, rows: int = 1, **subplots: Any
) -> Iterator[tuple[Any, Any, list[str]]]:
    """A figure as wide as the page, its axes, and a list that gets the finished SVG.

    Args:
        name: of the figure, on the page its own.
        columns: of axes.
        height: in inches.
        rows: of axes.
        subplots: further arguments of matplotlib's `subplots`.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "report.html") from None
    finished: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        # Not pyplot: no window system, no state left behind.
        figure = Figure(figsize=(WIDTH, height))
        figure.set_layout_engine("constrained", h_pad=0.08)
        axes = figure.subplots(rows, columns, squeeze=False, **subplots)
        yield figure, axes.ravel(), finished
        out = io.StringIO()
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    finished.append(_inline(out.getvalue(), name))


def _inline(svg: str, name: str) -> str:
    """The drawing alone, its ids its own on the page, its colours the page's."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(xlink:href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font: (?:[\w.]+ )*?([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    for color, variable in _VARIABLES.items():
        svg = svg.replace(color, f"var({variable})")
    return svg


def colors(rows: Sequence[Row]) -> dict[str, str]:
    """A series colour for each learned row, in order; floor and ceiling are drawn muted."""
    learned = [row.name for row in rows if row.learned]
    palette = {name: _SERIES[number % NUM_COLORS] for number, name in enumerate(learned)}
    return {row.name: palette.get(row.name, MUTED) for row in rows}


def dashes(rows: Sequence[Row]) -> dict[str, Any]:
    """A line style for each learned row, in order."""
    learned = [row.name for row in rows if row.learned]
    # One further with every round of the colours, so that no two rows of 32 look alike.
    return {name: _DASHES[(number + number // NUM_COLORS) % len(_DASHES)] for number, name in enumerate(learned)}


def markers(rows: Sequence[Row]) -> dict[str, str]:
    """A marker for each learned row, in order."""
    learned = [row.name for row in rows if row.learned]
    return {name: _MARKERS[number % len(_MARKERS)] for number, name in enumerate(learned)}


def css_color(rows: Sequence[Row], name: str) -> str:
    """The same colour as a page writes it."""
    return f"var({_VARIABLES[colors(rows)[name]]})"
