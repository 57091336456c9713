"""The plots of a report, as SVG that takes its colours and type from the page around it.

Matplotlib draws with placeholder colours; they become CSS variables, so one drawing serves light and dark pages.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from energynets.errors import MissingExtraError

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row, Spread

NUM_COLORS = 8
_INK, _MUTED, _GRID = "#010101", "#020202", "#030303"
_SERIES = [f"#0404{number:02x}" for number in range(NUM_COLORS)]
_DASHES: Any = ("-", (0, (5, 2)), (0, (1.2, 1.6)), (0, (6, 2, 1.2, 2)))  # so that grey prints can tell lines apart
_VARIABLES = {_INK: "--ink", _MUTED: "--muted", _GRID: "--rule"} | {
    color: f"--series-{number}" for number, color in enumerate(_SERIES)
}
_STYLE: Any = {
    "svg.fonttype": "none",
    "font.size": 10,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _MUTED,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10,
    "axes.titleweight": "normal",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.labelcolor": _INK,
    "lines.linewidth": 1.6,
    "text.color": _INK,
}


@contextmanager
def _figure(
    name: str, columns: int, width: float, height: float, rows: int = 1
) -> Iterator[tuple[Any, Any, list[str]]]:
    """A figure, its axes, and a list that gets the finished SVG."""
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "report.html") from None
    finished: list[str] = []
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": name}):
        # Not pyplot: no window system, no state left behind.
        figure = Figure(figsize=(width, height))
        figure.set_layout_engine("constrained", h_pad=0.12)
        axes = figure.subplots(rows, columns, squeeze=False)
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
    return {row.name: palette.get(row.name, _MUTED) for row in rows}


def dashes(rows: Sequence[Row]) -> dict[str, Any]:
    """A line style for each learned row, in order."""
    learned = [row.name for row in rows if row.learned]
    return {name: _DASHES[number % len(_DASHES)] for number, name in enumerate(learned)}


def css_color(rows: Sequence[Row], name: str) -> str:
    """The same colour as a page writes it."""
    return f"var({_VARIABLES[colors(rows)[name]]})"


def metric_bars(comparison: Comparison, metrics: Sequence[tuple[str, str]]) -> str:
    """A panel for each metric (title, key): a bar for each row, whiskers of one standard deviation, seeds as dots.

    The Bayes-optimal value, where there is one, is a dashed line across the panel.
    """
    rows = [row for row in comparison.rows if row.kind != "bayes_optimal"]
    ceiling = next((row for row in comparison.rows if row.kind == "bayes_optimal"), None)
    palette = colors(comparison.rows)
    columns = min(2, len(metrics))
    lines = -(-len(metrics) // columns)
    with _figure("bars", columns, 9.2, lines * (0.95 + 0.29 * len(rows)), lines) as (_, axes, finished):
        for axis in axes[len(metrics) :]:
            axis.remove()
        for number, (title, key) in enumerate(metrics):
            axis = axes[number]
            for place, row in enumerate(rows):
                value = row.metric(key)
                if value is None:
                    axis.text(0.5, place, "failed", va="center", color=_MUTED)
                    continue
                axis.barh(place, 100 * value.mean, height=0.62, color=palette[row.name], alpha=0.8, linewidth=0)
                if value.std is not None:
                    axis.errorbar(100 * value.mean, place, xerr=100 * value.std, color=_INK, capsize=3, linewidth=1)
                    seeds = [100 * v for v in value.values]
                    axis.plot(seeds, [place] * len(seeds), "o", color=_INK, markersize=2.2, alpha=0.5)
                place_right = {"transform": axis.get_yaxis_transform(), "va": "center", "ha": "right"}
                axis.text(1.13, place, f"{100 * value.mean:.1f}", fontsize=9, **place_right)
            best = ceiling.metric(key) if ceiling else None
            if best is not None:
                axis.axvline(100 * best.mean, color=_MUTED, linestyle=(0, (4, 3)), linewidth=1.1)
                label = f"Bayes-optimal {100 * best.mean:.1f}"
                axis.text(100 * best.mean, -0.62, label, ha="center", va="bottom", fontsize=8.5, color=_MUTED)
            axis.set_title(title, pad=20 if best is not None else 6)
            axis.set_yticks(range(len(rows)), [row.name for row in rows] if number % columns == 0 else [""] * len(rows))
            axis.set_ylim(len(rows) - 0.5, -0.5)
            largest = max(100 * v for row in comparison.rows if (spread := row.metric(key)) for v in spread.values)
            axis.set_xlim(0, 1.04 * largest or 1)
            axis.grid(axis="y", visible=False)
            axis.spines["left"].set_visible(False)
    return finished[0]


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
    palette = colors(comparison.rows)
    with _figure("cost", len(shown), 4.6 * len(shown), 3.6) as (_, axes, finished):
        from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

        for axis, (name, key) in zip(axes, shown, strict=True):
            placed = []
            for row in rows:
                cost, quality = row.quantity(key), row.metric(metric)
                if cost is None or quality is None or not _positive(cost):
                    continue
                x, y = cost.mean, 100 * quality.mean
                # On a log axis a whisker must not reach 0.
                across = None if cost.std is None else [[min(cost.std, 0.9 * x)], [cost.std]]
                up = None if quality.std is None else 100 * quality.std
                style = {"color": palette[row.name], "markersize": 5, "capsize": 2.5, "elinewidth": 1}
                axis.errorbar(x, y, xerr=across, yerr=up, fmt="o", **style)
                placed.append((x, y, row.name))
            axis.set_xscale("log")
            axis.margins(x=0.18, y=0.14)
            # Neighbours in cost have their names on different sides.
            for number, (x, y, text) in enumerate(sorted(placed)):
                side = {"xytext": (0, 7), "va": "bottom"} if number % 2 == 0 else {"xytext": (0, -7), "va": "top"}
                axis.annotate(text, (x, y), textcoords="offset points", ha="center", fontsize=8.5, color=_INK, **side)
            if ceiling is not None:
                axis.axhline(100 * ceiling.mean, color=_MUTED, linestyle=(0, (4, 3)), linewidth=1.1)
            axis.set_xlabel(name)
            low, high = axis.get_xlim()
            axis.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 200 * low else (1.0,)))
            axis.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set_title(f"{title} on test, times 100")
    return finished[0]


def _positive(spread: Spread | None) -> bool:
    return spread is not None and spread.mean > 0


def learning_curves(comparison: Comparison, monitor: str) -> str | None:
    """Validation metric against epochs and against seconds: a thin line for each seed, a dot at each stage's end."""
    rows = [row for row in comparison.rows if any(_curve(lines, monitor) for lines in row.curves)]
    if not rows:
        return None
    palette, styles = colors(comparison.rows), dashes(comparison.rows)
    scale = 1 if monitor == "loss" else 100
    with _figure("curves", 2, 9.2, 3.6) as (figure, axes, finished):
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


def inference_traces(comparison: Comparison) -> str | None:
    """Energy above its last value, and gradient norm, against the step: the mean over validation and seeds."""
    rows = [row for row in comparison.rows if _traces(row, "energy")]
    if not rows:
        return None
    palette, styles = colors(comparison.rows), dashes(comparison.rows)
    with _figure("traces", 2, 9.2, 3.4) as (figure, axes, finished):
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
    return {"value": "symlog", "linthresh": max(sizes[0], 1e-4 * sizes[-1])}


def _traces(row: Row, key: str) -> list[list[float]]:
    found = [(result.get("trace") or {}).get(key) for result in row.results]
    whole = [trace for trace in found if trace and all(value is not None for value in trace)]
    if key != "energy":
        return whole
    # Energies of different models have different zeros; what compares is how far each still has to fall.
    return [[value - trace[-1] for value in trace[:-1]] for trace in whole if len(trace) > 1]
