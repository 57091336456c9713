"""Which labels of a document are shown beforehand: drawn at random, or given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy.sparse import csr_array

_GOLDEN = 0x9E3779B97F4A7C15
_TRAINING, _EVALUATION, _MISSING = range(3)


class Reveal(Protocol):
    """A fixed choice among all pairs (document, label), looked up a few at a time: no (N, L) array is ever made."""

    def at(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Whether these pairs are chosen: bool, of the shape that rows and labels broadcast to."""


@dataclass(frozen=True)
class RandomReveal:
    """Label l of document n with probability p_n, where p_n is uniform over [low, high], true labels and false alike.

    Every number is a hash of (key, n, l), so a pair's fate depends on neither batches nor order, and what is shown at
    one fraction is shown at every larger one.

    Args:
        low, high: 0 <= low <= high <= 1.
        key: whole numbers >= 0 that tell one draw from another.

    Example:
        >>> import numpy as np
        >>> from energynets.data.reveal import RandomReveal
        >>> half = RandomReveal(0.5, 0.5, key=(7,))
        >>> bool((half.at(np.arange(1000), np.array(3)).mean() - 0.5) ** 2 < 0.01)
        True

    Source: the hash is SplitMix64's finaliser (Steele, Lea & Flood 2014), once a coordinate.
    """

    low: float
    high: float
    key: tuple[int, ...]

    @classmethod
    def training(cls, low: float, high: float, seed: int, epoch: int) -> RandomReveal:
        """What one epoch of training shows: new in each epoch, and the same where an epoch is resumed."""
        return cls(low, high, (_TRAINING, seed, epoch))

    @classmethod
    def evaluation(cls, fraction: float, split: int, draw: int = 0) -> RandomReveal:
        """What a split shows whenever it is measured at this fraction, whatever the model and its seed.

        Args:
            fraction: in [0, 1].
            split: position in `SPLITS`.
            draw: >= 0.
        """
        return cls(fraction, fraction, (_EVALUATION, split, draw) if draw else (_EVALUATION, split))

    @classmethod
    def missing(cls, fraction: float, seed: int) -> RandomReveal:
        """What is taken out of a data set."""
        return cls(fraction, fraction, (_MISSING, seed))

    def at(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        documents = _mixed(np.uint64(self._state()), np.asarray(rows))
        shares = self.low + (self.high - self.low) * _uniform(_mixed(documents, np.asarray(-1)))
        return _uniform(_mixed(documents, np.asarray(labels))) < shares

    def _state(self) -> int:
        state = 0
        for number in self.key:
            state = int(_mixed(np.uint64(state), np.asarray(number)))
        return state


class GivenReveal:
    """The pairs that a sparse matrix has an entry for, whatever its value.

    Args:
        pairs: (N, L) CSR.
    """

    def __init__(self, pairs: csr_array) -> None:
        self._num_labels = np.int64(pairs.shape[1])
        self._keys = np.sort(entry_rows(pairs) * self._num_labels + pairs.indices)

    def at(self, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
        keys = np.asarray(rows, dtype=np.int64) * self._num_labels + labels
        if not len(self._keys):
            return np.zeros(keys.shape, dtype=bool)
        places = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
        return np.asarray(self._keys[places] == keys)


def mask_of(reveal: Reveal, rows: np.ndarray, num_labels: int) -> np.ndarray:
    """(B, L) bool of some documents, (B,) rows."""
    return reveal.at(np.asarray(rows)[:, None], np.arange(num_labels))


def rest_of(labels: csr_array, reveal: Reveal) -> csr_array:
    """The labels that are not chosen, (N, L) CSR: what is left to be found."""
    return keep_entries(labels, ~reveal.at(entry_rows(labels), labels.indices))


def entry_rows(matrix: csr_array) -> np.ndarray:
    """The row of each entry, (nnz,) int64."""
    return np.repeat(np.arange(matrix.shape[0], dtype=np.int64), np.diff(matrix.indptr))


def keep_entries(matrix: csr_array, kept: np.ndarray) -> csr_array:
    """A CSR matrix of some of the entries, (nnz,) bool, of another."""
    offsets = np.concatenate([[0], np.cumsum(kept)])[matrix.indptr].astype(matrix.indptr.dtype)
    return csr_array((matrix.data[kept], matrix.indices[kept], offsets), shape=matrix.shape)


def _mixed(state: np.ndarray | np.uint64, numbers: np.ndarray) -> np.ndarray:
    """A state that depends on another one and on whole numbers >= -1."""
    with np.errstate(over="ignore"):  # of 64 bits, wrapping round
        x = np.asarray(state) + (numbers.astype(np.uint64) + np.uint64(1)) * np.uint64(_GOLDEN)
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)))


def _uniform(bits: np.ndarray) -> np.ndarray:
    """In [0, 1)."""
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
