"""The exact posterior of planted data: what no model can beat on average."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from energynets.baselines.base import Baseline, Progress, State
from energynets.data.dataset import Documents, TokenSequences
from energynets.errors import DataError
from energynets.metrics.scores import TopScores

if TYPE_CHECKING:
    from energynets.data.planted import PlantedSpec


class BayesOptimal(Baseline):
    """P(y_l = 1 | document) under the distribution that planted the documents; learns nothing.

    Ranking by it maximises expected precision@k, and a threshold of 0.5 minimises expected Hamming loss.

    Args:
        spec: the planted distribution, or its fields as a mapping.
    """

    kind: ClassVar[str] = "bayes_optimal"

    def __init__(self, spec: PlantedSpec | Mapping[str, Any]) -> None:
        from energynets.data.planted import PlantedSpec

        self.spec = PlantedSpec.from_dict(spec) if isinstance(spec, Mapping) else spec

    def fit(self, documents: Documents, *, progress: Progress | None = None) -> Self:
        """Nothing to learn: checks that the documents have the distribution's labels."""
        self._require(documents)
        if progress is not None:
            progress(1, 1)
        return self

    def scores(self, documents: Documents, k: int, *, batch_size: int = 256) -> TopScores:
        """The k largest posterior marginals of each document (the posterior bounds its own memory)."""
        from energynets.data.planted import posterior_top

        tokens = self._require(documents)
        indices, values = posterior_top(self.spec, tokens, min(k, self.spec.num_labels))
        return TopScores(indices, values, self.spec.num_labels)

    def _require(self, documents: Documents) -> TokenSequences:
        if not isinstance(documents.inputs, TokenSequences):
            raise DataError(
                f"the exact posterior reads planted token ids, got {type(documents.inputs).__name__}: "
                "leave data.inputs at auto or tokens"
            )
        if documents.num_labels != self.spec.num_labels:
            raise DataError(f"the planted distribution has {self.spec.num_labels} labels, got {documents.num_labels}")
        return documents.inputs

    @property
    def num_parameters(self) -> int:
        """0: the distribution is given, not learnt."""
        return 0

    def _settings(self) -> dict[str, Any]:
        return self.spec.to_dict()

    def _arrays(self) -> State:
        return {}

    @classmethod
    def _restore(cls, settings: dict[str, Any], arrays: State) -> Self:
        return cls(settings)
