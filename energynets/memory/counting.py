"""Bytes by purpose: weights, gradients and optimiser state counted, what a step holds besides them measured."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from energynets.errors import ConfigError
from energynets.memory.step import step_bytes
from energynets.models import EnergyNetwork

if TYPE_CHECKING:
    from energynets.config import Experiment
    from energynets.training.build import Sizes

# Numbers that an optimiser keeps of each weight; torch's sgd keeps one where it has momentum.
_STATE_NUMBERS = {"adam": 2, "adamw": 2}
# First part of a weight's name within its feature network -> what tables call it; others keep their name.
_PARTS = {
    "first": "hidden layers",
    "rest": "hidden layers",
    "known_true": "known labels",
    "known_false": "known labels",
}


@dataclass(frozen=True)
class StageMemory:
    """What one stage keeps besides the weights, in bytes.

    Args:
        name: of the stage.
        gradients: of the weights it trains, but for an output that is trained without one.
        optimizer: its state.
        step: what else one training step holds at its fullest moment: activations, logits, what inference keeps.
    """

    name: str
    gradients: int
    optimizer: int
    step: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.gradients + self.optimizer + self.step


@dataclass(frozen=True)
class Memory:
    """Weights by component, and bytes by purpose.

    Args:
        components: (name, number of weights), in the order of the network.
        weights: bytes of all weights.
        stages: per training stage.
        batch_size: of a step.
        tokens: of each document of it, 0 where documents are rows of a table.
        steps: T, 0 for a classifier.
    """

    components: tuple[tuple[str, int], ...]
    weights: int
    stages: tuple[StageMemory, ...]
    batch_size: int
    tokens: int
    steps: int

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(count for _, count in self.components)

    @property
    def largest(self) -> StageMemory:
        """The stage that needs most."""
        return max(self.stages, key=lambda stage: stage.total)

    @property
    def total(self) -> int:
        """Bytes of the largest stage: weights and the copy of the best ones, gradients, optimiser, step."""
        return 2 * self.weights + self.largest.total

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "parameters": self.parameters,
            "components": dict(self.components),
            "weights_bytes": self.weights,
            "stages": [asdict(stage) for stage in self.stages],
            "batch_size": self.batch_size,
            "tokens": self.tokens,
            "steps": self.steps,
            "total_bytes": self.total,
        }


def estimate(experiment: Experiment, sizes: Sizes) -> Memory:
    """Memory of training an experiment on data of these sizes, on a CPU; a GPU holds as much, and what its
    kernels over many labels keep besides (docs/scaling.md).

    Weights are counted on torch's meta device, where tensors have shapes and no storage. What a step holds besides
    them is measured: steps of made-up documents are run, over all labels where these are few, else over two smaller
    numbers of labels, for bytes are linear in them. Documents are as long as the settings allow.

    Args:
        experiment: of a classifier or an energy network.
        sizes: D or V, L, and whether the inputs are tokens.

    Returns:
        A `Memory`.

    Raises:
        ConfigError: the model is a baseline, without weights to count beforehand.
    """
    from energynets.training.build import build_model
    from energynets.training.optimizers import chunked_output
    from energynets.training.stages import stage_view

    if not experiment.stages:
        raise ConfigError(f"memory: model.kind {experiment.model.kind} has no weights before it has seen the data")
    with torch.device("meta"):
        model: Any = build_model(experiment, sizes)
    weights = {id(parameter): parameter for parameter in model.parameters()}
    groups: dict[str, list[nn.Parameter]] = model.parameter_groups()
    stages = []
    for stage in experiment.stages:
        gradients = state = 0
        if stage.fit is not None:  # no step, but the weights twice: as they were found, and as the network has them
            stages.append(StageMemory(stage.name, 0, 0, _bytes(groups["unary"])))
            continue
        view = stage_view(model, stage.trains)
        for group in stage.trains:
            trained, rule = _bytes(groups.get(group, ())), stage.optimizer.of(group)
            if not (group == "unary" and rule.plain_sgd and chunked_output(view) is not None):
                gradients += trained
            state += trained * _STATE_NUMBERS.get(rule.kind, 1 if rule.momentum else 0)
        peak = step_bytes(experiment, sizes, stage)
        stages.append(StageMemory(stage.name, gradients, state, max(peak - gradients, 0)))
    return Memory(
        components=tuple(_components(model).items()),
        weights=_bytes(weights.values()),
        stages=tuple(stages),
        batch_size=experiment.training.batch_size,
        tokens=experiment.data.text.max_tokens if sizes.tokens else 0,
        steps=model.solver.steps if isinstance(model, EnergyNetwork) else 0,
    )


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _components(model: nn.Module) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        room, part = (*name.replace("features.network.", "features.").split("."), "")[:2]
        if room == "features":
            component = _PARTS.get(part, part)
        elif "unary" in (room, part):
            component = "output"
        else:
            component = {"solver": "step sizes"}.get(room, room)
        counts[component] = counts.get(component, 0) + parameter.numel()
    # The output follows the features it reads, whatever order the modules are held in.
    return dict(sorted(counts.items(), key=lambda item: item[0] in ("energy", "step sizes")))
