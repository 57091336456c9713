"""Propensity-scored precision and nDCG: rare labels, which annotators miss more often, weigh more."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from energynets.errors import ShapeError
from energynets.metrics.ranking import discounts, ideal_gains, require_k
from energynets.metrics.scores import TopScores, canonical_labels, hits


def inverse_propensity(train_labels: csr_array, a: float = 0.55, b: float = 1.5) -> np.ndarray:
    """How much a label weighs, from how often it occurs in training.

        q_l = 1 + max(ln N - 1, 0) (b + 1)^a (n_l + b)^-a

    The maximum changes nothing for N >= 3; below, the model has no meaning and every label weighs 1.

    Args:
        train_labels: (N, L) CSR of the training documents; a label may never occur.
        a, b: (.55, 1.5) by default, (.5, .4) for the Wikipedia sets, (.6, 2.6) for Amazon-670K and Amazon-3M.

    Returns:
        (L,) float64, >= 1.

    Source: Jain, Prabhu & Varma, KDD 2016, section 4.
    """
    labels = canonical_labels(train_labels)
    counts = np.bincount(labels.indices, minlength=labels.shape[1])
    scale = max(np.log(max(labels.shape[0], 1)) - 1.0, 0.0) * (b + 1.0) ** a
    return np.asarray(1.0 + scale * (counts + b) ** -a)


def psp_at_k(scores: TopScores, labels: csr_array, k: int, inverse_propensity: np.ndarray) -> float:
    """Propensity-scored precision over the best one possible, as a ratio of corpus means.

        PSP@k = sum_n sum_{r<=k} q_{l(r)} [true at r] / sum_n max_ranking (the same sum)

    Args:
        scores: of N documents.
        labels: (N, L) CSR.
        k: >= 1.
        inverse_propensity: (L,) q from *training* labels.

    Returns:
        In [0, 1]; 0 where no document has a label.

    Source: the Extreme Classification Repository, "Performance metrics".
    """
    gains, best = propensity_gains(scores, labels, k, inverse_propensity)
    return _ratio(gains.sum(), best.sum())


def propensity_gains(
    scores: TopScores, labels: csr_array, k: int, inverse_propensity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the terms of both sums of `psp_at_k`."""
    found, weights, best = _weighted(scores, labels, require_k(k), inverse_propensity)
    return (found * weights).sum(axis=1), best.sum(axis=1)


def psndcg_at_k(scores: TopScores, labels: csr_array, k: int, inverse_propensity: np.ndarray) -> float:
    """Propensity-scored nDCG over the best one possible, as a ratio of corpus means.

        PSnDCG@k = sum_n G_n / Z_n over sum_n G*_n / Z_n,   G_n = sum_{r<=k} q_{l(r)} [true at r] / log2(r + 1),
        Z_n = sum_{r<=min(k, |t_n|)} 1 / log2(r + 1),       G*_n the largest G_n of any ranking

    Args:
        scores: of N documents.
        labels: (N, L) CSR; a row without labels adds nothing to either sum.
        k: >= 1.
        inverse_propensity: (L,) q from *training* labels.

    Returns:
        In [0, 1]; 0 where no document has a label.

    Source: the Extreme Classification Repository, "Performance metrics".
    """
    gains, best = propensity_discounted_gains(scores, labels, k, inverse_propensity)
    return _ratio(gains.sum(), best.sum())


def propensity_discounted_gains(
    scores: TopScores, labels: csr_array, k: int, inverse_propensity: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(N,) the terms of both sums of `psndcg_at_k`."""
    found, weights, best = _weighted(scores, labels, require_k(k), inverse_propensity)
    norm = ideal_gains(np.diff(canonical_labels(labels).indptr), k)
    gains = (found * weights) @ discounts(k)[: found.shape[1]]
    best_gains = best @ discounts(k)[: best.shape[1]]

    def normalised(values: np.ndarray) -> np.ndarray:
        return np.divide(values, norm, out=np.zeros_like(values), where=norm > 0)

    return normalised(gains), normalised(best_gains)


def _ratio(value: float, best: float) -> float:
    return float(min(value / best, 1.0)) if best > 0 else 0.0


def _weighted(
    scores: TopScores, labels: csr_array, k: int, inverse_propensity: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hits and weights of the ranking, (N, min(k, kept)); the k largest weights of true labels, (N, k), 0-filled."""
    if inverse_propensity.shape != (scores.num_labels,):
        raise ShapeError(
            f"expected one inverse propensity a label, ({scores.num_labels},), got {inverse_propensity.shape}"
        )
    found = hits(scores, labels, k)
    labels = canonical_labels(labels)
    rows = np.repeat(np.arange(len(scores)), np.diff(labels.indptr))
    weights = inverse_propensity[labels.indices]
    order = np.lexsort((-weights, rows))  # rows stay in place, weights fall within each
    rank = np.arange(labels.nnz) - labels.indptr[rows]
    kept = rank < k
    best = np.zeros((len(scores), k))
    best[rows[kept], rank[kept]] = weights[order][kept]
    return found, inverse_propensity[scores.indices[:, :k]], best
