"""Nearest training documents by cosine, whose labels are averaged."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array, vstack

from energynets.baselines.base import Baseline, Progress, State, pack_csr, unpack_csr
from energynets.baselines.frequency import label_frequencies
from energynets.baselines.rows import UnitRows
from energynets.data.dataset import Documents, Inputs
from energynets.errors import ConfigError, DataError
from energynets.metrics.scores import TopScores, canonical_labels

SIMILARITIES = 2**25  # numbers of the dense block (batch, N_train) held at a time: 128 MiB
COPY = 1 - 1e-5  # cosine of equal rows, but for rounding in float32


class NearestNeighbours(Baseline):
    """Labels of the nearest training documents, weighted by a power of their cosine similarity.

        score_l(x) = sum_{n in kNN(x)} c_n^p y_nl / sum_{n in kNN(x)} c_n^p,   c_n = max(0, cos(x, x_n))

    Token sequences and tables of counts become tf-idf rows (statistics of the training documents), other tables are
    scaled to unit length. A document similar to none gets the label frequencies. A neighbour of which it is unknown
    whether it has a label is in neither sum; where that is all neighbours, the label gets its frequency. Equally
    similar neighbours: the earlier training document is nearer.

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
        self.columns: csr_array | None = None  # the same, (D, N)
        self.labels: csr_array | None = None  # (N, L)
        self.unknown: csr_array | None = None  # (N, L)
        self.frequencies: np.ndarray | None = None  # (L,)
        self.reader: UnitRows | None = None

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Keep the training rows and their labels."""
        self.reader = UnitRows.fit(documents)
        self.rows = self.reader.apply(documents.inputs)
        self.columns = csr_array(self.rows.T)
        self.labels = canonical_labels(documents.labels)
        self.unknown = None if documents.unknown is None else canonical_labels(documents.unknown)
        self.frequencies = label_frequencies(documents)
        if progress is not None:
            progress(1, 1)
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """Weighted label shares among the neighbours of each document."""
        return top_scores(self._parts(documents.inputs, batch_size), k)

    def shares(self, inputs: Inputs, *, leave_one_out: bool = False, batch_size: int = 256) -> csr_array:
        """The scores of all labels, (N, L) float64 in [0, 1].

        Args:
            inputs: of N documents.
            leave_one_out: training documents that are equal to a document are no neighbours of it, so that one of them
                does not find itself.
            batch_size: documents at once.
        """
        return csr_array(vstack(list(self._parts(inputs, batch_size, leave_one_out)), format="csr"))

    def _parts(self, inputs: Inputs, batch_size: int, leave_one_out: bool = False) -> Iterator[csr_array]:
        if self.reader is None or self.columns is None or self.labels is None or self.frequencies is None:
            raise DataError("NearestNeighbours is not fitted: call fit(train) first")
        columns = self.columns

        def similarities(rows: csr_array) -> np.ndarray:
            found = csr_array(rows @ columns)
            if leave_one_out:
                found.data[found.data >= COPY] = 0
            return found.toarray()

        near = NearLabels(self.labels, self.frequencies, self.num_neighbours, self.power, self.unknown)
        return near.in_batches(self.reader.apply(inputs), similarities, batch_size)

    @property
    def num_inputs(self) -> int:
        """D of tables, V of tokens; 0 before `fit`."""
        return 0 if self.rows is None else int(self.rows.shape[1])

    @property
    def num_parameters(self) -> int:
        """Stored entries of the training rows and labels, known and unknown."""
        return sum(int(kept.nnz) for kept in (self.rows, self.labels, self.unknown) if kept is not None)

    def _settings(self) -> dict[str, Any]:
        return {"num_neighbours": self.num_neighbours, "power": self.power}

    def _arrays(self) -> State:
        if self.reader is None or self.rows is None or self.labels is None or self.frequencies is None:
            return {}
        arrays = pack_csr("rows", self.rows) | pack_csr("labels", self.labels)
        arrays |= {} if self.unknown is None else pack_csr("unknown", self.unknown)
        return arrays | {"frequencies": self.frequencies} | self.reader.arrays()

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        baseline = cls(settings["num_neighbours"], power=settings["power"])
        if "frequencies" in arrays:
            baseline.rows, baseline.labels = unpack_csr("rows", arrays), unpack_csr("labels", arrays)
            baseline.unknown = unpack_csr("unknown", arrays) if "unknown.shape" in arrays else None
            baseline.columns = csr_array(baseline.rows.T)
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
        unknown: (N, L), ones where nobody knows whether the label is true: such a pair is in neither sum.
    """

    labels: csr_array
    frequencies: np.ndarray
    num_neighbours: int
    power: float
    unknown: csr_array | None = None

    def in_batches(self, rows: Any, similarities: Callable[[Any], np.ndarray], batch_size: int) -> Iterator[csr_array]:
        """The scores of all labels, (B, L) float64, of some documents after others.

        Args:
            rows: (N', D), dense or CSR.
            similarities: (B, D) of them -> (B, N).
            batch_size: B at most, fewer where there are many training documents.
        """
        size = max(1, min(batch_size, SIMILARITIES // self.labels.shape[0]))
        for begin in range(0, max(rows.shape[0], 1), size):
            yield self.shares(similarities(rows[begin : begin + size]))

    def shares(self, similarities_BN: np.ndarray) -> csr_array:
        """The scores of all labels, by B documents' similarities to the training documents: (B, L) float64."""
        near = TopScores.from_dense(similarities_BN, self.num_neighbours)
        weights = np.maximum(near.values.astype(np.float64), 0.0) ** self.power
        totals = weights.sum(axis=1, keepdims=True)
        weights = np.divide(weights, totals, out=np.zeros_like(weights), where=totals > 0)
        offsets = np.arange(len(near) + 1) * near.k
        mixture = csr_array(
            (weights.ravel(), near.indices.ravel().astype(np.int64), offsets), shape=(len(near), near.num_labels)
        )
        shares = csr_array(mixture @ self.labels)
        if self.unknown is not None:
            shares = self._of_known(shares, mixture, self.unknown)
        shares.data = np.minimum(shares.data, 1.0)  # a sum of weights may round above 1
        lonely = totals == 0
        if lonely.any():
            shares = csr_array(shares + csr_array(lonely * 1.0) @ csr_array(self.frequencies[None, :]))
        return shares

    def _of_known(self, shares: csr_array, mixture: csr_array, unknown: csr_array) -> csr_array:
        """Shares of the weight of those neighbours that know the label, and its frequency where none does."""
        silent = csr_array(mixture @ unknown)  # weight of the others
        silent.data = 1 / np.maximum(1 - silent.data, np.finfo(np.float64).eps) - 1
        shares = csr_array(shares + shares.multiply(silent))
        # Counted, for a sum of weights may round away from 1.
        votes = csr_array(((mixture.data > 0) * 1.0, mixture.indices, mixture.indptr), shape=mixture.shape)
        nobody = csr_array(votes @ unknown)
        nobody.data = (nobody.data == np.repeat(votes.sum(axis=1), np.diff(nobody.indptr))) * (nobody.data > 0)
        return csr_array(shares + nobody.multiply(self.frequencies[None, :]))


def top_scores(shares: Iterable[csr_array], k: int) -> TopScores:
    """The k best labels of all documents, by their `shares` some at a time."""
    return TopScores.concatenate([TopScores.from_sparse(part, k) for part in shares])
