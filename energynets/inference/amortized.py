"""Amortised inference: a network that guesses where inference ends."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from energynets.energies import Energy
from energynets.errors import ConfigError
from energynets.linear import Linear


class AmortizedStart(nn.Module):
    """z_0 = phi + W_n relu(... relu(W_1 f + b_1)) + b_n: inference starts from here instead of from phi.

    W_n and b_n start at 0, so that an untrained start is the energy's own, the classifier's answer.

    Args:
        num_features: F.
        num_labels: L.
        hidden: widths of the hidden layers; none is a linear correction of phi.

    Raises:
        ConfigError: a layer without units.

    Source: Tu & Gimpel, Learning approximate inference networks for structured prediction (2018), section 3; theirs has
        the shape of the local classifier and starts from its weights.

    Example:
        >>> import torch
        >>> from energynets.inference import AmortizedStart
        >>> start = AmortizedStart(num_features=8, num_labels=5, hidden=(16,))
        >>> start(torch.randn(3, 8), torch.zeros(3, 5)).shape
        torch.Size([3, 5])
    """

    def __init__(self, num_features: int, num_labels: int, *, hidden: Sequence[int] = (256,)) -> None:
        super().__init__()
        if any(width < 1 for width in hidden):
            raise ConfigError(f"amortized.hidden: expected layers of 1 unit or more, got {tuple(hidden)}")
        layers: list[nn.Module] = []
        for width in hidden:
            layers += [Linear(num_features, width), nn.ReLU()]
            num_features = width
        last = Linear(num_features, num_labels)
        nn.init.zeros_(last.weight)
        nn.init.zeros_(last.bias)
        self.correction = nn.Sequential(*layers, last)

    def forward(self, features: Tensor, unary: Tensor | None) -> Tensor:
        """features (B, F) and phi (B, L), or None where the energy has none -> z_0 (B, L)."""
        correction = self.correction(features)
        return correction if unary is None else unary + correction


def amortized_start(start: AmortizedStart | None, energy: Energy, context: Any, features: Tensor) -> Tensor | None:
    """z_0 (B, L), or None for the solver's own."""
    return None if start is None else start(features, energy.initial_logits(context))
