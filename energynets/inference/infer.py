"""The entry point: an energy and a context in, the minimiser and what is known about it out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from energynets.energies import Energy, Euclidean
from energynets.inference.certificate import NO_CERTIFICATE, certificate_of_slope
from energynets.inference.descent import MirrorDescent
from energynets.inference.gradient import GradientMode, gradient_mode
from energynets.inference.observed import OBSERVED_LOGIT, Observed, observe
from energynets.inference.solver import Solver, checked_solver, residual


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
        y: (B, L) in the energy's domain; carries gradients unless under `NoGradient`.
        logits: (B, L) with y = y(logits), sigmoid for labels; carries gradients unless under `NoGradient`.
        energy: E(y), (B,), without gradient.
        steps: steps used for each example, (B,) int64.
        converged: whether a mean-field step from here would move no label by more than the tolerance, (B,) bool.
        finite: whether logits and energy are finite, (B,) bool.
        trace: energies and gradient norms of every step, where asked for.
        gradient_norm: Euclidean norm of dE/dy at y, known labels left out, (B,): 0 at a stationary point.
        certificate: for a convex energy, an upper bound on E(y) - min E, (B,): that of `inference.certificate`, or the
            solver's own where it knows a smaller one; else None.

    Example:
        >>> import torch
        >>> from energynets import ICNN, infer
        >>> energy = ICNN(num_features=8, num_labels=5, hidden=(4, 4))
        >>> result = infer(energy, energy.condition(torch.randn(2, 8)))
        >>> result.y.shape, result.energy.shape, result.certificate.shape
        (torch.Size([2, 5]), torch.Size([2]), torch.Size([2]))
    """

    y: Tensor
    logits: Tensor
    energy: Tensor
    steps: Tensor
    converged: Tensor
    finite: Tensor
    gradient_norm: Tensor
    trace: Trace | None = None
    certificate: Tensor | None = None

    @property
    def certificate_note(self) -> str:
        """The certificate in words: the largest of the batch, or that there is none and why."""
        if self.certificate is None:
            return NO_CERTIFICATE
        largest = float(self.certificate.max()) if len(self.certificate) else 0.0
        return f"E(y) - min E <= {largest:.2e}"


def infer(
    energy: Energy,
    context: Any,
    *,
    solver: Solver | None = None,
    gradient: GradientMode | None = None,
    initial: Tensor | InferenceResult | None = None,
    observed: Observed | None = None,
    tolerance: float = 1e-3,
    trace: bool = False,
) -> InferenceResult:
    """argmin over y of E(y; x) by the solver's T steps.

    Args:
        energy: what is minimised.
        context: `energy.condition(features)`, computed once per x.
        solver: default `MirrorDescent()`.
        gradient: how gradients flow: `Unroll()` (default), `Truncated(k)`, `Implicit()` or `NoGradient()`.
        initial: logits z_0 (B, L), or an earlier result to go on from; default: the solver's start.
        observed: labels that are known and stay.
        tolerance: largest change of a label that counts as converged.
        trace: record energies and gradient norms, at the cost of T + 1 further evaluations of each.

    Returns:
        An `InferenceResult`.

    Raises:
        ConfigError: a solver or a gradient mode that is none.
        ShapeError: z_0 or `observed` are not (B, L).
        InferenceError: the solver does not take this energy or this gradient mode.

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent, infer
        >>> energy = SPEN(num_features=8, num_labels=5, num_measurements=4)
        >>> result = infer(energy, energy.condition(torch.randn(3, 8)), solver=MirrorDescent(steps=10))
        >>> result.logits.shape
        torch.Size([3, 5])
    """
    solver, gradient = MirrorDescent() if solver is None else checked_solver(solver), gradient_mode(gradient)
    if isinstance(initial, InferenceResult):
        initial = _freed(initial.logits.detach(), solver, energy, context)
    logits, steps, gap = solver.run(energy, context, initial, gradient=gradient, observed=observed)
    y = energy.domain.labels(logits)
    observed = observe(observed, energy, logits)
    if observed is not None:
        y = observed.labels(y)
    with torch.no_grad():
        final = energy(logits, context)
        slope = _slope(energy, logits, y, context, observed)
        converged = residual(energy, logits, slope) <= tolerance
        norm = torch.linalg.vector_norm(slope, dim=-1)
        finite = logits.isfinite().all(-1) & final.isfinite()
        bound = certificate_of_slope(energy, logits, slope, context, observed) if energy.convex else None
        if bound is not None and gap is not None:
            bound = torch.fmin(bound, gap)
        record = None
        if trace:
            iterates = solver.iterates(energy, context, initial, gradient=gradient, observed=observed)
            record = Trace(
                torch.stack([energy(iterate, context) for iterate in iterates]),
                torch.stack([_norm(energy, iterate, context, observed) for iterate in iterates]),
            )
    return InferenceResult(y, logits, final, steps, converged, finite, norm, record, bound)


def _freed(logits: Tensor, solver: Solver, energy: Energy, context: Any) -> Tensor:
    """An earlier answer to go on from. Labels that were known start anew: sigmoid' is 0 there, and some would stay."""
    known = logits.abs() == OBSERVED_LOGIT
    if isinstance(energy.domain, Euclidean) or not bool(known.any()):
        return logits
    return torch.where(known, solver.start(energy, context).detach(), logits)


def _slope(energy: Energy, logits: Tensor, y: Tensor, context: Any, observed: Observed | None) -> Tensor:
    """dE/dy (B, L), 0 where a label is known."""
    slope = energy.gradient(y.detach(), context) + energy.tau * logits
    return slope if observed is None else observed.free(slope)


def _norm(energy: Energy, logits: Tensor, context: Any, observed: Observed | None) -> Tensor:
    slope = _slope(energy, logits, energy.domain.labels(logits), context, observed)
    return torch.linalg.vector_norm(slope, dim=-1)
