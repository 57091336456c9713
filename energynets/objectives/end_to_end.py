"""End-to-end learning: the loss of what inference returns, differentiated through inference."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from energynets.data.batches import Batch
from energynets.energies import Domain, Energy
from energynets.errors import ConfigError
from energynets.inference import NoGradient, Observed, StepLoss
from energynets.models import Classifier, EnergyNetwork, observed_in
from energynets.objectives.losses import LABELS, expect_labels, loss_by_name
from energynets.objectives.missing import leave_out, propensity_bce


class EndToEnd:
    """L = loss(z_T, t), or over all steps sum_t w_t loss(z_t, t) with w_t = 1 / (T - t + 1), normalised.

    The loss is that of the model's domain: `mse` of real numbers is on z itself, and a module of one's own without a
    `domain` has labels, y in Box. A classifier with a `ChunkedLinear`
    output has no dense logits or targets: `bce` and `softmax` of labels are computed in chunks, equal to rounding. So
    is `bce` on the last step of an energy network with a `label_chunk`.

    With a convergence penalty w, L has besides w |r|^2, summed over labels and averaged over documents, where
    r = y(z_T - dE/dy / tau) - y(z_T) is how far a mean-field step would still move each label: what `converged` is
    judged by. It is 0 at a minimum of E alone, and its gradient goes through the T steps as the loss's does and through
    the energy at z_T. It costs one more gradient of the energy. A classifier has no steps and none.

    Labels that a batch reveals are given to the model, and loss and penalty are of the others alone; the loss is of
    those that are not unknown.

    Args:
        loss: `bce`, `softmax`, `mse`, `soft_f1` or `sample_f1`.
        steps: `last` or `all`.
        convergence_penalty: w >= 0.
        propensity: with `bce`, the chance that a true label is listed, in (0, 1], one number or (L,) of them: labels
            that are not listed may be true, and the loss is `propensity_bce`.

    Raises:
        ConfigError: an unknown name, a negative weight, a propensity with another loss than `bce`, or one that is not
            in (0, 1].

    Source: Belanger, Yang & McCallum (2017), section 4; the weights are their equation 10.

    Example:
        >>> import torch
        >>> from energynets import SPEN, BagOfWords, EndToEnd, EnergyNetwork
        >>> from energynets.data.batches import Batch, SparseBatch
        >>> model = EnergyNetwork(BagOfWords(num_inputs=4, hidden=(8,)), SPEN(num_features=8, num_labels=3))
        >>> rows = SparseBatch(torch.tensor([0, 2]), torch.ones(2), torch.tensor([0, 1, 2]), 4)  # two documents
        >>> labels = SparseBatch(torch.tensor([1, 0]), torch.ones(2), torch.tensor([0, 1, 2]), 3)
        >>> EndToEnd("sample_f1")(model, Batch(rows, labels, torch.arange(2))).shape
        torch.Size([])
    """

    def __init__(
        self,
        loss: str = "bce",
        *,
        steps: str = "last",
        convergence_penalty: float = 0.0,
        propensity: Tensor | float | None = None,
    ) -> None:
        if not convergence_penalty >= 0:
            raise ConfigError(f"objective.convergence_penalty: expected 0 or more, got {convergence_penalty}")
        if steps not in ("last", "all"):
            raise ConfigError(f"objective.steps: expected 'last' or 'all', got {steps!r}")
        if propensity is not None and loss != "bce":
            raise ConfigError(f"objective.propensity: goes with loss bce alone, got {loss}")
        self.loss = loss
        self.propensity = None if propensity is None else _checked(propensity)
        self.steps = steps
        self.convergence_penalty = convergence_penalty
        self._loss = loss_by_name(loss)

    def with_loss(self, loss: str) -> EndToEnd:
        """The same objective with another loss."""
        return EndToEnd(
            loss, steps=self.steps, convergence_penalty=self.convergence_penalty, propensity=self.propensity
        )

    def __call__(self, model: Classifier | EnergyNetwork, batch: Batch) -> Tensor:
        """The scalar to minimise.

        Raises:
            ConfigError: a loss or steps that the model's domain, or labels in chunks, have not.
            ShapeError: labels of other documents than the inputs, or of another number of labels than the model's.
        """
        left_out, observed = batch.left_out, observed_in(batch)
        if getattr(model, "streams", False):
            if left_out is not None or self.propensity is not None:
                raise ConfigError("labels in chunks or a shortlist: their loss is of all labels, each known")
            if self.convergence_penalty:
                raise ConfigError(
                    "objective.convergence_penalty: is of all labels at once: no label_chunk, no shortlist"
                )
            return model.loss_in_chunks(batch.inputs, batch.labels, self.loss, self.steps)
        if self.convergence_penalty and isinstance(model, EnergyNetwork):
            return self._penalised(model, batch, observed)
        # A model of one's own need not know of known labels where there are none.
        given = {} if observed is None else {"observed": observed}
        if self.steps == "last":
            logits = model(batch.inputs, **given)
            return self._of(logits, batch.labels.dense(logits.dtype), left_out, _domain(model))
        if not hasattr(model, "with_losses"):
            raise ConfigError(f"objective.steps: {type(model).__name__} has no steps (with_losses): expected 'last'")
        return model.with_losses(batch.inputs, self._step_loss(model, batch), **given)[1]

    def _of(self, logits: Tensor, targets: Tensor, left_out: Tensor | None, domain: Domain) -> Tensor:
        """The loss of the labels that are not left out."""
        expect_labels(targets, logits.shape)
        logits, targets = leave_out(logits, targets, left_out, domain)
        if self.propensity is None:
            return self._loss(logits, targets, domain)
        propensity = self.propensity
        return propensity_bce(logits, targets, propensity if isinstance(propensity, float) else propensity.to(logits))

    def _step_loss(self, model: Classifier | EnergyNetwork, batch: Batch) -> StepLoss:
        left_out, domain = batch.left_out, _domain(model)
        last = model.solver.steps if isinstance(model, EnergyNetwork) else 0
        weights = {step: 1 / (last - step + 1) for step in range(min(1, last), last + 1)}
        total = sum(weights.values())
        dense: dict[torch.dtype, Tensor] = {}  # the targets: every step reads them, twice

        def step_loss(step: int, logits: Tensor) -> Tensor:
            if logits.dtype not in dense:
                dense[logits.dtype] = batch.labels.dense(logits.dtype)
            return weights[step] / total * self._of(logits, dense[logits.dtype], left_out, domain)

        return step_loss

    def _penalised(self, model: EnergyNetwork, batch: Batch, observed: Observed | None) -> Tensor:
        """The loss with the penalty, on one context: dropout has one mask for all steps and the one after them."""
        energy, solver = model.energy, model.solver
        context, start = model.begin(batch.inputs, observed)
        gradient = model.gradient if torch.is_grad_enabled() else NoGradient()
        if self.steps == "last":
            logits = solver.solve(energy, context, start, gradient=gradient, observed=observed)
            loss = self._of(logits, batch.labels.dense(logits.dtype), batch.left_out, model.domain)
        else:
            step_loss, solve = self._step_loss(model, batch), solver.solve_with_losses
            logits, loss = solve(energy, context, step_loss, start, gradient=gradient, observed=observed)
        moved = move(energy, logits, context)
        if observed is not None:  # which stay
            moved = observed.free(moved)
        return loss + self.convergence_penalty * moved.square().sum() / max(len(logits), 1)


def _domain(model: Any) -> Domain:
    """Of y; a module of one's own says which by its `domain`, and has labels where it does not."""
    domain = getattr(model, "domain", LABELS)
    if not isinstance(domain, Domain):
        raise ConfigError(f"{type(model).__name__}.domain: expected where y lives, Box() for labels, got {domain!r}")
    return domain


def _checked(propensity: Tensor | float) -> Tensor | float:
    """The same chances, one number as a float."""
    expected = "objective.propensity: expected a number in (0, 1] or a tensor of them, (L,)"
    if isinstance(propensity, Tensor):
        wrong = propensity[~((propensity > 0) & (propensity <= 1))]
        if wrong.numel():
            raise ConfigError(f"{expected}, got {wrong[0].item():g} among them")
        return propensity
    try:
        number = float(propensity)
    except (TypeError, ValueError):
        raise ConfigError(f"{expected}, got {propensity!r}") from None
    if not 0 < number <= 1:
        raise ConfigError(f"{expected}, got {propensity!r}")
    return number


def move(energy: Energy, logits: Tensor, context: Any) -> Tensor:
    """r = y(z - dE/dy / tau) - y(z), what a mean-field step would change: z (B, L) -> (B, L)."""
    labels = energy.domain.labels(logits)
    return energy.domain.labels(-energy.gradient(labels, context) / energy.tau) - labels
