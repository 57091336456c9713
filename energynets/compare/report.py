"""report.html: one file that needs no network, to be read on screen, printed, or sent along with a paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from energynets import __version__
from energynets.compare import plots
from energynets.compare.statistics import MARKS, verdict
from energynets.compare.table import Column, caption, columns, label
from energynets.errors import MissingExtraError
from energynets.strict_yaml import parse_yaml

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row

_TEMPLATE = Path(__file__).with_name("report.html")
_ENVIRONMENT: tuple[str, ...] = (
    "energynets",
    "git_commit",
    "torch",
    "numpy",
    "python",
    "platform",
    "cpu",
    "cpu_count",
    "threads",
)
_ENVIRONMENT += ("device", "device_name", "cuda")


def to_html(comparison: Comparison) -> str:
    """The report.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    try:
        import jinja2
    except ImportError:
        raise MissingExtraError("jinja2", "report", "report.html") from None
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    template = environment.from_string(_TEMPLATE.read_text(encoding="utf-8"))
    monitor = _monitor(comparison)
    last = max((k for k in comparison.ks if _has(comparison, f"ndcg@{k}")), default=1)
    panels = [("P@1", "precision@1"), ("F1, threshold chosen on validation", "f1_example")]
    panels += [(f"nDCG@{last}", f"ndcg@{last}"), (f"PSP@{last}", f"psp@{last}")]
    figures: list[tuple[str, str, str | None]] = [
        (
            "Metrics on test",
            "Times 100. Bars are means; where a row was run under several seeds, whiskers are one sample standard "
            "deviation and dots single seeds.",
            plots.metric_bars(comparison, [panel for panel in panels if _has(comparison, panel[1])])
            if comparison.data
            else None,
        ),
        (
            "Learning",
            "A line for each seed; a dot ends each stage. Seconds include evaluation and caching of features.",
            plots.learning_curves(comparison, monitor),
        ),
        (
            "Inference",
            "Energy and its gradient along the steps of inference, mean over validation documents: strong lines are "
            "means over seeds, faint ones single seeds.",
            plots.inference_traces(comparison),
        ),
    ]
    shown = columns(comparison)
    qualities, costs = [c for c in shown if not c.cost], [c for c in shown if c.cost]
    return template.render(
        comparison=comparison,
        version=__version__,
        columns=qualities,
        costs=costs,
        rows=[_row(comparison, qualities, costs, row) for row in comparison.rows],
        caption=caption(comparison),
        figures=[figure for figure in figures if figure[2]],
        environment=[(key, comparison.environment[key]) for key in _ENVIRONMENT if comparison.environment.get(key)],
        commands=_commands(comparison),
    )


def _row(comparison: Comparison, shown: list[Column], costs: list[Column], row: Row) -> dict[str, Any]:
    cells = []
    for column in shown:
        mean, _, std = column.text(row).partition(" ± ")
        found = verdict(comparison, row, column.key)
        cells.append({"mean": mean, "std": std, "verdict": found, "mark": MARKS.get(found, "")})
    stages = row.results[0].get("stages", []) if row.results else []
    return {
        "name": row.name,
        "label": label(row),
        "kind": row.kind,
        "learned": row.learned,
        "cells": cells,
        "costs": [column.text(row) for column in costs],
        "color": plots.css_color(comparison.rows, row.name),
        "threshold": ", ".join(f"{value:.3f}" for value in row.threshold.values) if row.threshold else "-",
        "seeds": ", ".join(str(result["seed"]) for result in row.results) or "-",
        "stages": ", ".join(f"{stage['name']} {stage['epochs']} (best {stage['best_epoch']})" for stage in stages)
        or "-",
        "config": row.config,
    }


def _has(comparison: Comparison, metric: str) -> bool:
    return any(row.metric(metric) for row in comparison.rows)


def _monitor(comparison: Comparison) -> str:
    """The validation metric that most rows were trained by."""
    found = [str(_training(row).get("monitor", "f1_example")) for row in comparison.rows if row.curves]
    return max(set(found), key=found.count) if found else "f1_example"


def _training(row: Row) -> dict[str, Any]:
    tree = parse_yaml(row.config, row.name) if row.config else {}
    return dict(tree.get("training") or {})


def _commands(comparison: Comparison) -> list[str]:
    seeds = len(comparison.seeds)
    configs = " ".join(f"configs/{row.name}.yaml" for row in comparison.rows)
    return [f"cd {comparison.folder.name}", f"energynets compare {configs} --seeds {seeds} --folder again"]
