"""Max-margin learning: the true labels must have a lower energy than all others, by the cost of these."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from energynets.errors import ConfigError
from energynets.inference import NoGradient, Observed
from energynets.models import EnergyNetwork
from energynets.objectives.agreement import COSTS, by_name
from energynets.objectives.augmented import loss_augmented
from energynets.objectives.objective import EnergyObjective


class StructuredHinge(EnergyObjective):
    """L = max(0, max over y in [0, 1]^L of [margin cost(y, t) - E(y; x)] + E(t; x)).

    The maximum is found by the model's own solver and counts as constant: what remains is a subgradient of L. E is the
    whole energy, - tau H(y) included, and H(t) = 0. So L bounds the cost of the exact prediction from above, and with
    h = 0, tau = margin = 1 and the Hamming cost it is sum_i log(1 + exp(phi_i + 1 - 2 t_i)) + |t| - <phi, t>, the
    softmax-margin loss of the unary. Where inference falls short of the maximum, the bound is one less.

    Args:
        cost: `hamming`, the number of wrong labels (linear in y: inference stays on the engine's path), or `f1`,
            1 - example-F1, both relaxed to [0, 1]^L.
        margin: weight of the cost, >= 0; 0 is the structured perceptron.

    Raises:
        ConfigError: an unknown cost, a negative margin.

    Source: Taskar, Guestrin & Koller (2003); Tsochantaridis et al. (2004), margin rescaling; for energies over
        [0, 1]^L, Belanger & McCallum (2016), equation 5. The softmax-margin loss is Gimpel & Smith (2010).

    Example:
        >>> import torch
        >>> from energynets import SPEN, BagOfWords, EnergyNetwork, StructuredHinge
        >>> from energynets.data.batches import Batch, SparseBatch
        >>> model = EnergyNetwork(BagOfWords(num_inputs=4, hidden=(8,)), SPEN(num_features=8, num_labels=3))
        >>> rows = SparseBatch(torch.tensor([0, 2]), torch.ones(2), torch.tensor([0, 1, 2]), 4)  # two documents
        >>> labels = SparseBatch(torch.tensor([1, 0]), torch.ones(2), torch.tensor([0, 1, 2]), 3)
        >>> loss = StructuredHinge("hamming")(model, Batch(rows, labels, torch.arange(2)))
        >>> bool(loss > 0)
        True
    """

    def __init__(self, cost: str = "hamming", *, margin: float = 1.0) -> None:
        super().__init__()
        if not margin >= 0:
            raise ConfigError(f"objective.margin: expected 0 or more, got {margin}")
        self._cost = by_name("objective.cost", cost, COSTS)
        self.cost = cost
        self.margin = margin

    def of(
        self, model: EnergyNetwork, features: Tensor, context: Any, targets: Tensor, observed: Observed | None
    ) -> Tensor:
        energy = model.energy
        with torch.no_grad():
            augmented = loss_augmented(energy, context, targets, self._cost, self.margin)
            logits = model.solver.solve(*augmented, gradient=NoGradient(), observed=observed)
            cost = self._cost(energy.domain.labels(logits), targets)
        return functional.relu(self.margin * cost - energy(logits, context) + energy.potential(targets, context))
