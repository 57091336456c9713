"""How far from the minimum answers are at most, document by document."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energynets.compare.plots.figure import INK, MUTED, colors, drawing

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row

# A certificate below this says as much as 0: what is left is the rounding of float32.
_FLOOR = 1e-9


def certificates(row: Row) -> np.ndarray:
    """The certificates of a row's documents under all seeds; not those that are infinite."""
    found = [value for one in row.diagnostics for value in (one.get("certificates") or {}).get("values") or ()]
    return np.array([value for value in found if value is not None], np.float64)


def certificate_histogram(comparison: Comparison) -> str | None:
    """A panel for each convex energy: documents by certificate, on a logarithmic axis, the median marked."""
    rows = [row for row in comparison.rows if len(certificates(row))]
    if not rows:
        return None
    palette = colors(comparison.rows)
    columns = min(2, len(rows))
    lines = -(-len(rows) // columns)
    values = {row.name: certificates(row).clip(_FLOOR) for row in rows}
    everything = np.log10(np.concatenate(list(values.values())))
    edges = np.logspace(everything.min() - 0.1, max(everything.max(), everything.min() + 1) + 0.1, 41)
    with drawing("certificates", columns, 2.9 * lines, lines, sharex=True) as (_, axes, finished):
        for axis in axes[len(rows) :]:
            axis.remove()
        for axis, row in zip(axes, rows, strict=False):
            axis.hist(values[row.name], bins=edges, color=palette[row.name], alpha=0.75, linewidth=0)
            median = float(np.median(values[row.name]))
            axis.axvline(median, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            label = f"  median {median:.2g}  "
            left = median > np.sqrt(edges[0] * edges[-1])
            place = {"transform": axis.get_xaxis_transform(), "va": "top", "ha": "right" if left else "left"}
            axis.text(median, 1.0, label, color=MUTED, fontsize=9, **place)
            axis.set_xscale("log")
            axis.margins(y=0.16)
            axis.set_title(row.name)
            axis.set_xlabel("E(y) \N{MINUS SIGN} min E is at most")
            axis.set_ylabel("documents")
            axis.grid(axis="x", visible=False)
    return finished[0]
