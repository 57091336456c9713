"""One optimiser step in two halves: the gradients, then, where loss and norm are finite, the weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from energynets.data.batches import Batch
from energynets.inference import compiled_engine
from energynets.output import ChunkedLinear
from energynets.training.optimizers import Optimizers

Objective = Callable[[Any, Batch], Tensor]


class NothingToTrainError(Exception):
    """A loss without gradients."""


class Update:
    """The step of a stage, operation by operation.

    Args:
        model: what is trained, as its stage sees it.
        objective: (model, batch) -> scalar.
        parameters: that change.
        optimizer: over them; with `output`, where a layer's gradient is never held.
        clip_norm: largest gradient norm, or None.
        project: brings weights back into their sets after a step.
        compiled_from: batches of as many documents compile the engine; None never does. An epoch's last batch is
            smaller, and another graph for it alone would cost more than it saves.
    """

    def __init__(
        self,
        model: Any,
        objective: Objective,
        parameters: Sequence[nn.Parameter],
        optimizer: torch.optim.Optimizer | Optimizers,
        *,
        clip_norm: float | None = None,
        project: Callable[[], None] = lambda: None,
        compiled_from: int | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.parameters = parameters
        self.optimizer = optimizer
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.project = project
        self.compiled_from = compiled_from

    def gradients(self, batch: Batch) -> Tensor:
        """Gradients of the batch's loss, clipped; the loss and their norm before that, (2,), on the device.

        Raises:
            NothingToTrainError: the loss depends on none of the parameters.
        """
        self.optimizer.zero_grad(set_to_none=True)
        with compiled_engine(self.compiled_from is not None and len(batch) >= self.compiled_from):
            loss = self.objective(self.model, batch)
        if not loss.requires_grad:
            raise NothingToTrainError("the loss does not depend on what it trains")
        loss.backward()
        norm = self._clip(getattr(self.optimizer, "output", None))
        return torch.stack([loss.detach().float(), norm.float()])

    def _clip(self, output: ChunkedLinear | None) -> Tensor:
        """The norm of all gradients before they are clipped, one that is not held included."""
        if output is None or output.pending is None or output.pending.slope is None:
            return torch.nn.utils.clip_grad_norm_(self.parameters, self.clip_norm)
        gradients = [parameter.grad for parameter in self.parameters if parameter.grad is not None]
        norm = torch.hypot(torch.nn.utils.get_total_norm(gradients), output.pending.norm())
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        output.pending.slope *= (self.clip_norm / (norm + 1e-6)).clamp(max=1)  # as torch clips
        return norm

    def apply(self) -> None:
        """The optimiser's step, and the projection after it."""
        self.optimizer.step()
        self.project()
