"""What quality costs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energynets.compare.plots.figure import MUTED, colors, drawing, markers

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Spread


def quality_cost(comparison: Comparison, metric: str = "f1_example", title: str = "F1") -> str | None:
    """A metric on test against training seconds and against inference ms per document, both on log axes.

    A point for each learned row, whiskers of one standard deviation over seeds; up and left is better. The
    Bayes-optimal value, where there is one, is a dashed line.
    """
    costs = [("training seconds", "train_seconds"), ("inference, ms a document", "inference_ms_per_document")]
    rows = [row for row in comparison.rows if row.learned and row.metric(metric)]
    shown = [(name, key) for name, key in costs if any(_positive(row.quantity(key)) for row in rows)]
    if not shown:
        return None
    ceiling = next((row.metric(metric) for row in comparison.rows if row.kind == "bayes_optimal"), None)
    palette, marks = colors(comparison.rows), markers(comparison.rows)
    with drawing("cost", 2, 3.6) as (figure, axes, finished):
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        handles: dict[str, Any] = {}
        for axis in axes[len(shown) :]:
            axis.remove()
        for axis, (name, key) in zip(axes, shown, strict=False):
            for row in rows:
                cost, quality = row.quantity(key), row.metric(metric)
                if cost is None or quality is None or not _positive(cost):
                    continue
                x, y = cost.mean, 100 * quality.mean
                # On a log axis a whisker must not reach 0.
                across = None if cost.std is None else [[min(cost.std, 0.9 * x)], [cost.std]]
                up = None if quality.std is None else 100 * quality.std
                style = {"color": palette[row.name], "marker": marks[row.name], "markersize": 6, "linestyle": "none"}
                style |= {"capsize": 2.5, "elinewidth": 1}
                handles[row.name] = axis.errorbar(x, y, xerr=across, yerr=up, **style)
            axis.set_xscale("log")
            axis.margins(x=0.1, y=0.14)
            if ceiling is not None:
                axis.axhline(100 * ceiling.mean, color=MUTED, linestyle=(0, (4, 3)), linewidth=1.1)
            axis.set_xlabel(name)
            low, high = axis.get_xlim()
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set_title(f"{title} on test, times 100")
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=min(5, len(rows)))
    return finished[0]


def _positive(spread: Spread | None) -> bool:
    return spread is not None and spread.mean > 0
