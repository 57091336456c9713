"""What a stage trains, and where training stands."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn

from energynets.errors import ConfigError, nearest

if TYPE_CHECKING:
    from energynets.config import Stage


@dataclass
class Position:
    """Where training stands: what a checkpoint holds besides tensors.

    An epoch is `step == steps of an epoch` when its evaluation is still to come, so that any moment between two
    batches can be saved.

    Args:
        stage: number of the current stage; as many as there are when all are done.
        epoch: epochs of the stage done and evaluated.
        step: optimiser steps of the current epoch done.
        entered: whether the stage's entry has been evaluated.
        steps: optimiser steps of the whole run.
        best_value: best monitored value of the stage; None without validation.
        best_epoch: where it was; 0 is the entry.
        stale: evaluations since.
        loss_sum: of the current epoch, over documents.
        loss_count: documents in it.
        examples: documents of the whole run.
        step_seconds: spent in optimiser steps, whole run.
        seconds: spent in all, whole run.
        stage_seconds: spent in all, this stage.
        peak_memory: largest so far, in bytes.
        peak_host_memory: likewise.
        metrics_size: bytes of metrics.jsonl.
        stages: rows of the stages done.
    """

    stage: int = 0
    epoch: int = 0
    step: int = 0
    entered: bool = False
    steps: int = 0
    best_value: float | None = None
    best_epoch: int = 0
    stale: int = 0
    loss_sum: float = 0.0
    loss_count: int = 0
    examples: int = 0
    step_seconds: float = 0.0
    seconds: float = 0.0
    stage_seconds: float = 0.0
    peak_memory: int = 0
    peak_host_memory: int = 0
    metrics_size: int = 0
    stages: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    @property
    def order(self) -> int:
        """Number of the current epoch over all stages: what fixes its order of documents."""
        return sum(int(stage["epochs"]) for stage in self.stages) + self.epoch

    def end_epoch(self) -> None:
        """The epoch has been evaluated."""
        self.epoch, self.step, self.loss_sum, self.loss_count = self.epoch + 1, 0, 0.0, 0

    def end_stage(self, name: str) -> None:
        """The stage is done: keep its row, stand before the next."""
        best_epoch = self.best_epoch if self.best_value is not None else self.epoch
        row = {"name": name, "epochs": self.epoch, "best_epoch": best_epoch, "best_value": self.best_value}
        self.stages.append({**row, "seconds": self.stage_seconds})
        self.stage, self.epoch, self.entered = self.stage + 1, 0, False
        self.best_value, self.best_epoch, self.stale, self.stage_seconds = None, 0, 0, 0.0


def stage_view(model: Any, trains: Sequence[str], *, cross_fit: bool = False) -> Any:
    """The model that a stage trains: the energy network's own classifier, where it trains nothing but that; where it
    learns from held-out unary logits, the network that reads these."""
    if cross_fit:
        return model.on_unary()
    return model if infers(trains) or not hasattr(model, "as_classifier") else model.as_classifier()


def infers(trains: Sequence[str]) -> bool:
    """Whether a stage trains what inference is made of: else an energy network is its own classifier in it."""
    return "energy" in trains or "inference" in trains


def stage_objective(objective: Any, stage: Stage) -> Any:
    """The objective of a stage: with the stage's own loss, where it has one."""
    return objective if stage.loss is None else objective.with_loss(stage.loss)


@contextlib.contextmanager
def trained(model: Any, trains: Sequence[str], stage: str) -> Iterator[list[nn.Parameter]]:
    """Within it only the named groups require gradients; gives their parameters, each once.

    Raises:
        ConfigError: an unknown group, or groups without any parameter.
    """
    groups = model.parameter_groups()
    for name in trains:
        if name not in groups:
            raise ConfigError(f"stage {stage!r} trains {name!r}, which the model has not{nearest(name, groups)}")
    # A weight that was frozen before training (an embedding kept as given, say) stays so.
    chosen = {id(weight): weight for name in trains for weight in groups[name] if weight.requires_grad}
    if not chosen:
        raise ConfigError(f"stage {stage!r}: nothing to train, {', '.join(trains)} have no parameters")
    before = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.requires_grad_(id(parameter) in chosen)
    try:
        yield list(chosen.values())
    finally:
        for parameter, required in before:
            parameter.requires_grad_(required)
            parameter.grad = None
