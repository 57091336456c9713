"""What validation says of a model during training: its metrics, and whether they are better."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynets.data.batches import Batch, batches
from energynets.data.dataset import MultiLabelDataset
from energynets.metrics import smaller_is_better
from energynets.parallel.mesh import Mesh
from energynets.parallel.share import labels_of
from energynets.training.completion import reveals, sought
from energynets.training.evaluate import Measures, check_monitor
from energynets.training.score import OnBatch, score

if TYPE_CHECKING:
    from energynets.config import Experiment


class Validator:
    """Evaluates on the validation split, at the threshold that is best there; where training reveals labels, the rest.

    Args:
        experiment: its `evaluation`, `training.monitor` and `objective.loss`.
        dataset: prepared.
        device: where models are.
        on_batch: called with (documents done, N).
        mesh: the processes that share the documents; all of them get the same metrics.

    Raises:
        ConfigError: `training.monitor` is no metric.
    """

    def __init__(
        self,
        experiment: Experiment,
        dataset: MultiLabelDataset,
        device: torch.device,
        on_batch: OnBatch,
        mesh: Mesh | None = None,
    ) -> None:
        self.measures = Measures.of(experiment.evaluation, dataset)
        self.monitor = experiment.training.monitor
        check_monitor(self.monitor, self.measures.ks)
        self.documents = dataset.split("validation") if len(dataset.splits.get("validation", ())) else None
        self.device = device
        self.on_batch = on_batch
        self.mesh = Mesh() if mesh is None else mesh
        self.batch_size = experiment.evaluation.batch_size
        self.loss = experiment.objective.loss
        settings = experiment.training.reveal
        (self.reveal,) = reveals(None if settings is None else settings.validation, "validation")

    def metrics(
        self, model: Any, features: Tensor | None, objective: Callable[[Any, Batch], Tensor]
    ) -> dict[str, float]:
        """Every metric of a model; `loss` where it is monitored.

        Args:
            model: x -> logits (B, L).
            features: (N, F) cached features of the validation documents, or None.
            objective: what `loss` is.

        Raises:
            InferenceError: scores that are not numbers.
        """
        documents = self.documents
        assert documents is not None
        own = score(
            model,
            documents,
            k=self.measures.top,
            batch_size=self.batch_size,
            device=self.device,
            loss=self.loss,
            rows=self.mesh.rows(len(documents), self.batch_size),
            features=features,
            on_batch=self.on_batch,
            reveal=self.reveal,
        )
        scores = self.mesh.collect(own)
        metrics: dict[str, float] = {}
        if scores is not None:
            labels = sought(documents, self.reveal)
            metrics = self.measures.metrics(scores, labels, self.measures.threshold(scores, labels))
        metrics = self.mesh.first_says(metrics)
        if self.monitor == "loss":
            metrics["loss"] = self._mean_loss(model, features, objective)
        return metrics

    def better(self, value: float, than: float) -> bool:
        """Whether a monitored value beats another; equal ones do not."""
        return value < than if smaller_is_better(self.monitor) else value > than

    def _mean_loss(self, model: Any, features: Tensor | None, objective: Callable[[Any, Batch], Tensor]) -> float:
        assert self.documents is not None
        model.eval()
        rows = self.mesh.rows(len(self.documents), self.batch_size)
        count = len(self.documents) if rows is None else len(rows)
        total, done = 0.0, 0
        devices = [self.device] if self.device.type == "cuda" else []
        # An objective that draws gets the same numbers every time, and none that training would draw next.
        with torch.no_grad(), torch.random.fork_rng(devices=devices):
            torch.manual_seed(0)
            for batch in batches(self.documents, self.batch_size, order=rows, features=features, reveal=self.reveal):
                labels = labels_of(batch.labels, self.mesh.shard)
                own = replace(batch, labels=labels).to(self.device)
                total += float(objective(model, own)) * len(batch)
                done += len(batch)
                self.on_batch(done, count)
        return self.mesh.sum_number(total) / len(self.documents)
