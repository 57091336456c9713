"""The scalars of a descent: z_t = a_t z_0 + b_t phi + w_t v_0 + n_t A."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Number = float | Tensor


def base_factors(
    step_sizes: Sequence[Number], tau: Number, momentum: Number
) -> tuple[list[Number], list[Number], list[Number]]:
    """a_t, b_t and w_t for t = 0 .. T: the factors of z_0, phi and a first velocity v_0 in z_t.

    From v_{t+1} = momentum v_t - eta_t (-phi + tau z_t) and z_{t+1} = z_t + v_{t+1}, which is linear in all three.

    Args:
        step_sizes: eta_t, numbers or tensors of one number.
        tau: weight of the regulariser.
        momentum: share of the last step.
    """
    found: list[list[Number]] = []
    for factor, velocity, unary in ((1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0)):
        z: Number = factor
        v: Number = velocity
        factors: list[Number] = [z]
        for size in step_sizes:
            v = momentum * v - size * (tau * z - unary)
            z = z + v
            factors.append(z)
        found.append(factors)
    return found[0], found[1], found[2]


def stacked(factors: Sequence[Sequence[Number]], like: Tensor) -> Tensor:
    """The same as one tensor (J, T + 1), differentiable in whatever was learned."""
    rows = [torch.stack([torch.as_tensor(n, dtype=like.dtype, device=like.device) for n in row]) for row in factors]
    return torch.stack(rows)


def add_scaled(base: Tensor, term: Tensor, factor: Number, *, out: Tensor | None = None) -> Tensor:
    """base + factor term, in `out` where given."""
    if isinstance(factor, Tensor):
        return torch.addcmul(base, term, factor, out=out)
    return torch.add(base, term, alpha=factor, out=out)
