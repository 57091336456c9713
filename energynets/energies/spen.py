"""Structured prediction energy networks."""

from __future__ import annotations

from collections.abc import Sequence

from energynets.energies.domain import Domain
from energynets.energies.heads import SoftplusHead
from energynets.energies.measured import MeasuredEnergy


class SPEN(MeasuredEnergy):
    """E(y; x) = -<phi, y> + <c, softplus(y A^T + a0)> - tau H(y): a measured energy whose h is any smooth network.

    Args:
        num_features: F.
        num_labels: L.
        num_measurements: K, the rows of A ("C1" in the paper).
        hidden: widths of further softplus layers of h; none is the paper's.
        condition_measurements: add f C^T to the measurements, so that how labels tie together depends on x.
        counting_measurements: rows of A that start as all ones: they count labels.
        tau: weight of the entropy, > 0.
        learn_tau: train tau.
        dropout: share of measurements dropped in training.
        bias: whether phi has a bias.
        domain: where y lives, `Box()` by default.

    Source: Belanger & McCallum (2016), equations 3 and 4.

    Example:
        >>> import torch
        >>> from energynets import SPEN
        >>> energy = SPEN(num_features=8, num_labels=5, num_measurements=4)
        >>> context = energy.condition(torch.randn(3, 8))
        >>> energy(torch.zeros(3, 5), context).shape
        torch.Size([3])
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        *,
        num_measurements: int = 16,
        hidden: Sequence[int] = (),
        condition_measurements: bool = False,
        counting_measurements: int = 0,
        tau: float = 1.0,
        learn_tau: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        domain: Domain | None = None,
    ) -> None:
        super().__init__(
            num_features,
            num_labels,
            num_measurements,
            SoftplusHead(num_measurements, hidden),
            condition_measurements=condition_measurements,
            counting_measurements=counting_measurements,
            tau=tau,
            learn_tau=learn_tau,
            dropout=dropout,
            bias=bias,
            domain=domain,
        )
