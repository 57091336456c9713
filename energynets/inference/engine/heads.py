"""The slope s = dh/dm of any head: closed form where it has one, else by autograd on K numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from energynets.energies.heads import speaks_for
from energynets.energies.slopes import Slope, Weights

MakeSlope = Callable[[Weights], Slope]


class TracedSlope:
    """The slope of any module h(m) or h(m, context), differentiated by autograd.

    The tensors of the context count as weights: they depend on x and get gradients.
    """

    def __init__(self, head: nn.Module, context: Any, weights: Weights) -> None:
        self._head = head
        self._names = [name for name, _ in head.named_parameters()]
        self._leaves, self._structure = pytree.tree_flatten(context)
        self._weights = weights
        self._gradients: list[Tensor | None] = [None] * len(weights)

    def _slope(self, measurements: Tensor, weights: Weights) -> Tensor:
        parameters = dict(zip(self._names, weights, strict=False))
        rest = iter(weights[len(self._names) :])
        leaves = [next(rest) if isinstance(leaf, Tensor) else leaf for leaf in self._leaves]
        context = pytree.tree_unflatten(leaves, self._structure)
        given = () if context is None else (context,)

        def total(m: Tensor) -> Tensor:
            return torch.func.functional_call(self._head, parameters, (m, *given)).sum()

        return torch.func.grad(total)(measurements)

    def forward(self, measurements: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        return self.recall(measurements, scale, out)

    def recall(self, state: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        return torch.mul(self._slope(state, self._weights), scale, out=out)

    def backward(self, state: Tensor, cotangent: Tensor, scale: float | Tensor, out: Tensor) -> Tensor:
        with torch.enable_grad():
            leaves = [tensor.detach().requires_grad_(tensor.is_floating_point()) for tensor in (state, *self._weights)]
            slope = self._slope(leaves[0], tuple(leaves[1:]))
            given = [leaf for leaf in leaves if leaf.requires_grad]
            # A slope that depends on nothing (a linear head) has no graph to go back through.
            bars = (
                torch.autograd.grad(slope, given, cotangent * scale, allow_unused=True)
                if slope.requires_grad
                else [None] * len(given)
            )
        found = iter(bars)
        state_bar, *weight_bars = [next(found) if leaf.requires_grad else None for leaf in leaves]
        for index, bar in enumerate(weight_bars):
            if bar is not None:
                total = self._gradients[index]
                self._gradients[index] = bar if total is None else total + bar
        return out.zero_() if state_bar is None else out.copy_(state_bar)

    def gradients(self) -> Sequence[Tensor | None]:
        return self._gradients


def slope_of(head: nn.Module, context: Any) -> tuple[Weights, MakeSlope]:
    """All tensors the head depends on besides m, and what makes a slope of them."""
    if context is None and has_closed_form(head):
        return head.weights(), head.closed_form  # type: ignore[operator, return-value]
    tensors = [leaf for leaf in pytree.tree_leaves(context) if isinstance(leaf, Tensor)]
    return (*head.parameters(), *tensors), lambda weights: TracedSlope(head, context, weights)


def has_closed_form(head: nn.Module) -> bool:
    """Whether the head brings its own backward, of the h that it computes."""
    return hasattr(head, "weights") and speaks_for(head, "closed_form", "forward", "gradient")
