"""End-to-end learning: the loss of what inference returns, differentiated through inference."""

from __future__ import annotations

import torch
from torch import Tensor

from energynets.data.batches import Batch
from energynets.energies import Domain
from energynets.errors import ConfigError
from energynets.models import Classifier, EnergyNetwork, observed_in
from energynets.objectives.losses import loss_by_name
from energynets.objectives.missing import leave_out, propensity_bce


class EndToEnd:
    """L = loss(z_T, t), or over all steps sum_t w_t loss(z_t, t) with w_t = 1 / (T - t + 1), normalised.

    The loss is that of the model's domain: `mse` of real numbers is on z itself. A classifier with a `ChunkedLinear`
    output has no dense logits or targets: `bce` and `softmax` of labels are computed in chunks, equal to rounding. So
    is `bce` on the last step of an energy network with a `label_chunk`.

    Labels that a batch reveals are given to the model, and the loss is of the others alone; so it is of those that
    are not unknown.

    Args:
        loss: `bce`, `softmax`, `mse` or `soft_f1`.
        steps: `last` or `all`.
        propensity: with `bce`, the chance that a true label is listed, in (0, 1], one number or (L,) of them: labels
            that are not listed may be true, and the loss is `propensity_bce`.

    Raises:
        ConfigError: an unknown name, or a propensity with another loss than `bce`.

    Source: Belanger, Yang & McCallum (2017), section 4; the weights are their equation 10.
    """

    def __init__(self, loss: str = "bce", *, steps: str = "last", propensity: Tensor | float | None = None) -> None:
        if steps not in ("last", "all"):
            raise ConfigError(f"objective.steps: expected 'last' or 'all', got {steps!r}")
        if propensity is not None and loss != "bce":
            raise ConfigError(f"objective.propensity: goes with loss bce alone, got {loss}")
        self.loss = loss
        self.propensity = propensity
        self.steps = steps
        self._loss = loss_by_name(loss)

    def __call__(self, model: Classifier | EnergyNetwork, batch: Batch) -> Tensor:
        """The scalar to minimise.

        Raises:
            ConfigError: a loss or steps that the model's domain, or labels in chunks, have not.
        """
        left_out, observed = batch.left_out, observed_in(batch)
        if getattr(model, "streams", False):
            if left_out is not None or self.propensity is not None:
                raise ConfigError("labels in chunks or a shortlist: their loss is of all labels, each known")
            return model.loss_in_chunks(batch.inputs, batch.labels, self.loss, self.steps)
        # A model of one's own need not know of known labels where there are none.
        given = {} if observed is None else {"observed": observed}
        if self.steps == "last":
            logits = model(batch.inputs, **given)
            return self._of(logits, batch.labels.dense(logits.dtype), left_out, model.domain)
        last = model.solver.steps if isinstance(model, EnergyNetwork) else 0
        weights = {step: 1 / (last - step + 1) for step in range(min(1, last), last + 1)}
        total = sum(weights.values())
        dense: dict[torch.dtype, Tensor] = {}  # the targets: every step reads them, twice

        def step_loss(step: int, logits: Tensor) -> Tensor:
            if logits.dtype not in dense:
                dense[logits.dtype] = batch.labels.dense(logits.dtype)
            return weights[step] / total * self._of(logits, dense[logits.dtype], left_out, model.domain)

        return model.with_losses(batch.inputs, step_loss, **given)[1]

    def _of(self, logits: Tensor, targets: Tensor, left_out: Tensor | None, domain: Domain) -> Tensor:
        """The loss of the labels that are not left out."""
        logits, targets = leave_out(logits, targets, left_out, domain)
        if self.propensity is None:
            return self._loss(logits, targets, domain)
        propensity = self.propensity
        return propensity_bce(logits, targets, propensity if isinstance(propensity, float) else propensity.to(logits))
