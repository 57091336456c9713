"""Precision and normalised discounted cumulative gain at k."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from energynets.errors import ShapeError
from energynets.metrics.scores import TopScores, canonical_labels, hits


def require_k(k: int) -> int:
    """k itself.

    Raises:
        ShapeError: k < 1.
    """
    if k < 1:
        raise ShapeError(f"metrics at k need k >= 1, got {k}")
    return k


def discounts(k: int) -> np.ndarray:
    """(k,) 1 / log2(rank + 1) for rank = 1..k."""
    return 1.0 / np.log2(np.arange(2, k + 2))


def precision_at_k(scores: TopScores, labels: csr_array, k: int) -> float:
    """Share of true labels among the first k, averaged over documents.

        P@k = 1/N sum_n 1/k sum_{r<=k} [label at rank r is true]

    The divisor is k, also for documents with fewer than k labels and where fewer than k scores exist.

    Args:
        scores: of N documents.
        labels: (N, L) CSR; a row without labels counts 0.
        k: >= 1.

    Returns:
        In [0, 1].

    Source: the Extreme Classification Repository, "Performance metrics".
    """
    return float(precisions(scores, labels, k).mean())


def precisions(scores: TopScores, labels: csr_array, k: int) -> np.ndarray:
    """(N,) the terms of `precision_at_k`."""
    return np.asarray(hits(scores, labels, require_k(k)).sum(axis=1) / k)


def ndcg_at_k(scores: TopScores, labels: csr_array, k: int) -> float:
    """Discounted gain of the first k over the best one possible, averaged over documents.

        nDCG@k = 1/N sum_n (sum_{r<=k} [true at r] / log2(r + 1)) / (sum_{r<=min(k, |t_n|)} 1 / log2(r + 1))

    Args:
        scores: of N documents.
        labels: (N, L) CSR; a row without labels counts 0.
        k: >= 1.

    Returns:
        In [0, 1].

    Source: the Extreme Classification Repository, "Performance metrics".
    """
    return float(normalised_gains(scores, labels, k).mean())


def normalised_gains(scores: TopScores, labels: csr_array, k: int) -> np.ndarray:
    """(N,) the terms of `ndcg_at_k`."""
    found = hits(scores, labels, require_k(k))
    gains = found @ discounts(k)[: found.shape[1]]
    best = ideal_gains(np.diff(canonical_labels(labels).indptr), k)
    return np.divide(gains, best, out=np.zeros_like(gains), where=best > 0)


def ideal_gains(counts: np.ndarray, k: int) -> np.ndarray:
    """(N,) the discounted gain of ranking all true labels first: sum_{r<=min(k, count)} 1 / log2(r + 1)."""
    return np.concatenate([[0.0], np.cumsum(discounts(k))])[np.minimum(counts, k)]
