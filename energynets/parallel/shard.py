"""The labels that one process has."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from energynets.errors import ConfigError
from energynets.parallel.collectives import Group, all_gather, all_sum

if TYPE_CHECKING:
    from energynets.top import TopLabels


@dataclass(frozen=True)
class LabelShard:
    """Labels start .. stop - 1 of L; shard i of R has those from L i / R on, rounded down.

    Args:
        labels: L.
        index: i, from 0.
        count: R.
        group: the R processes that have all labels between them.

    Raises:
        ConfigError: a shard without labels.
    """

    labels: int
    index: int = 0
    count: int = 1
    group: Group = None

    def __post_init__(self) -> None:
        if self.labels < self.count and self.count > 1:
            raise ConfigError(
                f"training.parallel.labels: {self.count} shards of {self.labels} labels: one would be empty"
            )

    @property
    def bounds(self) -> list[int]:
        """Where each of the R shards begins, and L."""
        return [self.labels * i // self.count for i in range(self.count + 1)]

    @property
    def start(self) -> int:
        return self.bounds[self.index]

    @property
    def stop(self) -> int:
        return self.bounds[self.index + 1]

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum over all shards, in place."""
        return tensor if self.count == 1 else all_sum(tensor, self.group)

    def once(self, tensor: Tensor) -> Tensor:
        """What all shards have alike, to be counted once in a sum over them: zeros but on the first."""
        return tensor if self.index == 0 else torch.zeros_like(tensor)

    def stack(self, tensor: Tensor) -> Tensor:
        """What each shard has, (R, ...)."""
        return tensor[None] if self.count == 1 else torch.stack(all_gather(tensor, self.group))

    def top(self, own: TopLabels, k: int) -> TopLabels:
        """The k best of all labels, from the best of each shard."""
        from energynets.top import TopLabels, top_positions

        if self.count == 1:
            return own
        width = min(k, -(-self.labels // self.count))
        missing = width - own.logits.shape[1]  # of a smaller shard
        logits = nn.functional.pad(own.logits, (0, missing), value=-torch.inf)
        labels = nn.functional.pad(own.labels + self.start, (0, missing), value=self.labels)
        # Shards stand in the order of their labels: equal logits stay in that order.
        logits, labels = (self.stack(part).transpose(0, 1).flatten(1) for part in (logits, labels))
        positions = top_positions(logits, min(k, self.labels))
        total = self.stack(own.log_total).logsumexp(0)
        return TopLabels(labels.gather(1, positions), logits.gather(1, positions), total, self.labels)

    @contextlib.contextmanager
    def own_draws(self, device: torch.device) -> Iterator[None]:
        """Within it each shard draws numbers of its own; after it all shards stand where they stood, one draw on."""
        if self.count == 1:
            yield
            return
        seed = int(torch.randint(2**62, (), device="cpu")) + self.index
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            yield


Spread = Callable[[nn.Module, Mapping[str, int]], None]
"""A model and the label dimension of each weight that has one -> nothing: weights are given or taken."""

WHOLE = LabelShard(0)
"""All labels in one process."""


def label_dimension(parameter: Tensor) -> int | None:
    """The dimension of a weight that is cut by labels; None where each process has all of it."""
    return getattr(parameter, "label_dimension", None)


def shard_labels(model: nn.Module, shard: LabelShard, *, spread: Spread | None = None) -> None:
    """Leave a model that has its labels in chunks those of one shard: of U and u0, and of an energy's A.

    Its losses and its best labels then are those of all labels, summed and merged over the shards, and the gradients
    of all other weights are the same on every shard.

    Args:
        model: with all labels.
        shard: which to leave.
        spread: where only one process has the weights and the others' are on torch's meta device: what takes them
            from it, before it lets go of the others' labels.

    Raises:
        ConfigError: a model that has not its labels in chunks.
    """
    if not getattr(model, "streams", False):
        raise ConfigError(
            "training.parallel.labels: only labels in chunks can be cut into shards: set model.label_chunk "
            "(energy_network) or model.output: {kind: chunked} (classifier)"
        )
    energy = getattr(model, "energy", None)
    unary = model.unary if energy is None else energy.unary
    assert isinstance(unary, nn.Linear)
    dimensions = {id(unary.weight): 0, id(unary.bias): 0, id(getattr(energy, "measure", None)): 1}
    by_label = {name: dimensions[id(weight)] for name, weight in model.named_parameters() if id(weight) in dimensions}
    unary.shard, unary.out_features = shard, shard.stop - shard.start  # type: ignore[assignment]
    if spread is not None:
        spread(model, by_label)
    for name, weight in model.named_parameters():
        if name in by_label:
            if weight.shape[by_label[name]] == shard.labels:
                weight.data = weight.data.narrow(by_label[name], shard.start, shard.stop - shard.start).clone()
            weight.label_dimension = by_label[name]  # type: ignore[attr-defined]
