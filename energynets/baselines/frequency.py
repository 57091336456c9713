"""Label frequencies: what knowing nothing of x scores."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np

from energynets.baselines.base import Baseline, Progress, State, require_training
from energynets.data.dataset import Documents
from energynets.errors import DataError
from energynets.metrics.scores import TopScores, canonical_labels


class LabelFrequency(Baseline):
    """Every document gets each label's share of the training documents.

    score_l = n_l / N_l,   N_l the documents where it is known whether l is true
    """

    kind: ClassVar[str] = "label_frequency"

    def __init__(self) -> None:
        self.frequencies: np.ndarray | None = None

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Count labels."""
        self.frequencies = label_frequencies(require_training(documents))
        if progress is not None:
            progress(1, 1)
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """The same k most frequent labels for every document."""
        if self.frequencies is None:
            raise DataError("LabelFrequency is not fitted: call fit(train) first")
        top = TopScores.from_dense(self.frequencies[None, :], k)
        return top[np.zeros(len(documents), dtype=np.int64)]

    @property
    def num_parameters(self) -> int:
        """L."""
        return 0 if self.frequencies is None else len(self.frequencies)

    def _settings(self) -> dict[str, Any]:
        return {}

    def _arrays(self) -> State:
        return {} if self.frequencies is None else {"frequencies": self.frequencies}

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        baseline = cls()
        baseline.frequencies = arrays.get("frequencies")
        return baseline


def label_frequencies(documents: Documents) -> np.ndarray:
    """(L,) float32: the share of documents with each label, of those that know it; 0 where none does."""
    counts = np.bincount(canonical_labels(documents.labels).indices, minlength=documents.num_labels)
    if documents.unknown is None:
        return (counts / len(documents)).astype(np.float32)
    unknown = np.bincount(canonical_labels(documents.unknown).indices, minlength=documents.num_labels)
    return (counts / np.maximum(len(documents) - unknown, 1)).astype(np.float32)
