"""Value networks: the energy learns how good labels are, and inference climbs what it learned."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from energynets.energies import Energy
from energynets.inference import Observed, Solver
from energynets.models import EnergyNetwork
from energynets.objectives.agreement import AGREEMENTS, Measure, by_name
from energynets.objectives.augmented import AugmentedContext, AugmentedEnergy
from energynets.objectives.objective import EnergyObjective
from energynets.parallel import draws


class ValueNetwork(EnergyObjective):
    """L = mean over tuples (y, v*) of the cross-entropy of v(x, y) = sigmoid(-potential(y; x)) to v* = agreement(y, t).

    Each document gives three tuples, anew in each step: the true labels (v* = 1); what inference passes through, y_s
    at a random step s = 0 .. T; and an adversarial one, where T steps of the model's own solver climb the cross-entropy
    itself, without entropy, from where inference starts. All y count as constant.

    Prediction minimises E = potential - tau H: it climbs the value's log-odds, the entropy holding y off the boundary.
    Learning is of the potential alone, so tau and the solver are free to choose: the smaller tau, the more it is the
    value alone that decides.

    Args:
        agreement: `f1`, example-F1, or `iou`, the Jaccard index, both relaxed to [0, 1]^L.

    Raises:
        ConfigError: an unknown agreement.

    Source: Gygli, Norouzi & Angelova, Deep value networks learn to evaluate and iteratively refine structured outputs
        (2017), section 3: the value, its training and its three kinds of tuples.

    Example:
        >>> import torch
        >>> from energynets import SPEN, BagOfWords, EnergyNetwork, ProjectedGradient, ValueNetwork
        >>> from energynets.data.batches import Batch, SparseBatch
        >>> features, energy = BagOfWords(num_inputs=4, hidden=(8,)), SPEN(num_features=8, num_labels=3, tau=0.1)
        >>> model = EnergyNetwork(features, energy, ProjectedGradient(steps=5))
        >>> rows = SparseBatch(torch.tensor([0, 2]), torch.ones(2), torch.tensor([0, 1, 2]), 4)  # two documents
        >>> labels = SparseBatch(torch.tensor([1, 0]), torch.ones(2), torch.tensor([0, 1, 2]), 3)
        >>> ValueNetwork("f1")(model, Batch(rows, labels, torch.arange(2))).shape
        torch.Size([])
    """

    def __init__(self, agreement: str = "f1") -> None:
        super().__init__()
        self._agreement = by_name("objective.agreement", agreement, AGREEMENTS)
        self.agreement = agreement

    def of(
        self, model: EnergyNetwork, features: Tensor, context: Any, targets: Tensor, observed: Observed | None
    ) -> Tensor:
        energy, solver = model.energy, model.solver
        with torch.no_grad():
            passed = energy.domain.labels(_random_step(energy, solver, context, observed))
            worst = adversarial(energy, solver, context, targets, self._agreement, observed)
        losses = [value_loss(energy.potential(y, context), y, targets, self._agreement) for y in (passed, worst)]
        truth = functional.softplus(energy.potential(targets, context))  # v* = 1
        return (truth + sum(losses)) / 3


def value_loss(potential: Tensor, y: Tensor, targets: Tensor, agreement: Measure) -> Tensor:
    """Cross-entropy of sigmoid(-potential) to agreement(y, t): (B,), (B, L), (B, L) -> (B,)."""
    return functional.binary_cross_entropy_with_logits(-potential, agreement(y, targets), reduction="none")


def adversarial(
    energy: Energy,
    solver: Solver,
    context: Any,
    targets: Tensor,
    agreement: Measure,
    observed: Observed | None = None,
) -> Tensor:
    """The y (B, L) that the solver's steps on -value_loss end at."""

    def change(potential: Tensor, y: Tensor, targets: Tensor) -> Tensor:
        return -value_loss(potential, y, targets, agreement)

    attacked = AugmentedEnergy(energy, change, regularized=False)
    *_, logits = solver.trajectory(attacked, AugmentedContext(context, targets), observed=observed)
    return energy.domain.labels(logits)


def _random_step(energy: Energy, solver: Solver, context: Any, observed: Observed | None = None) -> Tensor:
    """z_s (B, L), s drawn for each document from 0 .. T."""
    chosen: Tensor | None = None
    for step, logits in enumerate(solver.trajectory(energy, context, observed=observed)):
        # Taking the n-th with probability 1 / n leaves each of them equally likely.
        taken = draws.uniform(logits, 1) * (step + 1) < 1
        chosen = logits if chosen is None else torch.where(taken, logits, chosen)
    assert chosen is not None
    return chosen
