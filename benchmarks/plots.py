"""Time and memory against T, and time against L: every contestant's line and the limit's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.rivals import Ours
from energynets.errors import MissingExtraError

Line = list[tuple[float, float]]
_LIMIT = "limit: products alone"
# Okabe & Ito's colours, told apart by readers of any colour vision; markers tell where lines meet.
_LOOKS = {
    "energynets": ("#0072B2", "o"),
    "autograd loop": ("#D55E00", "s"),
    "torchopt": ("#E69F00", "^"),
    "higher": ("#CC79A7", "v"),
    "jax unrolled": ("#009E73", "D"),
    "jax scan": ("#56B4E9", "P"),
    "optimistix": ("#7A6A53", "X"),
}
_OTHERS = (("#8064A2", "<"), ("#4D4D4D", ">"), ("#A6761D", "*"))
_STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "energynets",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.labelcolor": "#333333",
    "axes.edgecolor": "#888888",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.7,
    "xtick.color": "#555555",
    "ytick.color": "#555555",
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 9,
    "figure.facecolor": "white",
}


def write_plots(result: Mapping[str, Any], beside: Path, suffix: str = "svg") -> list[Path]:
    """Write `<name>-time-steps`, `-memory-steps` and `-time-labels` beside a result, where it has the points.

    Raises:
        MissingExtraError: there is no matplotlib.
    """
    cases = [case for case in result["cases"] if case["task"] == "training"]
    shapes = _grouped(
        cases, lambda case: (case["energy"], case["labels"], case["measurements"], case["batch"]), "steps"
    )
    sizes = _grouped(cases, lambda case: (case["energy"], case["measurements"], case["batch"], case["steps"]), "labels")
    sizes = {key: group for key, group in sizes.items() if key[0] == "spen"}
    plots: dict[str, tuple[Any, ...]] = {
        "time-steps": (shapes, "steps", _milliseconds_a_step, "training step / T, ms", "steps T", "log", "linear"),
        "memory-steps": (shapes, "steps", _megabytes, "peak beyond the inputs, MB", "steps T", "linear", "linear"),
        "time-labels": (_longest(sizes), "labels", _milliseconds, "training step, ms", "labels L", "log", "log"),
    }
    written = []
    for name, (groups, key, value, y_label, x_label, *scales) in plots.items():
        panels = {title: lines for title, group in groups.items() if (lines := _lines(group, key, value))}
        if not panels:
            continue
        path = beside.with_name(f"{beside.stem}-{name}.{suffix}")
        titled = [(_title(title, key), lines) for title, lines in panels.items()]
        with _figure(titled, _footer(result), (x_label, y_label), scales) as figure:
            figure.savefig(path, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
        written.append(path)
    return written


def _grouped(
    cases: Sequence[Mapping[str, Any]], key: Callable[[Mapping[str, Any]], tuple[Any, ...]], along: str
) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    """Cases that differ along one axis only, of those there are two or more."""
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for case in sorted(cases, key=lambda case: case[along]):
        groups.setdefault(key(case), []).append(case)
    return {name: group for name, group in groups.items() if len(group) > 1}


def _longest(groups: dict[tuple[Any, ...], list[Mapping[str, Any]]]) -> dict[tuple[Any, ...], list[Mapping[str, Any]]]:
    if not groups:
        return {}
    name = max(groups, key=lambda name: len(groups[name]))
    return {name: groups[name]}


def _lines(group: Sequence[Mapping[str, Any]], key: str, value: Callable[..., Any]) -> dict[str, Line]:
    lines: dict[str, Line] = {}
    for case in group:
        rows = [(row["contestant"], row) for row in case["rows"] if row["status"] == "timed"]
        for name, row in [*rows, (_LIMIT, case["limit"])]:
            found = value(row, case)
            if found:
                lines.setdefault(name, []).append((case[key], found))
    return lines


def _milliseconds(row: Mapping[str, Any], case: Mapping[str, Any]) -> float | None:
    return row.get("median_ms")


def _milliseconds_a_step(row: Mapping[str, Any], case: Mapping[str, Any]) -> float | None:
    # Over T, lines are nearly level: what is left to see is who is faster.
    return row["median_ms"] / case["steps"] if row.get("median_ms") else None


def _megabytes(row: Mapping[str, Any], case: Mapping[str, Any]) -> float | None:
    peak = row.get("peak_bytes")
    return peak / 1e6 if peak else None


def _title(key: tuple[Any, ...], along: str) -> str:
    if along == "steps":
        energy, labels, measurements, batch = key
        return f"{energy.upper()} {labels:,} x {measurements}, B = {batch}"
    energy, measurements, batch, steps = key
    return f"{energy.upper()} L x {measurements}, B = {batch}, T = {steps}"


def _footer(result: Mapping[str, Any]) -> str:
    machine = result["environment"]
    errors = [row["error"] for case in result["cases"] for row in case["rows"] if row["status"] == "timed"]
    worst = f", gradients within {max(errors):.0e} of float64" if errors else ""
    return f"{machine['device_name']}, threads: {machine['threads']}, torch {machine['torch']}, float32{worst}"


@contextmanager
def _figure(
    panels: Sequence[tuple[str, dict[str, Line]]], footer: str, labels: tuple[str, str], scales: Sequence[str]
) -> Iterator[Any]:
    try:
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    except ImportError:
        raise MissingExtraError("matplotlib", "report", "plots of a benchmark") from None
    columns = _columns(len(panels))
    rows = -(-len(panels) // columns)
    names = list(dict.fromkeys(name for _, lines in panels for name in lines))
    names.sort(key=lambda name: (name == _LIMIT, name != Ours.name))  # ours first, the limit last
    looks = _looks(names)
    with matplotlib.rc_context(_STYLE):
        # Not pyplot: no window system, no state left behind.
        figure = Figure(figsize=(max(6.4, 3.1 * columns), max(3.4, 2.4 * rows) + 0.9), layout="constrained")
        axes = figure.subplots(rows, columns, squeeze=False)
        handles: dict[str, Any] = {}
        for axis in axes.ravel()[len(panels) :]:
            axis.remove()
        for index, (title, lines) in enumerate(panels):
            axis = axes.ravel()[index]
            for name in sorted(lines, key=lambda name: name == Ours.name):  # ours on top
                (handles[name],) = axis.plot(*zip(*lines[name], strict=True), **looks[name])
            places = sorted({x for line in lines.values() for x, _ in line})
            axis.set_xscale(scales[0])
            axis.set_yscale(scales[1])
            axis.set_xticks(places, [f"{x:,}" for x in places])
            axis.xaxis.set_minor_formatter(NullFormatter())
            if scales[1] == "log":
                axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
                axis.yaxis.set_minor_formatter(NullFormatter())
            else:
                axis.set_ylim(bottom=0)
            axis.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,g}"))
            axis.set_title(title)
            if index + columns >= len(panels):
                axis.set_xlabel(labels[0])
            if index % columns == 0:
                axis.set_ylabel(labels[1])
        shown = [name for name in names if name in handles]
        figure.legend(
            [handles[name] for name in shown], shown, loc="outside lower center", ncols=4 if columns < 4 else 8
        )
        figure.suptitle(footer, x=0.01, ha="left", fontsize=8.5, color="#666666")
        yield figure


def _columns(panels: int) -> int:
    """As even a grid as there is, of at most five columns."""
    return min(
        range(1, 6), key=lambda columns: (-(-panels // columns) * columns - panels, abs(columns - 1.6 * panels**0.5))
    )


def _looks(names: Sequence[str]) -> dict[str, dict[str, Any]]:
    looks: dict[str, dict[str, Any]] = {}
    others = iter(_OTHERS * len(names))
    for name in names:
        if name == _LIMIT:
            looks[name] = {"color": "#222222", "linestyle": (0, (4, 2.5)), "linewidth": 1.2}
            continue
        color, marker = _LOOKS.get(name) or next(others)
        ours = name == Ours.name
        looks[name] = {
            "color": color,
            "marker": marker,
            "markersize": 6 if ours else 4.5,
            "linewidth": 2.6 if ours else 1.3,
            "zorder": 3 if ours else 2,
        }
    return looks
