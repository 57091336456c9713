"""Nearest training documents by cosine, whose labels are averaged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array

from energynets.baselines.base import Baseline, Progress, State, pack_csr, unpack_csr
from energynets.baselines.frequency import label_frequencies
from energynets.baselines.rows import UnitRows
from energynets.data.dataset import Documents
from energynets.errors import ConfigError, DataError
from energynets.metrics.scores import TopScores, canonical_labels

SIMILARITIES = 2**25  # numbers of the dense block (batch, N_train) held at a time: 128 MiB


class NearestNeighbours(Baseline):
    """Labels of the nearest training documents, weighted by a power of their cosine similarity.

        score_l(x) = sum_{n in kNN(x)} c_n^p y_nl / sum_{n in kNN(x)} c_n^p,   c_n = max(0, cos(x, x_n))

    Token sequences and tables of counts become tf-idf rows (statistics of the training documents), other tables are
    scaled to unit length. A document similar to none gets the label frequencies. Equally similar neighbours: the
    earlier training document is nearer.

    Args:
        num_neighbours: k, >= 1; all training documents where there are fewer.
        power: p > 0; 1 weights by similarity, more favours the nearest.

    Raises:
        ConfigError: num_neighbours < 1 or power <= 0.
    """

    kind: ClassVar[str] = "neighbours"

    def __init__(self, num_neighbours: int = 20, *, power: float = 2.0) -> None:
        if num_neighbours < 1:
            raise ConfigError(f"num_neighbours must be >= 1, got {num_neighbours}")
        if not power > 0:
            raise ConfigError(f"power must be > 0, got {power}")
        self.num_neighbours = num_neighbours
        self.power = power
        self.rows: csr_array | None = None  # (N, D), unit length
        self.labels: csr_array | None = None  # (N, L)
        self.frequencies: np.ndarray | None = None  # (L,)
        self.reader: UnitRows | None = None

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Keep the training rows and their labels."""
        self.reader = UnitRows.fit(documents)
        self.rows = self.reader.apply(documents.inputs)
        self.labels = canonical_labels(documents.labels)
        self.frequencies = label_frequencies(documents)
        if progress is not None:
            progress(1, 1)
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """Weighted label shares among the neighbours of each document."""
        if self.reader is None or self.rows is None or self.labels is None or self.frequencies is None:
            raise DataError("NearestNeighbours is not fitted: call fit(train) first")
        rows, transposed = self.reader.apply(documents.inputs), csr_array(self.rows.T)
        near = NearLabels(self.labels, self.frequencies, self.num_neighbours, self.power)
        return near.in_batches(rows, lambda part: (part @ transposed).toarray(), k, batch_size)

    @property
    def num_parameters(self) -> int:
        """Stored entries of the training rows and labels."""
        return 0 if self.rows is None or self.labels is None else int(self.rows.nnz + self.labels.nnz)

    def _settings(self) -> dict[str, Any]:
        return {"num_neighbours": self.num_neighbours, "power": self.power}

    def _arrays(self) -> State:
        if self.reader is None or self.rows is None or self.labels is None or self.frequencies is None:
            return {}
        arrays = pack_csr("rows", self.rows) | pack_csr("labels", self.labels)
        return arrays | {"frequencies": self.frequencies} | self.reader.arrays()

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        baseline = cls(settings["num_neighbours"], power=settings["power"])
        if "frequencies" in arrays:
            baseline.rows, baseline.labels = unpack_csr("rows", arrays), unpack_csr("labels", arrays)
            baseline.frequencies = arrays["frequencies"]
            baseline.reader = UnitRows.restore(arrays)
        return baseline


@dataclass(frozen=True)
class NearLabels:
    """score_l = sum_{n in kNN} c_n^p y_nl / sum_{n in kNN} c_n^p, c_n = max(0, similarity); without any, frequencies.

    Args:
        labels: (N, L) of the training documents.
        frequencies: (L,).
        num_neighbours: k.
        power: p.
    """

    labels: csr_array
    frequencies: np.ndarray
    num_neighbours: int
    power: float

    def in_batches(self, rows: Any, similarities: Callable[[Any], np.ndarray], k: int, batch_size: int) -> TopScores:
        """The k best labels of all documents, some at a time.

        Args:
            rows: (N', D), dense or CSR.
            similarities: (B, D) of them -> (B, N).
            k: labels kept.
            batch_size: B at most, fewer where there are many training documents.
        """
        size = max(1, min(batch_size, SIMILARITIES // self.labels.shape[0]))
        starts = range(0, max(rows.shape[0], 1), size)
        return TopScores.concatenate([self.scores(similarities(rows[begin : begin + size]), k) for begin in starts])

    def scores(self, similarities_BN: np.ndarray, k: int) -> TopScores:
        """The k best labels of B documents, by their similarities to the training documents."""
        near = TopScores.from_dense(similarities_BN, self.num_neighbours)
        weights = np.maximum(near.values.astype(np.float64), 0.0) ** self.power
        totals = weights.sum(axis=1, keepdims=True)
        weights = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
        offsets = np.arange(len(near) + 1) * near.k
        mixture = csr_array(
            (weights.ravel(), near.indices.ravel().astype(np.int64), offsets), shape=(len(near), near.num_labels)
        )
        shares = csr_array(mixture @ self.labels)
        shares.data = np.minimum(shares.data, 1.0)  # a sum of weights may round above 1
        top = TopScores.from_sparse(shares, k)
        lonely = totals[:, 0] == 0
        if lonely.any():
            prior = TopScores.from_dense(self.frequencies[None, :], k)
            top.indices[lonely] = prior.indices
            top.values[lonely] = prior.values
        return top
