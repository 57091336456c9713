"""Descent on y for a fixed number of steps: the loop that is unrolled and differentiated."""

from __future__ import annotations

import contextlib
import math
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from numbers import Real
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor, nn

from energynets.energies import Domain, Energy
from energynets.errors import ConfigError, InferenceError, counts, nearest
from energynets.inference.adaptive import adaptive_descent
from energynets.inference.engine import (
    Precision,
    asked_for_general_path,
    compiling,
    general_reason,
    iterate_descent,
    mirror_descent,
    not_compiled,
    under_transforms,
)
from energynets.inference.engine.rules import LabelRule, LogitRule
from energynets.inference.gradient import GradientMode, Implicit, NoGradient, Truncated, gradient_mode, keeping_graph
from energynets.inference.implicit import fixed_point
from energynets.inference.observed import Observed, as_observed, observe
from energynets.inference.solver import Solution, Solver, StepLoss, all_steps, sum_losses

State = tuple[Tensor, Tensor | None]
"""The iterate u_t and, with momentum, the velocity v_t."""


class Descent(Solver):
    """u_{t+1} = project(u_t + v_{t+1}), v_{t+1} = momentum v_t - eta_t direction(u_t), for t = 0 .. T - 1.

    What u is (logits or labels) and what its direction is makes a solver.

    Args:
        steps: T >= 0.
        step_size: eta > 0, one for all steps or T of them.
        momentum: in [0, 1).
        learn_step_sizes: train the T step sizes (as exp of a parameter, so that they stay positive).
        initial: `unary` starts at the energy's `initial_logits`, `uniform` at z_0 = 0.
        tolerance: a document is done when a mean-field step would move none of its labels by more; 0 takes all steps.
        line_search: halve each document's step until its energy goes down (Armijo). Like `tolerance` it acts where no
            graph is kept, under `NoGradient` and in the forward pass of `Implicit`: unrolling takes all T steps whole.
        precision: of the products with A: `bf16` rounds their factors to bfloat16, sums and all else stay as they are;
            for models whose path is the engine's.
        memory: iterates, each with its velocity under momentum, that are kept for the backward pass over a measured
            energy. It makes the others again from the kept one before, T / memory at a time. T keeps all, which is
            fastest; None does so too, but for `MirrorDescent` where all of them are much. What an iterate is, and
            what making it again costs, is said by each solver.

    Raises:
        ConfigError: a value out of its range, or a line search with momentum.
    """

    engine: ClassVar[Callable[..., tuple[Tensor, Tensor | None]] | None] = None
    """What computes it over measured energies, with a hand-derived backward, where something does."""

    def __init__(
        self,
        steps: int = 10,
        *,
        step_size: float | Sequence[float] = 1.0,
        momentum: float = 0.0,
        learn_step_sizes: bool = False,
        initial: str = "unary",
        tolerance: float = 0.0,
        line_search: bool = False,
        precision: Precision = "float32",
        memory: int | None = None,
    ) -> None:
        super().__init__(initial=initial)
        if precision not in get_args(Precision):
            raise ConfigError(f"unknown solver.precision {precision!r}{nearest(precision, get_args(Precision))}")
        if not counts(steps, least=0):
            raise ConfigError(f"solver.steps: expected a whole number, 0 or more, got {steps!r}")
        sizes = _sizes(step_size, steps)
        if len(sizes) != steps:
            raise ConfigError(f"solver: expected {steps} step sizes, one a step, got {len(sizes)}")
        if not all(0 < size < math.inf for size in sizes):
            raise ConfigError(f"solver.step_size: expected positive, finite values, got {step_size}")
        if not 0 <= momentum < 1:
            raise ConfigError(f"solver.momentum: expected a value in [0, 1), got {momentum}")
        if not tolerance >= 0:
            raise ConfigError(f"solver.tolerance: expected 0 or more, got {tolerance}")
        if precision != "float32" and (tolerance or line_search):
            raise ConfigError(f"solver.precision: {precision} goes with neither tolerance nor line_search")
        if memory is not None and memory < 1:
            raise ConfigError(f"solver.memory: expected one iterate or more, or None for all, got {memory}")
        if line_search and momentum:
            raise ConfigError("solver.line_search: a step with momentum need not go down however short: set momentum 0")
        self.steps = steps
        self.momentum = momentum
        self.tolerance = tolerance
        self.line_search = line_search
        self.precision = precision
        self.memory = memory
        self._fixed_sizes = sizes
        self.log_step_sizes = nn.Parameter(torch.tensor(sizes).log()) if learn_step_sizes else None

    @property
    def keeps_all(self) -> bool:
        """Whether `memory` lets every iterate be kept."""
        return self.memory is None or self.memory >= self.steps

    def step_sizes(self) -> Sequence[float | Tensor]:
        """eta_0 .. eta_{T-1}."""
        return self._fixed_sizes if self.log_step_sizes is None else self.log_step_sizes.exp().unbind()

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
        if isinstance(gradient, Implicit):
            found = self.run(energy, context, initial, gradient=NoGradient(), observed=observed)
            return Solution(fixed_point(energy, context, found.logits, gradient, observed), found.steps)
        if isinstance(gradient, NoGradient) and (self.tolerance or self.line_search):
            return adaptive_descent(self, energy, context, initial, observed)
        with keeping_graph(gradient):
            logits = self._solve(energy, context, initial, gradient, observed)
        if isinstance(gradient, NoGradient):
            logits = logits.detach()  # without a step it is z_0 itself
        return Solution(logits, all_steps(logits, self.steps))

    def _solve(
        self, energy: Energy, context: Any, initial: Tensor | None, gradient: GradientMode, observed: Observed | None
    ) -> Tensor:
        fast = self._fast(energy, context, initial, gradient, observed)
        if fast is not None:
            return fast[0]
        logits, observed = self._begin(energy, context, initial, observed)
        *_, (iterate, _) = self._states(logits, energy, context, observed, constant_steps(gradient, self.steps))
        return self._observed_logits(iterate, energy, observed)

    def _fast(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None,
        gradient: GradientMode,
        observed: Observed | None,
        step_loss: StepLoss | None = None,
    ) -> tuple[Tensor, Tensor | None] | None:
        """z_T and the sum of the step losses by the engine, where it takes the model."""
        if not self.steps:
            return None
        if why := self._general(energy, observed):
            if self.precision != "float32" and not asked_for_general_path():
                raise ConfigError(f"solver.precision: {self.precision} needs the engine's path ({why}); use float32")
            if compiling() and torch.is_grad_enabled():
                not_compiled(f"the general path of {type(energy).__name__} by {type(self).__name__}")
            return None
        assert self.engine is not None
        logits, observed = self._begin(energy, context, initial, observed)
        constant = 0 if isinstance(gradient, NoGradient) else constant_steps(gradient, self.steps)
        return self.engine(energy, context, logits, observed, step_loss, constant)

    def _general(self, energy: Energy, observed: Observed | None) -> str | None:
        """Why this call takes the general path, or None where the engine takes it."""
        if under_transforms():
            return "a torch.func transform is at work"
        observed = as_observed(observed)
        if observed is not None and observed.values.requires_grad and torch.is_grad_enabled():
            return "known values want a gradient, which the engine's backward pass does not make"
        return general_reason(energy, self)

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
        gradient = gradient_mode(gradient)
        if isinstance(gradient, Implicit):
            raise InferenceError("losses of every step: Implicit() knows the last step alone; use Unroll()")
        with keeping_graph(gradient):
            fast = self._fast(energy, context, initial, gradient, observed, step_loss)
            if fast is not None:
                return fast  # type: ignore[return-value]
            start, observed = self._begin(energy, context, initial, observed)
            states = self._states(start, energy, context, observed, constant_steps(gradient, self.steps))
            iterates = (self._observed_logits(iterate, energy, observed) for iterate, _ in states)
            logits, loss = sum_losses(iterates, step_loss)
            return logits.detach() if isinstance(gradient, NoGradient) else logits, loss

    def trajectory(
        self, energy: Energy, context: Any, initial: Tensor | None = None, *, observed: Observed | None = None
    ) -> Iterator[Tensor]:
        """Yield z_0, z_1, ..., z_T, each (B, L), with T evaluations of the energy's gradient.

        Args:
            energy: the function to minimise.
            context: `energy.condition(features)`.
            initial: z_0; default: what the solver starts from.
            observed: labels that are known.

        Raises:
            ShapeError: z_0 or `observed` are not (B, L).
        """
        logits, observed = self._begin(energy, context, initial, observed)
        for iterate, _ in self._states(logits, energy, context, observed):
            yield self._observed_logits(iterate, energy, observed)

    def iterates(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> list[Tensor]:
        if not isinstance(gradient, NoGradient | Implicit) or not (self.tolerance or self.line_search):
            return super().iterates(energy, context, initial, gradient=gradient, observed=observed)
        seen: list[Tensor] = []
        adaptive_descent(self, energy, context, initial, observed, seen)
        return seen

    def _begin(
        self, energy: Energy, context: Any, initial: Tensor | None, observed: Observed | None
    ) -> tuple[Tensor, Observed | None]:
        """z_0 and the known labels, both checked."""
        logits = self.start(energy, context, initial)
        return logits, observe(observed, energy, logits)

    def _states(
        self, logits: Tensor, energy: Energy, context: Any, observed: Observed | None, constant: int = 0
    ) -> Iterator[State]:
        """u_t and v_t for t = 0 .. T from z_0, the first `constant` steps without a graph."""
        state: State = (self._from_logits(logits, energy), None)
        yield state
        for step, size in enumerate(self.step_sizes()):
            with torch.no_grad() if step < constant else contextlib.nullcontext():
                state = self._step(state, size, energy, context, observed)
            yield state

    def _step(
        self, state: State, size: float | Tensor, energy: Energy, context: Any, observed: Observed | None
    ) -> State:
        labels, gradient = self._slope(state[0], energy, context, observed)
        return self._move(state, labels, gradient, size, energy)

    def _slope(self, iterate: Tensor, energy: Energy, context: Any, observed: Observed | None) -> tuple[Tensor, Tensor]:
        """y and dE/dy."""
        labels = self._to_labels(iterate, energy)
        if observed is not None:
            labels = observed.labels(labels)
        return labels, energy.gradient(labels, context) + energy.tau * self._to_logits(iterate, energy)

    def _move(self, state: State, labels: Tensor, gradient: Tensor, size: float | Tensor, energy: Energy) -> State:
        iterate, velocity = state
        update = -size * self._direction(gradient, labels, energy)
        if velocity is not None:
            update = update + self.momentum * velocity
        return self._project(iterate + update, energy), update if self.momentum else None

    def _observed_logits(self, iterate: Tensor, energy: Energy, observed: Observed | None) -> Tensor:
        logits = self._to_logits(iterate, energy)
        return logits if observed is None else observed.logits(logits, energy.domain)

    @abstractmethod
    def _direction(self, gradient: Tensor, labels: Tensor, energy: Energy) -> Tensor:
        """dE/dy and y -> the direction of ascent of the iterate."""

    def _from_logits(self, logits: Tensor, energy: Energy) -> Tensor:
        return logits

    def _to_logits(self, iterate: Tensor, energy: Energy) -> Tensor:
        return iterate

    def _to_labels(self, iterate: Tensor, energy: Energy) -> Tensor:
        return energy.domain.labels(iterate)

    def _project(self, iterate: Tensor, energy: Energy) -> Tensor:
        return iterate


def _sizes(given: Any, steps: int) -> list[float]:
    """eta_0 .. eta_{T-1} from a number, of NumPy or a tensor too, or T of them."""
    if isinstance(given, Tensor) and given.requires_grad:
        raise ConfigError(
            "solver.step_size: expected numbers, got a tensor that wants a gradient: learn_step_sizes=True"
        )
    try:
        if isinstance(given, Real) or getattr(given, "ndim", None) == 0:
            return [float(given)] * steps
        return [float(size) for size in given]
    except (TypeError, ValueError):
        raise ConfigError(f"solver.step_size: expected a number, or one for each step, got {given!r}") from None


class MirrorDescent(Descent):
    """Mirror descent, z_{t+1} = z_t - eta_t dE/dy(y(z_t)); with eta = tau = 1 the mean-field update.

    Args:
        memory: of n_t (B, K), z_t being linear in it; two more products a step make them again. None keeps them where
            that adds no more than 4 MiB, or a sixth, to what a training step holds anyway; native and compiled code
            keep all.
        Others as `Descent`. A step size of 1 / tau forgets z_t wholly: z_{t+1} = (phi - s_t A) / tau.

    Source: Beck & Teboulle (2003); for energies over labels, Belanger & McCallum (2016), section 5.

    Example:
        >>> import torch
        >>> from energynets import SPEN, MirrorDescent, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> infer(energy, energy.condition(torch.randn(2, 8)), solver=MirrorDescent(steps=10)).y.shape
        torch.Size([2, 5])
    """

    engine = mirror_descent

    def _direction(self, gradient: Tensor, labels: Tensor, energy: Energy) -> Tensor:
        return gradient


class GradientDescent(Descent):
    """Gradient descent on logits, z_{t+1} = z_t - eta_t J_t dE/dy(y_t), y_t = y(z_t); for labels J = y (1 - y).

    Args:
        memory: of iterates (B, L); one more product a step makes them again.
        Others as `Descent`. The factor y (1 - y) is at most 1/4, so useful step sizes are larger than for mirror
            descent.

    Source: Belanger, Yang & McCallum, End-to-End Learning for Structured Prediction Energy Networks (2017), section 4;
        keeping some iterates: Chen et al., Training deep nets with sublinear memory cost (2016), section 3.

    Example:
        >>> import torch
        >>> from energynets import SPEN, GradientDescent, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> infer(energy, energy.condition(torch.randn(2, 8)), solver=GradientDescent(steps=10)).y.shape
        torch.Size([2, 5])
    """

    engine = iterate_descent

    def rule(self, domain: Domain, observed: Observed | None) -> LogitRule:
        """What the engine iterates."""
        return LogitRule(domain, observed)

    def _direction(self, gradient: Tensor, labels: Tensor, energy: Energy) -> Tensor:
        return energy.domain.pullback(labels, gradient)


class ProjectedGradient(Descent):
    """Projected gradient, y_{t+1} = project(y_t - eta_t dE/dy(y_t)), for labels clip(., margin, 1 - margin).

    The entropy's gradient is infinite on the boundary and its curvature at the margin is 1 / margin, so a step size
    above 2 margin / tau oscillates there; mirror descent has no such limit.

    Args:
        margin: distance kept from the boundary, in (0, 1/2).
        memory: as in `GradientDescent`.
        Others as `Descent`; the default step size is 0.02.

    Source: Belanger & McCallum (2016), section 5.

    Example:
        >>> import torch
        >>> from energynets import SPEN, ProjectedGradient, infer
        >>> energy = SPEN(num_features=8, num_labels=5)
        >>> infer(energy, energy.condition(torch.randn(2, 8)), solver=ProjectedGradient(steps=10)).y.shape
        torch.Size([2, 5])
    """

    engine = iterate_descent

    def __init__(
        self,
        steps: int = 10,
        *,
        step_size: float | Sequence[float] = 0.02,
        momentum: float = 0.0,
        learn_step_sizes: bool = False,
        initial: str = "unary",
        tolerance: float = 0.0,
        line_search: bool = False,
        precision: Precision = "float32",
        margin: float = 0.02,
        memory: int | None = None,
    ) -> None:
        super().__init__(
            steps,
            step_size=step_size,
            momentum=momentum,
            learn_step_sizes=learn_step_sizes,
            initial=initial,
            tolerance=tolerance,
            line_search=line_search,
            precision=precision,
            memory=memory,
        )
        if not 0 < margin < 0.5:
            raise ConfigError(f"solver.margin: expected a value in (0, 0.5), got {margin}")
        self.margin = margin

    def rule(self, domain: Domain, observed: Observed | None) -> LabelRule:
        """What the engine iterates."""
        return LabelRule(domain, observed, self.margin)

    def _direction(self, gradient: Tensor, labels: Tensor, energy: Energy) -> Tensor:
        return gradient

    def _from_logits(self, logits: Tensor, energy: Energy) -> Tensor:
        return self._project(energy.domain.labels(logits), energy)

    def _to_logits(self, iterate: Tensor, energy: Energy) -> Tensor:
        return energy.domain.logits(iterate)

    def _to_labels(self, iterate: Tensor, energy: Energy) -> Tensor:
        return iterate

    def _project(self, iterate: Tensor, energy: Energy) -> Tensor:
        return energy.domain.project(iterate, self.margin)


def constant_steps(gradient: GradientMode, steps: int) -> int:
    """How many of the first steps keep no graph."""
    if isinstance(gradient, Truncated):
        return max(steps - gradient.steps, 0)
    return steps if isinstance(gradient, NoGradient) else 0
