"""Gradients of a fixed point by the implicit function theorem."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from energynets.energies import Energy
from energynets.inference.gradient import Implicit
from energynets.inference.observed import Observed


def fixed_point(energy: Energy, context: Any, logits: Tensor, mode: Implicit, observed: Observed | None) -> Tensor:
    """z* (B, L) with the gradients that the stationarity dE/dy(z*) = 0 implies."""
    raise NotImplementedError
