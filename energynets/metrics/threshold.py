"""From scores to label sets: one global threshold, and the one that maximises example-F1."""

from __future__ import annotations

import numpy as np
from scipy.sparse import csr_array

from energynets.errors import ConfigError, nearest
from energynets.metrics.scores import NOT_RANKED, TopScores, blocks, check_pair, chosen_sets, hits

RULES = ("f1_example",)


def predict_above(scores: TopScores, threshold: float) -> csr_array:
    """The labels that score more than the threshold.

    Args:
        scores: of N documents; a label whose score was not kept is not predicted (see `truncated`).
        threshold: compared as float64.

    Returns:
        (N, L) CSR of ones (float32), column indices sorted.
    """
    return chosen_sets(scores, scores.values > np.float64(threshold))


def truncated(scores: TopScores, threshold: float) -> int:
    """How many documents may miss predictions: the least of fewer than L kept scores is above the threshold.

    Args:
        scores: of N documents.
        threshold: as for `predict_above`.
    """
    return 0 if scores.complete else int((scores.values[:, -1] > np.float64(threshold)).sum())


def choose_threshold(scores: TopScores, labels: csr_array, rule: str = "f1_example") -> float:
    """The global threshold whose predictions `score > threshold` maximise example-F1, over every distinct score.

        argmax_t 1/N sum_n F1({l: s_nl > t}, t_n)

    Admitting the j-th label of document n moves its F1 by a known amount, never up where the label is not true. So the
    best threshold lies right below the score of a true label, or above all: moves are summed up between these scores,
    some documents at a time, in little memory besides. "Predict nothing" and "predict all that was kept" are among the
    options. Of equally good thresholds the largest wins.

    Args:
        scores: of N validation documents.
        labels: (N, L) CSR.
        rule: "f1_example".

    Returns:
        The midpoint between the last admitted score and the next one as a number float32 holds exactly, so that
        `score > threshold` says the same in float32 and float64. It equals a score only where two float32 neighbours
        must be told apart.

    Raises:
        ConfigError: unknown rule.
        DataError: no documents.
    """
    if rule not in RULES:
        raise ConfigError(f"unknown threshold rule {rule!r}{nearest(rule, RULES)}")
    labels = check_pair(len(scores), scores.num_labels, labels)
    parts = list(blocks(scores))
    true = np.unique(np.concatenate([scores.values[rows][hits(scores[rows], labels[rows])] for rows in parts]))
    moves = np.zeros(len(true) + 1)  # of the scores below true[0], from there up to true[1], ..., from the last on
    for rows in parts:
        sizes = np.arange(1, scores.k + 1) + np.diff(labels[rows].indptr)[:, None]
        deltas = np.diff(2.0 * hits(scores[rows], labels[rows]).cumsum(axis=1) / sizes, axis=1, prepend=0.0)
        where = np.searchsorted(true, scores.values[rows].ravel(), side="right")
        moves += np.bincount(where, deltas.ravel(), len(moves))
    totals = np.append(0.0, moves[:0:-1].cumsum())  # 0: predict nothing
    # sums in another row order differ in the last bits; within that slack options count as equal
    best = int(np.flatnonzero(totals >= totals.max() - 1e-12 * len(scores))[0])
    if best == 0:
        return _above(scores.values.max())
    last = true[-best]
    below = (ranked[ranked < last] for ranked in (_ranked(scores[rows]) for rows in parts))
    lower = [part.max() for part in below if len(part)]
    return _between(max(lower), last) if lower else _below(last)


def _ranked(scores: TopScores) -> np.ndarray:
    """The kept scores, in any order, but for those of labels that are known and have no place in a ranking."""
    return scores.values if scores.ranked is None else scores.values[scores.values != NOT_RANKED]


def _between(low: np.float32, high: np.float32) -> float:
    """A float32 number t with low <= t < high, the midpoint where there is room."""
    middle = np.float32((np.float64(low) + np.float64(high)) / 2)
    return float(middle if middle < high else np.nextafter(high, np.float32(-np.inf)))


def _above(score: np.float32) -> float:
    return _between(score, np.float32(1.0)) if score < 1 else 2.0 * float(score)


def _below(score: np.float32) -> float:
    if score <= 0:
        return 2.0 * float(score) - 1.0
    return _between(np.float32(0.0), score)
