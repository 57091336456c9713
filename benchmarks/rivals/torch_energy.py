"""What the torch rivals share: the energy as a researcher writes it, and the training step around a loop of theirs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.rivals.contestant import Contestant, Problem


class TorchContestant(Contestant):
    """Tensors of the problem, and everything of a step but the loop."""

    def __init__(self, problem: Problem, task: str, device: str = "cpu") -> None:
        super().__init__(problem, task, device)
        wanted = task == "training"
        self.parameters = {
            name: torch.tensor(array, device=device, requires_grad=wanted) for name, array in problem.parameters.items()
        }
        self.features = torch.tensor(problem.features, device=device)
        self.targets = torch.tensor(problem.targets, device=device)

    @abstractmethod
    def loop(self, phi: Tensor) -> Tensor:
        """phi (B, L) -> z_T (B, L)."""

    def run(self) -> Mapping[str, Any]:
        p = self.parameters
        logits = self.loop(functional.linear(self.features, p["unary.weight"], p["unary.bias"]))
        if self.task == "inference":
            return {"logits": logits.detach()}
        loss = functional.binary_cross_entropy_with_logits(logits, self.targets, reduction="sum") / len(logits)
        return dict(zip(p, torch.autograd.grad(loss, list(p.values())), strict=True))

    def potential(self, y: Tensor, phi: Tensor) -> Tensor:
        """-<phi, y> + h(y A^T + a0), summed over documents."""
        p = self.parameters
        m = functional.linear(y, p["measure"], p["offset"])
        if self.problem.energy == "icnn":
            first, second = m.chunk(2, dim=1)
            m = second + functional.linear(functional.softplus(first), p["head.hidden_weights.0"])
        return (functional.softplus(m) @ p["head.output"]).sum() - (phi * y).sum()

    def labels(self, z: Tensor) -> Tensor:
        """y = sigmoid(z), of which the energy can be differentiated."""
        y = torch.sigmoid(z)
        return y if y.requires_grad else y.requires_grad_()

    def slope(self, y: Tensor, phi: Tensor) -> Tensor:
        """d potential / dy (B, L), itself differentiable in training."""
        (gradient,) = torch.autograd.grad(self.potential(y, phi), y, create_graph=self.task == "training")
        return gradient
