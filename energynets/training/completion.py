"""Measuring what a model finds where some labels are known: they are shown to it, and the rest alone counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from energynets.data.dataset import SPLITS, Documents
from energynets.data.reveal import RandomReveal, rest_of
from energynets.metrics import Decoder, TopScores

if TYPE_CHECKING:
    from scipy.sparse import csr_array

    from energynets.training.evaluate import Measures


def shown(fraction: float | None, split: str) -> RandomReveal | None:
    """Which labels of a split are shown at a fraction, the same ones for every model; None for None."""
    return None if fraction is None else RandomReveal.evaluation(fraction, SPLITS.index(split))


def sought(documents: Documents, reveal: RandomReveal | None) -> csr_array:
    """The labels (N, L) that are left to be found."""
    return documents.labels if reveal is None else rest_of(documents.labels, reveal)


def rest_metrics(measures: Measures, scores: TopScores, labels: csr_array, decoder: Decoder) -> dict[str, float]:
    """Every metric of the rest, and `with_labels`, the share of documents that have any label there: none of P@1,
    f1_example and their like can be above it.

    Args:
        measures: k's and propensities.
        scores: of the labels that were not shown.
        labels: those of them that are true.
        decoder: what makes sets of the scores.
    """
    found = measures.metrics(scores, labels, decoder)
    return found | {"with_labels": float((np.diff(labels.indptr) > 0).mean())}
