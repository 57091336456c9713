"""The minimum of a small convex energy to float64 rounding, by damped Newton on the logits: an oracle."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

from energynets.energies import Domain, Energy, MeasuredEnergy
from energynets.inference import Observed


def doubled(energy: MeasuredEnergy, context: Any) -> tuple[MeasuredEnergy, Any]:
    """The same energy of the same context, computed in float64."""
    as_double = lambda leaf: leaf.detach().double() if isinstance(leaf, Tensor) else leaf  # noqa: E731
    return copy.deepcopy(energy).double(), tree_map(as_double, context)


def minimum(energy: Energy, context: Any, logits: Tensor, observed: Observed | None = None, steps: int = 60) -> Tensor:
    """z* (B, L) float64 with dE/dy = 0 for every label that is free."""
    domain: Domain = energy.domain
    free = torch.ones_like(logits, dtype=torch.bool) if observed is None else ~observed.mask
    pinned = (lambda z: z) if observed is None else (lambda z: observed.logits(z, domain))
    identity = torch.eye(logits.shape[1], dtype=torch.float64)

    def slope(z: Tensor) -> Tensor:
        return (energy.gradient(domain.labels(z), context) + energy.tau * z).masked_fill(~free, 0)

    z = pinned(logits.double().clamp(-30, 30))
    with torch.no_grad():
        value = energy(z, context)
        for _ in range(steps):
            gradient = slope(z)
            if float(gradient.abs().amax()) < 1e-12:
                break
            y = domain.labels(z)
            # Columns of H by central differences: only the direction of the step depends on them.
            columns = [
                (energy.gradient(y + 1e-5 * unit, context) - energy.gradient(y - 1e-5 * unit, context)) / 2e-5
                for unit in identity
            ]
            hessian = torch.stack(columns, -1) * free.unsqueeze(1) * free.unsqueeze(2)
            jacobian = torch.stack([domain.pullback(y, unit.expand_as(y)) for unit in identity], -1)
            step = -torch.linalg.solve(energy.tau * identity + hessian @ jacobian, gradient)
            size = torch.ones_like(value)
            for _ in range(30):
                worse = energy(z + size[:, None] * step, context) > value
                if not bool(worse.any()):
                    break
                size = torch.where(worse, size / 2, size)
            z = torch.where((size > 1e-8)[:, None], z + size[:, None] * step, z)
            value = energy(z, context)
    return z
