"""Energy and gradient norm as inference goes on."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from energynets.compare.plots.figure import colors, dashes, drawing

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row


def inference_traces(comparison: Comparison) -> str | None:
    """Energy above its last value, and gradient norm, against the step: the mean over validation and seeds."""
    rows = [row for row in comparison.rows if _traces(row, "energy")]
    if not rows:
        return None
    palette, styles = colors(comparison.rows), dashes(comparison.rows)
    with drawing("traces", 2, 3.4) as (figure, axes, finished):
        for row in rows:
            for axis, key in zip(axes, ("energy", "gradient_norm"), strict=True):
                traces = _traces(row, key)
                for trace in traces:
                    axis.plot(trace, color=palette[row.name], alpha=0.3, linewidth=0.9)
                mean = [statistics.fmean(values) for values in zip(*traces, strict=False)]
                label = row.name if axis is axes[0] else None
                line = {"color": palette[row.name], "linestyle": styles[row.name]}
                axis.plot(mean, marker="o", **line, markersize=3, label=label)
        axes[0].set_title("energy above that of the last step")
        axes[1].set_title("gradient norm ‖dE/dy‖")
        for axis, key in zip(axes, ("energy", "gradient_norm"), strict=True):
            axis.set_yscale(**_scale([value for row in rows for trace in _traces(row, key) for value in trace]))
            axis.set_xlabel("inference step")
            axis.xaxis.get_major_locator().set_params(integer=True)
        figure.legend(loc="outside lower center", ncols=min(5, len(rows)))
    return finished[0]


def _scale(values: Sequence[float]) -> dict[str, Any]:
    """Linear where that shows most of the values, else logarithmic: on both sides of 0 where a step undershoots."""
    sizes = sorted(abs(value) for value in values if value)
    if not sizes or statistics.median(sizes) > sizes[-1] / 30:
        return {"value": "linear"}
    if min(values) >= 0:
        return {"value": "log", "nonpositive": "mask"}
    return {"value": "symlog", "linthresh": 10 ** math.ceil(math.log10(max(sizes[0], 1e-2 * sizes[-1])))}


def _traces(row: Row, key: str) -> list[list[float]]:
    found = [(result.get("trace") or {}).get(key) for result in row.results]
    whole = [trace for trace in found if trace and all(value is not None for value in trace)]
    if key != "energy":
        return whole
    # Energies of different models have different zeros; what compares is how far each still has to fall.
    return [[value - trace[-1] for value in trace[:-1]] for trace in whole if len(trace) > 1]
