"""Gradients of a fixed point by the implicit function theorem.

At a fixed point g(y(z)) + tau z = 0, with g = d potential / dy. With J = dy/dz and H = dg/dy, both symmetric, a
gradient dz of a loss is handed on to whatever g and tau depend on as -w, where

    (tau I + J H) w = dz.

H = C^T D C: for a measured energy C = A and D = d^2h/dm^2 (K x K), for any other energy C = I and D = H. With q = D C w

    w = (dz - J C^T q) / tau,        (tau I + D M) q = D C dz,        M = C J C^T,

so that a measured energy solves for K numbers a document, and nothing divides by J, which is nearly 0 at a sure label.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from energynets.eager import under_transforms, under_vmap
from energynets.energies import Energy, MeasuredEnergy
from energynets.energies.measured import MeasuredContext
from energynets.errors import InferenceError, NotConvergedWarning
from energynets.inference.engine import unmeasured
from energynets.inference.engine.autocast import full_precision
from energynets.inference.engine.measurements import GatedMeasurements, Measurements
from energynets.inference.engine.once import once
from energynets.inference.gradient import Implicit
from energynets.inference.krylov import conjugate_residuals
from energynets.inference.observed import Observed, observe
from energynets.inference.solver import residual


def fixed_point(energy: Energy, context: Any, logits: Tensor, mode: Implicit, observed: Observed | None) -> Tensor:
    """z* (B, L) with the gradients that the stationarity dE/dy(z*) = 0 implies.

    Args:
        energy: what was minimised.
        context: `energy.condition(features)`; gradients flow to it and to the energy's parameters.
        logits: z*, where inference ended.
        mode: the tolerance of both residuals, and how long the adjoint may iterate.
        observed: labels that are known: they have no gradient.

    Raises:
        InferenceError: under a `torch.func` transform.
    """
    if under_transforms() and (torch.is_grad_enabled() or under_vmap(logits)):
        raise InferenceError(
            "the gradient of a fixed point (Implicit(), or BundleEntropy): not under a torch.func transform; "
            "use MirrorDescent with Unroll()"
        )
    measured = isinstance(energy, MeasuredEnergy) and unmeasured(energy) is None
    if measured and any(map(torch.is_autocast_enabled, ("cpu", "cuda"))):  # of whose factors some are rounded
        exact = functools.partial(_in_dtype, dtype=energy.measure.dtype)  # type: ignore[arg-type]
        context, found = pytree.tree_map(exact, context), exact(logits)
        return full_precision(_fixed_point)(energy, context, found, mode, observed, measured).to(logits.dtype)
    return _fixed_point(energy, context, logits, mode, observed, measured)


def _in_dtype(leaf: Any, dtype: torch.dtype) -> Any:
    return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf


def _fixed_point(
    energy: Energy, context: Any, logits: Tensor, mode: Implicit, observed: Observed | None, measured: bool
) -> Tensor:
    logits = logits.detach()
    observed = observe(observed, energy, logits)
    labels = energy.domain.labels(logits)
    if observed is not None:
        labels = observed.labels(labels)
    curved = _InMeasurements(energy, context, labels) if measured else _InLabels(energy, context, labels)  # type: ignore[arg-type]
    stationarity = curved.gradient + energy.tau * logits
    with torch.no_grad():
        slope = stationarity.detach() if observed is None else observed.free(stationarity.detach())
        _report(
            residual(energy, logits, slope),
            mode.tolerance,
            "fixed point has not converged: a mean-field step moves a label by",
            "more solver.steps, or a smaller step",
        )
    if not stationarity.requires_grad:
        return logits
    return _FixedPoint.apply(_Adjoint(energy, curved, labels, mode, observed), logits, stationarity)


class _Curved(Protocol):
    """g(y) as C^T of a function of C y: its value with a graph, and the factors of H = C^T D C."""

    gradient: Tensor

    def measure(self, y: Tensor) -> Tensor:
        """C y, (B, L) -> (B, N)."""

    def spread(self, q: Tensor) -> Tensor:
        """C^T q, (B, N) -> (B, L)."""

    def curvature(self, v: Tensor) -> Tensor:
        """D v, (B, N) -> (B, N)."""


class _InMeasurements:
    """N = K: C is A with its gates and mask, D = d^2h/dm^2."""

    def __init__(self, energy: MeasuredEnergy, context: MeasuredContext, labels: Tensor) -> None:
        self._at = energy.measurements(labels, context)
        if torch.is_grad_enabled() and not self._at.requires_grad:
            self._at.requires_grad_()
        self._slope = energy.slope(self._at, context)
        self.gradient = energy.adjoint(self._slope, context)
        rows, zero = energy.measure.detach(), energy.measure.new_zeros(energy.num_measurements)
        gates = tuple(gate.detach() for gate in context.gates)
        self._linear = GatedMeasurements(rows, zero, gates, energy.gate_widths) if gates else Measurements(rows, zero)
        self._mask = context.mask
        self._zeros = torch.zeros_like(labels)

    def measure(self, y: Tensor) -> Tensor:
        m = self._linear.measure(y, torch.empty_like(self._at))
        return m if self._mask is None else m * self._mask

    def spread(self, q: Tensor) -> Tensor:
        q = q if self._mask is None else q * self._mask
        return self._linear.spread(self._zeros, q, torch.empty_like(self._zeros))

    def curvature(self, v: Tensor) -> Tensor:
        return _vector_jacobian(self._slope, self._at, v)


class _InLabels:
    """N = L: C = I, D = H."""

    def __init__(self, energy: Energy, context: Any, labels: Tensor) -> None:
        self._at = labels.clone().requires_grad_(torch.is_grad_enabled())
        self.gradient = energy.gradient(self._at, context)

    def measure(self, y: Tensor) -> Tensor:
        return y

    def spread(self, q: Tensor) -> Tensor:
        return q

    def curvature(self, v: Tensor) -> Tensor:
        return _vector_jacobian(self.gradient, self._at, v)


def _vector_jacobian(slope: Tensor, at: Tensor, v: Tensor) -> Tensor:
    """D v, D symmetric; the graph stays for the next product."""
    if not slope.requires_grad:
        return torch.zeros_like(v)
    (product,) = torch.autograd.grad(slope, at, v, retain_graph=True, allow_unused=True)
    return torch.zeros_like(v) if product is None else product


class _Adjoint:
    """dz -> w."""

    def __init__(
        self, energy: Energy, curved: _Curved, labels: Tensor, mode: Implicit, observed: Observed | None
    ) -> None:
        self._domain, self._curved, self._labels, self._mode, self._observed = (
            energy.domain,
            curved,
            labels,
            mode,
            observed,
        )
        self._tau = energy.tau.detach() if isinstance(energy.tau, Tensor) else energy.tau

    def _free(self, vector: Tensor) -> Tensor:
        return vector if self._observed is None else self._observed.free(vector)

    def _pull(self, q: Tensor) -> Tensor:
        """J C^T q, 0 at known labels."""
        return self._free(self._domain.pullback(self._labels, self._curved.spread(q)))

    def __call__(self, logits_bar: Tensor) -> Tensor:
        logits_bar = self._free(logits_bar)
        # The residual of w is J C^T of that of q over tau, and J is at most 1: this bounds it.
        scale = self._tau * torch.linalg.vector_norm(logits_bar, dim=-1)
        found = conjugate_residuals(
            self._curved.curvature,
            lambda v: self._curved.measure(self._pull(v)),
            self._tau,
            self._curved.curvature(self._curved.measure(logits_bar)),
            self._mode.tolerance * scale,
            self._mode.max_iterations,
        )
        _report(
            torch.where(scale == 0, found.residual, found.residual / scale),
            self._mode.tolerance,
            f"adjoint system has not converged in {found.iterations} iterations: its relative residual is",
            "more max_iterations",
        )
        return (logits_bar - self._pull(found.x)) / self._tau


_once = functools.partial(
    once,
    why="the implicit gradient has no second derivative; run MirrorDescent with Unroll() "
    "under `with energynets.inference.general_path():`",
)


class _FixedPoint(torch.autograd.Function):
    """z*, a function of the stationarity that it solves: the gradient dz goes there as -w."""

    @staticmethod
    def forward(ctx: Any, adjoint: _Adjoint, logits: Tensor, stationarity: Tensor) -> Tensor:
        ctx.adjoint = adjoint
        return logits.clone()

    @staticmethod
    @_once
    def backward(ctx: Any, logits_bar: Tensor) -> tuple[None, None, Tensor]:
        return None, None, -ctx.adjoint(logits_bar)


def _report(found: Tensor, tolerance: float, what: str, knob: str) -> None:
    far = ~(found <= tolerance)
    if not far.is_meta and far.any():  # what counts memory has no numbers to check
        warnings.warn(
            f"implicit gradient: the {what} up to {found[far].max():.1e} (tolerance {tolerance:.1e}) "
            f"in {int(far.sum())} of {len(found)} documents; {knob} may help",
            NotConvergedWarning,
            stacklevel=2,
        )
