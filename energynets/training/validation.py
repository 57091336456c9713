"""What validation says of a model during training: its metrics, and whether they are better."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynets.data.batches import Batch, batches
from energynets.data.dataset import MultiLabelDataset
from energynets.training.evaluate import Measures, check_monitor, smaller_is_better
from energynets.training.score import OnBatch, score

if TYPE_CHECKING:
    from energynets.config import Experiment


class Validator:
    """Evaluates on the validation split, at the threshold that is best there.

    Args:
        experiment: its `evaluation`, `training.monitor` and `objective.loss`.
        dataset: prepared.
        objective: what `loss` is.
        device: where models are.
        on_batch: called with (documents done, N).

    Raises:
        ConfigError: `training.monitor` is no metric.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: MultiLabelDataset,
        objective: Callable[[Any, Batch], Tensor],
        device: torch.device,
        on_batch: OnBatch,
    ) -> None:
        self.measures = Measures.of(experiment.evaluation, dataset)
        self.monitor = experiment.training.monitor
        check_monitor(self.monitor, self.measures.ks)
        self.documents = dataset.split("validation") if len(dataset.splits.get("validation", ())) else None
        self.objective = objective
        self.device = device
        self.on_batch = on_batch
        self.batch_size = experiment.evaluation.batch_size
        self.loss = experiment.objective.loss

    def metrics(self, model: Any, features: Tensor | None) -> dict[str, float]:
        """Every metric of a model; `loss` where it is monitored.

        Args:
            model: x -> logits (B, L).
            features: (N, F) cached features of the validation documents, or None.

        Raises:
            InferenceError: scores that are not numbers.
        """
        documents = self.documents
        assert documents is not None
        scores = score(
            model,
            documents,
            k=self.measures.top,
            batch_size=self.batch_size,
            device=self.device,
            loss=self.loss,
            features=features,
            on_batch=self.on_batch,
        )
        threshold = self.measures.threshold(scores, documents.labels)
        metrics = self.measures.metrics(scores, documents.labels, threshold)
        if self.monitor == "loss":
            metrics["loss"] = self._mean_loss(model, features)
        return metrics

    def better(self, value: float, than: float) -> bool:
        """Whether a monitored value beats another; equal ones do not."""
        return value < than if smaller_is_better(self.monitor) else value > than

    def _mean_loss(self, model: Any, features: Tensor | None) -> float:
        assert self.documents is not None
        model.eval()
        total, done = 0.0, 0
        with torch.no_grad():
            for batch in batches(self.documents, self.batch_size, features=features):
                total += float(self.objective(model, batch.to(self.device))) * len(batch)
                done += len(batch)
                self.on_batch(done, len(self.documents))
        return total / done
