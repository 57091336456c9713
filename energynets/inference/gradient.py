"""How gradients flow through inference: a value, not a flag."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Unroll:
    """Differentiate through all T steps, exactly."""


@dataclass(frozen=True)
class NoGradient:
    """Keep no graph: for prediction. Works under `torch.no_grad` and `torch.inference_mode` too."""


GradientMode = Unroll | NoGradient
