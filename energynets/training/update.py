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
from energynets.output.descent import Pending
from energynets.parallel import label_dimension
from energynets.parallel.draws import cut_from
from energynets.parallel.mesh import Mesh
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
        mesh: the processes that share the step; one alone by default.
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
        mesh: Mesh | None = None,
    ) -> None:
        self.model = model
        self.objective = objective
        self.parameters = parameters
        self.optimizer = optimizer
        self.clip_norm = math.inf if clip_norm is None else clip_norm
        self.project = project
        self.compiled_from = compiled_from
        self.mesh = Mesh() if mesh is None else mesh

    def gradients(self, batch: Batch) -> Tensor:
        """Gradients of the batch's loss, clipped; the loss and their norm before that, (2,), on the device.

        Raises:
            NothingToTrainError: the loss depends on none of the parameters.
        """
        self.optimizer.zero_grad(set_to_none=True)
        share = self.mesh.share(batch)
        compiled = self.compiled_from is not None and len(batch) >= self.compiled_from
        with compiled_engine(compiled), cut_from(share.cut):
            loss = self.objective(self.model, share.batch)
        if not loss.requires_grad:
            raise NothingToTrainError("the loss does not depend on what it trains")
        if share.weight != 1:
            loss = loss * share.weight
        loss.backward()
        loss = self.mesh.sum_documents(loss.detach(), self.parameters)
        norm = self._clip(getattr(self.optimizer, "output", None))
        return torch.stack([loss.double(), norm.double()])

    def _clip(self, output: ChunkedLinear | None) -> Tensor:
        """The norm of all gradients before they are clipped, one that is not held included."""
        pending = None if output is None or output.pending is None or output.pending.slope is None else output.pending
        norm = self._norm(pending)
        if math.isinf(self.clip_norm):  # or all gradients would be multiplied by 1
            return norm
        torch.nn.utils.clip_grads_with_norm_(self.parameters, self.clip_norm, norm)
        if pending is not None:
            assert pending.slope is not None
            pending.slope *= (self.clip_norm / (norm + 1e-6)).clamp(max=1)  # as torch clips
        return norm

    def _norm(self, pending: Pending | None) -> Tensor:
        if pending is None and self.mesh.labels == 1:
            return torch.nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        held = [(parameter.grad, label_dimension(parameter)) for parameter in self.parameters]
        everywhere = torch.nn.utils.get_total_norm([g for g, cut in held if g is not None and cut is None])
        by_label = torch.nn.utils.get_total_norm([g for g, cut in held if g is not None and cut is not None])
        if pending is not None:
            by_label = torch.hypot(by_label, pending.norm())
        if self.mesh.labels > 1:
            by_label = self.mesh.shard.sum(by_label.double().square()).sqrt().to(by_label.dtype)
        return torch.hypot(everywhere, by_label)

    def apply(self) -> None:
        """The optimiser's step, and the projection after it."""
        self.optimizer.step()
        self.project()
