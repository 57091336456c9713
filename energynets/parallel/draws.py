"""Random numbers of a batch that is cut over processes: drawn for all of it by each, who then takes its own.

So they are those of one process, and all generators stand where that one's would. Drawing costs a few numbers a
document; the network that they are for costs thousands of times as much.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from energynets.data.batches import BatchInputs, SparseBatch


class Places(NamedTuple):
    """Which rows of a tensor of the whole batch are this process's.

    Args:
        rows: of the whole.
        own: of them.
    """

    rows: int
    own: slice | Tensor


@dataclass(frozen=True)
class Cut:
    """Documents start .. stop - 1 of a batch, whose labels (B, L) are given too where they are whole."""

    whole: BatchInputs
    start: int
    stop: int
    labels: SparseBatch | None = None


_cut: ContextVar[Cut | None] = ContextVar("cut", default=None)


@contextlib.contextmanager
def cut_from(cut: Cut | None) -> Iterator[None]:
    """Within it what is drawn is drawn for the whole batch."""
    token = _cut.set(cut)
    try:
        yield
    finally:
        _cut.reset(token)


def documents() -> Places | None:
    """Of a tensor with a row for each document; None where no batch is cut."""
    cut = _cut.get()
    return None if cut is None else Places(len(cut.whole), slice(cut.start, cut.stop))


def labelled(targets: SparseBatch) -> tuple[SparseBatch, slice]:
    """The labels of the whole batch, and which of its documents `targets` are."""
    cut = _cut.get()
    if cut is None or cut.labels is None:
        return targets, slice(None)
    return cut.labels, slice(cut.start, cut.stop)


def uniform(like: Tensor, *shape: int) -> Tensor:
    """Numbers in [0, 1), (B, *shape): a row for each document of `like`, a tensor (B, ...)."""
    size, own = documents() or Places(len(like), slice(None))
    return torch.rand((size, *shape), dtype=like.dtype, device=like.device)[own]


def entries() -> Places | None:
    """Of a tensor with a number for each entry of sparse inputs."""
    cut = _cut.get()
    if cut is None:
        return None
    assert isinstance(cut.whole, SparseBatch)
    start, stop = cut.whole.offsets[[cut.start, cut.stop]].tolist()
    return Places(len(cut.whole.columns), slice(start, stop))


def among(own: Tensor, listed: Callable[[BatchInputs], Tensor]) -> Places | None:
    """Of a tensor with a row for each of a batch's distinct words, ascending.

    Args:
        own: those of this process's documents.
        listed: those of a batch.
    """
    cut = _cut.get()
    if cut is None:
        return None
    words = listed(cut.whole)
    return Places(len(words), torch.searchsorted(words, own))
