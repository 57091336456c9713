"""What every feature network is: x -> f, with a width and one kind of input."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from numbers import Real
from typing import ClassVar, Literal

from torch import Tensor, nn

from energynets.data.batches import CachedFeatures, SparseBatch, TokenBatch
from energynets.errors import ConfigError, ShapeError, counts

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
    return f"a tensor of shape {tuple(inputs.shape)}" if isinstance(inputs, Tensor) else type(inputs).__name__


def check_settings(
    network: nn.Module,
    *,
    widths: Mapping[str, object] = {},
    sequences: Mapping[str, object] = {},
    shares: Mapping[str, object] = {},
) -> None:
    """What a constructor was given, by name.

    Args:
        network: whose constructor.
        widths: whole numbers from 1 on.
        sequences: of such numbers.
        shares: numbers in [0, 1].

    Raises:
        ConfigError: one is none.
    """
    who = type(network).__name__
    for name, given in widths.items():
        if not counts(given):
            raise ConfigError(f"{who}: expected {name} to be 1 or more, a whole number, got {given!r}")
    for name, given in sequences.items():
        if not isinstance(given, Sequence) or isinstance(given, str) or not all(map(counts, given)):
            example = f"({given},)" if counts(given) else "(2, 4)"
            raise ConfigError(f"{who}: expected {name} to be a sequence of whole numbers, {example} say, got {given!r}")
    for name, given in shares.items():
        if not isinstance(given, Real) or not 0 <= float(given) <= 1:
            raise ConfigError(f"{who}: expected {name} to be a share in [0, 1], got {given!r}")


def expect_table(network: nn.Module, inputs: object, num_columns: int) -> SparseBatch:
    """`inputs` as a table of `num_columns` columns.

    Raises:
        ConfigError: another kind of input.
        ShapeError: another number of columns, or entries that belong to no row.
    """
    if not isinstance(inputs, SparseBatch):
        remedy = "set data.inputs: counts or tfidf, or use kim_cnn or xml_cnn"
        if isinstance(inputs, Tensor):
            remedy = "SparseBatch.of(x) of energynets.data.batches is one of a dense (B, D)"
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
        if isinstance(inputs, Tensor):
            remedy = "TokenBatch(tokens, lengths) of energynets.data.batches has those of (B, S) ids and (B,) lengths"
        raise ConfigError(f"{type(network).__name__} takes token sequences, got {_kind_of(inputs)}: {remedy}")
    return inputs
