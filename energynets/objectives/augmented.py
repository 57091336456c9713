"""An energy changed by what is known of the true labels: what inference minimises in training alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from energynets.energies import Energy
from energynets.energies.measured import MeasuredContext
from energynets.inference.engine.path import unmeasured
from energynets.objectives.agreement import Measure, hamming_cost

Change = Callable[[Tensor, Tensor, Tensor], Tensor]
"""potential (B,), y (B, L), t (B, L) -> another potential (B,)."""


class AugmentedContext(NamedTuple):
    """Of the energy itself, and t (B, L)."""

    inner: Any
    targets: Tensor


class AugmentedEnergy(Energy):
    """E'(y; x, t) = change(potential(y; x), y, t) - tau H(y): a view of an energy, to a solver one like any other.

    Args:
        energy: whose potential and tau these are.
        change: of the potential.
        regularized: false leaves the entropy out: tau = 0.
    """

    def __init__(self, energy: Energy, change: Change, *, regularized: bool = True) -> None:
        super().__init__(energy.num_labels, domain=energy.domain)
        self.energy = energy
        self.change = change
        self.regularized = regularized

    @property
    def tau(self) -> float | Tensor:
        """Weight of the regulariser."""
        return self.energy.tau if self.regularized else 0.0

    def initial_logits(self, context: AugmentedContext) -> Tensor | None:
        """Where inference of the energy itself starts."""
        return self.energy.initial_logits(context.inner)

    def select(self, context: AugmentedContext, rows: Tensor) -> AugmentedContext:
        """The context of some documents, (b,) int64."""
        return AugmentedContext(self.energy.select(context.inner, rows), context.targets[rows])

    def potential(self, y: Tensor, context: AugmentedContext) -> Tensor:
        """(B, L) -> (B,)."""
        return self.change(self.energy.potential(y, context.inner), y, context.targets)


def loss_augmented(
    energy: Energy, context: Any, targets: Tensor, cost: Measure, margin: float = 1.0
) -> tuple[Energy, Any]:
    """An energy and a context whose minimum is argmax over y of margin cost(y, t) - E(y).

    The Hamming cost is linear in y, so a measured energy takes it as a change of phi to phi + margin (1 - 2 t) and
    stays one, on the engine's path; all else is an `AugmentedEnergy`.

    Args:
        energy: E.
        context: `energy.condition(features)`.
        targets: t (B, L).
        cost: of `COSTS`.
        margin: >= 0; with 0 it is E itself.
    """
    if not margin:
        return energy, context
    if cost is hamming_cost and isinstance(context, MeasuredContext) and unmeasured(energy) is None:
        return energy, context._replace(unary=torch.add(context.unary, 1 - 2 * targets, alpha=margin))

    def change(potential: Tensor, y: Tensor, targets: Tensor) -> Tensor:
        return potential - margin * cost(y, targets)

    return AugmentedEnergy(energy, change), AugmentedContext(context, targets)
