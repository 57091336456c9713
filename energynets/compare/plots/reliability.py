"""Predicted probabilities against how often they come true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energynets.compare.plots.figure import MUTED, colors, dashes, drawing, markers

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row

# Of fewer pairs the frequency is mostly chance.
_LEAST = 10


def pooled_bins(row: Row) -> list[dict[str, float]]:
    """The row's bins over all its seeds, counts added up; those without a pair are left out."""
    found: dict[tuple[float, float], dict[str, float]] = {}
    for result in row.results:
        for each in (result.get("calibration") or {}).get("bins", ()):
            if each["count"]:
                one = found.setdefault((each["low"], each["high"]), {"count": 0, "confidence": 0.0, "frequency": 0.0})
                one["count"] += each["count"]
                for key in ("confidence", "frequency"):
                    one[key] += each["count"] * each[key]
    means = ("confidence", "frequency")
    return [
        {"low": low, "high": high, "count": one["count"], **{key: one[key] / one["count"] for key in means}}
        for (low, high), one in sorted(found.items())
    ]


def reliability(comparison: Comparison) -> str | None:
    """Frequency against confidence, perfect calibration on the diagonal; beside it how many pairs each bin holds."""
    rows = [row for row in comparison.rows if row.learned and pooled_bins(row)]
    if not rows:
        return None
    palette, styles, marks = colors(comparison.rows), dashes(comparison.rows), markers(comparison.rows)
    with drawing("reliability", 2, 4.6) as (figure, axes, finished):
        axes[0].plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        for row in rows:
            bins = [one for one in pooled_bins(row) if one["count"] >= _LEAST]
            line: dict[str, Any] = {"color": palette[row.name], "linestyle": styles[row.name], "markersize": 4}
            line |= {"marker": marks[row.name], "linewidth": 1.2}
            confidences = [one["confidence"] for one in bins]
            axes[0].plot(confidences, [one["frequency"] for one in bins], label=row.name, **line)
            axes[1].plot(confidences, [one["count"] for one in bins], **line)
        axes[0].set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes[0].set_title("how often labels given this probability are true")
        axes[0].set_xlabel("predicted probability")
        axes[1].set_title("document-label pairs in each bin")
        axes[1].set_xlabel("predicted probability")
        axes[1].set_yscale("log")
        axes[1].set_xlim(0, 1)
        figure.legend(loc="outside lower center", ncols=min(5, len(rows)))
    return finished[0]
