"""The loop any researcher writes: the energy's gradient by autograd, with a graph kept of it."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals.torch_energy import TorchContestant


class PlainLoop(TorchContestant):
    """z <- z - eta (g + tau z), g by `torch.autograd.grad(create_graph=True)`."""

    name = "autograd loop"

    def loop(self, phi: Tensor) -> Tensor:
        z = phi
        for _ in range(self.problem.steps):
            gradient = self.slope(self.labels(z), phi)
            z = torch.sub(z, torch.add(gradient, z, alpha=self.problem.tau), alpha=self.problem.step_size)
        return z
