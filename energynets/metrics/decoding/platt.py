"""Platt scaling: scores become probabilities by a line through their log odds."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from energynets.metrics.scores import TopScores, blocks, check_pair, hits

_LARGEST = np.float64(np.nextafter(np.float32(1), np.float32(0)))
_STEPS = 50


def log_odds(values: np.ndarray) -> np.ndarray:
    """log p / (1 - p) in float64, of scores in (0, 1]; 1, where a float32 saturates, counts as the number below it."""
    values = np.clip(values.astype(np.float64), np.finfo(np.float32).tiny, _LARGEST)
    return np.log(values) - np.log1p(-values)


def fit_platt(scores: TopScores, labels: csr_array) -> tuple[float, float]:
    """Slope and intercept of sigmoid(slope logit(score) + intercept) with the least cross-entropy on kept labels.

    Targets are (n_true + 1) / (n_true + 2) and 1 / (n_false + 2) instead of 1 and 0, so that there is a minimum even
    where scores separate. Scores of exactly 0 are left out. Newton's method, halving steps that do not descend.

    Args:
        scores: of N documents, values in [0, 1].
        labels: (N, L) CSR.

    Returns:
        (slope, intercept); (1, 0) where there is nothing to fit, or where scores order labels the wrong way round.

    Raises:
        ShapeError: shapes disagree.
        DataError: no documents.

    Source: Platt, "Probabilistic outputs for support vector machines" (1999), section 2; Lin, Lin & Weng, Machine
    Learning 68 (2007), for the optimisation.
    """
    labels = check_pair(len(scores), scores.num_labels, labels)
    true = positive = 0
    for rows in blocks(scores):
        seen = scores.values[rows] > 0
        positive += int(seen.sum())
        true += int((hits(scores[rows], labels[rows]) & seen).sum())
    if not positive:
        return 1.0, 0.0
    targets = np.array([1 / (positive - true + 2), (true + 1) / (true + 2)])
    line = np.array([1.0, 0.0])
    loss, slope, curvature = _derivatives(scores, labels, line, targets)
    for _ in range(_STEPS):
        step = np.linalg.solve(curvature + 1e-12 * positive * np.eye(2), slope)
        if abs(slope @ step) <= 1e-14 * positive:
            break
        size = 1.0
        while size > 1e-10:
            new = line - size * step
            after = _derivatives(scores, labels, new, targets)
            if after[0] <= loss - 1e-4 * size * (slope @ step):
                break
            size /= 2
        else:
            break
        line, (loss, slope, curvature) = new, after
    return (float(line[0]), float(line[1])) if line[0] > 0 else (1.0, 0.0)


def _derivatives(
    scores: TopScores, labels: csr_array, line: np.ndarray, targets: np.ndarray
) -> tuple[float, np.ndarray, np.ndarray]:
    """Cross-entropy, its gradient (2,) and Hessian (2, 2) in (slope, intercept), summed over pairs."""
    loss, gradient, hessian = 0.0, np.zeros(2), np.zeros((2, 2))
    for rows in blocks(scores):
        seen = scores.values[rows] > 0
        x = log_odds(scores.values[rows][seen])
        target = targets[hits(scores[rows], labels[rows])[seen].astype(int)]
        z = line[0] * x + line[1]
        p = expit(z)
        loss += float((np.logaddexp(0.0, z) - target * z).sum())
        weights = p * (1 - p)
        off = p - target
        gradient += (off @ x, off.sum())
        mixed = weights @ x
        hessian += ((weights @ (x * x), mixed), (mixed, weights.sum()))
    return loss, gradient, hessian
