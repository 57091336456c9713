"""What the energy adds: the best energy of a table against the best classifier on the same features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from energynets.compare.statistics import Difference, best_on_validation, corrected, difference, headline, shares

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison


def gains(comparisons: Sequence[Comparison]) -> tuple[Difference, ...]:
    """In every headline metric of every table, the energy minus the classifier that are best in it on validation.

    The classifier has the energy's feature network and any loss. Each metric has its own two rows: a gain in P@1 over a
    classifier that was chosen for its F1 would be cheap. Neither side is chosen on test, and Holm's correction is over
    these differences alone, which are few. Nothing of a table without such a pair.
    """
    return corrected([gain for comparison in comparisons for gain in comparison.gains])


def of_table(comparison: Comparison) -> list[Difference]:
    """Those of one table, not corrected, or as they were tested where its runs are."""
    if comparison.tested is not None:
        return list(comparison.tested.gains)
    metrics = (metric for share in shares(comparison) for metric in headline(comparison, share))
    return [gain for metric in metrics if (gain := _gain(comparison, metric)) is not None]


def _gain(comparison: Comparison, metric: str) -> Difference | None:
    energy = best_on_validation((row for row in comparison.rows if row.energy and row.features), metric)
    if energy is None:
        return None
    rivals = (row for row in comparison.rows if not row.energy and row.features == energy.features)
    classifier = best_on_validation(rivals, metric)
    return None if classifier is None else difference(comparison, energy, classifier, metric)
