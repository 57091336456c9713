"""How far labels y in [0, 1]^L, relaxed, are from the true ones t in {0, 1}^L: (B, L), (B, L) -> (B,)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from torch import Tensor

from energynets.errors import ConfigError, nearest

Measure = Callable[[Tensor, Tensor], Tensor]
Entry = TypeVar("Entry")
SMALLEST = 1e-8
"""What an empty union counts as: both measures are 0 where there is nothing to agree on, as f1_example is."""


def f1(y: Tensor, targets: Tensor) -> Tensor:
    """2 <y, t> / (|y| + |t|), example-F1 where y is 0 or 1."""
    return 2 * (y * targets).sum(-1) / (y.sum(-1) + targets.sum(-1)).clamp(min=SMALLEST)


def iou(y: Tensor, targets: Tensor) -> Tensor:
    """<y, t> / (|y| + |t| - <y, t>), the Jaccard index where y is 0 or 1."""
    overlap = (y * targets).sum(-1)
    return overlap / (y.sum(-1) + targets.sum(-1) - overlap).clamp(min=SMALLEST)


def hamming_cost(y: Tensor, targets: Tensor) -> Tensor:
    """sum_i |y_i - t_i| = |t| + <1 - 2 t, y>, the number of wrong labels where y is 0 or 1."""
    return (targets + (1 - 2 * targets) * y).sum(-1)


def f1_cost(y: Tensor, targets: Tensor) -> Tensor:
    """1 - 2 <y, t> / (|y| + |t|)."""
    return 1 - f1(y, targets)


AGREEMENTS: dict[str, Measure] = {"f1": f1, "iou": iou}
COSTS: dict[str, Measure] = {"hamming": hamming_cost, "f1": f1_cost}


def by_name(what: str, name: str, known: Mapping[str, Entry]) -> Entry:
    """The one of this name.

    Raises:
        ConfigError: there is none.
    """
    if name not in known:
        raise ConfigError(f"unknown {what} {name!r}{nearest(name, known)}")
    return known[name]
