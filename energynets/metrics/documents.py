"""Metrics document by document: what paired tests over documents compare."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from energynets.metrics.decoding.decoder import Decoder, predicted_sets
from energynets.metrics.propensity import propensity_discounted_gains, propensity_gains
from energynets.metrics.ranking import normalised_gains, precisions
from energynets.metrics.scores import TopScores
from energynets.metrics.sets import exact_matches, f1_examples


def document_values(
    scores: TopScores,
    labels: csr_array,
    *,
    threshold: float | Decoder | None = None,
    inverse_propensity: np.ndarray | None = None,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, np.ndarray]:
    """Those metrics of `evaluate_scores` that are means over documents, as the values they are the mean of.

    PSP@k and PSnDCG@k are ratios of two sums, of which the lower depends on the labels alone, so that they are means
    too: of the documents' gains times N over that sum. Such a value may be above 1.

    Args:
        scores, labels, threshold, inverse_propensity, ks: as for `evaluate_scores`.

    Returns:
        metric -> (N,) float32: `precision@k`, `ndcg@k`, `psp@k`, `psndcg@k`, `f1_example`, `subset_accuracy`, and the
        last two at 0.5.
    """
    found: dict[str, np.ndarray] = {}
    for k in ks:
        found[f"precision@{k}"] = precisions(scores, labels, k)
        found[f"ndcg@{k}"] = normalised_gains(scores, labels, k)
        if inverse_propensity is not None:
            found[f"psp@{k}"] = _shares(*propensity_gains(scores, labels, k, inverse_propensity))
            found[f"psndcg@{k}"] = _shares(*propensity_discounted_gains(scores, labels, k, inverse_propensity))
    for value, suffix in ((threshold, ""), (0.5, "_at_0.5")):
        if value is not None:
            predicted = predicted_sets(scores, value)
            found[f"f1_example{suffix}"] = f1_examples(predicted, labels)
            found[f"subset_accuracy{suffix}"] = exact_matches(predicted, labels)
    return {name: values.astype(np.float32) for name, values in found.items()}


def observed_name(metric: str, share: str) -> str:
    """What a metric of the rest is called where that share of the labels is shown: `observed/0.5/f1_example`."""
    return f"observed/{share}/{metric}" if share else metric


def split_name(name: str) -> tuple[str, str]:
    """The inverse of `observed_name`: metric and share, "" where no labels are shown."""
    head, _, rest = name.partition("/")
    share, _, metric = rest.partition("/")
    return (metric, share) if head == "observed" and metric else (name, "")


def _shares(gains_N: np.ndarray, best_N: np.ndarray) -> np.ndarray:
    best = best_N.sum()
    return gains_N * (len(gains_N) / best) if best > 0 else np.zeros_like(gains_N)
