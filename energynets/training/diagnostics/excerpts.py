"""A line of each document, for people to recognise it by."""

from __future__ import annotations

import functools

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import Documents, TextDocuments

_WORDS = 24
_FEATURES = 12


class Excerpts:
    """The first words of a document; of a table with names, its most telling features.

    Args:
        raw: documents as read.
    """

    def __init__(self, raw: Documents) -> None:
        self.raw = raw

    def of(self, row: int) -> str | None:
        """One document's line; None where it has neither text nor named features."""
        inputs, names = self.raw.inputs, self.raw.feature_names
        if isinstance(inputs, TextDocuments):
            words = str(inputs.texts[row]).split()
            return " ".join(words[:_WORDS]) + (" …" if len(words) > _WORDS else "")
        if isinstance(inputs, csr_array) and names is not None:
            part = slice(inputs.indptr[row], inputs.indptr[row + 1])
            features = inputs.indices[part]
            order = np.argsort(-inputs.data[part] * self._rarity[features], kind="stable")[:_FEATURES]
            return ", ".join(names[feature] for feature in features[order]) + (
                ", …" if len(features) > _FEATURES else ""
            )
        return None

    @functools.cached_property
    def _rarity(self) -> np.ndarray:
        """log (N / documents with the feature): of equal counts the rare word tells more."""
        inputs = self.raw.inputs
        assert isinstance(inputs, csr_array)
        found = np.bincount(inputs.indices, minlength=inputs.shape[1])
        return np.log((1 + inputs.shape[0]) / np.maximum(1, found))
