"""The linear system of the implicit gradient, matrix-free: conjugate residuals in the right inner product."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Map = Callable[[Tensor], Tensor]


class LinearSolution(NamedTuple):
    """What the iteration found.

    Args:
        x: (B, N).
        residual: |b - (tau + D M) x| in the norm of M, (B,).
        iterations: how many were run.
    """

    x: Tensor
    residual: Tensor
    iterations: int


def conjugate_residuals(
    curvature: Map, mass: Map, tau: float | Tensor, b: Tensor, target: Tensor, max_iterations: int
) -> LinearSolution:
    """Solve (tau I + D M) x = b with D and M symmetric and M positive semidefinite, for each row by itself.

    The operator is not symmetric, but it is self-adjoint in the product <u, v> = u^T M v, whatever the signs of D.
    Conjugate residuals in that product need one product with D and one with M an iteration, and lower the residual in
    the norm of M at every one. At a strict minimum of the energy the operator is positive definite there; elsewhere
    it may not be, and the iteration goes on with a residual that says so.

    Args:
        curvature: v -> D v, (B, N) -> (B, N).
        mass: v -> M v.
        tau: number.
        b: (B, N).
        target: residual at which a row is done, (B,).
        max_iterations: at most.

    Source: Saad, Iterative methods for sparse linear systems (2003), algorithm 6.20.
    """
    x, r = torch.zeros_like(b), b
    mass_r = mass(r)
    found = _norm(r, mass_r)
    image_r = tau * r + curvature(mass_r)  # (tau + D M) r
    p, image_p = r, image_r
    mass_image_p = mass(image_p) if max_iterations else image_p
    rho = _dot(mass_r, image_r)
    for iteration in range(max_iterations):
        active = ~(found <= target)
        if not active.any():
            return LinearSolution(x, found, iteration)
        alpha = torch.where(active.unsqueeze(-1), _ratio(rho, _dot(image_p, mass_image_p)), 0)
        x = x + alpha * p
        r = r - alpha * image_p
        mass_r = mass_r - alpha * mass_image_p
        found = _norm(r, mass_r)
        image_r = tau * r + curvature(mass_r)
        following = _dot(mass_r, image_r)
        beta = _ratio(following, rho)
        rho = following
        p = r + beta * p
        image_p = image_r + beta * image_p
        mass_image_p = mass(image_r) + beta * mass_image_p
    return LinearSolution(x, found, max_iterations)


def _dot(u: Tensor, v: Tensor) -> Tensor:
    return (u * v).sum(-1, keepdim=True)


def _ratio(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where nothing is left to divide."""
    return torch.where(b == 0, 0, a / b)


def _norm(r: Tensor, mass_r: Tensor) -> Tensor:
    return _dot(r, mass_r).squeeze(-1).clamp(min=0).sqrt()


def solved(matrix: Tensor, right: Tensor) -> Tensor:
    """x of A x = b for small systems: (B, n, n), (B, n, m) -> (B, n, m); those of half precision in float32.

    Unlike `torch.linalg.solve` it does not raise for the whole batch where one document is not finite.
    """
    if matrix.dtype not in (torch.bfloat16, torch.float16):
        return torch.linalg.solve_ex(matrix, right).result
    return torch.linalg.solve_ex(matrix.float(), right.float()).result.to(right.dtype)
