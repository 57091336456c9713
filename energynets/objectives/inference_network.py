"""Amortised inference learned beside the energy: a game of a network that predicts and an energy that objects."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from energynets.energies import Energy
from energynets.errors import ConfigError
from energynets.inference import Observed
from energynets.models import EnergyNetwork
from energynets.objectives.agreement import COSTS, by_name
from energynets.objectives.augmented import loss_augmented
from energynets.objectives.objective import EnergyObjective


class InferenceNetwork(EnergyObjective):
    """min over E, max over A of max(0, margin cost(y_A, t) - E(y_A; x) + E(t; x)), y_A = sigmoid(A(x)).

    A is the model's amortised start; A alone also minimises `local_weight` times its binary cross-entropy to t, which
    keeps the game stable. Its side of the game is one scalar with the energy's: where the energy sees y_A as constant,
    A is given the closed-form slope d(E - margin cost)/dz at its answer, so the value of L is the hinge's and the
    cross-entropy's. A's side has no truncation at 0, and A reads features and phi as constants: they are the energy's.

    In a stage that trains `inference` without the energy there is no one to play against: A then descends E itself,
    without the cost, which is the fine-tuning of inference on a trained energy.

    Args:
        cost: `hamming` or `f1`, as of `StructuredHinge`.
        margin: weight of the cost, >= 0: above 0 the margin-rescaled hinge, 0 the perceptron.
        local_weight: of the cross-entropy of A, >= 0.

    Raises:
        ConfigError: an unknown cost, a negative weight.

    Source: Tu & Gimpel, Learning approximate inference networks for structured prediction (2018), margin-rescaled and
        perceptron losses, with their local cross-entropy for stability; Tu & Gimpel, Benchmarking approximate inference
        methods for neural structured prediction (2019). They let A replace inference; here T > 0 further steps of the
        solver may refine it.

    Example:
        >>> import torch
        >>> from energynets import SPEN, BagOfWords, EnergyNetwork, InferenceNetwork, MirrorDescent
        >>> from energynets.data.batches import Batch, SparseBatch
        >>> from energynets.inference import AmortizedStart
        >>> features, energy = BagOfWords(num_inputs=4, hidden=(8,)), SPEN(num_features=8, num_labels=3)
        >>> model = EnergyNetwork(features, energy, MirrorDescent(steps=0), amortized=AmortizedStart(8, 3))
        >>> rows = SparseBatch(torch.tensor([0, 2]), torch.ones(2), torch.tensor([0, 1, 2]), 4)  # two documents
        >>> labels = SparseBatch(torch.tensor([1, 0]), torch.ones(2), torch.tensor([0, 1, 2]), 3)
        >>> InferenceNetwork()(model, Batch(rows, labels, torch.arange(2))).shape
        torch.Size([])
    """

    def __init__(self, cost: str = "hamming", *, margin: float = 1.0, local_weight: float = 1.0) -> None:
        super().__init__()
        if not (margin >= 0 and local_weight >= 0):
            raise ConfigError(
                f"objective: expected margin and local_weight of 0 or more, got {margin} and {local_weight}"
            )
        self._cost = by_name("objective.cost", cost, COSTS)
        self.cost = cost
        self.margin = margin
        self.local_weight = local_weight

    def of(
        self, model: EnergyNetwork, features: Tensor, context: Any, targets: Tensor, observed: Observed | None
    ) -> Tensor:
        if model.amortized is None:
            raise ConfigError("InferenceNetwork: trains an amortised start: give EnergyNetwork an `amortized`")
        energy = model.energy
        alone = not any(weight.requires_grad for weight in energy.parameters())
        margin = 0.0 if alone else self.margin
        unary = energy.initial_logits(context)
        logits = model.amortized(features.detach(), None if unary is None else unary.detach())
        if observed is not None:
            logits = observed.logits(logits, energy.domain)
        constant = logits.detach()
        with torch.no_grad():
            augmented = loss_augmented(energy, context, targets, self._cost, margin)
            slope = slope_of_logits(*augmented, constant)
            cost = self._cost(energy.domain.labels(constant), targets)
        value = energy(constant, context)
        hinge = value if alone else functional.relu(margin * cost - value + energy.potential(targets, context))
        local = functional.binary_cross_entropy_with_logits(logits, targets, reduction="none").sum(-1)
        # 0 in value: it has the slope alone.
        return hinge + (slope * (logits - constant)).sum(-1) + self.local_weight * local


def slope_of_logits(energy: Energy, context: Any, logits: Tensor) -> Tensor:
    """dE/dz at z, by the chain rule through y(z): (B, L) -> (B, L)."""
    y = energy.domain.labels(logits)
    return energy.domain.pullback(y, energy.gradient(y, context) + energy.tau * logits)
