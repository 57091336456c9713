"""Which drawings a report holds, what stands under them, and why one is missing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from energynets.compare import plots
from energynets.compare.plots.certificates import certificates
from energynets.compare.report.learned import rows_with_diagnostics
from energynets.compare.statistics import headline, metric_title

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison


@dataclass(frozen=True)
class Figures:
    """By key: SVG or None, its caption, and what a section says instead."""

    drawings: dict[str, str | None]
    captions: dict[str, str]
    reasons: dict[str, str]

    @classmethod
    def of(cls, comparison: Comparison) -> Figures:
        """Draw what the results hold.

        Raises:
            MissingExtraError: matplotlib is not installed.
        """
        metrics = headline(comparison)
        titles = {name: metric_title(name) for name in metrics}
        chosen = {"precision@1": titles.get("precision@1", ""), "f1_example": "F1, threshold chosen on validation"}
        panels = [(title, name) for name, title in chosen.items() if name in metrics]
        panels += [(titles[name], name) for name in metrics if name.startswith(("ndcg", "psp"))]
        return cls(
            drawings={
                "bars": plots.metric_bars(comparison, panels) if panels and comparison.data else None,
                "forest": plots.forest(comparison, titles),
                "cost": plots.quality_cost(comparison),
                "curves": plots.learning_curves(comparison, comparison.monitor),
                "traces": plots.inference_traces(comparison),
                "certificates": plots.certificate_histogram(comparison),
                "reliability": plots.reliability(comparison),
            },
            captions={
                "bars": "Test metrics, times 100. Bars are means; where a row was run under several seeds, whiskers "
                "are one sample standard deviation and dots single seeds.",
                "forest": _forest(comparison),
                "cost": "Up and left is better. Whiskers are one sample standard deviation over seeds; a dashed line "
                "is the Bayes-optimal value. Costs are on logarithmic axes.",
                "curves": "A line for each seed; a dot ends each stage. Seconds include evaluation and caching of "
                "features.",
                "traces": "Means over validation documents: strong lines are means over seeds, faint ones single "
                "seeds. Energies of different models have different zeros, so each is shown above its own last value.",
                "certificates": _certificates(comparison),
                "reliability": _reliability(comparison),
            },
            reasons=_reasons(comparison),
        )


def _forest(comparison: Comparison) -> str:
    text = "Mean differences, times 100, with 95 % intervals that are not corrected for their number."
    tested = any(each.p_holm is not None for each in comparison.differences)
    return text + (
        " Filled marks are significant after Holm's correction over all of them, hollow ones are not."
        if tested
        else " All marks are hollow: there are too few seeds for a test."
    )


def _certificates(comparison: Comparison) -> str:
    counts = [f"{row.name} {len(found):,}" for row in comparison.rows if len(found := certificates(row))]
    if not counts:
        return ""
    largest = max(float(np.max(found)) for row in comparison.rows if len(found := certificates(row)))
    return (
        "For an energy that is convex in y, each answer comes with a bound on how far its energy lies above the "
        "minimum, in nats at tau = 1, without knowing the minimum. Far to the left, more steps of inference would "
        f"change nothing. Validation documents over all seeds: {', '.join(counts)}; the largest bound is {largest:.2g}."
    )


def _reliability(comparison: Comparison) -> str:
    errors = []
    for row in comparison.rows:
        found = [result["calibration"]["ece"] for result in row.results if result.get("calibration")]
        if row.learned and found:
            errors.append(f"{row.name} {100 * sum(found) / len(found):.2f}")
    return (
        "On the dashed diagonal probabilities are what they say. Pairs of all seeds are pooled; bins of fewer than ten "
        f"are left out. Expected calibration error, times 100: {', '.join(errors)}. Most pairs are confident "
        "negatives, so it is small wherever labels are rare."
    )


def _reasons(comparison: Comparison) -> dict[str, str]:
    energies = any(row.energy for row in comparison.rows)
    old = "These runs were written by a version that kept no such record; run them again to see it."
    none = "No row has an energy."
    missing = old if energies else none
    diagnosed = bool(rows_with_diagnostics(comparison))
    convex = (
        missing if not diagnosed else "No energy here is convex in y; a certificate is a bound that convexity gives."
    )
    return {
        "differences": "Nothing to compare: "
        + (
            "there is no test split."
            if comparison.untested
            else "there is no second learned row with results under the same seeds."
        ),
        "completion": "Every label was to be found: evaluation.observed names no share of them to be known.",
        "curves": "No row was trained by epochs with validation.",
        "traces": "No run recorded its inference: a trace is of all labels at once." if energies else none,
        "certificates": convex,
        "reliability": "These results hold no calibration.",
        "ties": missing,
        "changes": missing,
    }
