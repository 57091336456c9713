"""One threshold for all labels and documents."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from scipy.sparse import csr_array

from energynets.metrics.decoding.decoder import Decoder
from energynets.metrics.scores import TopScores
from energynets.metrics.threshold import choose_threshold, truncated


@dataclass(frozen=True)
class GlobalThreshold(Decoder):
    """The labels that score more than one threshold, which maximises example-F1 on validation.

    Args:
        value: compared as float64.
        rule: how it was chosen.
    """

    value: float
    rule: str = "f1_example on validation"
    kind: ClassVar[str] = "global"
    words: ClassVar[str] = "one global threshold for each run, chosen on validation to maximise f1_example"

    @classmethod
    def fit(cls, scores: TopScores, labels: csr_array, draws: int = 1) -> Self:
        """`choose_threshold`."""
        return cls(choose_threshold(scores, labels))

    def choose(self, scores: TopScores) -> np.ndarray:
        return scores.values > np.float64(self.value)

    def missed(self, scores: TopScores) -> int:
        return truncated(scores, self.value)

    def settings(self) -> dict[str, Any]:
        return {"value": self.value}

    @classmethod
    def restore(cls, row: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(float(row["value"]), str(row["rule"]))
