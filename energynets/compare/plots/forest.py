"""Differences with their intervals: forest plots."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energynets.compare.plots.figure import INK, MUTED, PAPER, colors, drawing
from energynets.compare.statistics import metric_title
from energynets.metrics import split_name

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from energynets.compare.comparison import Comparison
    from energynets.compare.statistics import Difference

_COLUMNS = 5


def forest(comparison: Comparison, titles: Mapping[str, str], name: str = "forest") -> str | None:
    """A panel for each metric, a line for each row: mean difference and 95 % interval, filled where significant.

    Args:
        comparison: with `differences`.
        titles: of the metrics that get a panel, by name.
        name: of the figure.
    """
    palette = colors(comparison.rows)
    found = [each for each in comparison.differences if each.metric in titles]
    return _forest([(titles[each.metric], each.row, palette[each.row], each) for each in found], name)


def gains_forest(found: Sequence[Difference], name: str = "gains") -> str | None:
    """A panel for each metric, a line for each data set and features, and for each share of its labels known."""
    lines = []
    for each in found:
        share = split_name(each.metric)[1]
        # Matplotlib takes what stands between two dollar signs for a formula.
        data = ", ".join(filter(None, (each.data.replace("$", r"\$"), each.features)))
        line = f"{data}, {100 * float(share):g} % known" if share else data
        lines.append((metric_title(each.metric), line, INK, each))
    return _forest(lines, name)


def _forest(found: Sequence[tuple[str, str, str, Difference]], name: str) -> str | None:
    """Of panel, line, colour and difference; None without any."""
    if not found:
        return None
    panels = list(dict.fromkeys(panel for panel, *_ in found))
    names = list(dict.fromkeys(line for _, line, *_ in found))
    columns = min(_COLUMNS, len(panels))
    rows = -(-len(panels) // columns)
    with drawing(name, columns, rows * (0.95 + 0.3 * len(names)), rows) as (_, axes, finished):
        for axis in axes[len(panels) :]:
            axis.remove()
        for number, panel in enumerate(panels):
            axis = axes[number]
            axis.axvline(0, color=MUTED, linewidth=1)
            for on, line, color, difference in found:
                if on != panel:
                    continue
                place = names.index(line)
                if difference.low is not None and difference.high is not None:
                    axis.plot([100 * difference.low, 100 * difference.high], [place] * 2, color=color, linewidth=2)
                mark: dict[str, Any] = {"color": color, "markersize": 6.5, "markeredgewidth": 1.6}
                # Hollow: filled with the colour of the page.
                mark["markerfacecolor"] = color if difference.verdict else PAPER
                axis.plot([100 * difference.mean], [place], "o", **mark)
            axis.margins(x=0.12)
            axis.xaxis.get_major_locator().set_params(nbins=3)
            axis.set_title(panel)
            axis.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.grid(axis="y", visible=False)
            axis.spines["left"].set_visible(False)
            axis.set_xlabel("points" if number >= len(panels) - columns else "")
    return finished[0]
