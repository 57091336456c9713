"""Bag of words: sparse rows through hidden layers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.data.batches import SparseBatch, TokenBatch
from energynets.errors import ConfigError, nearest
from energynets.features.dropout import dropout
from energynets.features.network import FeatureNetwork, expect_table
from energynets.linear import Linear, product
from energynets.parallel import draws

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "softplus": F.softplus, "tanh": torch.tanh}
# Above this share of non-zeros the dense product is faster, forwards and backwards (measured on CPU, H = 512).
_DENSE_FROM = 1 / 12


class BagOfWords(FeatureNetwork):
    """f = hidden layers of a sparse row; with no hidden layer, the row itself, dense.

        f_0 = x,  f_j = activation(f_{j-1} W_j + b_j)

    Args:
        num_inputs: D, columns of the table.
        hidden: widths of the hidden layers; () makes the model over these features linear in x.
        activation: relu, softplus or tanh.
        input_dropout: probability that a non-zero entry of x is dropped; the others are scaled by 1 / (1 - p).
        dropout: probability that a hidden unit is dropped.
        bias: whether hidden layers have one.

    The first layer's weight is stored (D, H), one row per column of x: a sparse row reads and updates only its rows.

    Raises:
        ConfigError: unknown activation.
    """

    input_kind = "table"

    def __init__(
        self,
        num_inputs: int,
        *,
        hidden: Sequence[int] = (512,),
        activation: Literal["relu", "softplus", "tanh"] = "relu",
        input_dropout: float = 0.1,
        dropout: float = 0.5,
        bias: bool = True,
    ) -> None:
        super().__init__()
        if activation not in _ACTIVATIONS:
            raise ConfigError(f"BagOfWords: unknown activation {activation!r}{nearest(activation, _ACTIVATIONS)}")
        self.num_inputs = num_inputs
        self.activation = activation
        self.input_dropout = input_dropout
        self.dropout = dropout
        self.first = SparseLinear(num_inputs, hidden[0], bias=bias) if hidden else None
        self.rest = nn.ModuleList(Linear(width_in, width_out, bias=bias) for width_in, width_out in pairwise(hidden))
        self._num_features = hidden[-1] if hidden else num_inputs
        self.known_width = hidden[0] if hidden else num_inputs

    @property
    def num_features(self) -> int:
        return self._num_features

    def extra_repr(self) -> str:
        dropouts = f"input_dropout={self.input_dropout}, dropout={self.dropout}"
        return f"num_inputs={self.num_inputs}, activation={self.activation}, {dropouts}"

    def forward(self, inputs: SparseBatch | TokenBatch, known: Tensor | None = None) -> Tensor:
        """(B, D) sparse -> (B, F).

        Args:
            inputs: x.
            known: added to the first layer before its activation, (B, known_width).

        Raises:
            ConfigError: the input is not a table.
            ShapeError: the table has another number of columns.
        """
        table = expect_table(self, inputs, self.num_inputs)
        values = dropout(table.values, self.input_dropout, self.training, draws.entries())
        table = SparseBatch(table.columns, values, table.offsets, table.num_columns)
        hidden_BH = table.dense() if self.first is None else self.first(table)
        if known is not None:
            hidden_BH = hidden_BH + known
        if self.first is None:
            return hidden_BH
        hidden_BH = self._activate(hidden_BH)
        for layer in self.rest:
            hidden_BH = self._activate(layer(hidden_BH))
        return hidden_BH

    def _activate(self, hidden_BH: Tensor) -> Tensor:
        return dropout(_ACTIVATIONS[self.activation](hidden_BH), self.dropout, self.training)


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
        values = table.values.to(self.weight.dtype)
        if len(values) > _DENSE_FROM * len(table) * table.num_columns:
            out_BH = product(table.dense(self.weight.dtype), self.weight)
        else:
            out_BH = _SparseProduct.apply(self.weight, table.columns, values, table.offsets)
        return out_BH if self.bias is None else out_BH + self.bias


class _SparseProduct(torch.autograd.Function):
    """X W, and for the backward pass X^T g, such a product itself: no atomics, the same bits on every run."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, columns: Tensor, values: Tensor, offsets: Tensor) -> Tensor:
        ctx.save_for_backward(columns, values, offsets)
        ctx.num_columns = weight.shape[0]
        return _rows_times(columns, values, offsets, weight)

    @staticmethod
    def backward(ctx: Any, gradient_BH: Tensor) -> tuple[Tensor, None, None, None]:
        columns, values, offsets = ctx.saved_tensors
        counts = offsets.diff()
        rows = torch.arange(len(counts), device=columns.device)
        rows = torch.repeat_interleave(rows, counts, output_size=len(columns))  # or CUDA waits to know the size
        ordered, by_column = torch.sort(columns, stable=True)
        starts = torch.searchsorted(ordered, torch.arange(ctx.num_columns + 1, device=columns.device))
        found = _SparseProduct.apply(gradient_BH.contiguous(), rows[by_column], values[by_column], starts)
        return found, None, None, None


def _rows_times(columns: Tensor, values: Tensor, offsets: Tensor, matrix: Tensor) -> Tensor:
    return F.embedding_bag(columns, matrix, offsets, mode="sum", per_sample_weights=values, include_last_offset=True)
