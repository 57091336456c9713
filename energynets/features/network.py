"""What every feature network is: x -> f, with a width and one kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar, Literal

from torch import Tensor, nn

from energynets.data.batches import CachedFeatures, SparseBatch, TokenBatch
from energynets.errors import ConfigError, ShapeError

InputKind = Literal["table", "tokens"]


class FeatureNetwork(nn.Module, ABC):
    """f = features(x), (B, F): the part of a model that reads x, once.

    A network of your own sets `input_kind` and gives `num_features` and `forward`. Where `known_width` is a number,
    `forward` also takes a tensor (B, known_width) that is added to a layer before its activation; see `Observing`.
    """

    input_kind: ClassVar[InputKind]
    known_width: int | None = None

    @property
    @abstractmethod
    def num_features(self) -> int:
        """F."""

    @abstractmethod
    def forward(self, inputs: SparseBatch | TokenBatch) -> Tensor:
        """(B, F)."""


def _kind_of(inputs: object) -> str:
    if isinstance(inputs, SparseBatch):
        return f"a table of {inputs.num_columns} columns"
    if isinstance(inputs, TokenBatch):
        return "token sequences"
    if isinstance(inputs, CachedFeatures):
        return "cached features, which are already its output"
    return type(inputs).__name__


def expect_table(network: nn.Module, inputs: object, num_columns: int) -> SparseBatch:
    """`inputs` as a table of `num_columns` columns.

    Raises:
        ConfigError: another kind of input.
        ShapeError: another number of columns, or entries that belong to no row.
    """
    if not isinstance(inputs, SparseBatch):
        remedy = "set data.inputs: counts or tfidf, or use kim_cnn or xml_cnn"
        raise ConfigError(f"{type(network).__name__} takes a table, got {_kind_of(inputs)}: {remedy}")
    if inputs.num_columns != num_columns:
        raise ShapeError(f"{type(network).__name__} was built for {num_columns} columns, got {inputs.num_columns}")
    inputs.check()
    return inputs


def expect_tokens(network: nn.Module, inputs: object) -> TokenBatch:
    """`inputs` as token sequences.

    Raises:
        ConfigError: another kind of input.
    """
    if not isinstance(inputs, TokenBatch):
        remedy = "set data.inputs: tokens, or use bag_of_words"
        raise ConfigError(f"{type(network).__name__} takes token sequences, got {_kind_of(inputs)}: {remedy}")
    return inputs
