"""Input-convex neural networks as energies."""

from __future__ import annotations

from collections.abc import Sequence

from energynets.energies.domain import Domain
from energynets.energies.heads import ConvexHead, checked_widths, speaks_for
from energynets.energies.measured import MeasuredEnergy


class ICNN(MeasuredEnergy):
    """E(y; x) = -<phi, y> + h(m; f) - tau H(y) with h convex in m: E is strictly convex in y, its minimum unique.

    Each layer's slice of A is its passthrough from y, of any sign: only the weights between hidden layers and out of
    the last must be non-negative (Amos et al., proposition 1). The entropy makes E strictly convex: -H is 4-strongly
    convex on [0, 1]^L. Weights set to less than 0 and not projected make it no convex energy: `convex` is False.

    Args:
        num_features: F.
        num_labels: L.
        hidden: widths of the convex layers, two or more; K is their sum.
        gate: measure y * (W_i f + b_i) in layer i instead of y, so that how labels tie together depends on x.
        condition_measurements: add f C^T to the measurements.
        counting_measurements: rows of A that start as all ones: they count labels.
        nonnegativity: `projection` (call `project` after each optimiser step) or `reparametrization`.
        tau: weight of the entropy, > 0.
        learn_tau: train tau.
        dropout: share of measurements dropped in training.
        bias: whether phi has a bias.
        domain: where y lives, `Box()` by default.

    Raises:
        ConfigError: fewer than two layers or an unknown `nonnegativity`.

    Source: Amos, Xu & Kolter (2017), equations 2 and 3.

    Example:
        >>> import torch
        >>> from energynets import ICNN
        >>> energy = ICNN(num_features=8, num_labels=5, hidden=(4, 4))
        >>> energy(torch.zeros(3, 5), energy.condition(torch.randn(3, 8))).shape
        torch.Size([3])
    """

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        *,
        hidden: Sequence[int] = (16, 16),
        gate: bool = False,
        condition_measurements: bool = False,
        counting_measurements: int = 0,
        nonnegativity: str = "projection",
        tau: float = 1.0,
        learn_tau: bool = False,
        dropout: float = 0.0,
        bias: bool = True,
        domain: Domain | None = None,
    ) -> None:
        hidden = checked_widths(hidden)
        super().__init__(
            num_features,
            num_labels,
            sum(hidden),
            ConvexHead(hidden, nonnegativity),
            condition_measurements=condition_measurements,
            counting_measurements=counting_measurements,
            gate_widths=hidden if gate else (),
            tau=tau,
            learn_tau=learn_tau,
            dropout=dropout,
            bias=bias,
            domain=domain,
        )

    @property
    def convex(self) -> bool:  # type: ignore[override]
        """Whether the weights that convexity asks to be non-negative are: `projection` leaves that to `project`.

        Never of a subclass, or a head, that computes something else: it says so itself with a `convex` of its own.
        """
        own = speaks_for(self, "convex", "forward", "potential", "measurements", "head_values")
        return own and speaks_for(self.head, "non_negative", "forward") and self.head.non_negative  # type: ignore[return-value]
