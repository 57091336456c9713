"""Noise-contrastive ranking: the true labels must be told from samples of a proposal."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from energynets.energies import Energy
from energynets.errors import ConfigError
from energynets.inference import Observed
from energynets.models import EnergyNetwork
from energynets.objectives.objective import EnergyObjective
from energynets.parallel import draws


class Contrastive(EnergyObjective):
    """L = -log [exp s(y_0) / sum over k = 0 .. S of exp s(y_k)], s(y) = -E(y; x) - log q(y | x), y_0 = t, y_k ~ q.

    q takes each label by itself with probability sigmoid(phi / temperature); it counts as constant. All y_k are 0 or 1,
    where the entropy is 0. As S grows, L - log S - log q(t) tends to the negative log-likelihood of p(y | x) =
    exp(-E(y; x)) / Z, and L's gradient to that of it; at tau = 1 the minimum of E that prediction looks for is the
    mean-field approximation of the same p. L itself grows as q comes closer to the data, harder to tell from them.
    Inference takes no part in training, so its steps cost nothing there.

    Args:
        samples: S >= 1, for each document anew in each step.
        temperature: of the proposal, > 0; above 1 samples are more diverse.

    Raises:
        ConfigError: a value out of its range.

    Source: Ma & Collins, Noise contrastive estimation and negative sampling for conditional models (2018),
        the ranking objective, which is consistent without knowing Z.

    Example:
        >>> import torch
        >>> from energynets import SPEN, BagOfWords, Contrastive, EnergyNetwork
        >>> from energynets.data.batches import Batch, SparseBatch
        >>> model = EnergyNetwork(BagOfWords(num_inputs=4, hidden=(8,)), SPEN(num_features=8, num_labels=3))
        >>> rows = SparseBatch(torch.tensor([0, 2]), torch.ones(2), torch.tensor([0, 1, 2]), 4)  # two documents
        >>> labels = SparseBatch(torch.tensor([1, 0]), torch.ones(2), torch.tensor([0, 1, 2]), 3)
        >>> Contrastive(samples=4)(model, Batch(rows, labels, torch.arange(2))).shape
        torch.Size([])
    """

    def __init__(self, samples: int = 16, *, temperature: float = 1.0) -> None:
        super().__init__()
        if samples < 1:
            raise ConfigError(f"objective.samples: expected 1 or more, got {samples}")
        if not temperature > 0:
            raise ConfigError(f"objective.temperature: expected a positive number, got {temperature}")
        self.samples = samples
        self.temperature = temperature

    def of(
        self, model: EnergyNetwork, features: Tensor, context: Any, targets: Tensor, observed: Observed | None
    ) -> Tensor:
        unary = model.energy.initial_logits(context)
        if unary is None:
            raise ConfigError(f"Contrastive: {type(model.energy).__name__} has no initial_logits to draw labels from")
        proposal = (unary.detach() / self.temperature).unsqueeze(1)
        y = torch.cat([targets.unsqueeze(1), self._draw(proposal)], dim=1)
        log_q = -functional.binary_cross_entropy_with_logits(proposal.expand_as(y), y, reduction="none")
        if observed is not None:  # q is of the others alone
            known = observed.mask.unsqueeze(1)
            y, log_q = torch.where(known, targets.unsqueeze(1), y), log_q.masked_fill(known, 0)
        return ranking_loss(model.energy, context, y, log_q.sum(-1))

    def _draw(self, proposal: Tensor) -> Tensor:
        """(B, 1, L) logits -> (B, S, L)."""
        uniform = draws.uniform(proposal, self.samples, proposal.shape[-1])
        return (uniform < torch.sigmoid(proposal)).to(proposal.dtype)


def ranking_loss(energy: Energy, context: Any, y: Tensor, log_q: Tensor) -> Tensor:
    """-log softmax over k of [-E(y_k) - log q(y_k)], at k = 0.

    Args:
        energy: E.
        context: of B documents.
        y: 0 or 1, (B, S + 1, L), the true labels first.
        log_q: (B, S + 1).

    Returns:
        (B,).
    """
    count = y.shape[1]
    documents = torch.arange(len(y), device=y.device).repeat_interleave(count)
    values = energy.potential(y.flatten(0, 1), energy.select(context, documents)).view(-1, count)
    return -torch.log_softmax(-values - log_q, dim=1)[:, 0]
