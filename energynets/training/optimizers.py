"""Optimisers by name, and the learning rate as a function of the step."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from energynets.errors import CheckpointError
from energynets.output import ChunkedLinear, ChunkedSGD
from energynets.training.checkpoint import load_optimizer_tensors, optimizer_tensors

if TYPE_CHECKING:
    from energynets.config import Optimizer


def build_optimizer(
    settings: Optimizer, parameters: Iterable[nn.Parameter], *, capturable: bool = False
) -> torch.optim.Optimizer:
    """The optimiser of one stage over the parameters that the stage trains.

    Args:
        settings: of the stage.
        parameters: what it trains, on their device.
        capturable: a CUDA graph can hold its step: the learning rate is a tensor, which a replay reads anew.
    """
    parameters, decay = list(parameters), settings.weight_decay
    rate: float | Tensor = settings.learning_rate
    if capturable:
        rate = torch.tensor(rate, device=parameters[0].device)
    if settings.kind == "sgd":
        return torch.optim.SGD(parameters, lr=rate, weight_decay=decay, momentum=settings.momentum, fused=True)
    kind = torch.optim.AdamW if settings.kind == "adamw" else torch.optim.Adam
    # One pass over each weight instead of a dozen: 4 ms instead of 25 for a 20,000 x 300 embedding on two cores.
    optimizer = kind(parameters, lr=rate, weight_decay=decay, fused=True, capturable=capturable)
    # The first step and an epoch's smaller last one run without a graph on purpose: nothing to be warned of.
    optimizer._warned_capturable_if_run_uncaptured = True
    return optimizer


def chunked_output(model: Any) -> ChunkedLinear | None:
    """The layer whose gradient need not be held: a classifier's output, the unary that an energy network keeps."""
    output = model.energy.unary if getattr(model, "keep_unary", False) else getattr(model, "unary", None)
    return output if isinstance(output, ChunkedLinear) else None


class Optimizers:
    """The optimisers of a stage: one for all groups without settings of their own, one for each group with.

    A `ChunkedLinear` output on SGD without momentum gets `ChunkedSGD`, until `close()`, where that may be `deferred`.

    Args:
        settings: of the stage.
        model: as the stage sees it; what it trains requires gradients.
        trains: names of groups.
        capturable: as of `build_optimizer`.
        deferred: false where gradients must be there to be summed over documents of other processes.
    """

    def __init__(
        self,
        settings: Optimizer,
        model: Any,
        trains: Sequence[str],
        *,
        capturable: bool = False,
        deferred: bool = True,
    ) -> None:
        output = chunked_output(model)
        shared: list[nn.Parameter] = []
        names: dict[int, str] = {}  # tied weights are trained by the first group that has them
        own: list[tuple[Optimizer, list[nn.Parameter]]] = []
        of_output: Optimizer | None = None
        groups: Mapping[str, Sequence[nn.Parameter]] = model.parameter_groups()
        for name in trains:
            new = {
                id(weight): f"{name}.{place}"
                for place, weight in enumerate(groups[name])
                if weight.requires_grad and id(weight) not in names
            }
            parameters = [weight for weight in groups[name] if id(weight) in new]
            names |= new
            if name == "unary" and output is not None and deferred and settings.of(name).plain_sgd:
                of_output = settings.of(name)
            elif getattr(settings, name, None) is None:
                shared += parameters
            elif parameters:
                own.append((settings.of(name), parameters))
        kinds = [(settings, shared), *own] if shared else own
        self._parts = [(build_optimizer(of, some, capturable=capturable), of.learning_rate) for of, some in kinds]
        self._deferred: ChunkedSGD | None = None
        if of_output is not None and output is not None:
            self._deferred = ChunkedSGD(output, of_output.learning_rate, of_output.weight_decay)
            self._parts.append((self._deferred, of_output.learning_rate))

        # By group and place in it: which optimiser has a weight, and as the how manieth, depends on the processes.
        self._names = {names[id(weight)]: weight for optimizer, _ in self._parts for weight in weights_of(optimizer)}

    @property
    def output(self) -> ChunkedLinear | None:
        """The layer whose gradient is never held."""
        return None if self._deferred is None else self._deferred.output

    def set_factor(self, factor: float) -> None:
        """Every learning rate times a factor of its schedule."""
        for optimizer, rate in self._parts:
            set_learning_rate(optimizer, rate * factor)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As of torch's."""
        for optimizer, _ in self._parts:
            optimizer.zero_grad(set_to_none)

    def step(self) -> None:
        """As of torch's."""
        for optimizer, _ in self._parts:
            optimizer.step()

    def weight(self, key: str) -> Tensor:
        """What the state of this key (as `tensors` names it) belongs to.

        Raises:
            CheckpointError: nothing that the stage trains.
        """
        name = key.partition("/")[0]
        if name not in self._names:
            raise CheckpointError(
                f"the optimiser's state of {name!r} in the checkpoint: expected one of {', '.join(self._names)}"
            )
        return self._names[name]

    def tensors(self) -> dict[str, Tensor]:
        """Their state by `group.place/name`, e.g. `features.0/exp_avg`."""
        found: dict[str, Tensor] = {}
        for optimizer, names in self._named():
            for key, tensor in optimizer_tensors(optimizer).items():
                number, _, name = key.partition("/")
                found[f"{names[int(number)]}/{name}"] = tensor
        return found

    def load_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`.

        Raises:
            CheckpointError: state of what the stage does not train.
        """
        for key in tensors:
            self.weight(key)
        for optimizer, names in self._named():
            numbers = {name: number for number, name in enumerate(names)}
            parted = [(*key.partition("/")[::2], tensor) for key, tensor in tensors.items()]
            own = {f"{numbers[name]}/{what}": tensor for name, what, tensor in parted if name in numbers}
            load_optimizer_tensors(optimizer, own)

    def close(self) -> None:
        """Losses leave gradients everywhere again."""
        if self._deferred is not None:
            self._deferred.close()

    def _named(self) -> list[tuple[torch.optim.Optimizer, list[str]]]:
        """Each optimiser with the names of its weights, in its order."""
        of = {id(weight): name for name, weight in self._names.items()}
        return [(optimizer, [of[id(weight)] for weight in weights_of(optimizer)]) for optimizer, _ in self._parts]


def weights_of(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """What it descends on, as its state numbers them."""
    return [weight for group in optimizer.param_groups for weight in group["params"]]


def schedule_factor(schedule: str, step: int, total: int) -> float:
    """What the learning rate is multiplied by at `step` (from 0) of `total`.

    constant: 1; linear: 1 - step/total; cosine: (1 + cos(pi step/total)) / 2. A function of the step alone, so
    that a resumed run needs no scheduler state.
    """
    if schedule == "linear":
        return 1 - step / total
    if schedule == "cosine":
        return (1 + math.cos(math.pi * step / total)) / 2
    return 1.0


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """One learning rate for every group."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate
