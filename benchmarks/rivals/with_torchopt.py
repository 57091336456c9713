"""torchopt's differentiable SGD.

`MetaSGD` steps on the gradient of a loss to its own parameter, which is no mirror descent; this is the functional
transformation it is made of, called as it calls it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.rivals.contestant import Problem
from benchmarks.rivals.torch_energy import TorchContestant


class TorchOpt(TorchContestant):
    """z <- z + update(g + tau z), `torchopt.sgd(eta)`."""

    name = "torchopt"
    packages = ("torchopt",)

    def __init__(self, problem: Problem, task: str, device: str = "cpu") -> None:
        super().__init__(problem, task, device)
        import torchopt

        self._apply = torchopt.apply_updates
        self._optimizer = torchopt.sgd(problem.step_size, moment_requires_grad=task == "training")

    def loop(self, phi: Tensor) -> Tensor:
        z, state = phi, self._optimizer.init((phi,))
        for _ in range(self.problem.steps):
            direction = torch.add(self.slope(self.labels(z), phi), z, alpha=self.problem.tau)
            updates, state = self._optimizer.update((direction,), state, params=(z,), inplace=False)
            (z,) = self._apply((z,), updates, inplace=False)
        return z
