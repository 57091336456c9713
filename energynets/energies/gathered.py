"""A measured energy over some labels of each document, its other labels fixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from energynets.energies.energy import Energy
from energynets.energies.measured import MeasuredContext, MeasuredEnergy


class GatheredContext(NamedTuple):
    """What is known of x and of the labels that move, n of each document.

    Args:
        measured: of these labels: phi (B, n), and an offset (B, K) that the fixed labels' share is part of.
        rows: their columns of A, (B, K, n).
    """

    measured: MeasuredContext
    rows: Tensor


class GatheredEnergy(Energy):
    """E(y; x) = -<phi, y> + h(m) - tau H(y), m_b = y_b A_b^T + offset_b: over n labels of each document, its own ones.

    A view of a measured energy, whose head and tau it shares: to a solver an energy like any other. It differs from the
    measured one by a constant of x, what the fixed labels add to -<phi, y> - tau H(y).

    Args:
        energy: measured, without gates.
        num_labels: n.
    """

    def __init__(self, energy: MeasuredEnergy, num_labels: int) -> None:
        super().__init__(num_labels, domain=energy.domain)
        self.energy = energy

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether the measured energy is."""
        return self.energy.convex

    @property
    def tau(self) -> float | Tensor:
        """Weight of the regulariser."""
        return self.energy.tau

    def initial_logits(self, context: GatheredContext) -> Tensor:
        """phi (B, n)."""
        return context.measured.unary

    def measurements(self, y: Tensor, context: GatheredContext) -> Tensor:
        """m = y A^T + offset, masked: (B, n) -> (B, K)."""
        (_, offset, _, mask, _), rows = context
        m = torch.baddbmm(offset.unsqueeze(1), y.unsqueeze(1), rows.mT).squeeze(1)
        return m if mask is None else m * mask

    def potential(self, y: Tensor, context: GatheredContext) -> Tensor:
        """-<phi, y> + h(m): (B, n) -> (B,)."""
        h = self.energy.head_values(self.measurements(y, context), context.measured)
        return h - (context.measured.unary * y).sum(-1)

    def gradient(self, y: Tensor, context: GatheredContext) -> Tensor:
        """-phi + s A: (B, n) -> (B, n), closed form."""
        (unary, _, _, mask, _), rows = context
        slope = self.energy.slope(self.measurements(y, context), context.measured)
        slope = slope if mask is None else slope * mask
        return torch.baddbmm(unary.unsqueeze(1), slope.unsqueeze(1), rows, beta=-1).squeeze(1)
