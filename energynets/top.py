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

    On a CPU a logit that is not above the k-th best so far is passed over, and those above wait until there are as many
    as are kept: of L labels in random order about k log(L / C) are ever looked at again.

    Args:
        chunks: logits (B, C) of labels 0 .. C - 1, of those that follow, and so on. Each may be overwritten once the
            next is asked for.
    """
    best: TopLabels | None = None
    waiting = _Waiting()
    for chunk in chunks:
        if best is None:
            best = _merged(TopLabels(*_nothing(chunk), 0), chunk, k)
        elif best.labels.shape[1] < k or chunk.device.type != "cpu":  # a list of positions is what a GPU waits for
            best = _merged(best, chunk, k)
        else:
            waiting.add(chunk, best.logits[:, -1:], best.num_labels)
            total = torch.logaddexp(best.log_total, chunk.logsumexp(1))
            best = best._replace(log_total=total, num_labels=best.num_labels + chunk.shape[1])
            if waiting.count > best.labels.numel():
                best, waiting = waiting.merged(best), _Waiting()
    assert best is not None
    return waiting.merged(best)


def _nothing(like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """No labels of B documents, their logits, and the log of their sum."""
    labels = torch.empty(len(like), 0, dtype=torch.long, device=like.device)
    return labels, like[:, :0], like.new_full((len(like),), -torch.inf)


def _merged(best: TopLabels, chunk: Tensor, k: int) -> TopLabels:
    """With all logits of a chunk."""
    start, width = best.num_labels, chunk.shape[1]
    labels = torch.arange(start, start + width, device=chunk.device).expand_as(chunk)
    # What is best so far stands first, in order: its labels are the smaller ones.
    labels, logits = torch.cat((best.labels, labels), 1), torch.cat((best.logits, chunk), 1)
    positions = top_positions(logits, min(k, logits.shape[1]))
    total = torch.logaddexp(best.log_total, chunk.logsumexp(1))
    return TopLabels(labels.gather(1, positions), logits.gather(1, positions), total, start + width)


class _Waiting:
    """Labels that may be among the best, by ascending id in each document."""

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[tuple[Tensor, Tensor, Tensor]] = []

    def add(self, chunk: Tensor, least: Tensor, start: int) -> None:
        """Those of a chunk (B, C), whose first label is `start`, above the least of the best (B, 1).

        Equal to it they have larger ids, and stay out; what is not a number is kept, and sorts first.
        """
        rows, columns = (~(chunk <= least)).nonzero(as_tuple=True)
        self._parts.append((rows, columns + start, chunk[rows, columns]))
        self.count += len(rows)

    def merged(self, best: TopLabels) -> TopLabels:
        """The best of both."""
        if not self.count:
            return best
        rows, labels, logits = (torch.cat(part) for part in zip(*self._parts, strict=True))
        order = torch.sort(rows, stable=True).indices
        rows, labels, logits = rows[order], labels[order], logits[order]
        counts = torch.bincount(rows, minlength=len(best.labels))
        kept = best.labels.shape[1]
        place = kept + torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        wide = len(counts), kept + int(counts.max())
        all_labels, all_logits = labels.new_zeros(wide), logits.new_full(wide, -torch.inf)
        all_labels[:, :kept], all_logits[:, :kept] = best.labels, best.logits
        all_labels[rows, place], all_logits[rows, place] = labels, logits
        positions = torch.sort(all_logits, dim=1, descending=True, stable=True).indices[:, :kept]
        return best._replace(labels=all_labels.gather(1, positions), logits=all_logits.gather(1, positions))
