"""Products of sparse rows with a dense matrix."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.data.batches import SparseBatch
from energynets.linear import product

DENSE_FROM = 1 / 12
"""Above this share of non-zeros the dense product is faster, forwards and backwards (measured on CPU, H = 512)."""


class SparseLinear(nn.Module):
    """x W + b for sparse rows x, exact; a row without entries gives b.

    Args:
        num_inputs: D.
        num_outputs: H.
        bias: whether b is there.

    `weight` is (D, H). Its entries start uniform with the variance of `nn.Linear`, 1 / (3 D).
    """

    def __init__(self, num_inputs: int, num_outputs: int, *, bias: bool = True) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_inputs, num_outputs))
        self.bias = nn.Parameter(torch.empty(num_outputs)) if bias else None
        self.reset_parameters()

    def reset_parameters(self) -> None:
        bound = 1 / math.sqrt(max(1, self.weight.shape[0]))
        nn.init.uniform_(self.weight, -bound, bound)
        if self.bias is not None:
            nn.init.uniform_(self.bias, -bound, bound)

    def extra_repr(self) -> str:
        return f"{self.weight.shape[0]}, {self.weight.shape[1]}, bias={self.bias is not None}"

    def forward(self, table: SparseBatch) -> Tensor:
        """(B, D) sparse -> (B, H)."""
        if len(table.values) > DENSE_FROM * len(table) * table.num_columns:
            out_BH = product(table.dense(self.weight.dtype), self.weight)
        else:
            out_BH = sparse_product(table, self.weight)
        return out_BH if self.bias is None else out_BH + self.bias


def sparse_product(table: SparseBatch, weight: Tensor) -> Tensor:
    """X W, (B, D) sparse times (D, H): the same bits on every run, with every derivative of W."""
    return _SparseProduct.apply(weight, table.columns, table.values.to(weight.dtype), table.offsets)


class _SparseProduct(torch.autograd.Function):
    """X W, and for the backward pass X^T g, such a product itself: no atomics, the same bits on every run."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, columns: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(columns, values, offsets)
        ctx.num_columns = weight.shape[0]
        return rows_times(columns, values, offsets, weight)

    @staticmethod
    def backward(ctx: Any, gradient_BH: Tensor) -> tuple[Tensor, None, None, None]:
        columns, values, offsets = ctx.saved_tensors
        found = _SparseProduct.apply(gradient_BH.contiguous(), *transposed(columns, values, offsets, ctx.num_columns))
        return found, None, None, None


def rows_times(columns: Tensor, values: Tensor, offsets: Tensor, matrix: Tensor) -> Tensor:
    """X M of sparse rows X, row i from `offsets[i]` to `offsets[i + 1]`, without a derivative of its own."""
    return F.embedding_bag(columns, matrix, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)


def transposed(columns: Tensor, values: Tensor, offsets: Tensor, num_columns: int) -> tuple[Tensor, Tensor, Tensor]:
    """Columns, values and offsets of X^T: in each of its rows the entries in their order in X."""
    counts = offsets.diff()
    rows = torch.arange(len(counts), device=columns.device)
    rows = torch.repeat_interleave(rows, counts, output_size=len(columns))  # or CUDA waits to know the size
    ordered, by_column = torch.sort(columns, stable=True)
    starts = torch.searchsorted(ordered, torch.arange(num_columns + 1, device=columns.device))
    return rows[by_column], values[by_column], starts
