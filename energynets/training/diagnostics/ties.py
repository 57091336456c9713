"""Which labels the energy ties together, at the run's own operating point."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from scipy.sparse import csc_array, csr_array
from torch import Tensor

from energynets.energies import Box, Energy
from energynets.energies.coupling import Pair, mean_curvature, strongest_pairs
from energynets.energies.measured import MeasuredContext, MeasuredEnergy

PAIRS = 20  # of each kind
MEASUREMENTS = 8
WEIGHTS = 8  # of each measurement
# Couplings cost L^2 K: of more labels, the most frequent are looked at.
LABELS = 4096


def why_no_ties(energy: Energy) -> str | None:
    """The reason where an energy's ties cannot be read off its weights."""
    if not isinstance(energy, MeasuredEnergy):
        return f"{type(energy).__name__} does not touch the labels through linear measurements alone"
    if energy.gate_widths:
        return "a gated energy ties labels together anew for each document"
    return None if isinstance(energy.domain, Box) else f"y in {energy.domain} is no set of labels"


class LabelTies:
    """Averages the curvature of h over documents, then finds the strongest pairs.

    Args:
        energy: a measured energy over labels, without gates.
    """

    def __init__(self, energy: Energy) -> None:
        assert isinstance(energy, MeasuredEnergy)
        self.energy = energy
        self.documents = 0
        size = energy.num_measurements
        self.curvature = torch.zeros(size, size, dtype=torch.float64)
        self.slope = torch.zeros(size, dtype=torch.float64)

    def add(self, y: Tensor, context: MeasuredContext) -> None:
        """Documents where inference has arrived at y (B, L)."""
        with torch.no_grad():
            measurements = self.energy.measurements(y, context)
            self.slope += self.energy.slope(measurements, context).double().sum(0).cpu()
        self.curvature += mean_curvature(self.energy, y, context).double().cpu() * len(y)
        self.documents += len(y)

    def found(self, training_labels: csr_array) -> dict[str, Any]:
        """The strongest pairs, and the measurements that tie most.

        Args:
            training_labels: (N, L): labels without a document there still have the weights they were drawn with, so
                they are left out; and beside each pair stands how often the two occur together.

        Returns:
            {"documents", "labels" looked at, "tau", "attracting" and "repelling": [{"first", "second", "coupling",
            "log_odds": -coupling / tau, "together", "expected" training documents with both}], "measurements":
            [{"row" of A, "slope" and "curvature" of h along it, "weights": [[label, weight]], strongest first}]}.
        """
        counts = np.bincount(training_labels.indices, minlength=training_labels.shape[1])
        seen = np.flatnonzero(counts)
        labels = np.sort(seen[np.argsort(-counts[seen], kind="stable")[:LABELS]])
        measure = self.energy.measure.detach()[:, torch.from_numpy(labels).to(self.energy.measure.device)]
        curvature = self.curvature / max(1, self.documents)
        attracting, repelling = strongest_pairs(measure, curvature.to(measure), PAIRS)
        tau = float(torch.as_tensor(self.energy.tau).detach())  # it may be learned
        columns = csc_array(training_labels)
        return {
            "documents": self.documents,
            "labels": len(labels),
            "tau": tau,
            "attracting": [_pair(pair, labels, tau, columns) for pair in attracting],
            "repelling": [_pair(pair, labels, tau, columns) for pair in repelling],
            "measurements": self._measurements(measure.double().cpu(), curvature, labels),
        }

    def _measurements(self, measure: Tensor, curvature: Tensor, labels: np.ndarray) -> list[dict[str, Any]]:
        """Rows of A, first those that alone would couple most: |H_kk| |A_k|^2."""
        strength = curvature.diagonal().abs() * measure.square().sum(1)
        rows = strength.argsort(descending=True, stable=True)[:MEASUREMENTS].tolist()
        slope = self.slope / max(1, self.documents)
        described = []
        for row in rows:
            largest = measure[row].abs().argsort(descending=True, stable=True)[:WEIGHTS].tolist()
            weights = [[int(labels[place]), float(measure[row, place])] for place in largest]
            described.append(
                {"row": row, "slope": float(slope[row]), "curvature": float(curvature[row, row]), "weights": weights}
            )
        return described


def _pair(pair: Pair, labels: np.ndarray, tau: float, columns: csc_array) -> dict[str, Any]:
    first, second = int(labels[pair.first]), int(labels[pair.second])
    with_first, with_second = (columns.indices[columns.indptr[i] : columns.indptr[i + 1]] for i in (first, second))
    return {
        "first": first,
        "second": second,
        "coupling": pair.coupling,
        "log_odds": -pair.coupling / tau,
        "together": len(np.intersect1d(with_first, with_second, assume_unique=True)),
        "expected": len(with_first) * len(with_second) / max(1, columns.shape[0]),
    }
