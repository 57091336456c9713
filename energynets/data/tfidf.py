"""Word counts -> weights that favour words frequent in a document and rare in the corpus."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from energynets.errors import DataError


@dataclass(frozen=True)
class TfIdf:
    """Sublinear tf-idf, rows of unit length.

        w_ij = (1 + ln n_ij) (1 + ln((1 + N) / (1 + d_j))),   x_i = w_i / |w_i|_2

    n_ij is the count of word j in document i, d_j the number of training documents with word j. A value in (0, 1),
    which is no count, stands for itself in place of 1 + ln n. Empty rows stay empty.

    Args:
        idf: (V,) float64, the second factor.

    Source: scikit-learn's TfidfTransformer(sublinear_tf=True), which this equals on counts.
    """

    idf: np.ndarray

    @classmethod
    def fit(cls, counts: csr_array) -> TfIdf:
        """Document frequencies of the training documents, counts (N, V).

        Raises:
            DataError: a negative value.
        """
        _check(counts)
        present = counts.indices[counts.data != 0]
        frequency = np.bincount(present, minlength=counts.shape[1])
        return cls(1 + np.log((1 + counts.shape[0]) / (1 + frequency)))

    def apply(self, counts: csr_array) -> csr_array:
        """Weights of documents, counts (M, V) -> (M, V) float32.

        Raises:
            DataError: another number of columns, or a negative value.
        """
        _check(counts)
        if counts.shape[1] != len(self.idf):
            raise DataError(f"tf-idf was fitted on {len(self.idf)} columns, got {counts.shape[1]}")
        data = counts.data.astype(np.float64)
        weights = np.where(data >= 1, 1 + np.log(np.maximum(data, 1)), data) * self.idf[counts.indices]
        return unit_rows(csr_array((weights, counts.indices, counts.indptr), shape=counts.shape))


def unit_rows(matrix: csr_array) -> csr_array:
    """Rows divided by their Euclidean length, float32; empty rows stay empty."""
    row = np.repeat(np.arange(matrix.shape[0]), np.diff(matrix.indptr))
    data = matrix.data.astype(np.float64)
    length = np.sqrt(np.bincount(row, weights=data**2, minlength=matrix.shape[0]))
    length[length == 0] = 1
    parts = ((data / length[row]).astype(np.float32), matrix.indices.copy(), matrix.indptr.copy())
    return csr_array(parts, shape=matrix.shape)


def _check(counts: csr_array) -> None:
    if counts.data.size and counts.data.min() < 0:
        raise DataError(
            f"tf-idf needs counts, got {counts.data.min():g}: for a real-valued table leave `inputs: auto` "
            "and choose a `scaling`"
        )
