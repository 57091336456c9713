"""Metrics of predicted label sets: F1 by example, micro and macro, Hamming loss, subset accuracy."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from energynets.metrics.scores import canonical_labels, check_pair


def f1_example(predicted: csr_array, labels: csr_array) -> float:
    """F1 of each document's label set, averaged over documents.

        1/N sum_n 2 |p_n & t_n| / (|p_n| + |t_n|), 0 where both sets are empty

    Args:
        predicted, labels: (N, L) CSR.

    Returns:
        In [0, 1]; scikit-learn's `f1_score(average="samples", zero_division=0)`.
    """
    return float(f1_examples(predicted, labels).mean())


def f1_examples(predicted: csr_array, labels: csr_array) -> np.ndarray:
    """(N,) the terms of `f1_example`."""
    both, predicted, labels = _intersect(predicted, labels)
    sizes = np.diff(predicted.indptr) + np.diff(labels.indptr)
    return _safe_ratio(2.0 * np.diff(both.indptr), sizes)


def f1_micro(predicted: csr_array, labels: csr_array) -> float:
    """F1 over all (document, label) pairs pooled: 2 sum |p & t| / sum (|p| + |t|), 0 where all sets are empty.

    Args:
        predicted, labels: (N, L) CSR.

    Returns:
        In [0, 1]; scikit-learn's `f1_score(average="micro", zero_division=0)`.
    """
    both, predicted, labels = _intersect(predicted, labels)
    size = predicted.nnz + labels.nnz
    return 2.0 * both.nnz / size if size else 0.0


def f1_macro(predicted: csr_array, labels: csr_array) -> float:
    """F1 of each label over documents, averaged over all L labels, 0 for one never true and never predicted.

    Args:
        predicted, labels: (N, L) CSR.

    Returns:
        In [0, 1]; scikit-learn's `f1_score(average="macro", zero_division=0)`.
    """
    both, predicted, labels = _intersect(predicted, labels)
    num_labels = labels.shape[1]
    sizes = np.bincount(predicted.indices, minlength=num_labels) + np.bincount(labels.indices, minlength=num_labels)
    return float(_safe_ratio(2.0 * np.bincount(both.indices, minlength=num_labels), sizes).mean())


def hamming_loss(predicted: csr_array, labels: csr_array) -> float:
    """Share of the N L (document, label) pairs that are wrong.

    Args:
        predicted, labels: (N, L) CSR.

    Returns:
        In [0, 1], 0 is best; scikit-learn's `hamming_loss`.
    """
    both, predicted, labels = _intersect(predicted, labels)
    return (predicted.nnz + labels.nnz - 2 * both.nnz) / (labels.shape[0] * labels.shape[1])


def subset_accuracy(predicted: csr_array, labels: csr_array) -> float:
    """Share of documents whose predicted set is exactly the true one.

    Args:
        predicted, labels: (N, L) CSR.

    Returns:
        In [0, 1]; scikit-learn's `accuracy_score` of label matrices.
    """
    return float(exact_matches(predicted, labels).mean())


def exact_matches(predicted: csr_array, labels: csr_array) -> np.ndarray:
    """(N,) bool, the terms of `subset_accuracy`."""
    both, predicted, labels = _intersect(predicted, labels)
    common = np.diff(both.indptr)
    return np.asarray((common == np.diff(predicted.indptr)) & (common == np.diff(labels.indptr)))


def _intersect(predicted: csr_array, labels: csr_array) -> tuple[csr_array, csr_array, csr_array]:
    """p & t, p and t, in canonical form."""
    predicted = canonical_labels(predicted)
    labels = check_pair(predicted.shape[0], predicted.shape[1], labels)
    # of patterns, not of values: the product of two tiny values could vanish
    pattern = csr_array((np.ones(predicted.nnz, np.int8), predicted.indices, predicted.indptr), shape=predicted.shape)
    true = csr_array((np.ones(labels.nnz, np.int8), labels.indices, labels.indptr), shape=labels.shape)
    return csr_array(pattern.multiply(true)), predicted, labels


def _safe_ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    return np.divide(numerator, denominator, out=np.zeros(len(numerator)), where=denominator > 0)
