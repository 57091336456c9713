"""higher's differentiable SGD.

It takes the gradient of a loss to what it steps on, y here, where mirror descent steps on z: its step of y is added to
z, one operation more on (B, L) than a step of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals.torch_energy import TorchContestant


class Higher(TorchContestant):
    """z <- (1 - eta tau) z + (step(y) - y), `higher.get_diff_optim` of `torch.optim.SGD`."""

    name = "higher"
    packages = ("higher",)

    def loop(self, phi: Tensor) -> Tensor:
        import higher

        z, rest = phi, 1 - self.problem.step_size * self.problem.tau
        y = self.labels(z)
        placeholder = torch.empty_like(y, requires_grad=True)
        optimizer = higher.get_diff_optim(
            torch.optim.SGD([placeholder], lr=self.problem.step_size),
            [placeholder],
            track_higher_grads=self.task == "training",
        )
        for _ in range(self.problem.steps):
            (stepped,) = optimizer.step(self.potential(y, phi), params=[y])
            z = torch.add(stepped - y, z, alpha=rest)
            if self.task == "inference":
                z = z.detach()
            y = self.labels(z)
        return z
