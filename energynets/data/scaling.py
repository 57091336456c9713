"""Columns of a table brought to mean 0 and deviation 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array

from energynets.errors import ConfigError

_MOST_VALUES = 1 << 29  # 2 GiB of float32: centred columns have no zeros left to leave out
_ROWS = 4096


@dataclass(frozen=True)
class Standardize:
    """x -> (x - mean) / scale, by column; a column that is constant in training is only centred.

    Args:
        mean: (D,) float64.
        scale: (D,) float64, the deviation over training rows, zeros included; 1 where that is 0.
    """

    mean: np.ndarray
    scale: np.ndarray

    @classmethod
    def fit(cls, table: csr_array) -> Standardize:
        """Means and deviations of training rows (N, D).

        Raises:
            ConfigError: the centred table would not fit in memory.
        """
        _check_size(table)
        rows = max(1, table.shape[0])
        data = table.data.astype(np.float64)
        mean = np.bincount(table.indices, weights=data, minlength=table.shape[1]) / rows
        # Around the mean, not from the mean square: the difference of two large numbers would lose digits.
        around = np.bincount(table.indices, weights=(data - mean[table.indices]) ** 2, minlength=table.shape[1])
        absent = rows - np.bincount(table.indices, minlength=table.shape[1])
        deviation = np.sqrt((around + absent * mean**2) / rows)
        constant = deviation <= 1e-7 * np.abs(mean)
        return cls(mean, np.where(constant, 1.0, deviation))

    def apply(self, table: csr_array) -> csr_array:
        """Rows (M, D) -> (M, D) float32.

        Raises:
            ConfigError: as `fit`.
        """
        _check_size(table)
        dense = np.empty(table.shape, np.float32)
        for begin in range(0, table.shape[0], _ROWS):
            rows = table[begin : begin + _ROWS].toarray().astype(np.float64)
            dense[begin : begin + _ROWS] = (rows - self.mean) / self.scale
        return csr_array(dense)


def is_dense_and_real(table: csr_array) -> bool:
    """More than half of the values are not 0, and some are not 1 either: measurements, not words."""
    return bool(table.nnz > 0.5 * table.shape[0] * table.shape[1] and (table.data != 1).any())


def _check_size(table: csr_array) -> None:
    values = table.shape[0] * table.shape[1]
    if values > _MOST_VALUES:
        raise ConfigError(
            f"data.scaling: standardize makes all {table.shape[0]} x {table.shape[1]} values non-zero, "
            f"{values * 4 / 2**30:.1f} GiB: use unit_norm or none"
        )
