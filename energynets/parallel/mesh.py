"""W = D x R processes: each works on a share of the documents and has a shard of the labels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from energynets.data.batches import Batch
from energynets.errors import ConfigError
from energynets.metrics import TopScores
from energynets.parallel.collectives import all_sum, first_says, gather_objects
from energynets.parallel.shard import WHOLE, LabelShard, label_dimension, shard_labels
from energynets.parallel.share import Share, share_of
from energynets.parallel.whole import ShardedTensor, spread


class Mesh:
    """The processes of one training in two dimensions, "data" and "labels"; by itself, one process alone.

    All that decides anything is the same in every process: losses, gradient norms, metrics, requests to stop. Weights
    that are not cut by labels are the same bits everywhere, as sums arrive as the same bits.

    Args:
        data: D, shares of each batch.
        labels: R, shards of the labels; D x R is the number of processes.
        device: of this process.
    """

    def __init__(self, data: int = 1, labels: int = 1, device: torch.device | None = None) -> None:
        self.data, self.labels, self.size = data, labels, data * labels
        self.device = device or torch.device("cpu")
        self.rank = self.data_index = self.label_index = 0
        self.shard = WHOLE
        self._data: Any = None
        self._labels: Any = None
        if self.size > 1:
            mesh = init_device_mesh(self.device.type, (data, labels), mesh_dim_names=("data", "labels"))
            self.rank = dist.get_rank()
            self.data_index, self.label_index = mesh.get_local_rank("data"), mesh.get_local_rank("labels")
            self._data, self._labels = mesh.get_group("data"), mesh.get_group("labels")

    @property
    def first(self) -> bool:
        """Whether this process writes, shows and says what all of them do."""
        return self.rank == 0

    # ------------------------------------------------------------------------------------------------ the model

    @property
    def draws(self) -> bool:
        """Whether this process makes the weights of a new model, or takes its own from the first of its shards."""
        return self.label_index == 0

    def place(self, model: Any, num_labels: int, *, drawn: bool = False) -> None:
        """Leave a model its shard of the labels.

        Args:
            model: with all labels.
            num_labels: L.
            drawn: only the processes that `draws` have its weights; those of the others are on the meta device.

        Raises:
            ConfigError: a model that cannot be spread so.
        """
        if self.data > 1:
            self._check_draws(model)
        if self.labels > 1:
            self.shard = LabelShard(num_labels, self.label_index, self.labels, self._labels)
            taken = partial(spread, shard=self.shard) if drawn else None
            shard_labels(model, self.shard, spread=taken)

    @staticmethod
    def _check_draws(model: nn.Module) -> None:
        for name, module in model.named_modules():
            if isinstance(module, nn.modules.dropout._DropoutNd) and module.p > 0:
                raise ConfigError(
                    f"training.parallel: {name} is torch's {type(module).__name__}, which would draw other numbers "
                    "than one process draws: use energynets.features.dropout, or as many shards of labels as processes"
                )
            if getattr(module, "weight", None) is not None and module.weight.dtype == torch.bfloat16:
                raise ConfigError(
                    f"training.parallel.labels: {name} has bf16 weights, which are updated without a gradient that "
                    "could be summed over documents: set it to the number of processes"
                )

    # ------------------------------------------------------------------------------------------------ a step

    def share(self, batch: Batch) -> Share:
        """What of a batch is this process's."""
        return Share(batch) if self.size == 1 else share_of(batch, self.data_index, self.data, self.shard)

    def sum_documents(self, loss: Tensor, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The batch's loss, and in place its gradients, of what each share has of them."""
        if self.data == 1:
            return loss
        for parameter in parameters:
            if parameter.grad is not None:
                all_sum(parameter.grad, self._data)
        return all_sum(loss.clone(), self._data)

    def any(self, said: bool) -> bool:
        """Whether any process says so."""
        if self.size == 1:
            return said
        return bool(all_sum(torch.tensor(float(said), device=self.device), None) > 0)

    # ------------------------------------------------------------------------------------------------ scores

    def rows(self, count: int, batch_size: int) -> np.ndarray | None:
        """Documents that this process scores, whole batches of them; None is all."""
        if self.data == 1:
            return None
        number = -(-count // batch_size)
        start, stop = (min(count, number * i // self.data * batch_size) for i in (self.data_index, self.data_index + 1))
        return np.arange(start, stop)

    def collect(self, scores: TopScores) -> TopScores | None:
        """The scores of all documents, on the first process; None on the others."""
        if self.size == 1:
            return scores
        parts = gather_objects(scores, self._data) if self.label_index == 0 else None
        return TopScores.concatenate([part for part in parts if len(part)]) if parts and self.first else None

    def sum_number(self, value: float) -> float:
        """The sum over the shares of the documents."""
        return value if self.data == 1 else float(all_sum(torch.tensor(value, dtype=torch.float64), self._data))

    def first_says(self, value: Any) -> Any:
        """What the first process has: plain values."""
        return value if self.size == 1 else first_says(value)

    def first_then_others(self, work: Callable[[], object]) -> None:
        """Work whose result the first process leaves where the others find it."""
        if self.first:
            work()
        self.first_says(None)
        if not self.first:
            work()

    def same(self, what: str, value: str) -> None:
        """Raise `ConfigError` where a process has something else than the first one."""
        if self.first_says(value) != value:
            raise ConfigError(f"process {self.rank} of {self.size} has other {what} than process 0")

    # ------------------------------------------------------------------------------------------------ checkpoints

    def whole(self, tensor: Tensor, like: Tensor | None) -> Tensor | ShardedTensor:
        """A tensor as a checkpoint has it: of all labels.

        Args:
            tensor: what this process has: a weight, or what belongs to it number by number.
            like: the weight; None for anything else.
        """
        dimension = None if like is None else label_dimension(like)
        if dimension is None or tensor.shape != like.shape:  # type: ignore[union-attr]
            return tensor
        return ShardedTensor(tensor, dimension, self.shard, self.data_index == 0)

    def own(self, like: Tensor | None) -> tuple[slice, ...]:
        """The index that takes this process's part of a whole tensor; all of it for most."""
        dimension = None if like is None else label_dimension(like)
        if dimension is None:
            return ()
        return (*itertools.repeat(slice(None), dimension), slice(self.shard.start, self.shard.stop))

    def weights(self, model: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor | ShardedTensor]:
        """A model's state, now or at some time before, as a checkpoint has it."""
        parameters = dict(model.named_parameters())
        return {name: self.whole(tensor, parameters.get(name)) for name, tensor in state_dict.items()}
