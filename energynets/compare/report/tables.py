"""The words and tables of a report."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

from energynets.compare import plots
from energynets.compare.statistics import MARKS, known, metric_title, shares, verdict
from energynets.compare.table import Column, label, p_text, rest_tables
from energynets.metrics import split_name

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row
    from energynets.compare.statistics import Difference

_MINUS = "\N{MINUS SIGN}"


def summary(comparison: Comparison) -> str:
    """What was compared, on what, how often, under which rule: one sentence or two."""
    models = len(comparison.rows)
    text = f"{models} model{'s' * (models != 1)}"
    data = comparison.data
    if data:
        sizes = ", ".join(f"{count:,} {split}" for split, count in data.get("sizes", {}).items())
        text += f" on {data['name']} ({sizes} documents, {data['labels']:,} labels)"
    seeds = len(comparison.seeds)
    text += f", {'one seed' if seeds == 1 else f'{seeds} seeds'}. "
    return text + (
        "All saw the same documents and splits, and every threshold was chosen on validation to maximise "
        f"{comparison.threshold_rule}."
    )


def findings(comparison: Comparison) -> list[dict[str, str]]:
    """What the differences say, a line for each energy: those that survive correction, or that none does.

    A line for each row where no energy was tested against the reference: there is none, or it is the reference.
    """
    found: list[dict[str, str]] = []
    names = {each.row for each in comparison.differences if each.p_holm is not None}
    rows = [row for row in comparison.rows if row.name in names]
    rows = [row for row in rows if row.energy] or rows
    for row, share in itertools.product(rows, shares(comparison)):
        own = [each for each in _at(comparison, share) if each.row == row.name]
        tested = [each for each in own if each.p_holm is not None]
        if not tested:
            continue
        where = f", {known(share)}" if share else ""
        for kind in ("better", "worse"):
            if clear := [each for each in tested if each.verdict == kind]:
                what = ", ".join(f"{metric_title(each.metric)} ({_signed(each.mean, 1)})" for each in clear)
                text = f"{row.name} is significantly {kind} than {own[0].reference} in {what}{where}."
                found.append({"verdict": kind, "mark": MARKS[kind], "text": text})
        if not any(each.verdict for each in tested):
            text = f"{row.name} differs significantly from {own[0].reference} in none of {len(tested)} metrics{where}."
            found.append({"verdict": "muted", "mark": "○", "text": text})
    if not found and comparison.differences:
        text = f"Whether anything differs from {comparison.reference} by more than chance is not tested: too few seeds."
        found.append({"verdict": "muted", "mark": "○", "text": text})
    return found


def table_row(comparison: Comparison, qualities: list[Column], costs: list[Column], row: Row) -> dict[str, Any]:
    """One row of the tables of results and of costs."""
    cells = []
    for column in qualities:
        mean, _, std = column.text(row).partition(" ± ")
        found = verdict(comparison, row, column.key)
        cells.append({"mean": mean, "std": std, "verdict": found, "mark": f" {MARKS[found]}" if found else ""})
    stages = row.results[0].get("stages", []) if row.results else []
    return {
        "name": row.name,
        "label": label(row),
        "kind": row.kind,
        "place": {"label_frequency": "floor", "bayes_optimal": "ceiling"}.get(row.kind, ""),
        "cells": cells,
        "costs": [column.text(row) for column in costs],
        "color": plots.css_color(comparison.rows, row.name),
        "threshold": _thresholds(row),
        "stages": ", ".join(f"{stage['name']} {stage['epochs']} (best {stage['best_epoch']})" for stage in stages)
        or "-",
        "config": row.config,
    }


def differences(comparison: Comparison) -> list[dict[str, Any]]:
    """Every difference from the reference, as a table shows it."""
    return [_difference(comparison, each) for each in _at(comparison)]


def completion(comparison: Comparison) -> list[dict[str, Any]]:
    """What was found of the rest at each share of the labels shown: the table, and differences from the reference."""
    return [
        {
            "title": known(share).capitalize(),
            "reference": comparison.observed[share],
            "columns": shown,
            "rows": [table_row(comparison, shown, [], row) for row in comparison.rows],
            "caption": said,
            "forest": plots.forest(comparison, {column.key: column.title for column in shown}, f"forest-{number}"),
            "differences": [_difference(comparison, each) for each in _at(comparison, share)],
        }
        for number, (share, shown, said) in enumerate(rest_tables(comparison))
    ]


def _at(comparison: Comparison, share: str = "") -> list[Difference]:
    """The differences where that share of the labels is shown."""
    return [each for each in comparison.differences if split_name(each.metric)[1] == share]


def _difference(comparison: Comparison, found: Difference) -> dict[str, Any]:
    return {"color": plots.css_color(comparison.rows, found.row), **difference_cells(found)}


def difference_cells(found: Difference) -> dict[str, Any]:
    """A difference as a table shows it."""
    interval = "-"
    if found.low is not None and found.high is not None:
        interval = f"{_signed(found.low)} to {_signed(found.high)}"
    mark = MARKS.get(found.verdict, "")
    return {
        "row": found.row,
        "title": metric_title(found.metric),
        "mean": f"{_signed(found.mean)} {mark}".strip(),
        "verdict": found.verdict,
        "interval": interval,
        "p_holm": p_text(found.p_holm),
        "p": p_text(found.p),
        "pairs": found.pairs,
        "unit": found.unit,
    }


def _signed(fraction: float, digits: int = 2) -> str:
    return f"{100 * fraction:+.{digits}f}".replace("-", _MINUS)


def _thresholds(row: Row) -> str:
    """Of each seed; of many seeds the smallest and the largest."""
    values = row.threshold.values if row.threshold else ()
    if len(values) > 3:
        return f"{min(values):.3f} to {max(values):.3f}"
    return ", ".join(f"{value:.3f}" for value in values) or "-"
