"""A validation metric as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from energynets.compare.plots.figure import colors, dashes, drawing

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison


def learning_curves(comparison: Comparison, monitor: str) -> str | None:
    """Validation metric against epochs and against seconds: a thin line for each seed, a dot at each stage's end."""
    rows = [row for row in comparison.rows if any(_curve(lines, monitor) for lines in row.curves)]
    if not rows:
        return None
    palette, styles = colors(comparison.rows), dashes(comparison.rows)
    scale = 1 if monitor == "loss" else 100
    with drawing("curves", 2, 3.6) as (figure, axes, finished):
        for row in rows:
            for number, lines in enumerate(row.curves):
                points = _curve(lines, monitor)
                values = [scale * point["value"] for point in points]
                ends = [
                    i
                    for i, point in enumerate(points)
                    if i + 1 == len(points) or points[i + 1]["stage"] != point["stage"]
                ]
                for axis, key in zip(axes, ("epoch", "seconds"), strict=True):
                    places = [point[key] for point in points]
                    label = row.name if number == 0 and axis is axes[0] else None
                    line = {"color": palette[row.name], "linestyle": styles[row.name], "alpha": 0.75}
                    axis.plot(places, values, **line, linewidth=1.2, label=label)
                    marks = [places[i] for i in ends], [values[i] for i in ends]
                    axis.plot(*marks, "o", color=palette[row.name], markersize=3)
        axes[0].set_title(f"validation {monitor}" + (", times 100" if scale == 100 else ""))
        axes[0].set_xlabel("epochs, all stages")
        axes[0].xaxis.get_major_locator().set_params(integer=True)
        axes[1].set_xlabel("training seconds")
        figure.legend(loc="outside lower center", ncols=min(5, len(rows)))
    return finished[0]


def _curve(lines: Sequence[Mapping[str, Any]], monitor: str) -> list[dict[str, Any]]:
    """Validation points of one run, its epochs counted on over the stages."""
    points: list[dict[str, Any]] = []
    before = 0
    for line in lines:
        value = (line.get("validation") or {}).get(monitor)
        if value is None:
            continue
        if points and points[-1]["stage"] != line.get("stage"):
            before = points[-1]["epoch"]
        place = {"epoch": before + line["epoch"], "seconds": line.get("seconds") or 0.0, "stage": line.get("stage")}
        points.append({**place, "value": value})
    return points
