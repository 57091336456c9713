"""What baselines that compare documents read: rows of unit length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.sparse import csr_array

from energynets.baselines.base import State, require_training, require_width, sparse_rows
from energynets.data.dataset import Documents, Inputs, TokenSequences
from energynets.data.tfidf import TfIdf, unit_rows


@dataclass(frozen=True)
class UnitRows:
    """x -> x / |x|_2: of token sequences and tables of counts their tf-idf, of other tables the row itself.

    Args:
        width: D.
        tfidf: statistics of the training documents, or None.
    """

    width: int
    tfidf: TfIdf | None

    @classmethod
    def fit(cls, documents: Documents) -> Self:
        """Of training documents.

        Raises:
            DataError: there are none, or raw text.
        """
        rows = sparse_rows(require_training(documents).inputs)
        counts = isinstance(documents.inputs, TokenSequences) or are_counts(rows)
        return cls(rows.shape[1], TfIdf.fit(rows) if counts else None)

    def apply(self, inputs: Inputs) -> csr_array:
        """(N, D) float32; empty rows stay empty.

        Raises:
            ShapeError: another number of columns.
        """
        rows = require_width(sparse_rows(inputs), self.width)
        return unit_rows(rows) if self.tfidf is None else self.tfidf.apply(rows)

    def arrays(self) -> State:
        """What `restore` reads."""
        return {"width": np.array([self.width])} | ({} if self.tfidf is None else {"idf": self.tfidf.idf})

    @classmethod
    def restore(cls, arrays: State) -> Self:
        """The inverse of `arrays`, among other arrays."""
        return cls(int(arrays["width"][0]), TfIdf(arrays["idf"]) if "idf" in arrays else None)


def are_counts(rows: csr_array) -> bool:
    """Whether every entry is a whole number >= 0, as in a table of words."""
    return bool((rows.data >= 0).all() and (rows.data == np.floor(rows.data)).all())
