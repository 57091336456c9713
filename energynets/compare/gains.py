"""What the energy adds: the best energy of each table against the best classifier on the same features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from energynets.compare.statistics import Difference, best_on_validation, corrected, difference, headline, shares

if TYPE_CHECKING:
    from energynets.compare.comparison import Comparison, Row


@dataclass(frozen=True)
class Gain:
    """One table's answer to whether an energy is worth its inference.

    Args:
        data: name of the data set.
        share: of the labels shown, as text; "" where none are.
        energy: name of the energy network that is best on validation.
        classifier: name of the classifier with the same feature network, whatever its loss, that is best on validation.
        differences: energy minus classifier in every headline metric, corrected over all gains together.
    """

    data: str
    share: str
    energy: str
    classifier: str
    differences: tuple[Difference, ...]

    def has(self, verdict: str) -> bool:
        """Whether some difference is significantly "better", or "worse"."""
        return any(each.verdict == verdict for each in self.differences)


def gains(comparisons: Sequence[Comparison]) -> tuple[Gain, ...]:
    """Of each table, and of each share of the labels that it shows, where it has an energy and such a classifier.

    Both are chosen by the same rule, on validation alone, so that neither side gets to pick the row that looks best on
    test; Holm's correction is over these differences only, which are fewer than those of every row from a reference.
    """
    pairs = [
        (comparison, share, found)
        for comparison in comparisons
        for share in shares(comparison)
        if (found := _best(comparison, share))
    ]
    measured = [
        [each for metric in headline(comparison, share) if (each := difference(comparison, *rows, metric)) is not None]
        for comparison, share, rows in pairs
    ]
    after = iter(corrected([each for own in measured for each in own]))
    return tuple(
        Gain(str(comparison.data.get("name", "")), share, rows[0].name, rows[1].name, tuple(next(after) for _ in own))
        for (comparison, share, rows), own in zip(pairs, measured, strict=True)
        if own
    )


def _best(comparison: Comparison, share: str) -> tuple[Row, Row] | None:
    """The energy and the classifier; None where either is missing."""

    def best(rows: Iterable[Row]) -> Row | None:
        return best_on_validation(comparison, rows, share)

    energy = best(row for row in comparison.rows if row.energy)
    if energy is None or not energy.features:
        return None
    rival = best(row for row in comparison.rows if not row.energy and row.features == energy.features)
    return None if rival is None else (energy, rival)
