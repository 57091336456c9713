"""Losses on logits (B, L) and targets y (B, L) of a domain: summed over labels, averaged over documents."""

from __future__ import annotations

from collections.abc import Callable
from types import UnionType

import torch
from torch import Tensor

from energynets.energies import Box, Domain, Simplex
from energynets.errors import ConfigError, ShapeError, nearest
from energynets.objectives.cross_entropy import cross_entropy
from energynets.objectives.expected_f1 import expected_f1

LABELS = Box()


def bce(logits: Tensor, targets: Tensor, domain: Domain = LABELS) -> Tensor:
    """Binary cross-entropy, -sum_i [t_i log y_i + (1 - t_i) log(1 - y_i)], y = sigmoid(z)."""
    _expect(domain, Box, "bce", "softmax for categorical variables, mse for numbers")
    return cross_entropy(logits, targets, 1 / max(len(logits), 1))


def softmax(logits: Tensor, targets: Tensor, domain: Domain = LABELS) -> Tensor:
    """Cross-entropy of softmax(z) against the labels in equal parts, -sum_i t_i / |t| log softmax(z)_i.

    In a Simplex the softmax is that of each categorical variable, and their cross-entropies are added up; else all L
    labels are one variable. A variable without labels adds 0.
    """
    _expect(domain, Box | Simplex, "softmax", "mse for numbers")
    categories = domain.num_categories if isinstance(domain, Simplex) else logits.shape[-1]
    share, log_y = (t.unflatten(-1, (-1, categories)) for t in (targets, logits))
    share = share / share.sum(-1, keepdim=True).clamp(min=1)
    return -(share * torch.log_softmax(log_y, -1)).sum() / max(len(logits), 1)


def mse(logits: Tensor, targets: Tensor, domain: Domain = LABELS) -> Tensor:
    """Squared error of y(z), sum_i (y_i - t_i)^2: y = sigmoid(z) for labels, z itself for numbers."""
    return (domain.labels(logits) - targets).square().sum() / max(len(logits), 1)


def soft_f1(logits: Tensor, targets: Tensor, domain: Domain = LABELS) -> Tensor:
    """1 - 2 <y, t> / (|y|_1 + |t|_1), y = sigmoid(z): example-F1 with the decision relaxed."""
    _expect(domain, Box, "soft_f1", "softmax for categorical variables, mse for numbers")
    y = torch.sigmoid(logits)
    overlap = 2 * (y * targets).sum(-1)
    return (1 - overlap / (y.sum(-1) + targets.sum(-1)).clamp(min=1e-8)).sum() / max(len(logits), 1)


def sample_f1(logits: Tensor, targets: Tensor, domain: Domain = LABELS) -> Tensor:
    """1 - E[2 <s, t> / (|s| + |t|)], labels s drawn independently with probability y = sigmoid(z): no relaxation.

    Not `soft_f1`, which is the F1 of the expected labels: by Jensen's inequality the two differ by what is uncertain.
    """
    _expect(domain, Box, "sample_f1", "softmax for categorical variables, mse for numbers")
    return (1 - expected_f1(logits, targets)).sum() / max(len(logits), 1)


def expect_labels(targets: Tensor, shape: tuple[int, ...]) -> None:
    """Raise a `ShapeError` where targets are not of the shape of the logits (B, L): they would be broadcast."""
    if tuple(targets.shape) != tuple(shape):
        raise ShapeError(
            f"labels: expected {tuple(shape)}, documents by labels as the model has them, got {tuple(targets.shape)}: "
            "give the labels of these documents"
        )


def _expect(domain: Domain, kinds: type | UnionType, loss: str, instead: str) -> None:
    if not isinstance(domain, kinds):
        expected = getattr(kinds, "__name__", str(kinds)).replace("energynets.energies.domain.", "")
        raise ConfigError(f"loss {loss}: expected y in {expected}, got {domain}; there is {instead}")


Loss = Callable[[Tensor, Tensor, Domain], Tensor]
LOSSES: dict[str, Loss] = {"bce": bce, "softmax": softmax, "mse": mse, "soft_f1": soft_f1, "sample_f1": sample_f1}


def loss_by_name(name: str) -> Loss:
    """The loss of this name: logits, targets and y's domain -> a scalar, a `ConfigError` where it means nothing there.

    Raises:
        ConfigError: there is none.
    """
    if not isinstance(name, str):
        came = name.__name__ if isinstance(name, type) else type(name).__name__
        raise ConfigError(
            f"loss: expected the name of one ({', '.join(sorted(LOSSES))}), got {came}: it knows y's domain"
        )
    if name not in LOSSES:
        raise ConfigError(f"unknown loss {name!r}{nearest(name, LOSSES)}")
    return LOSSES[name]


def probabilities(logits: Tensor, loss: str) -> Tensor:
    """Scores in [0, 1] that logits trained with this loss stand for: softmax for `softmax`, else sigmoid."""
    return torch.softmax(logits, -1) if loss == "softmax" else torch.sigmoid(logits)
