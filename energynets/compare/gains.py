"""What the energy adds: the best energy on each kind of features against the best classifier on the same."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from energynets.compare.statistics import Difference, best_on_validation, corrected, difference, headline, shares

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison


def gains(comparisons: Sequence[Comparison]) -> tuple[Difference, ...]:
    """In every headline metric of every table, the energy minus the classifier that are best in it on validation.

    The classifier has the energy's feature network and any loss; where rows have several, each has differences of its
    own. Each metric has its own two rows: a gain in P@1 over a classifier that was chosen for its F1 would be cheap.
    Neither side is chosen on test, and Holm's correction is over these differences alone, which are few. Nothing of a
    table without such a pair.
    """
    return corrected([gain for comparison in comparisons for gain in comparison.gains])


def of_table(comparison: Comparison) -> list[Difference]:
    """Those of one table, not corrected, or as they were tested where its runs are."""
    if comparison.tested is not None:
        return list(comparison.tested.gains)
    metrics = [metric for share in shares(comparison) for metric in headline(comparison, share)]
    named = _names(list(dict.fromkeys(row.features for row in comparison.rows if row.energy and row.features)))
    found = (_gain(comparison, metric, *each) for each in named.items() for metric in metrics)
    return [gain for gain in found if gain is not None]


def _gain(comparison: Comparison, metric: str, features: str, name: str) -> Difference | None:
    alike = [row for row in comparison.rows if row.features == features]
    energy = best_on_validation((row for row in alike if row.energy), metric)
    classifier = best_on_validation((row for row in alike if not row.energy), metric)
    if energy is None or classifier is None:
        return None
    found = difference(comparison, energy, classifier, metric)
    return None if found is None else dataclasses.replace(found, features=name)


def _names(features: Sequence[str]) -> dict[str, str]:
    """Settings of feature networks -> what tables call them: their kind, numbered where settings differ."""
    kinds = [str(json.loads(settings)["kind"]).replace("_", " ") for settings in features]
    numbers = [kinds[: place + 1].count(kind) for place, kind in enumerate(kinds)]
    return {
        settings: kind if kinds.count(kind) == 1 else f"{kind} {number}"
        for settings, kind, number in zip(features, kinds, numbers, strict=True)
    }
