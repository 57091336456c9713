"""Tensors cut by labels, put together where they are written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from energynets.parallel.collectives import receive, send
from energynets.parallel.shard import LabelShard

# Rows that are sent at once: what the first process holds besides the whole tensor.
_BYTES = 1 << 28


@dataclass(frozen=True)
class ShardedTensor:
    """A tensor of which each shard has its labels.

    Args:
        own: what this process has.
        dimension: which is that of the labels.
        shard: which labels.
        sends: whether it is this process's to send; with several data ranks the first ones do.
    """

    own: Tensor
    dimension: int
    shard: LabelShard
    sends: bool = True

    @property
    def shape(self) -> torch.Size:
        """Of the whole."""
        return torch.Size(self.shard.labels if i == self.dimension else n for i, n in enumerate(self.own.shape))

    @property
    def dtype(self) -> torch.dtype:
        return self.own.dtype

    def gather(self) -> Tensor | None:
        """The whole, on the CPU of the first process; None on the others. All of them have to call it."""
        if not self.sends:
            return None
        own, shard = self.own.detach().movedim(self.dimension, 0), self.shard
        if shard.index > 0:
            for rows in _pieces(own):
                send(rows.cpu().contiguous(), 0, shard.group)
            return None
        whole = torch.empty(self.shape, dtype=self.dtype)
        places = whole.movedim(self.dimension, 0)
        places[: shard.stop] = own.cpu()
        for index in range(1, shard.count):
            for rows in _pieces(places[shard.bounds[index] : shard.bounds[index + 1]]):
                rows.copy_(receive(torch.empty(rows.shape, dtype=self.dtype), index, shard.group))
        return whole


def in_order(tensors: Mapping[str, Tensor | ShardedTensor]) -> list[str]:
    """The order in which a file has them: the widest numbers first, so that all stand aligned."""
    return sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))


def take_part(tensors: Mapping[str, Tensor | ShardedTensor]) -> None:
    """What the other processes do while the first one writes."""
    for name in in_order(tensors):
        tensor = tensors[name]
        if isinstance(tensor, ShardedTensor):
            tensor.gather()


def spread(model: nn.Module, by_label: Mapping[str, int], shard: LabelShard) -> None:
    """Give the other processes of a group what the first one has of a model, which they have on the meta device.

    So weights are drawn once and whole in one place, and no other process ever holds more than its own labels.

    Args:
        model: with all labels.
        by_label: the label dimension of each weight that has one.
        shard: of this process.
    """
    if shard.index > 0:
        for name, weight in model.named_parameters():
            if name in by_label:
                weight.data = weight.data.narrow(by_label[name], shard.start, shard.stop - shard.start)
        model.to_empty(device="cpu")
    for name, tensor in model.state_dict().items():
        dimension = by_label.get(name, 0)
        rows = tensor.detach().movedim(dimension, 0) if tensor.ndim else tensor.detach()[None]
        if shard.index > 0:
            for piece in _pieces(rows):
                piece.copy_(receive(torch.empty(piece.shape, dtype=piece.dtype), 0, shard.group))
            continue
        for index in range(1, shard.count):
            own = rows[shard.bounds[index] : shard.bounds[index + 1]] if name in by_label else rows
            for piece in _pieces(own):
                send(piece.contiguous(), index, shard.group)


def _pieces(rows: Tensor) -> Iterable[Tensor]:
    row_bytes = rows[:1].numel() * rows.element_size()
    return rows.split(max(1, _BYTES // max(1, row_bytes)))
