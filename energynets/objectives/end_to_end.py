"""End-to-end learning: the loss of what inference returns, differentiated through inference."""

from __future__ import annotations

import torch
from torch import Tensor

from energynets.data.batches import Batch
from energynets.errors import ConfigError
from energynets.models import Classifier, EnergyNetwork
from energynets.objectives.losses import loss_by_name


class EndToEnd:
    """L = loss(z_T, t), or over all steps sum_t w_t loss(z_t, t) with w_t = 1 / (T - t + 1), normalised.

    The loss is that of the model's domain: `mse` of real numbers is on z itself. A classifier with a `ChunkedLinear`
    output has no dense logits or targets: `bce` and `softmax` of labels are computed in chunks, equal to rounding. So
    is `bce` on the last step of an energy network with a `label_chunk`.

    Args:
        loss: `bce`, `softmax`, `mse` or `soft_f1`.
        steps: `last` or `all`.

    Raises:
        ConfigError: an unknown name.

    Source: Belanger, Yang & McCallum (2017), section 4; the weights are their equation 10.
    """

    def __init__(self, loss: str = "bce", *, steps: str = "last") -> None:
        if steps not in ("last", "all"):
            raise ConfigError(f"objective.steps: expected 'last' or 'all', got {steps!r}")
        self.loss = loss
        self.steps = steps
        self._loss = loss_by_name(loss)

    def __call__(self, model: Classifier | EnergyNetwork, batch: Batch) -> Tensor:
        """The scalar to minimise.

        Raises:
            ConfigError: a loss or steps that the model's domain, or labels in chunks, have not.
        """
        if getattr(model, "streams", False):
            return model.loss_in_chunks(batch.inputs, batch.labels, self.loss, self.steps)
        if self.steps == "last":
            logits = model(batch.inputs)
            return self._loss(logits, batch.labels.dense(logits.dtype), model.domain)
        last = model.solver.steps if isinstance(model, EnergyNetwork) else 0
        weights = {step: 1 / (last - step + 1) for step in range(min(1, last), last + 1)}
        total = sum(weights.values())
        dense: dict[torch.dtype, Tensor] = {}  # the targets: every step reads them, twice

        def step_loss(step: int, logits: Tensor) -> Tensor:
            if logits.dtype not in dense:
                dense[logits.dtype] = batch.labels.dense(logits.dtype)
            return weights[step] / total * self._loss(logits, dense[logits.dtype], model.domain)

        return model.with_losses(batch.inputs, step_loss)[1]
