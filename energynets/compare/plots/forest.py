"""Differences from the reference with their intervals: a forest plot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energynets.compare.plots.figure import MUTED, PAPER, colors, drawing

if TYPE_CHECKING:
    from collections.abc import Mapping

    from energynets.compare.comparison import Comparison

_COLUMNS = 5


def forest(comparison: Comparison, titles: Mapping[str, str], name: str = "forest") -> str | None:
    """A panel for each metric, a line for each row: mean difference and 95 % interval, filled where significant.

    Args:
        comparison: with `differences`.
        titles: of the metrics that get a panel, by name.
        name: of the figure.
    """
    found = [difference for difference in comparison.differences if difference.metric in titles]
    if not found:
        return None
    palette = colors(comparison.rows)
    metrics = list(dict.fromkeys(difference.metric for difference in found))
    names = list(dict.fromkeys(difference.row for difference in found))
    columns = min(_COLUMNS, len(metrics))
    lines = -(-len(metrics) // columns)
    with drawing(name, columns, lines * (0.95 + 0.3 * len(names)), lines) as (_, axes, finished):
        for axis in axes[len(metrics) :]:
            axis.remove()
        for number, metric in enumerate(metrics):
            axis = axes[number]
            axis.axvline(0, color=MUTED, linewidth=1)
            for difference in found:
                if difference.metric != metric:
                    continue
                place, color = names.index(difference.row), palette[difference.row]
                if difference.low is not None and difference.high is not None:
                    axis.plot([100 * difference.low, 100 * difference.high], [place] * 2, color=color, linewidth=2)
                mark: dict[str, Any] = {"color": color, "markersize": 6.5, "markeredgewidth": 1.6}
                # Hollow: filled with the colour of the page.
                mark["markerfacecolor"] = color if difference.verdict else PAPER
                axis.plot([100 * difference.mean], [place], "o", **mark)
            axis.margins(x=0.12)
            axis.xaxis.get_major_locator().set_params(nbins=3)
            axis.set_title(titles[metric])
            axis.set_yticks(range(len(names)), names if number % columns == 0 else [""] * len(names))
            axis.set_ylim(len(names) - 0.5, -0.5)
            axis.grid(axis="y", visible=False)
            axis.spines["left"].set_visible(False)
            axis.set_xlabel("points" if number >= len(metrics) - columns else "")
    return finished[0]
