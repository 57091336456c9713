"""The best labels of each document: of a batch of logits, or of one that comes a chunk of labels at a time."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def top_positions(logits: Tensor, k: int) -> Tensor:
    """Positions (B, k) of the k largest logits of each row (B, N), descending, ties by smaller position; k <= N."""
    if k >= logits.shape[1]:
        return torch.sort(logits, dim=1, descending=True, stable=True).indices
    positions = logits.topk(k, dim=1).indices.sort(dim=1).values
    top = logits.gather(1, positions)
    positions = positions.gather(1, torch.sort(top, dim=1, descending=True, stable=True).indices)
    # Which of several labels equal to the k-th topk takes is its own affair: take the smallest.
    last = logits.gather(1, positions[:, -1:])
    tied = (logits >= last).sum(dim=1) > k
    if tied.any():
        positions[tied] = torch.sort(logits[tied], dim=1, descending=True, stable=True).indices[:, :k]
    return positions


def top_labels(chunks: Iterable[Tensor], k: int) -> tuple[Tensor, Tensor]:
    """The k best labels (B, k) and their logits (B, k), descending, ties by smaller label.

    Args:
        chunks: logits (B, C) of labels 0 .. C - 1, of those that follow, and so on; L >= k in all. Each may be
            overwritten once the next is asked for.
    """
    best: tuple[Tensor, Tensor] | None = None
    start = 0
    for logits in chunks:
        labels = torch.arange(start, start + logits.shape[1], device=logits.device).expand_as(logits)
        start += logits.shape[1]
        if best is not None:  # what is best so far stands first, in order: its labels are the smaller ones
            labels, logits = torch.cat((best[0], labels), 1), torch.cat((best[1], logits), 1)
        positions = top_positions(logits, min(k, logits.shape[1]))
        best = labels.gather(1, positions), logits.gather(1, positions)
    assert best is not None
    return best
