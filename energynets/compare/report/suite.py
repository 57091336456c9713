"""report.html over several data sets: what the energy adds, every metric, the way to each data set's own page."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from energynets.compare import plots
from energynets.compare.report.page import render
from energynets.compare.report.tables import difference_cells
from energynets.compare.statistics import MARKS, full_title, known
from energynets.compare.suite_table import metric_tables, tested_text, untuned_text
from energynets.metrics import split_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from energynets.compare.statistics import Difference
    from energynets.compare.suite import Suite

CONTENTS = (("gains", "What the energy adds"), ("results", "Results"), ("data", "Data sets"))


def to_html(suite: Suite) -> str:
    """The page.

    Raises:
        MissingExtraError: matplotlib or jinja2 is not installed.
    """
    context: dict[str, Any] = {
        "name": suite.name,
        "suite": suite,
        "contents": CONTENTS,
        "summary": _summary(suite),
        "findings": _findings(suite.gains),
        "forest": plots.gains_forest(suite.gains),
        "gains": [
            {
                "data": each.data,
                "features": each.features,
                "metric": full_title(each.metric),
                "rival": each.reference,
                **difference_cells(each),
            }
            for each in suite.gains
        ],
        "tables": list(metric_tables(suite)),
        "marks": MARKS,
        "tested": tested_text(suite),
        "untuned": untuned_text(suite),
        "created": max(comparison.created for comparison in suite.comparisons),
    }
    return render("suite.html", f"{suite.name}: {len(suite.comparisons)} data sets", context)


def _summary(suite: Suite) -> str:
    rows = len({row.name for comparison in suite.comparisons for row in comparison.rows})
    sets = len(suite.comparisons)
    seeds = sorted({len(comparison.seeds) for comparison in suite.comparisons})
    count = f"{seeds[0]} to {seeds[-1]} seeds" if len(seeds) > 1 else f"{seeds[0]} seed{'s' * (seeds[0] > 1)}"
    return (
        f"{rows} models on {sets} data set{'s' * (sets > 1)}, {count}. On each set all saw the same documents and "
        "splits, and every threshold was chosen on validation."
    )


def _share(found: Difference) -> str:
    share = split_name(found.metric)[1]
    return known(share) if share else ""


def _findings(gains: Sequence[Difference]) -> list[dict[str, str]]:
    """A line for each data set and features on which the energy is significantly better or worse; else that there is
    none."""
    found = []
    for verdict in ("better", "worse"):
        sets: dict[tuple[str, str], list[Difference]] = {}
        for each in gains:
            if each.verdict == verdict:
                sets.setdefault((" ".join(filter(None, (each.data, _share(each)))), each.features), []).append(each)
        for (data, features), own in sets.items():
            what = ", ".join(f"{cells['title']} ({cells['mean'].split()[0]})" for cells in map(difference_cells, own))
            over = f" over {features} features" if features else ""
            text = f"On {data} the best energy{over} is significantly {verdict} than the best classifier in {what}."
            found.append({"verdict": verdict, "mark": MARKS[verdict], "text": text})
    if gains and not found:
        tested = sum(each.p is not None for each in gains)
        text = (
            f"The best energy differs significantly from the best classifier in none of {tested} metrics and data sets."
            if tested
            else "Whether an energy adds anything is not tested: too few seeds."
        )
        found.append({"verdict": "muted", "mark": "○", "text": text})
    return found
