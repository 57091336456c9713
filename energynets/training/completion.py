"""Measuring what a model finds where some labels are known: they are shown to it, and the rest alone counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_array, vstack

from energynets.data.dataset import SPLITS, Documents
from energynets.data.reveal import RandomReveal, rest_of
from energynets.metrics import Decoder, TopScores

if TYPE_CHECKING:
    from energynets.training.evaluate import Measures


def reveals(fraction: float | None, split: str, draws: int = 1) -> list[RandomReveal | None]:
    """Which labels of a split are shown at a fraction, the same ones for every model, drawn so many times.

    Where nothing is drawn, at 0 and at None, which shows no labels at all, there is one.
    """
    if fraction is None:
        return [None]
    return [RandomReveal.evaluation(fraction, SPLITS.index(split), draw) for draw in range(draws if fraction else 1)]


def sought(documents: Documents, reveal: RandomReveal | None) -> csr_array:
    """The labels (N, L) that are left to be found."""
    return documents.labels if reveal is None else rest_of(documents.labels, reveal)


def pooled(parts: Iterable[tuple[TopScores, csr_array]]) -> tuple[TopScores, csr_array]:
    """Scores and labels of every draw's documents, one after the other: what a decoder is chosen on."""
    scores, labels = zip(*parts, strict=True)
    if len(scores) == 1:  # and no copy of them
        return scores[0], labels[0]
    return TopScores.concatenate(scores), csr_array(vstack(labels))


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


def mean_metrics(draws: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Each metric's mean over draws of the labels shown."""
    return {name: float(np.mean([found[name] for found in draws])) for name in draws[0]}


def mean_documents(draws: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Each metric's mean over draws of the labels shown, document by document."""
    return {name: np.mean([found[name] for found in draws], axis=0) for name in draws[0]}
