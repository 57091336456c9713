"""The certificates of an energy network's predictions, collected batch by batch."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energynets.inference import InferenceResult


class Certificates:
    """`on_inference` of scoring.

    Args:
        values: upper bounds on E(y) - min E, one a document, in order; none where the energy is not convex.
        note: what stands in their place for such an energy; None for a model that is no energy network.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.note: str | None = None

    def __call__(self, result: InferenceResult) -> None:
        if result.certificate is None:
            self.note = result.certificate_note
        else:
            self.values += result.certificate.tolist()

    def summary(self) -> dict[str, float] | None:
        """Mean, median and maximum, where there are any."""
        if not self.values:
            return None
        middle, mean = statistics.median(self.values), statistics.fmean(self.values)
        return {"mean": mean, "median": middle, "max": max(self.values)}

    def of(self, document: int) -> str | None:
        """One document's in words."""
        return f"certificate {self.values[document]:.2e}" if self.values else self.note
