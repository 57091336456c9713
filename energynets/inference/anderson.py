"""Anderson acceleration of the mean-field update, on K numbers a document."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from energynets.energies import Energy, MeasuredEnergy
from energynets.energies.measured import MeasuredContext
from energynets.errors import ConfigError, InferenceError, counts
from energynets.inference.adaptive import ActiveSet
from energynets.inference.descent import constant_steps
from energynets.inference.engine import unmeasured
from energynets.inference.engine.autocast import full_precision
from energynets.inference.gradient import GradientMode, Implicit, NoGradient, Truncated, gradient_mode
from energynets.inference.implicit import fixed_point
from energynets.inference.krylov import solved
from energynets.inference.observed import Observed, observe
from energynets.inference.solver import Solution, Solver, StepLoss, all_steps, sum_losses

ROUNDING = 8.0
"""Units in the last place of s that a residual must exceed to count as one."""


class Anderson(Solver):
    """The fixed point s = dh(m(y(z(s)))), z(s) = (phi - s A) / tau, by Anderson's mixing of the last iterates.

        r_t = dh(m(y(z(s_t)))) - s_t,       gamma_t = argmin |r_t - dR_t gamma|,
        s_{t+1} = s_t + beta r_t - (dS_t + beta dR_t) gamma_t,

    with dS_t and dR_t the last `window` differences of s and of r. It starts with a mean-field step from z_0, costs the
    two products of a `MirrorDescent` step and, besides, only work on K numbers; near the solution it converges as GMRES
    does, where the mean-field update itself need not converge at all.

    Gradient modes: `NoGradient` and the forward pass of `Implicit` stop each document by itself; `Unroll` and
    `Truncated` take all T steps, as plain differentiable operations. With an energy that is not convex it ends at a
    stationary point like any other solver, not always at a minimum.

    Args:
        steps: T >= 0, at most.
        window: how many differences are mixed, >= 0; 0 is damped mean field.
        mixing: beta in (0, 1]; a smaller one is safer where labels are tied strongly.
        regularization: ridge on gamma, relative to differences of length 1, > 0.
        tolerance: a document is done when a mean-field step would move none of its labels by more; a bound on that is
            tested, |r_t| max_i |A_i| / (4 tau) for labels. 0: take all steps.
        initial: `unary` starts at the energy's `initial_logits`, `uniform` at z_0 = 0. A start near the solution, such
            as the result for a similar x, goes to `infer(initial=...)`.

    Raises:
        ConfigError: a value out of its range.
        InferenceError: at use, over an energy that is not measured.

    Source: Walker & Ni, Anderson acceleration for fixed-point iterations (2011), section 2; the ridge: Bai, Kolter &
    Koltun, Deep equilibrium models (2019) and its code.

    Example:
        >>> import torch
        >>> from energynets import ICNN, Anderson, NoGradient, infer
        >>> energy = ICNN(num_features=8, num_labels=5)
        >>> result = infer(energy, energy.condition(torch.randn(3, 8)), solver=Anderson(), gradient=NoGradient())
        >>> bool(result.converged.all())
        True
    """

    def __init__(
        self,
        steps: int = 20,
        *,
        window: int = 5,
        mixing: float = 1.0,
        regularization: float = 1e-8,
        tolerance: float = 1e-4,
        initial: str = "unary",
    ) -> None:
        super().__init__(initial=initial)
        if not counts(steps, least=0) or not counts(window, least=0):
            raise ConfigError(
                f"solver: expected steps and window to be whole numbers, 0 or more, got {steps!r} and {window!r}"
            )
        if not 0 < mixing <= 1:
            raise ConfigError(f"solver.mixing: expected a value in (0, 1], got {mixing}")
        if not regularization > 0 or not tolerance >= 0:
            raise ConfigError(
                "solver: expected a positive regularization and a tolerance of 0 or more, "
                f"got {regularization} and {tolerance}"
            )
        self.steps = steps
        self.window = window
        self.mixing = mixing
        self.regularization = regularization
        self.tolerance = tolerance

    def run(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> Solution:
        gradient = gradient_mode(gradient)
        if isinstance(gradient, NoGradient):
            return self._adaptive(_measured(energy), context, initial, observed)
        if isinstance(gradient, Implicit):
            found = self._adaptive(_measured(energy), context, initial, observed)
            return Solution(fixed_point(energy, context, found.logits, gradient, observed), found.steps)
        *_, logits = self._iterates(_measured(energy), context, initial, observed, constant_steps(gradient, self.steps))
        return Solution(logits, all_steps(logits, self.steps))

    def solve_with_losses(
        self,
        energy: Energy,
        context: Any,
        step_loss: StepLoss,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> tuple[Tensor, Tensor]:
        if isinstance(gradient, Truncated):
            constant = constant_steps(gradient, self.steps)
            return sum_losses(self._iterates(_measured(energy), context, initial, observed, constant), step_loss)
        return super().solve_with_losses(energy, context, step_loss, initial, gradient=gradient, observed=observed)

    def trajectory(
        self, energy: Energy, context: Any, initial: Tensor | None = None, *, observed: Observed | None = None
    ) -> Iterator[Tensor]:
        """Yield z_0, z_1, ..., z_T, each (B, L), as plain differentiable operations."""
        return self._iterates(_measured(energy), context, initial, observed)

    def iterates(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> list[Tensor]:
        if not isinstance(gradient, NoGradient | Implicit):
            return super().iterates(energy, context, initial, gradient=gradient, observed=observed)
        seen: list[Tensor] = []
        self._adaptive(_measured(energy), context, initial, observed, seen)
        return seen

    def _iterates(
        self,
        energy: MeasuredEnergy,
        context: MeasuredContext,
        initial: Tensor | None,
        observed: Observed | None,
        constant: int = 0,
    ) -> Iterator[Tensor]:
        """z_t for t = 0 .. T, the first `constant` steps without a graph."""
        logits = self.start(energy, context, initial)
        observed = observe(observed, energy, logits)
        mixture = _Mixture(self, _first_slope(energy, context, logits))
        for step in range(self.steps):
            yield logits if observed is None else observed.logits(logits, energy.domain)
            with torch.no_grad() if step < constant else contextlib.nullcontext():
                slope = mixture.next(_image(energy, context, logits, observed))
                logits = -energy.adjoint(slope, context) / energy.tau
        yield logits if observed is None else observed.logits(logits, energy.domain)

    @torch.no_grad()
    def _adaptive(
        self,
        energy: MeasuredEnergy,
        context: MeasuredContext,
        initial: Tensor | None,
        observed: Observed | None,
        seen: list[Tensor] | None = None,
    ) -> Solution:
        """Each document until it stops by itself; `seen` as of `adaptive_descent`."""
        logits = self.start(energy, context, initial)
        active = ActiveSet(energy, context, observe(observed, energy, logits), logits)
        mixture = _Mixture(self, _first_slope(energy, context, logits))
        reach = _reach(energy, context, logits)
        for step in range(self.steps):
            if seen is not None:
                seen.append(active.whole(logits))
            if not len(active):
                break
            image = _image(energy, active.context, logits, active.observed)
            if self.tolerance > 0 and mixture.slope is not None:
                moves = torch.linalg.vector_norm(image - mixture.slope, dim=-1) * reach
                kept = active.retire(moves <= self.tolerance, logits, step)
                if kept is not None:
                    mixture.select(kept)
                    logits, image, reach = logits[kept], image[kept], reach[kept]
            logits = -energy.adjoint(mixture.next(image), active.context) / energy.tau
        found = active.finish(logits, self.steps)
        if seen is not None:
            seen += [found.logits] * (1 + self.steps - len(seen))
        return found


class _Mixture:
    """The last iterates s and residuals r, and the next s they make.

    Args:
        solver: window, mixing and regularisation.
        slope: s_0 (B, K), or None where z_0 is of no s: then the first image is taken as it is.
    """

    def __init__(self, solver: Anderson, slope: Tensor | None) -> None:
        self._solver = solver
        self.slope = slope
        self._last: tuple[Tensor, Tensor] | None = None  # the last residual and the step taken from there
        # Columns of dR, each of length 1, and of dS + beta dR, in the same units. Differences shrink from step to step:
        # of equal length, the normal equations keep what is left of their digits.
        self._units: list[Tensor] = []
        self._moves: list[Tensor] = []

    def next(self, image: Tensor) -> Tensor:
        """s_{t+1} from dh at s_t."""
        if self.slope is None:
            self.slope = image
            return image
        residual, mixing = image - self.slope, self._solver.mixing
        if self._last is not None and self._solver.window:
            change = residual - self._last[0]
            length = change.square().sum(-1, keepdim=True).clamp_min(torch.finfo(change.dtype).tiny).sqrt()
            self._units = [*self._units, change / length][-self._solver.window :]
            self._moves = [*self._moves, (self._last[1] + mixing * change) / length][-self._solver.window :]
        step = mixing * residual
        if self._units:
            units = torch.stack(self._units, 1)
            gamma = _least_squares(units, residual, self._solver.regularization)
            step = step - (torch.stack(self._moves, 1) * gamma).sum(1)
        # A residual of rounding errors has no direction, and mixing would amplify it: such a document stays.
        rounding = ROUNDING * torch.finfo(image.dtype).eps * torch.linalg.vector_norm(image.detach(), dim=-1)
        moves = torch.linalg.vector_norm(residual.detach(), dim=-1) > rounding
        step = torch.where(moves.unsqueeze(-1), step, 0)
        self._last = residual, step
        self.slope = self.slope + step
        return self.slope

    def select(self, rows: Tensor) -> None:
        """Keep some documents."""
        assert self.slope is not None
        self.slope = self.slope[rows]
        if self._last is not None:
            self._last = self._last[0][rows], self._last[1][rows]
        self._units = [unit[rows] for unit in self._units]
        self._moves = [move[rows] for move in self._moves]


@full_precision
def _least_squares(units: Tensor, residual: Tensor, ridge: float) -> Tensor:
    """argmin |r - units^T gamma|^2 + ridge |gamma|^2: (B, m, K), (B, K) -> (B, m, 1)."""
    ridge, dtype = max(ridge, torch.finfo(units.dtype).eps), units.dtype
    if dtype in (torch.bfloat16, torch.float16):
        units, residual = units.float(), residual.float()
    gram = units @ units.mT + ridge * torch.eye(units.shape[1], dtype=units.dtype, device=units.device)
    return solved(gram, (units * residual.unsqueeze(1)).sum(-1, keepdim=True)).to(dtype)


def _measured(energy: Energy) -> MeasuredEnergy:
    reason = unmeasured(energy)
    if reason is not None:
        raise InferenceError(
            f"Anderson runs on the K measurements of a measured energy, and {reason}; use MirrorDescent"
        )
    assert isinstance(energy, MeasuredEnergy)
    return energy


def _first_slope(energy: MeasuredEnergy, context: MeasuredContext, logits: Tensor) -> Tensor | None:
    """s_0 = 0 where z_0 = phi / tau, else None."""
    if logits is context.unary and isinstance(energy.tau, float) and energy.tau == 1:
        return logits.new_zeros(len(logits), energy.num_measurements)
    return None


def _image(energy: MeasuredEnergy, context: MeasuredContext, logits: Tensor, observed: Observed | None) -> Tensor:
    """dh at z, (B, K)."""
    labels = energy.domain.labels(logits)
    if observed is not None:
        labels = observed.labels(labels)
    return energy.slope(energy.measurements(labels, context), context)


def _reach(energy: MeasuredEnergy, context: MeasuredContext, logits: Tensor) -> Tensor:
    """How far a change of s of length 1 can move a label, (B,)."""
    squares = energy.measure.square()
    if context.gates:
        parts = zip(context.gates, squares.split(energy.gate_widths), strict=True)
        columns = torch.stack([gate.square() * part.sum(0) for gate, part in parts]).sum(0)
    else:
        columns = squares.sum(0).expand_as(logits)
    reach = columns.amax(-1).sqrt() * energy.domain.lipschitz / energy.tau
    return reach if context.mask is None else reach * context.mask.amax(-1)
