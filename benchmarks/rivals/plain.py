"""The loops any researcher writes: the energy's gradient by autograd, with a graph kept of it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals.torch_energy import TorchContestant


class PlainLoop(TorchContestant):
    """z <- z - eta (g + tau z), g by `torch.autograd.grad(create_graph=True)` of all but the entropy.

    It knows that the entropy's gradient is -z, and so is the leaner of the two.
    """

    name = "autograd loop"

    def loop(self, phi: Tensor) -> Tensor:
        z = phi
        for _ in range(self.problem.steps):
            gradient = self.slope(self.labels(z), phi)
            z = torch.sub(z, torch.add(gradient, z, alpha=self.problem.tau), alpha=self.problem.step_size)
        return z


class EnergyLoop(TorchContestant):
    """z <- z - eta dE/dy, the whole energy as its formula stands: E = -<phi, y> + h(m) - tau H(y).

    It takes logarithms of y and 1 - y, so it needs labels that are neither 0 nor 1 to rounding.
    """

    name = "autograd loop of E"

    def loop(self, phi: Tensor) -> Tensor:
        z = phi
        for _ in range(self.problem.steps):
            y = self.labels(z)
            entropy = -(y * y.log() + (1 - y) * (1 - y).log()).sum()
            energy = self.potential(y, phi) - self.problem.tau * entropy
            (gradient,) = torch.autograd.grad(energy, y, create_graph=self.task == "training")
            z = z - self.problem.step_size * gradient
        return z
