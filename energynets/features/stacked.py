"""Bag-of-words networks of several seeds as one: their weights stacked, each on a batch of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from energynets.data.batches import SparseBatch
from energynets.features.bag_of_words import _ACTIVATIONS, BagOfWords
from energynets.features.dropout import dropout
from energynets.features.sparse import DENSE_FROM, sparse_product

Generators = Sequence[torch.Generator | None]


def stacked_features(
    network: BagOfWords, weights: Mapping[str, Tensor], tables: Sequence[SparseBatch], generators: Generators
) -> Tensor:
    """f (S, B, F) of S networks in training: of each what it is alone, to rounding.

    Args:
        network: one of them, for its settings.
        weights: by the name that it has in `network`, (S, ...).
        tables: S batches of B sparse rows.
        generators: of each network's dropout; None drops nothing.
    """
    dropped = []
    for table, generator in zip(tables, generators, strict=True):
        values = dropout(table.values, network.input_dropout, generator is not None, generator=generator)
        dropped.append(SparseBatch(table.columns, values, table.offsets, table.num_columns))
    if network.first is None:
        return torch.stack([table.dense() for table in dropped])
    hidden_SBH = _activated(network, _first(network, weights, dropped), generators)
    for number, layer in enumerate(network.rest):
        product = hidden_SBH @ weights[f"rest.{number}.weight"].transpose(1, 2)
        bias = product if layer.bias is None else product + weights[f"rest.{number}.bias"][:, None]
        hidden_SBH = _activated(network, bias, generators)
    return hidden_SBH


def _first(network: BagOfWords, weights: Mapping[str, Tensor], tables: Sequence[SparseBatch]) -> Tensor:
    weight_SDH = weights["first.weight"]
    seeds, width, hidden = weight_SDH.shape
    if sum(len(table.values) for table in tables) > DENSE_FROM * seeds * len(tables[0]) * width:
        out_SBH = torch.stack([table.dense(weight_SDH.dtype) for table in tables]) @ weight_SDH
    else:  # one product of all: each network's columns after those of the one before
        columns = torch.cat([table.columns + width * number for number, table in enumerate(tables)])
        values = torch.cat([table.values for table in tables])
        counts = torch.cat([table.offsets.diff() for table in tables])
        offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
        together = SparseBatch(columns, values, offsets, seeds * width)
        out_SBH = sparse_product(together, weight_SDH.reshape(seeds * width, hidden)).view(seeds, -1, hidden)
    return out_SBH + weights["first.bias"][:, None] if "first.bias" in weights else out_SBH


def _activated(network: BagOfWords, hidden_SBH: Tensor, generators: Generators) -> Tensor:
    hidden_SBH = _ACTIVATIONS[network.activation](hidden_SBH)
    if not network.dropout:
        return hidden_SBH
    kept = [
        dropout(torch.ones_like(one), network.dropout, generator is not None, generator=generator)
        for one, generator in zip(hidden_SBH, generators, strict=True)
    ]
    return hidden_SBH * torch.stack(kept)
