"""Dense layers by the fastest product at hand, with every derivative."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynets.eager import eager
from energynets.products import addmm, mm, onednn_is_faster


class Linear(nn.Linear):
    """`nn.Linear`, x W^T + b, by `linear`."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x W^T + b, (..., D) (H, D) -> (..., H); b (H,)."""
    if _is_plain(x, weight):
        return _Product.apply(x, weight, bias, True)
    return functional.linear(x, weight, bias)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x W, (..., D) (D, H) -> (..., H)."""
    return _Product.apply(x, weight, None, False) if _is_plain(x, weight.T) else x @ weight


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether `_Product` is for these, W (H, D): nothing else is at work that would have a say in their product."""
    return (
        eager()  # first: a tracer need not see the rest
        and x.ndim == 2
        and x.layout == torch.strided
        and x.shape[1] == weight.shape[1]
        and onednn_is_faster(x, weight.T)
        and weight.dtype == x.dtype
    )


class _Product(torch.autograd.Function):
    """x W^T + b of W (H, D), or x W of W (D, H)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, by_rows: bool) -> Tensor:
        of_x, of_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if of_weight else None, weight if of_x else None)
        ctx.by_rows = by_rows
        factor = weight.T if by_rows else weight
        return mm(x, factor) if bias is None else addmm(bias, x, factor)

    @staticmethod
    def backward(ctx: Any, bar: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        of_x, of_weight, of_bias, _ = ctx.needs_input_grad
        bar = bar.contiguous()
        times = torch.mm if torch.is_grad_enabled() else mm  # what is to be differentiated again has a graph
        weight_bar = None
        if of_weight:
            weight_bar = times(bar.T, x) if ctx.by_rows else times(x.T, bar)
        return (
            times(bar, weight if ctx.by_rows else weight.T) if of_x else None,
            weight_bar,
            bar.sum(0) if of_bias else None,
            None,
        )
