"""Stochastic gradient descent of an output layer without its gradient."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch

from energynets.output.linear import ChunkedLinear


class ChunkedSGD(torch.optim.Optimizer):
    """theta <- theta - rate (dtheta + decay theta), momentum-free SGD, applied chunk by chunk of labels.

    From its making until `close()` the losses of the layer leave no gradient in its parameters, and `step` makes it
    chunk by chunk instead; one batch a step. Costs one more product f U^T than SGD that keeps the gradient.

    Args:
        output: the layer.
        lr: rate > 0.
        weight_decay: decay >= 0.

    Example:
        >>> import torch
        >>> from energynets.data.batches import SparseBatch
        >>> from energynets.output import ChunkedLinear, ChunkedSGD
        >>> output = ChunkedLinear(num_features=4, num_labels=10, chunk=3)
        >>> optimizer = ChunkedSGD(output, lr=0.1)
        >>> labels = SparseBatch(torch.tensor([2, 7]), torch.ones(2), torch.tensor([0, 1, 2]), 10)
        >>> output.loss(torch.randn(2, 4), labels, "bce").backward()
        >>> optimizer.step()
    """

    def __init__(self, output: ChunkedLinear, lr: float, weight_decay: float = 0.0) -> None:
        super().__init__(list(output.parameters()), {"lr": lr, "weight_decay": weight_decay})
        self.output = output
        output.deferred = True

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Descend along the gradient of the last loss that was differentiated, if there is one."""
        assert closure is None, "there is no gradient that a closure could make anew"
        pending, self.output.pending = self.output.pending, None
        group = self.param_groups[0]
        for parameter in group["params"]:  # of a loss that is not in chunks
            if parameter.grad is not None:
                kept = 1 - float(group["lr"]) * group["weight_decay"]
                parameter.mul_(kept).add_(parameter.grad, alpha=-float(group["lr"]))
        if pending is not None and pending.slope is not None:
            weight = self.output.weight
            # bfloat16 rounds at random: a draw for each of its numbers, which no shard makes for the others.
            draws = self.output.shard.own_draws if weight.dtype == torch.bfloat16 else nullcontext
            with draws(weight.device):
                pending.descend(float(group["lr"]), group["weight_decay"])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget the gradient."""
        super().zero_grad(set_to_none)
        self.output.pending = None

    def close(self) -> None:
        """The layer's losses leave gradients again."""
        self.output.deferred, self.output.pending = False, None
