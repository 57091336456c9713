"""The entry point: an energy and a context in, the minimiser and what is known about it out."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from energynets.energies import Energy
from energynets.inference.gradient import GradientMode, NoGradient, Unroll
from energynets.inference.solvers import MirrorDescent, Solver


@dataclass(frozen=True)
class Trace:
    """What happened step by step.

    Args:
        energies: E(y_t), (T + 1, B).
        gradient_norms: Euclidean norm of dE/dy at y_t, (T + 1, B).
    """

    energies: Tensor
    gradient_norms: Tensor


@dataclass(frozen=True)
class InferenceResult:
    """The minimiser that inference found.

    Args:
        y: (B, L) in [0, 1]; carries gradients under `Unroll`.
        logits: (B, L), y = sigmoid(logits); carries gradients under `Unroll`.
        energy: E(y), (B,), without gradient.
        steps: steps used for each example, (B,) int64.
        converged: whether the last step moved no label by more than the tolerance, (B,) bool; False where T = 0.
        finite: whether logits and energy are finite, (B,) bool.
        trace: energies and gradient norms of every step, where asked for.
    """

    y: Tensor
    logits: Tensor
    energy: Tensor
    steps: Tensor
    converged: Tensor
    finite: Tensor
    trace: Trace | None = None


def infer(
    energy: Energy,
    context: Any,
    *,
    solver: Solver | None = None,
    gradient: GradientMode | None = None,
    initial: Tensor | None = None,
    tolerance: float = 1e-3,
    trace: bool = False,
) -> InferenceResult:
    """argmin over y of E(y; x) by the solver's T steps.

    Args:
        energy: what is minimised.
        context: `energy.condition(features)`, computed once per x.
        solver: default `MirrorDescent()`.
        gradient: how gradients flow, `Unroll()` (default) or `NoGradient()`.
        initial: logits z_0 (B, L); default: the solver's start.
        tolerance: largest change of a label in the last step that counts as converged.
        trace: record energies and gradient norms, at the cost of T + 1 further evaluations of each.

    Returns:
        An `InferenceResult`.

    Raises:
        ShapeError: z_0 is not (B, L).

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent, infer
        >>> energy = SPEN(num_features=8, num_labels=5, num_measurements=4)
        >>> result = infer(energy, energy.condition(torch.randn(3, 8)), solver=MirrorDescent(steps=10))
        >>> result.logits.shape
        torch.Size([3, 5])
    """
    solver = MirrorDescent() if solver is None else solver
    gradient = Unroll() if gradient is None else gradient
    energies: list[Tensor] = []
    norms: list[Tensor] = []
    logits: Tensor | None = None
    previous: Tensor | None = None
    with torch.no_grad() if isinstance(gradient, NoGradient) else contextlib.nullcontext():
        for iterate in solver.trajectory(energy, context, initial):
            previous, logits = logits, iterate
            if trace:
                with torch.no_grad():
                    energies.append(energy(iterate, context))
                    slope = energy.gradient(torch.sigmoid(iterate), context) + energy.tau * iterate
                    norms.append(torch.linalg.vector_norm(slope, dim=-1))
        assert logits is not None
        y = torch.sigmoid(logits)
    with torch.no_grad():
        final = energies[-1] if trace else energy(logits, context)
        if previous is None:
            converged = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        else:
            converged = (y - torch.sigmoid(previous)).abs().amax(-1) <= tolerance
        finite = logits.isfinite().all(-1) & final.isfinite()
    steps = torch.full((len(logits),), solver.steps, dtype=torch.int64, device=logits.device)
    record = Trace(torch.stack(energies), torch.stack(norms)) if trace else None
    return InferenceResult(y, logits, final, steps, converged, finite, record)
