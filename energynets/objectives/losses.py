"""Losses on logits (B, L) and 0/1 targets (B, L): summed over labels, averaged over documents."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from energynets.errors import ConfigError, nearest


def bce(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy, -sum_i [t_i log y_i + (1 - t_i) log(1 - y_i)], y = sigmoid(z)."""
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / max(len(logits), 1)


def softmax(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of softmax(z) against the labels in equal parts, -sum_i t_i / |t| log softmax(z)_i.

    A document without labels adds 0.
    """
    share = targets / targets.sum(-1, keepdim=True).clamp(min=1)
    return -(share * torch.log_softmax(logits, -1)).sum() / max(len(logits), 1)


def mse(logits: Tensor, targets: Tensor) -> Tensor:
    """Squared error of y = sigmoid(z), sum_i (y_i - t_i)^2."""
    return (torch.sigmoid(logits) - targets).square().sum() / max(len(logits), 1)


def soft_f1(logits: Tensor, targets: Tensor) -> Tensor:
    """1 - 2 <y, t> / (|y|_1 + |t|_1), y = sigmoid(z): example-F1 with the decision relaxed."""
    y = torch.sigmoid(logits)
    overlap = 2 * (y * targets).sum(-1)
    return (1 - overlap / (y.sum(-1) + targets.sum(-1)).clamp(min=1e-8)).sum() / max(len(logits), 1)


LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"bce": bce, "softmax": softmax, "mse": mse, "soft_f1": soft_f1}


def loss_by_name(name: str) -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {name!r}{nearest(name, LOSSES)}")
    return LOSSES[name]


def probabilities(logits: Tensor, loss: str) -> Tensor:
    """Scores in [0, 1] that logits trained with this loss stand for: softmax for `softmax`, else sigmoid."""
    return torch.softmax(logits, -1) if loss == "softmax" else torch.sigmoid(logits)
