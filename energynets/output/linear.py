"""A linear output layer over very many labels whose loss is computed in chunks of them."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from energynets.data.batches import SparseBatch
from energynets.errors import ConfigError, TrainingError, counts
from energynets.inference.engine.autocast import full_precision
from energynets.inference.engine.once import once
from energynets.linear import Linear, linear
from energynets.output.descent import Deferred, KeptSlopes, Pending
from energynets.output.loss import ChunkedLoss
from energynets.parallel import WHOLE, LabelShard
from energynets.products import Precision, addmm, mm, rounded

_FIRST_ONLY = (
    "a ChunkedLinear's loss has its gradients from the forward pass, and no second derivative; use nn.Linear "
    "(model.output.kind linear; of an energy network, model.label_chunk null)"
)


class ChunkedLinear(Linear):
    """logits = f U^T + u0 as `nn.Linear`, and their loss without a (B, L) tensor.

    One pass over chunks of labels gives the loss and its gradients in f, U and u0: of a chunk, d loss / d logits is
    formed in place of its logits and used up at once. Where `deferred` is set (`ChunkedSGD` sets it), no gradient in U
    or u0 is formed either; `pending` then keeps what descending along it takes. An `EnergyNetwork` that keeps its unary
    has such a layer, too, for the sake of the latter: its loss is the energy's.

    Args:
        num_features: F.
        num_labels: L.
        bias: whether there is u0.
        chunk: C >= 1, labels at a time: buffers have B x C numbers.
        precision: of the factors of the loss's products; sums are in the dtype of f.
        weights: dtype of U. bfloat16 halves its memory, its products are of bf16 factors, and only `ChunkedSGD` can
            train it: it rounds stochastically.

    Raises:
        ConfigError: no labels in a chunk.

    Source: the buffer formed in place is Renee's (Jain et al., MLSys 2023, section 4), the loop over chunks with
    bfloat16 weights ELMO's (Zhang et al., ICML 2025); here the loss is kept, and exact.

    Example:
        >>> import torch
        >>> from energynets.data.batches import SparseBatch
        >>> from energynets.output import ChunkedLinear
        >>> output = ChunkedLinear(num_features=4, num_labels=10, chunk=3)
        >>> labels = SparseBatch(torch.tensor([2, 7]), torch.ones(2), torch.tensor([0, 1, 2]), 10)
        >>> output.loss(torch.randn(2, 4), labels, "bce").backward()
    """

    shard: LabelShard = WHOLE
    """Which labels U and u0 are of; losses are of all."""

    def __init__(
        self,
        num_features: int,
        num_labels: int,
        *,
        bias: bool = True,
        chunk: int = 4096,
        precision: Precision = "float32",
        weights: Precision = "float32",
    ) -> None:
        if not counts(chunk):
            raise ConfigError(f"chunk: expected 1 label or more at a time, a whole number, got {chunk!r}")
        super().__init__(num_features, num_labels, bias=bias, dtype=torch.bfloat16 if weights == "bf16" else None)
        self.chunk = chunk
        self.precision = precision
        self.deferred = False
        self.pending: Pending | None = None

    def reset_parameters(self) -> None:
        """As `nn.Linear` draws them; of bf16 weights there never is a float32 copy, and u0 is float32 at any rate."""
        if self.weight.dtype != torch.bfloat16:
            super().reset_parameters()
            return
        bound = 1 / math.sqrt(max(self.in_features, 1))
        with torch.no_grad():
            for rows in self.weight.split(4096):
                rows.copy_(torch.empty(rows.shape, device=rows.device).uniform_(-bound, bound))
            if self.bias is not None:
                drawn = torch.empty(self.out_features, device=self.bias.device).uniform_(-bound, bound)
                self.bias = nn.Parameter(drawn)

    def forward(self, features: Tensor) -> Tensor:
        """Logits (B, L), for prediction."""
        if self.weight.dtype != torch.bfloat16:
            return super().forward(features)
        # A product in bfloat16 would round logits to 8 bits, and rank by what is left of them.
        parts = [linear(features, rows.to(features.dtype)) for rows in self.weight.split(self.chunk)]
        logits = torch.cat(parts, dim=1)
        return logits if self.bias is None else logits + self.bias

    def check_free(self) -> None:
        """Raise `TrainingError` where a gradient still waits for its step."""
        if self.pending is not None and self.pending.slope is not None:
            raise TrainingError(
                "a second batch before the step of the first, or a second backward(): ChunkedSGD takes one a step"
            )

    def keep(self, features: Tensor, slopes: Tensor, of_weight: bool, of_bias: bool) -> None:
        """The gradient of a loss that is not this layer's own, to be descended along: of f (B, F) and dphi (B, L).

        Raises:
            TrainingError: another gradient still waits for its step.
        """
        self.check_free()
        self.pending = KeptSlopes(features, slopes, self, of_weight, of_bias)

    def _exact(self, features: Tensor) -> Tensor:
        """f of no fewer bits than sums have: an autocast that a feature network was under ends with it."""
        sums = torch.float32 if self.weight.dtype == torch.bfloat16 else self.weight.dtype
        return features.to(torch.promote_types(features.dtype, sums))

    @classmethod
    def sharing(cls, output: nn.Linear, chunk: int) -> ChunkedLinear:
        """One with the weights of another layer, the same tensors."""
        with torch.device("meta"):
            found = cls(output.in_features, output.out_features, bias=output.bias is not None, chunk=chunk)
        found.weight, found.bias = output.weight, output.bias
        found.shard = getattr(output, "shard", WHOLE)
        return found

    @full_precision
    def in_chunks(self, features: Tensor) -> Iterator[Tensor]:
        """Logits (B, C) of labels 0 .. C - 1, of the next C, and so on."""
        features = self._exact(features)
        for start in range(0, self.out_features, self.chunk):
            labels = slice(start, start + self.chunk)
            bias = None if self.bias is None else self.bias[labels]
            yield linear(features, self.weight[labels].to(features.dtype), bias)

    @full_precision
    def loss(self, features: Tensor, labels: SparseBatch, loss: str) -> Tensor:
        """The loss, summed over labels and averaged over documents: a scalar to call `backward()` on once.

        Args:
            features: f (B, F).
            labels: sparse rows (B, L); of a shard of the labels, its own.
            loss: `bce` or `softmax`.

        Raises:
            ConfigError, ShapeError: as `ChunkedLoss`.
        """
        features = self._exact(features)
        source = (features, self.weight, self.bias)
        if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in source):
            return _Loss.apply(*source, self, labels, loss)
        return self._over_chunks(features, labels, loss).value() / max(len(features), 1)

    def _over_chunks(self, features: Tensor, labels: SparseBatch, loss: str) -> ChunkedLoss:
        bias = None if self.bias is None else self.bias.detach()
        settings: Any = {"chunk": self.chunk, "precision": self.precision, "shard": self.shard}
        return ChunkedLoss(features.detach(), self.weight.detach(), bias, labels, loss, **settings)


class _Loss(torch.autograd.Function):
    """Loss and gradients in one pass forward; backward hands the gradients out."""

    @staticmethod
    def forward(
        ctx: Any,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        output: ChunkedLinear,
        labels: SparseBatch,
        name: str,
    ) -> Tensor:
        output.check_free()
        over_chunks = output._over_chunks(features, labels, name)
        of_features, of_weight, of_bias = ctx.needs_input_grad[:3]
        mean = 1 / max(len(features), 1)
        d_features = torch.zeros_like(features) if of_features else None
        deferred = output.deferred and (of_weight or of_bias)
        pending = Deferred(over_chunks, mean, of_weight, of_bias) if deferred else None
        d_weight = torch.empty_like(weight) if of_weight and not deferred else None
        d_bias = torch.empty_like(bias) if bias is not None and of_bias and not deferred else None
        scaled = rounded(over_chunks.features * mean, output.precision if weight.dtype == features.dtype else "bf16")
        total = features.new_zeros(())
        for chunk in over_chunks.slopes(total):
            if d_features is not None:
                d_features = addmm(d_features, chunk.values, chunk.weight, out=d_features)
            if pending is not None:
                pending.add(chunk.values)
            if d_weight is not None:
                place = d_weight[chunk.labels]
                found = mm(chunk.values.T, scaled, out=place if place.dtype == scaled.dtype else None)
                if found is not place:
                    place.copy_(found)
            if d_bias is not None:
                torch.sum(chunk.values, 0, out=d_bias[chunk.labels]).mul_(mean)
        total = output.shard.sum(total)
        if d_features is not None:
            d_features = output.shard.sum(d_features)
        ctx.gradients = [None if d_features is None else d_features.mul_(mean), d_weight, d_bias]
        ctx.output, ctx.pending = output, pending
        output.pending = pending
        return total.mul_(mean)

    @staticmethod
    @functools.partial(once, why=_FIRST_ONLY)
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise TrainingError("a loss in chunks of labels keeps its gradients for one backward() alone")
        gradients, ctx.gradients = ctx.gradients, None
        if ctx.pending is not None:
            ctx.output.check_free()
            ctx.output.pending = ctx.pending  # where a zero_grad() came since, or another loss
            ctx.pending.slope = slope.clone()
        if slope.device.type != "cpu" or slope != 1:  # 1 where the loss is all there is, as in training
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(slope)
        return *gradients, None, None, None
