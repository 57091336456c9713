"""Whether a score of 0.7 comes true 7 times in 10: reliability, expected calibration error, Brier score."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.sparse import csr_array

from energynets.errors import ConfigError, DataError
from energynets.metrics.scores import NOT_RANKED, TopScores, blocks, check_pair, hits

BINS = 15


@dataclass(frozen=True)
class Bin:
    """The (document, label) pairs whose score lies in one interval.

    Args:
        low, high: the interval, `low < score <= high`; the first takes `low` too.
        count: pairs, at least 1.
        confidence: mean score.
        frequency: share of them that is true.
    """

    low: float
    high: float
    count: int
    confidence: float
    frequency: float


@dataclass(frozen=True)
class Calibration:
    """How scores compare with how often they come true.

    Args:
        ece: expected calibration error over bins of equal width.
        ece_equal_mass: the same over bins of equal count, which sparse labels crowd near 0.
        brier: mean of (score - truth)^2.
        bins: of equal width, those with pairs in them, ascending.
        pairs: (document, label) pairs counted.
        kept: None where they are all N L pairs; else k, and only the k best labels of each document are counted: what
            lies below is unknown, and the three numbers are "of the k kept".
    """

    ece: float
    ece_equal_mass: float
    brier: float
    bins: tuple[Bin, ...]
    pairs: int
    kept: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as in result.json."""
        return {**asdict(self), "bins": [asdict(entry) for entry in self.bins]}

    @property
    def of(self) -> str:
        """Which pairs, for a caption: `all labels` or `the k labels kept of each document`."""
        return "all labels" if self.kept is None else f"the {self.kept} labels kept of each document"


def calibration(scores: TopScores, labels: csr_array, bins: int = BINS) -> Calibration:
    """Reliability of scores as probabilities, over every pair of a document and a ranked label whose score is kept.

        ECE = sum_b n_b / n |mean score in b - share of true labels in b|

    Most pairs of a large label set are easy zeros, which make any of these numbers small: compare them between models
    of one data set, not between data sets.

    Args:
        scores: of N documents, values in [0, 1].
        labels: (N, L) CSR.
        bins: of either kind, at least 1. Equal scores share a bin, so that of equal mass there may be fewer.

    Raises:
        ConfigError: fewer than 1 bin.
        ShapeError: shapes disagree.
        DataError: no documents, or none with a label that is ranked.

    Source: Naeini, Cooper & Hauskrecht, AAAI 2015, section 2 (ECE); Nguyen & O'Connor, EMNLP 2015, section 3 (equal
    mass).
    """
    if bins < 1:
        raise ConfigError(f"calibration: expected 1 bin or more, got {bins}")
    labels = check_pair(len(scores), scores.num_labels, labels)
    if not scores.any_ranked:
        raise DataError("calibration: no label of any document was ranked")
    edges = np.linspace(0.0, 1.0, bins + 1)
    ranked = scores.values[scores.values > NOT_RANKED]
    inner = edges[1:-1], np.unique(np.quantile(ranked, edges[1:-1]))
    equal_width, equal_mass = (np.zeros((3, len(cuts) + 1)) for cuts in inner)  # counts, summed scores, true labels
    squares = 0.0
    for rows in blocks(scores):
        there = scores.values[rows] > NOT_RANKED
        values = scores.values[rows][there].astype(np.float64)
        true = hits(scores[rows], labels[rows])[there]
        squares += float(((values - true) ** 2).sum())
        for cuts, table in zip(inner, (equal_width, equal_mass), strict=True):
            found = np.searchsorted(cuts, values)
            for row, weights in zip(table, (None, values, true), strict=True):
                row += np.bincount(found, weights, len(row))
    pairs = len(ranked)
    filled = [
        Bin(float(low), float(high), int(count), float(score / count), float(hit / count))
        for low, high, count, score, hit in zip(edges[:-1], edges[1:], *equal_width, strict=True)
        if count
    ]
    kept = None if scores.complete else scores.k
    return Calibration(_error(equal_width), _error(equal_mass), squares / pairs, tuple(filled), pairs, kept)


def _error(table: np.ndarray) -> float:
    """ECE of a (3, bins) table."""
    return float(np.abs(table[1] - table[2]).sum() / table[0].sum())
