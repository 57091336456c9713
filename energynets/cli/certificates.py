"""How far inference of an energy network got, document by document, collected batch by batch."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from energynets.inference import InferenceResult


class Certificates:
    """`on_inference` of scoring.

    Args:
        values: upper bounds on E(y) - min E, one a document, in order; none where the energy is not convex.
        gradient_norms: norms of dE/dy, one a document.
        note: what stands in the certificates' place for such an energy; None for a model that is no energy network.
    """

    def __init__(self) -> None:
        self.values: list[float] = []
        self.gradient_norms: list[float] = []
        self.note: str | None = None

    def __call__(self, result: InferenceResult) -> None:
        self.gradient_norms += result.gradient_norm.tolist()
        if result.certificate is None:
            self.note = result.certificate_note
        else:
            self.values += result.certificate.tolist()

    def summary(self) -> dict[str, float] | None:
        """Mean, median and maximum of the certificates, where there are any."""
        return _summary(self.values)

    def gradient_summary(self) -> dict[str, float] | None:
        """Mean, median and maximum of the gradient norms, where there are any."""
        return _summary(self.gradient_norms)

    def of(self, document: int) -> list[str]:
        """One document's in words."""
        if not self.gradient_norms:
            return []
        certificate = f"certificate {self.values[document]:.2e}" if self.values else str(self.note)
        return [certificate, f"gradient norm {self.gradient_norms[document]:.2e}"]


def in_words(summary: dict[str, float]) -> str:
    """`mean 1.00e-03  median ...`"""
    return "  ".join(f"{name} {value:.2e}" for name, value in summary.items())


def _summary(values: list[float]) -> dict[str, float] | None:
    if not values:
        return None
    return {"mean": statistics.fmean(values), "median": statistics.median(values), "max": max(values)}
