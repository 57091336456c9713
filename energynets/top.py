"""The best labels of each document: of a batch of logits, or of one that comes a chunk of labels at a time."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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


class TopLabels(NamedTuple):
    """The k best labels of B documents, best first, ties by smaller id.

    Args:
        labels: ids (B, k).
        logits: (B, k).
        log_total: log sum exp of all L logits, (B,): softmax probabilities are exp(logits - log_total).
        num_labels: L.
        candidates: what inference chose them from, labels (B, n), where that was not all L.
    """

    labels: Tensor
    logits: Tensor
    log_total: Tensor
    num_labels: int
    candidates: Tensor | None = None


def top_labels(chunks: Iterable[Tensor], k: int) -> TopLabels:
    """The k best labels (all L where k > L).

    Args:
        chunks: logits (B, C) of labels 0 .. C - 1, of those that follow, and so on. Each may be overwritten once the
            next is asked for.
    """
    best: TopLabels | None = None
    for chunk in chunks:
        start, width = 0 if best is None else best.num_labels, chunk.shape[1]
        labels = torch.arange(start, start + width, device=chunk.device).expand_as(chunk)
        total, logits = chunk.logsumexp(1), chunk
        if best is not None:  # what is best so far stands first, in order: its labels are the smaller ones
            labels, logits = torch.cat((best.labels, labels), 1), torch.cat((best.logits, chunk), 1)
            total = torch.logaddexp(best.log_total, total)
        positions = top_positions(logits, min(k, logits.shape[1]))
        best = TopLabels(labels.gather(1, positions), logits.gather(1, positions), total, start + width)
    assert best is not None
    return best
