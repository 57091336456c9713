"""A loss over all labels and its slopes in the logits, a chunk of labels at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from energynets.data.batches import SparseBatch
from energynets.errors import ConfigError, ShapeError, nearest
from energynets.parallel import WHOLE, LabelShard
from energynets.products import Precision, mm, rounded

CHUNKED_LOSSES = ("bce", "softmax")


@dataclass(frozen=True)
class Chunk:
    """Some consecutive labels of one batch.

    Args:
        labels: which, as a slice of 0 .. L.
        weight: their rows of U, (C, F), as products see them.
        values: (B, C), logits first and slopes once they are made of them in place.
        positives: rows and columns of `values` that have a target, (n,) each.
        targets: these, (n,).
    """

    labels: slice
    weight: Tensor
    values: Tensor
    positives: tuple[Tensor, Tensor]
    targets: Tensor


class ChunkedLoss:
    """The loss of B documents over L labels, z = f U^T + u0, summed over labels and documents.

        bce      sum_bl softplus(z_bl) - t_bl z_bl                 dz = sigmoid(z) - t
        softmax  sum_b s_b lse_b - sum_bl p_bl z_bl                dz = s softmax(z) - p
                 lse_b = log sum_l exp z_bl,  p = t / |t|,  s_b = sum_l p_bl (0 for a document without labels)

    No (B, L) tensor exists at any moment, of logits, targets or slopes: every pass makes the logits of a chunk anew
    from f and U, in buffers of B x C numbers. bce is one pass; softmax takes another before, for lse.

    Args:
        features: f (B, F).
        weight: U (L, F), perhaps in bfloat16; sums have the dtype of f.
        bias: u0 (L,) or None.
        labels: t, sparse rows (B, L); entries of a label twice in a row add up.
        loss: `bce` or `softmax`.
        chunk: C >= 1; the last one may be smaller.
        precision: of the factors of products.
        shard: U, u0 and t are those of its labels, the loss is that of all.

    Raises:
        ConfigError: another loss.
        ShapeError: labels of another number of documents or labels than f and U have.
    """

    def __init__(
        self,
        features: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: SparseBatch,
        loss: str,
        *,
        chunk: int,
        precision: Precision = "float32",
        shard: LabelShard = WHOLE,
    ) -> None:
        if loss not in CHUNKED_LOSSES:
            raise ConfigError(f"no loss {loss!r} in chunks of labels{nearest(loss, CHUNKED_LOSSES)}")
        expected, given = (len(features), len(weight)), (len(labels), labels.num_columns)
        if expected != given:
            raise ShapeError(f"expected labels of shape {expected}, documents by labels, got {given}")
        self.features, self.weight, self.bias = features, weight, bias
        self.loss, self.chunk, self.precision, self.shard = loss, chunk, precision, shard
        order = torch.argsort(labels.columns, stable=True)
        self._columns = labels.columns[order]
        self._rows = labels.row_indices()[order]
        self._targets = labels.values.to(features.dtype)[order]
        starts = torch.arange(0, len(weight) + chunk, chunk, device=labels.columns.device)
        self._bounds: list[int] = torch.searchsorted(self._columns, starts).tolist()
        if loss == "softmax":
            self._share_targets()

    def value(self) -> Tensor:
        """The loss, a scalar."""
        total = self.features.new_zeros(())
        for chunk in self._logits():
            self._add(chunk, total)
        total = self.shard.sum(total)
        return total if self._normalisers is None else total + (self._shares * self._normalisers).sum()

    def slopes(self, total: Tensor | None = None) -> Iterator[Chunk]:
        """Every chunk with dz (B, C) as its values, in order: a chunk's logits are made when it is asked for.

        Args:
            total: a scalar that the shard's part of the loss is added to in the same pass.
        """
        if total is not None and self._normalisers is not None:
            total += self.shard.once((self._shares * self._normalisers).sum())
        for chunk in self._logits():
            if total is not None:
                self._add(chunk, total)
            if self._normalisers is None:
                chunk.values.sigmoid_()
            else:
                chunk.values.sub_(self._normalisers[:, None]).exp_().mul_(self._shares[:, None])
            chunk.values.index_put_(chunk.positives, -chunk.targets, accumulate=True)
            yield chunk

    def _logits(self) -> Iterator[Chunk]:
        for number, begin in enumerate(range(0, len(self.weight), self.chunk)):
            labels = slice(begin, min(begin + self.chunk, len(self.weight)))
            weight = rounded(self.weight[labels], self.precision)
            logits = mm(self.features, weight.T)
            if self.bias is not None:
                logits += self.bias[labels]
            here = slice(self._bounds[number], self._bounds[number + 1])
            positives = (self._rows[here], self._columns[here] - begin)
            yield Chunk(labels, weight, logits, positives, self._targets[here])

    def _add(self, chunk: Chunk, total: Tensor) -> None:
        """What a chunk's logits add to the loss; of softmax, without lse."""
        if self._normalisers is None:
            # Above the threshold softplus(z) is z: torch's own, 20, is right to 2e-9, which float64 would show.
            total += functional.softplus(chunk.values, threshold=40).sum()
        total -= chunk.targets @ chunk.values[chunk.positives]

    _normalisers: Tensor | None = None
    """lse (B,) of softmax."""

    def _share_targets(self) -> None:
        zeros = self.features.new_zeros(len(self.features))
        counts = self.shard.sum(zeros.index_add(0, self._rows, self._targets))
        self._targets /= counts.clamp(min=1)[self._rows]
        self._shares = self.shard.sum(zeros.index_add(0, self._rows, self._targets))
        normalisers = torch.full_like(zeros, -torch.inf)
        for chunk in self._logits():
            normalisers = torch.logaddexp(normalisers, chunk.values.logsumexp(1))
        self._normalisers = self.shard.stack(normalisers).logsumexp(0) if self.shard.count > 1 else normalisers
