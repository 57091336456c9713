"""The top-k scores of N documents: all that metrics need of a model, whatever L is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from energynets.errors import DataError, ShapeError

NOT_RANKED = np.float32(-1.0)
"""Stands for the score of a label that was not to be ranked, below every probability and every threshold in use."""
_AT_ONCE = 1 << 18


@dataclass(frozen=True, eq=False)
class TopScores:
    """The k best labels of each of N documents, best first; ties go to the smaller label id.

    Args:
        indices: (N, k) int32, distinct labels in each row, in [0, L).
        values: (N, k) float32, finite, non-increasing along a row; probabilities in [0, 1] where a threshold is used.
        num_labels: L >= k.
        recall: where only a shortlist of labels was at choice, the share of each document's true labels in it, (N,)
            float32, NaN where it has none.
        ranked: how many labels of each document were ranked, (N,), where some were left out, such as those known
            beforehand; these stand behind all others, at `NOT_RANKED`. None: all L.

    Raises:
        ShapeError: shapes disagree, or an index is not in [0, L).
        DataError: a value is not finite, or a row is not sorted.
    """

    indices: np.ndarray
    values: np.ndarray
    num_labels: int
    recall: np.ndarray | None = None
    ranked: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.indices.ndim != 2 or self.indices.shape != self.values.shape:
            raise ShapeError(
                f"expected indices and values of one shape (N, k), got {self.indices.shape} and {self.values.shape}"
            )
        if not 1 <= self.indices.shape[1] <= self.num_labels:
            raise ShapeError(f"expected 1 <= k <= L = {self.num_labels} scores a document, got {self.indices.shape[1]}")
        object.__setattr__(self, "indices", self.indices.astype(np.int32, copy=False))
        object.__setattr__(self, "values", self.values.astype(np.float32, copy=False))
        if len(self) and not (self.indices.min() >= 0 and self.indices.max() < self.num_labels):
            raise ShapeError(
                f"label ids must lie in [0, {self.num_labels}), got {self.indices.min()} to {self.indices.max()}"
            )
        if not np.isfinite(self.values).all():
            row = int(np.flatnonzero(~np.isfinite(self.values).all(axis=1))[0])
            raise DataError(f"scores must be finite, row {row} is not: the model that made them has diverged")
        if (self.values[:, 1:] > self.values[:, :-1]).any():
            raise DataError("scores must not increase along a row: sort them best first (TopScores.from_dense does)")

    def __len__(self) -> int:
        return int(self.indices.shape[0])

    def __getitem__(self, rows: np.ndarray | slice) -> TopScores:
        recall, ranked = (None if part is None else part[rows] for part in (self.recall, self.ranked))
        return replace(self, indices=self.indices[rows], values=self.values[rows], recall=recall, ranked=ranked)

    @property
    def k(self) -> int:
        """Scores kept of each document."""
        return int(self.indices.shape[1])

    @property
    def complete(self) -> bool:
        """Whether every label's score is kept (k = L), so that no threshold can miss one."""
        return self.k == self.num_labels

    @property
    def any_ranked(self) -> bool:
        """Whether any label of any document was ranked: not where all are known beforehand, or to nobody."""
        return bool((self.values > NOT_RANKED).any())

    def sigmoid(self) -> TopScores:
        """The same ranking with values 1 / (1 + exp(-value)): logits to probabilities, after ranking, so that
        saturation at 1 makes no ties."""
        return replace(self, values=expit(self.values))

    def leaving_out(self, labels: np.ndarray, ranked: np.ndarray, k: int) -> TopScores:
        """The k best of the other labels.

        Args:
            labels: which of `indices` to leave out, (N, self.k) bool.
            ranked: how many labels of all L that leaves in each document, (N,).
            k: scores to keep; all where fewer are there.
        """
        order = np.argsort(labels, axis=1, kind="stable")[:, :k]
        values = np.take_along_axis(np.where(labels, NOT_RANKED, self.values), order, axis=1)
        return replace(self, indices=np.take_along_axis(self.indices, order, axis=1), values=values, ranked=ranked)

    @classmethod
    def from_dense(cls, scores: np.ndarray, k: int) -> TopScores:
        """The k largest scores of each row of one batch.

        Args:
            scores: (B, L) float; ranked as float32.
            k: scores to keep; all L where k > L.

        Returns:
            TopScores of B documents with min(k, L) scores each.
        """
        scores = np.asarray(scores, dtype=np.float32)
        if scores.ndim != 2 or scores.shape[1] == 0 or k < 1:
            raise ShapeError(f"expected scores of shape (B, L) with L >= 1, and k >= 1; got {scores.shape} and k = {k}")
        num_labels = scores.shape[1]
        if k >= num_labels:
            indices = np.argsort(-scores, axis=1, kind="stable")
            return cls(indices, np.take_along_axis(scores, indices, axis=1), num_labels)
        if not np.isfinite(scores).all():
            raise DataError("scores must be finite: the model that made them has diverged")
        last = -np.partition(-scores, k - 1, axis=1)[:, k - 1, None]
        keep = scores >= last
        surplus = np.flatnonzero(keep.sum(axis=1) > k)  # rows where several labels share the last kept score
        if len(surplus):
            tied = scores[surplus] == last[surplus]
            room = k - (scores[surplus] > last[surplus]).sum(axis=1)
            keep[surplus] &= ~tied | (tied.cumsum(axis=1) <= room[:, None])
        labels = (np.flatnonzero(keep) % num_labels).reshape(-1, k)  # far faster than a `nonzero` of two dimensions
        values = np.take_along_axis(scores, labels, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        return cls(np.take_along_axis(labels, order, axis=1), np.take_along_axis(values, order, axis=1), num_labels)

    @classmethod
    def from_sparse(cls, scores: csr_array, k: int) -> TopScores:
        """The k largest scores of each row, labels without an entry scoring 0; no dense (N, L) is built.

        Args:
            scores: (N, L) CSR without duplicates, entries >= 0.
            k: scores to keep; all L where k > L.
        """
        num_rows, num_labels = scores.shape
        k = min(k, num_labels)
        values = scores.data.astype(np.float32)
        if (values < 0).any():
            raise DataError("from_sparse expects scores >= 0, since labels without an entry score 0")
        rows = np.repeat(np.arange(num_rows), np.diff(scores.indptr))[values > 0]
        labels, values = scores.indices[values > 0], values[values > 0]
        order = np.lexsort((labels, -values, rows))
        rows, labels, values = rows[order], labels[order], values[order]
        rank = np.arange(len(rows)) - np.searchsorted(rows, rows)
        kept = rank < k
        out_indices = np.full((num_rows, k), -1, dtype=np.int32)
        out_values = np.zeros((num_rows, k), dtype=np.float32)
        out_indices[rows[kept], rank[kept]] = labels[kept]
        out_values[rows[kept], rank[kept]] = values[kept]
        short = np.flatnonzero(out_indices[:, -1] < 0)
        if len(short):  # the smallest labels not there already; among the first k at least that many are free
            filled = out_indices[short]
            free = np.ones((len(short), k), dtype=bool)
            row, column = np.nonzero((filled >= 0) & (filled < k))
            free[row, filled[row, column]] = False
            missing = (filled < 0).sum(axis=1)
            free &= free.cumsum(axis=1) <= missing[:, None]
            filled[filled < 0] = np.nonzero(free)[1]
            out_indices[short] = filled
        return cls(out_indices, out_values, num_labels)

    @classmethod
    def concatenate(cls, parts: Sequence[TopScores]) -> TopScores:
        """Stack the scores of batches."""
        if not parts:
            raise DataError("no scores to concatenate")
        if len({(part.k, part.num_labels) for part in parts}) > 1:
            raise ShapeError(f"parts differ in (k, L): {sorted({(part.k, part.num_labels) for part in parts})}")
        recalls = [part.recall for part in parts if part.recall is not None]
        ranked = [part.ranked for part in parts if part.ranked is not None]
        return cls(
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
            parts[0].num_labels,
            np.concatenate(recalls) if len(recalls) == len(parts) else None,
            np.concatenate(ranked) if len(ranked) == len(parts) else None,
        )


def canonical_labels(labels: csr_array) -> csr_array:
    """The same label sets with sorted, distinct column indices and no stored zeros; copies only where needed."""
    labels = csr_array(labels)
    if labels.has_canonical_format and (labels.data != 0).all():
        return labels
    labels = labels.copy()
    labels.sum_duplicates()
    labels.eliminate_zeros()
    return labels


def check_pair(num_rows: int, num_labels: int, labels: csr_array) -> csr_array:
    """Labels in canonical form, after checking that they belong to N documents and L labels.

    Raises:
        ShapeError: the shapes disagree.
        DataError: there is no document, so that no mean exists.
    """
    if tuple(labels.shape) != (num_rows, num_labels):
        raise ShapeError(f"scores or predictions of shape {(num_rows, num_labels)} but labels of shape {labels.shape}")
    if num_rows == 0:
        raise DataError("no documents to evaluate: a metric is a mean over documents, and this split is empty")
    return canonical_labels(labels)


def blocks(scores: TopScores) -> Iterator[slice]:
    """Rows of a bounded number of scores at a time, in order: what is made of each of them stays small."""
    size = max(1, _AT_ONCE // scores.k)
    return (slice(start, start + size) for start in range(0, len(scores), size))


def hits(scores: TopScores, labels: csr_array, k: int | None = None) -> np.ndarray:
    """(N, min(k, scores.k)) bool: whether the label at each rank is true."""
    labels = check_pair(len(scores), scores.num_labels, labels)
    indices = scores.indices if k is None else scores.indices[:, :k]
    if labels.nnz == 0:
        return np.zeros(indices.shape, dtype=bool)
    num_labels = np.int64(scores.num_labels)
    true_keys = np.repeat(np.arange(len(scores)), np.diff(labels.indptr)) * num_labels + labels.indices
    keys = np.arange(len(scores))[:, None] * num_labels + indices
    found = np.searchsorted(true_keys, keys)
    return np.asarray(true_keys[np.minimum(found, len(true_keys) - 1)] == keys)


def chosen_sets(scores: TopScores, chosen: np.ndarray) -> csr_array:
    """The labels of the chosen places.

    Args:
        scores: of N documents.
        chosen: (N, k) bool.

    Returns:
        (N, L) CSR of ones (float32), column indices sorted.
    """
    indptr = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))])
    sets = csr_array(
        (np.ones(int(indptr[-1]), np.float32), scores.indices[chosen], indptr), shape=(len(scores), scores.num_labels)
    )
    sets.sort_indices()
    return sets
