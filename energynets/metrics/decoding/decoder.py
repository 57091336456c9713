"""What every decoder is: chosen on validation, then scores -> sets of labels."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array

from energynets.metrics.scores import TopScores, chosen_sets
from energynets.metrics.threshold import predict_above


class Decoder(ABC):
    """Which of the kept labels of each document are predicted.

    `kind` is its name in `evaluation.decoding`, `words` what a table's caption says of it.
    """

    kind: ClassVar[str]
    words: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, scores: TopScores, labels: csr_array, draws: int = 1) -> Self:
        """Chosen on validation.

        Args:
            scores: of N validation documents, values in [0, 1].
            labels: (N, L) CSR.
            draws: N / draws documents come one after another, and again in each draw of what is known of them.

        Raises:
            ShapeError: shapes disagree.
            DataError: no documents.
        """

    @property
    @abstractmethod
    def rule(self) -> str:
        """How it was chosen, for the result's row."""

    @abstractmethod
    def choose(self, scores: TopScores) -> np.ndarray:
        """(N, k) bool: which of the kept labels are predicted, in the order of `scores.indices`."""

    def predict(self, scores: TopScores) -> csr_array:
        """The predicted sets, (N, L) CSR of ones."""
        return chosen_sets(scores, self.choose(scores))

    def missed(self, scores: TopScores) -> int:
        """Documents that may have more labels beyond the k scores kept of each: all that were kept are predicted."""
        return 0 if scores.complete else int(self.choose(scores).all(axis=1).sum())

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What was chosen, as JSON's numbers: part of the result's row."""

    def arrays(self) -> dict[str, np.ndarray]:
        """What was chosen for each label: a file of the run's folder."""
        return {}

    @classmethod
    @abstractmethod
    def restore(cls, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        """The inverse of `row` and `arrays`."""

    def row(self) -> dict[str, Any]:
        """`threshold` of the result's row: value (None where there is no one threshold), rule, decoding, settings."""
        return {"value": None, "rule": self.rule, "decoding": self.kind, **self.settings()}


def predicted_sets(scores: TopScores, by: Decoder | float) -> csr_array:
    """The predicted sets, (N, L) CSR of ones: a decoder's, or the labels above a threshold."""
    return by.predict(scores) if isinstance(by, Decoder) else predict_above(scores, by)
