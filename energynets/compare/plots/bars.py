"""Metrics of each row as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from energynets.compare.plots.figure import INK, MUTED, colors, drawing

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison


def metric_bars(comparison: Comparison, metrics: Sequence[tuple[str, str]]) -> str:
    """A panel for each metric (title, key): a bar for each row, whiskers of one standard deviation, seeds as dots.

    The Bayes-optimal value, where there is one, is a dashed line across the panel.
    """
    rows = [row for row in comparison.rows if row.kind != "bayes_optimal"]
    ceiling = next((row for row in comparison.rows if row.kind == "bayes_optimal"), None)
    palette = colors(comparison.rows)
    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    with drawing("bars", columns, lines * (0.95 + 0.29 * len(rows)), lines) as (_, axes, finished):
        for axis in axes[len(metrics) :]:
            axis.remove()
        for number, (title, key) in enumerate(metrics):
            axis = axes[number]
            for place, row in enumerate(rows):
                value = row.metric(key)
                if value is None:
                    axis.text(0.5, place, "failed", va="center", color=MUTED)
                    continue
                axis.barh(place, 100 * value.mean, height=0.62, color=palette[row.name], alpha=0.8, linewidth=0)
                if value.std is not None:
                    axis.errorbar(100 * value.mean, place, xerr=100 * value.std, color=INK, capsize=3, linewidth=1)
                    seeds = [100 * v for v in value.values]
                    axis.plot(seeds, [place] * len(seeds), "o", color=INK, markersize=2.2, alpha=0.5)
                place_right = {"transform": axis.get_yaxis_transform(), "va": "center", "ha": "right"}
                axis.text(1.13, place, f"{100 * value.mean:.1f}", fontsize=9, **place_right)
            best = ceiling.metric(key) if ceiling else None
            if best is not None:
                axis.axvline(100 * best.mean, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.1)
                label = f"Bayes-optimal {100 * best.mean:.1f}"
                axis.text(100 * best.mean, -0.62, label, ha="center", va="bottom", fontsize=8.5, color=MUTED)
            axis.set_title(title, pad=20 if best is not None else 6)
            axis.set_yticks(range(len(rows)), [row.name for row in rows] if number % columns == 0 else [""] * len(rows))
            axis.set_ylim(len(rows) - 0.5, -0.5)
            largest = max(100 * v for row in comparison.rows if (spread := row.metric(key)) for v in spread.values)
            axis.set_xlim(0, 1.04 * largest or 1)
            axis.grid(axis="y", visible=False)
            axis.spines["left"].set_visible(False)
    return finished[0]
