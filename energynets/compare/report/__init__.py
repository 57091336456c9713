"""report.html: one file that needs no network, to be read on screen, printed, or sent along with a paper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energynets.compare.report.figures import Figures
from energynets.compare.report.learned import changed_examples, label_ties
from energynets.compare.report.page import render
from energynets.compare.report.tables import completion, differences, findings, summary, table_row
from energynets.compare.table import caption, columns

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison

_ENVIRONMENT = (
    *("energynets", "git_commit", "torch", "numpy", "python", "platform", "cpu", "cpu_count", "threads"),
    *("device", "device_name", "cuda"),
)
CONTENTS = (
    ("results", "Results"),
    ("differences", "Differences"),
    ("completion", "Completion"),
    ("cost", "Quality and cost"),
    ("learning", "Learning"),
    ("inference", "Inference"),
    ("certificates", "Certificates"),
    ("calibration", "Calibration"),
    ("ties", "Labels tied together"),
    ("changes", "Changed predictions"),
    ("reproduce", "Data and configurations"),
)
"""Sections of the page by id, all of them always there: one without contents says why."""


def to_html(comparison: Comparison) -> str:
    """The report.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    shown = columns(comparison)
    qualities, costs = [c for c in shown if not c.cost], [c for c in shown if c.cost]
    figures = Figures.of(comparison)
    context: dict[str, Any] = {
        "name": comparison.name,
        "created": comparison.created,
        "comparison": comparison,
        "contents": CONTENTS,
        "summary": summary(comparison),
        "findings": findings(comparison),
        "columns": qualities,
        "costs": costs,
        "rows": [table_row(comparison, qualities, costs, row) for row in comparison.rows],
        "caption": [line for line in caption(comparison) if not line.startswith("Failed")],
        "differences": differences(comparison),
        "completion": completion(comparison),
        "figures": figures.drawings,
        "captions": figures.captions,
        "reasons": figures.reasons,
        "ties": label_ties(comparison),
        "changes": changed_examples(comparison),
        "environment": [
            (name, _in_words(comparison.environment[name])) for name in _ENVIRONMENT if comparison.environment.get(name)
        ],
        "commands": _commands(comparison),
    }
    return render("page.html", f"{comparison.name}: comparison", context)


def _in_words(value: Any) -> str:
    """A list is of runs that differ."""
    values = value if isinstance(value, list) else [value]
    return ", ".join("not known" if each is None else str(each) for each in values)


def _commands(comparison: Comparison) -> list[str]:
    seeds = len(comparison.seeds)
    configs = " ".join(f"configs/{row.name}.yaml" for row in comparison.rows)
    return [f"cd {comparison.folder.name}", f"energynets compare {configs} --seeds {seeds} --folder again"]
