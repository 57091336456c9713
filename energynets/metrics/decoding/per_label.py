"""A threshold for each label, drawn towards the global one where validation knows little of the label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array
from scipy.special import expit

from energynets.metrics.decoding.decoder import Decoder
from energynets.metrics.decoding.platt import log_odds
from energynets.metrics.scores import TopScores, check_pair, hits
from energynets.metrics.sets import f1_example
from energynets.metrics.threshold import choose_threshold

# Positives of a label that weigh as much as the global threshold; None leaves all labels the global one.
SHRINKAGE: tuple[float | None, ...] = (None, 100.0, 30.0, 10.0, 3.0, 1.0, 0.0)
FOLDS = 5


@dataclass(frozen=True, eq=False)
class PerLabel(Decoder):
    """The labels that score more than their own threshold.

        logit t_l = w_l logit s_l + (1 - w_l) logit g,   w_l = n_l / (n_l + m)

    s_l maximises the label's own F1 on validation (SCut), g is the global threshold, n_l the label's documents on
    validation. A label without any, or none of whose documents kept its score, has g. m is what gives the best
    example-F1 in 5-fold cross-validation on validation, "every label has g" among the options: macro-F1 of the few
    documents a rare label has there is too noisy to choose by.

    Args:
        value: g.
        shrinkage: m; None where all labels have g.
        thresholds_L: t_l, (L,) float32.

    Source: Yang, SIGIR 2001 (SCut); Fan & Lin, "A study on threshold selection for multi-label classification" (2007),
    and Lin & Lin, CIKM 2023, on how it overfits rare labels. The FBR heuristic there never predicts a label, or only
    its best document, where F1 is poor; here it falls back on g by degrees.
    """

    value: float
    shrinkage: float | None
    thresholds_L: np.ndarray
    kind: ClassVar[str] = "per_label"
    words: ClassVar[str] = (
        "a threshold for each label, chosen on validation to maximise the label's F1 and drawn towards a global one by "
        "what maximises f1_example in cross-validation there"
    )

    @classmethod
    def fit(cls, scores: TopScores, labels: csr_array, draws: int = 1) -> Self:
        """Thresholds of each label, and m by cross-validation, where no document is in two folds."""
        labels = check_pair(len(scores), scores.num_labels, labels)
        shrinkage = choose_shrinkage(scores, labels, draws)
        value = choose_threshold(scores, labels)
        own_L = best_thresholds(scores, labels)
        return cls(value, shrinkage, shrunk(own_L, value, label_counts(labels) / draws, shrinkage))

    @property
    def rule(self) -> str:
        how = "all equal" if self.shrinkage is None else f"shrinkage {self.shrinkage:g}"
        return f"each label's F1 on validation, {how}"

    def choose(self, scores: TopScores) -> np.ndarray:
        return scores.values > self.thresholds_L[scores.indices]

    def settings(self) -> dict[str, Any]:
        return {"value": self.value, "shrinkage": self.shrinkage}

    def arrays(self) -> dict[str, np.ndarray]:
        return {"thresholds": self.thresholds_L}

    @classmethod
    def restore(cls, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(float(row["value"]), row["shrinkage"], arrays["thresholds"])


def best_thresholds(scores: TopScores, labels: csr_array) -> np.ndarray:
    """The threshold of each label that maximises its F1 over these documents, the largest of equally good ones.

        argmax_t 2 |{n: s_nl > t, l true}| / (|{n: s_nl > t}| + n_l)

    Args:
        scores: of N documents; a label whose score was not kept is not predicted.
        labels: (N, L) CSR, canonical.

    Returns:
        (L,) float32: midpoints between the last admitted score and the next (0 where there is none); NaN where no F1
        is above 0.
    """
    labels_NK, values_NK = scores.indices.ravel(), scores.values.ravel()
    order = np.lexsort((-values_NK, labels_NK))
    label, value = labels_NK[order], values_NK[order]
    true = hits(scores, labels).ravel()[order]
    first = np.flatnonzero(np.diff(label, prepend=-1))  # where each label begins
    last = np.append(first[1:], len(label)) - 1
    own = np.repeat(np.arange(len(first)), last - first + 1)
    right = np.cumsum(true)
    right -= (right[first] - true[first])[own]
    f1 = 2.0 * right / (np.arange(len(label)) - first[own] + 1 + label_counts(labels)[label])
    following = np.append(value[1:], np.float32(0))
    tied = following == value  # equal scores are admitted together
    following[last], tied[last] = 0, False
    following = np.maximum(following, 0)  # what is not ranked is below
    f1[tied] = 0.0
    reached = np.flatnonzero((f1 > 0) & (f1 >= np.maximum.reduceat(f1, first)[own]))
    at = reached[np.unique(own[reached], return_index=True)[1]]
    middle = ((value[at].astype(np.float64) + following[at]) / 2).astype(np.float32)
    found_L = np.full(scores.num_labels, np.nan, np.float32)
    found_L[label[at]] = np.where(middle < value[at], middle, np.nextafter(value[at], np.float32(-np.inf)))
    return found_L


def label_counts(labels: csr_array) -> np.ndarray:
    """(L,) documents of each label."""
    return np.bincount(labels.indices, minlength=labels.shape[1])


def shrunk(own_L: np.ndarray, value: float, counts_L: np.ndarray, shrinkage: float | None) -> np.ndarray:
    """(L,) float32 thresholds between the labels' own (NaN where there is none) and the global one, in log odds."""
    counts_L = counts_L.astype(np.float64)
    weights_L = np.zeros(len(own_L))
    if shrinkage is not None:
        np.divide(counts_L, counts_L + shrinkage, out=weights_L, where=counts_L > 0)
    weights_L = np.where(np.isnan(own_L), 0.0, weights_L)
    odds_L, odds = log_odds(np.nan_to_num(own_L)), log_odds(np.array(value))
    mixed_L = expit(weights_L * odds_L + (1 - weights_L) * odds)
    return np.select([weights_L == 0, weights_L == 1], [value, own_L], mixed_L).astype(np.float32)


def choose_shrinkage(scores: TopScores, labels: csr_array, draws: int = 1) -> float | None:
    """The m of `SHRINKAGE` with the best example-F1 over folds left out; the largest of equally good ones.

    All draws of a document are in one fold: a threshold that has seen one of them knows the others.
    """
    count = len(scores) // draws
    fold_N = np.tile(np.random.default_rng(0).permutation(count) % FOLDS, draws)
    totals = np.zeros(len(SHRINKAGE))
    for fold in range(min(FOLDS, count) if count > 1 else 0):
        kept, left = np.flatnonzero(fold_N != fold), np.flatnonzero(fold_N == fold)
        value = choose_threshold(scores[kept], labels[kept])
        own_L, counts_L = best_thresholds(scores[kept], labels[kept]), label_counts(labels[kept]) / draws
        for place, shrinkage in enumerate(SHRINKAGE):
            decoder = PerLabel(value, shrinkage, shrunk(own_L, value, counts_L, shrinkage))
            totals[place] += f1_example(decoder.predict(scores[left]), labels[left]) * len(left)
    return SHRINKAGE[int(np.flatnonzero(totals >= totals.max() - 1e-12 * len(scores))[0])]
