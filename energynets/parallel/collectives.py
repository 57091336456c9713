"""Everything that goes from one process to another goes through here: counted, and with one error where it fails."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from energynets.errors import ProcessLostError

Group = Any
"""A process group of torch; None is that of all processes."""

sent: Counter[str] = Counter()
"""Bytes that this process has put in, by collective. A ring sends 2 (R - 1) / R times as many for a sum over R."""

# Of one message from process to process: what a receiver needs beside the tensor that it fills.
_PIECE = 1 << 26


def all_sum(tensor: Tensor, group: Group) -> Tensor:
    """The sum over a group, in place of what each process has of it; the same bits in all of them."""
    with _counted("sum", tensor):
        dist.all_reduce(tensor, group=group)
    return tensor


def all_gather(tensor: Tensor, group: Group) -> list[Tensor]:
    """What each process of a group has, of one shape, in the order of their ranks."""
    tensor = tensor.contiguous()
    parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size(group))]
    with _counted("gather", tensor):
        dist.all_gather(parts, tensor, group=group)
    return parts


def send(rows: Tensor, target: int, group: Group) -> None:
    """A tensor on the CPU, to the process of that rank in the group."""
    for piece in _bytes(rows).split(_PIECE):
        with _counted("send", piece):
            dist.send(piece, group=group, group_dst=target)


def receive(rows: Tensor, source: int, group: Group) -> Tensor:
    """The counterpart of `send`, into a tensor of that shape and type."""
    for piece in _bytes(rows).split(_PIECE):
        with _lost():
            dist.recv(piece, group=group, group_src=source)
    return rows


def first_says(value: Any) -> Any:
    """What the first process has: plain values."""
    box = [value]
    with _lost():
        dist.broadcast_object_list(box, src=0)
    return box[0]


def gather_objects(value: Any, group: Group) -> list[Any] | None:
    """What each process of a group has, on its first alone."""
    found = [None] * dist.get_world_size(group) if dist.get_rank(group) == 0 else None
    with _lost():
        dist.gather_object(value, found, group=group, group_dst=0)
    return found


def _bytes(rows: Tensor) -> Tensor:
    return rows.view(-1).view(torch.uint8)


@contextlib.contextmanager
def _counted(name: str, tensor: Tensor) -> Iterator[None]:
    sent[name] += tensor.numel() * tensor.element_size()
    with _lost():
        yield


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what every backend raises where a peer is gone
        raise ProcessLostError(f"another process does not answer ({str(error).splitlines()[0]})") from error
