"""Gradient descent on U and u0 that never holds their gradient."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from energynets.inference.engine.row_products import descend
from energynets.output.loss import ChunkedLoss
from energynets.output.rounding import stochastically_rounded
from energynets.products import mm, rounded

_ROWS = 512


class Pending(ABC):
    """A gradient of U and u0 that nobody holds: its norm is known, and one can descend along it once."""

    slope: Tensor | None = None
    """d of what is minimised / d of this loss, a scalar; None until `backward()` says."""

    @abstractmethod
    def norm(self) -> Tensor:
        """sqrt(|dU|^2 + |du0|^2), a scalar; of a shard of the labels, over its own."""

    @abstractmethod
    def descend(self, rate: float, weight_decay: float = 0.0) -> None:
        """U <- (1 - rate decay) U - rate dU, and likewise u0."""


class Deferred(Pending):
    """A gradient of U and u0 that is not there: its norm is known, and one can descend along it.

        dU = a dz^T f,  du0 = a dz^T 1            a = slope / B, dz (B, L) the slopes of the loss
        |dU|^2 + |du0|^2 = a^2 sum (dz dz^T) * (f f^T + 1)          B x B numbers, summed over chunks of labels

    So loss and norm are known, and can be looked at, before any weight changes. Then each chunk's dz is made once more
    from the weights, which are still those it was made from, and added to them as one product.

    Args:
        over_chunks: the loss.
        mean: 1 / B.
        of_weight, of_bias: which of the two have a gradient.
    """

    def __init__(self, over_chunks: ChunkedLoss, mean: float, of_weight: bool, of_bias: bool) -> None:
        self.over_chunks, self.mean = over_chunks, mean
        self.of_weight, self.of_bias = of_weight, of_bias
        count = len(over_chunks.features)
        self._gram = over_chunks.features.new_zeros(count, count)

    def add(self, slopes: Tensor) -> None:
        """dz (B, C) of one more chunk."""
        self._gram.addmm_(slopes, slopes.T)

    def norm(self) -> Tensor:
        norm = _norm(self._gram, self.over_chunks.features, self.of_weight, self.of_bias)
        return norm * self.mean * (1 if self.slope is None else self.slope.abs())

    @torch.no_grad()
    def descend(self, rate: float, weight_decay: float = 0.0) -> None:
        assert self.slope is not None
        weight, bias, features = self.over_chunks.weight, self.over_chunks.bias, self.over_chunks.features
        kept, step = 1 - rate * weight_decay, -rate * self.mean * float(self.slope)
        exact = weight.dtype == features.dtype and self.over_chunks.precision == "float32"
        factor = features if exact else rounded(features, "bf16")
        for chunk in self.over_chunks.slopes():
            if self.of_bias and bias is not None:
                bias[chunk.labels].mul_(kept).add_(chunk.values.sum(0), alpha=step)
            if not self.of_weight:
                continue
            place = weight[chunk.labels]
            if exact:
                place.addmm_(chunk.values.T, factor, beta=kept, alpha=step)
                continue
            # Some rows at a time: the passes over them stay in a CPU's cache.
            for rows, slopes in zip(place.split(_ROWS), chunk.values.split(_ROWS, dim=1), strict=True):
                target = mm(slopes.T, factor).mul_(step).add_(rows, alpha=kept)
                rows.copy_(stochastically_rounded(target) if rows.dtype == torch.bfloat16 else target)


class KeptSlopes(Pending):
    """The same where the slopes are kept, (B, L) numbers: of a model whose loss takes many passes over the labels.

    Args:
        features: f (B, F).
        slopes: d of what is minimised / d (f U^T + u0), (B, L).
        output: U and u0.
        of_weight, of_bias: which of the two have a gradient.
    """

    def __init__(self, features: Tensor, slopes: Tensor, output: nn.Linear, of_weight: bool, of_bias: bool) -> None:
        self.features, self.slopes, self.output = features, slopes, output
        self.of_weight, self.of_bias = of_weight, of_bias
        self.slope = torch.ones((), dtype=slopes.dtype, device=slopes.device)

    def norm(self) -> Tensor:
        assert self.slope is not None
        norm = _norm(self.slopes @ self.slopes.T, self.features, self.of_weight, self.of_bias)
        return norm * self.slope.abs()

    @torch.no_grad()
    def descend(self, rate: float, weight_decay: float = 0.0) -> None:
        assert self.slope is not None
        kept, step = 1 - rate * weight_decay, -rate * float(self.slope)
        weight, bias = self.output.weight, self.output.bias
        if self.of_weight:
            descend(weight, self.slopes, self.features, kept, step)
        if self.of_bias and bias is not None:
            bias.mul_(kept).add_(self.slopes.sum(0), alpha=step)


def _norm(gram: Tensor, features: Tensor, of_weight: bool, of_bias: bool) -> Tensor:
    """sqrt(sum (dz dz^T) * (f f^T + 1)), of dz dz^T (B, B)."""
    inner = torch.zeros_like(gram)
    if of_weight:
        inner += features @ features.T
    if of_bias:
        inner += 1
    return (gram * inner).sum().clamp(min=0).sqrt()  # which rounding could make negative
