"""Parsed rows of sparse numbers, and what their indices may be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from energynets.data.dataset import csr

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Limits:
    """What a file's indices may be.

    Args:
        columns: D; indices run over [first_column, first_column + D). None: any.
        labels: L, likewise; 0 where rows carry no labels (then no line may begin with any). None: any.
        column: what an error calls an index of a pair ("feature", or "label" in a file of label pairs).
    """

    columns: int | None = None
    labels: int | None = None
    first_column: int = 0
    first_label: int = 0
    column: str = "feature"


@dataclass(frozen=True)
class Rows:
    """R parsed rows. Row r has `columns[column_offsets[r]:column_offsets[r + 1]]`, sorted, and labels likewise."""

    columns: np.ndarray
    values: np.ndarray
    column_offsets: np.ndarray
    labels: np.ndarray
    label_offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.column_offsets) - 1

    @classmethod
    def concatenate(cls, parts: Sequence[Rows]) -> Rows:
        def offsets(arrays: list[np.ndarray]) -> np.ndarray:
            lengths = np.concatenate([np.diff(array) for array in arrays]) if arrays else np.zeros(0, np.int64)
            return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

        def joined(arrays: list[np.ndarray], dtype: type) -> np.ndarray:
            return np.concatenate(arrays) if arrays else np.zeros(0, dtype)

        return cls(
            joined([part.columns for part in parts], np.int64),
            joined([part.values for part in parts], np.float32),
            offsets([part.column_offsets for part in parts]),
            joined([part.labels for part in parts], np.int64),
            offsets([part.label_offsets for part in parts]),
        )

    def inputs(self, num_columns: int | None = None) -> csr_array:
        """(R, D) float32 without stored zeros; D is the largest index + 1 where not given."""
        size = num_columns if num_columns is not None else int(self.columns.max(initial=-1)) + 1
        matrix = csr(self.values, self.columns, self.column_offsets, (len(self), size))
        matrix.eliminate_zeros()
        return matrix

    def label_matrix(self, num_labels: int | None = None) -> csr_array:
        """(R, L) of ones; L is the largest label + 1 where not given."""
        size = num_labels if num_labels is not None else int(self.labels.max(initial=-1)) + 1
        ones = np.ones(len(self.labels), np.float32)
        return csr(ones, self.labels, self.label_offsets, (len(self), size))
