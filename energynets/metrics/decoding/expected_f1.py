"""The set of labels with the largest expected F1, were labels independent given their probabilities."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from energynets.metrics.decoding.decoder import Decoder
from energynets.metrics.decoding.platt import fit_platt, log_odds
from energynets.metrics.scores import TopScores, blocks

_AT_ONCE = 1 << 20


def expected_f1(probabilities_BK: np.ndarray, largest: int | None = None) -> np.ndarray:
    """Expected F1 of predicting the 1, 2, ..., H most probable labels, of independent ones.

        E_h = E[2 |t & {1..h}| / (h + |t|)] = 2 sum_{i<=h} p_i E[1 / (h + 1 + sum_{j!=i} y_j)]
            = 2 int_0^1 x^h prod_j (1 - p_j + p_j x) sum_{i<=h} p_i / (1 - p_i + p_i x) dx,

    since 1 / n = int_0^1 x^(n-1) dx and the product is the generating function of |t|. The integrand is a polynomial
    of degree < K + h whose coefficient of x^d is the chance of d = h + |t| - 1, times at most h. Gauss-Legendre
    quadrature of x^d is exact with d / 2 + 1 nodes, and to rounding with 3 sqrt(d): so 3 sqrt(d) nodes do, for a d that
    is exceeded with a chance below rounding (Bernstein's inequality). That is K sqrt(d) work for all h together, where
    the recursions of the literature take K^2 or more, and no term cancels another.

    Args:
        probabilities_BK: in [0, 1], descending along each row.
        largest: H; None is K.

    Returns:
        (B, H) float64, 0 where prediction and truth are both empty.

    Source: Ye, Chai, Lee & Chieu, "Optimizing F-measures: a tale of two approaches", ICML 2012; Waegeman et al., JMLR
    15 (2014). That the best h labels are the h most probable ones is Lewis, SIGIR 1995. The integral is ours.
    """
    batch, count = probabilities_BK.shape
    largest = count if largest is None else largest
    powers_H = np.arange(1, largest + 1)
    found_BH = np.empty((batch, largest))
    mean_B = probabilities_BK.sum(axis=1)
    degree = largest + mean_B.max(initial=0.0) + 13.0 + math.sqrt(170.0 + 78.0 * mean_B.max(initial=0.0))
    nodes, weights_Q = np.polynomial.legendre.leggauss(
        math.ceil(min((count + largest) / 2, 3 * math.sqrt(min(degree, count + largest))))
    )
    x_Q = (nodes + 1) / 2  # and 2 dx on [0, 1] is dx on [-1, 1]
    powers_HQ = x_Q ** powers_H[:, None]
    size = max(1, _AT_ONCE // (count * len(x_Q)))
    for start in range(0, batch, size):
        p_bK1 = probabilities_BK[start : start + size, :, None].astype(np.float64)
        factors_bKQ = 1.0 - p_bK1 * (1.0 - x_Q)
        generating_bQ1 = (factors_bKQ.prod(axis=1) * weights_Q)[:, :, None]
        terms_bHQ = np.cumsum(p_bK1[:, :largest] / factors_bKQ[:, :largest], axis=1)
        found_BH[start : start + size] = ((terms_bHQ * powers_HQ) @ generating_bQ1)[:, :, 0]
    return found_BH


def largest_size(probabilities_BK: np.ndarray) -> np.ndarray:
    """(B,) no more labels than these are worth predicting.

    Of E_h the expectation is at most 1 / (h + 1), and by Jensen's inequality at least 1 / (h + 1 + sum p): sizes whose
    upper bound is below another's lower bound are out.
    """
    mass_BK = 2.0 * np.cumsum(probabilities_BK, axis=1, dtype=np.float64)
    sizes_K = np.arange(1, probabilities_BK.shape[1] + 1)
    least_B1 = (mass_BK / (sizes_K + 1 + mass_BK[:, -1:] / 2)).max(axis=1, keepdims=True)
    return np.max((mass_BK / (sizes_K + 1) >= least_B1) * sizes_K, axis=1, initial=1)


@dataclass(frozen=True)
class ExpectedF1(Decoder):
    """The most probable labels, so many that the expected example-F1 is largest; of equally good sets the smallest.

    Probabilities are sigmoid(slope logit(score) + intercept), Platt scaling on validation; a score of 0 stays 0. Every
    document with a positive score gets a label, as an empty prediction has F1 0. Labels whose scores are not kept
    count as false.

    Args:
        slope, intercept: 1 and 0 take the scores as they are.
    """

    slope: float = 1.0
    intercept: float = 0.0
    kind: ClassVar[str] = "expected_f1"
    words: ClassVar[str] = (
        "the set of labels with the largest expected f1_example of each document, from probabilities scaled on "
        "validation"
    )

    @classmethod
    def fit(cls, scores: TopScores, labels: csr_array, draws: int = 1) -> Self:
        """Platt scaling of the kept scores."""
        return cls(*fit_platt(scores, labels))

    @property
    def rule(self) -> str:
        scaled = (self.slope, self.intercept) != (1.0, 0.0)
        return "expected f1_example of each document" + (", Platt scaling on validation" if scaled else "")

    def probabilities(self, scores: TopScores) -> np.ndarray:
        """(N, k) float64."""
        if (self.slope, self.intercept) == (1.0, 0.0):
            return np.maximum(scores.values.astype(np.float64), 0.0)  # what is not ranked has no chance
        scaled = expit(self.slope * log_odds(scores.values) + self.intercept)
        return np.where(scores.values > 0, scaled, 0.0)

    def choose(self, scores: TopScores) -> np.ndarray:
        sizes_N = np.empty(len(scores), np.int64)
        for rows in blocks(scores):
            p_BK = self.probabilities(scores[rows])
            gains_BH = expected_f1(p_BK, int(largest_size(p_BK).max()))
            best_B1 = gains_BH.max(axis=1, keepdims=True)
            # Within rounding options count as equal, and nothing is best where no label has a chance.
            sizes_N[rows] = np.where(best_B1[:, 0] > 0, (gains_BH >= best_B1 * (1 - 1e-13)).argmax(axis=1) + 1, 0)
        return np.arange(scores.k) < sizes_N[:, None]

    def settings(self) -> dict[str, Any]:
        return {"slope": self.slope, "intercept": self.intercept}

    @classmethod
    def restore(cls, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(float(row["slope"]), float(row["intercept"]))
