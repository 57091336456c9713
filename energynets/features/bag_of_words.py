"""Bag of words: sparse rows through hidden layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from energynets.data.batches import SparseBatch, TokenBatch
from energynets.errors import ConfigError, nearest
from energynets.features.dropout import dropout
from energynets.features.network import FeatureNetwork, check_settings, expect_table
from energynets.features.sparse import SparseLinear
from energynets.linear import Linear
from energynets.parallel import draws

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "softplus": F.softplus, "tanh": torch.tanh}


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
        ConfigError: an unknown activation, widths that are no whole numbers, a probability outside [0, 1].

    Example:
        >>> import torch
        >>> from energynets import BagOfWords
        >>> from energynets.data.batches import SparseBatch
        >>> features = BagOfWords(num_inputs=4, hidden=(8,))
        >>> features(SparseBatch.of(torch.eye(2, 4))).shape
        torch.Size([2, 8])
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
        dropouts = {"input_dropout": input_dropout, "dropout": dropout}
        check_settings(self, sequences={"hidden": hidden}, shares=dropouts)
        self.num_inputs = num_inputs
        self.activation = activation
        self.input_dropout = input_dropout
        self.dropout = dropout
        self.first = SparseLinear(num_inputs, hidden[0], bias=bias) if hidden else None
        self.rest = nn.ModuleList(Linear(width_in, width_out, bias=bias) for width_in, width_out in pairwise(hidden))
        self._num_features = hidden[-1] if hidden else num_inputs
        self.known_width = hidden[0] if hidden else num_inputs
        self.dtype = torch.get_default_dtype()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Without a hidden layer no weight would tell of what dtype a converted model is."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device="cpu")).dtype
        return super()._apply(fn, recurse)

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
        if self.first is None:
            hidden_BH = table.dense(None if self.dtype == torch.float32 else self.dtype)
        else:
            hidden_BH = self.first(table)
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
