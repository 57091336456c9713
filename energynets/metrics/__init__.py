"""Scores and labels -> numbers, on sparse labels and top-k scores: nothing here builds a dense (N, L)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from energynets.metrics.calibration import Calibration, calibration
from energynets.metrics.decoding import DECODERS, Decoder, ExpectedF1, GlobalThreshold, PerLabel
from energynets.metrics.decoding.decoder import predicted_sets
from energynets.metrics.documents import document_values, observed_name, split_name
from energynets.metrics.propensity import inverse_propensity, psndcg_at_k, psp_at_k
from energynets.metrics.ranking import ndcg_at_k, precision_at_k
from energynets.metrics.scores import NOT_RANKED, TopScores
from energynets.metrics.sets import f1_example, f1_macro, f1_micro, hamming_loss, subset_accuracy
from energynets.metrics.threshold import choose_threshold, predict_above, truncated

__all__ = [
    "DECODERS",
    "NOT_RANKED",
    "SET_METRICS",
    "Calibration",
    "Decoder",
    "ExpectedF1",
    "GlobalThreshold",
    "PerLabel",
    "TopScores",
    "calibration",
    "choose_threshold",
    "document_values",
    "evaluate_scores",
    "f1_example",
    "f1_macro",
    "f1_micro",
    "hamming_loss",
    "inverse_propensity",
    "ndcg_at_k",
    "observed_name",
    "precision_at_k",
    "predict_above",
    "psndcg_at_k",
    "psp_at_k",
    "smaller_is_better",
    "split_name",
    "subset_accuracy",
    "truncated",
]

SET_METRICS = {
    "f1_example": f1_example,
    "f1_micro": f1_micro,
    "f1_macro": f1_macro,
    "hamming_loss": hamming_loss,
    "subset_accuracy": subset_accuracy,
}


def smaller_is_better(metric: str) -> bool:
    """Whether a metric, or the monitored `loss`, should fall."""
    return metric == "loss" or split_name(metric)[0].startswith("hamming_loss")


def evaluate_scores(
    scores: TopScores,
    labels: csr_array,
    *,
    threshold: float | Decoder | None = None,
    inverse_propensity: np.ndarray | None = None,
    ks: Sequence[int] = (1, 3, 5),
) -> dict[str, float]:
    """Every metric of one set of scores, as fractions in [0, 1].

    Args:
        scores: of N documents.
        labels: (N, L) CSR.
        threshold: chosen on validation (`choose_threshold`), or another `Decoder`; without it the metrics of chosen
            sets are left out.
        inverse_propensity: (L,) from training labels; without it psp and psndcg are left out.
        ks: the k of the ranking metrics.

    Returns:
        `precision@k`, `ndcg@k`, `psp@k`, `psndcg@k` for each k; `f1_example`, `f1_micro`, `f1_macro`, `hamming_loss`,
        `subset_accuracy` of the chosen sets, and the same five with the suffix `_at_0.5`; `shortlist_recall` where the
        scores know it: its mean over documents with labels, 0 where there are none. Where labels were left out of the
        ranking, so must those of `labels` be; all is then of the rest, and `hamming_loss` is a share of its pairs.

    Raises:
        DataError: no documents.
        ShapeError: shapes disagree.
    """
    metrics: dict[str, float] = {}
    for k in ks:
        metrics[f"precision@{k}"] = precision_at_k(scores, labels, k)
        metrics[f"ndcg@{k}"] = ndcg_at_k(scores, labels, k)
        if inverse_propensity is not None:
            metrics[f"psp@{k}"] = psp_at_k(scores, labels, k, inverse_propensity)
            metrics[f"psndcg@{k}"] = psndcg_at_k(scores, labels, k, inverse_propensity)
    for chosen, suffix in ((threshold, ""), (0.5, "_at_0.5")):
        if chosen is not None:
            predicted = predicted_sets(scores, chosen)
            metrics |= {name + suffix: metric(predicted, labels) for name, metric in SET_METRICS.items()}
    if scores.ranked is not None:  # the pairs left out are no chance to be wrong
        share = scores.ranked.sum() / (len(scores) * scores.num_labels) or 1.0
        metrics |= {name: value / share for name, value in metrics.items() if name.startswith("hamming_loss")}
    if scores.recall is not None:
        known = scores.recall[~np.isnan(scores.recall)]
        metrics["shortlist_recall"] = float(known.mean(dtype=np.float64)) if len(known) else 0.0
    return metrics
