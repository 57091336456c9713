"""Descent on y for a fixed number of steps: the loop that is unrolled and differentiated."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from energynets.energies import Energy
from energynets.errors import ConfigError, InferenceError, ShapeError


class Solver(nn.Module, ABC):
    """u_{t+1} = project(u_t + v_{t+1}), v_{t+1} = momentum v_t - eta_t direction(u_t), for t = 0 .. T - 1.

    What u is (logits or labels) and what its direction is makes a solver.

    Args:
        steps: T >= 0.
        step_size: eta > 0, one for all steps or T of them.
        momentum: in [0, 1).
        learn_step_sizes: train the T step sizes (as exp of a parameter, so that they stay positive).
        initial: `unary` starts at the energy's `initial_logits`, `uniform` at z_0 = 0.

    Raises:
        ConfigError: a value out of its range.
    """

    def __init__(
        self,
        steps: int = 10,
        *,
        step_size: float | Sequence[float] = 1.0,
        momentum: float = 0.0,
        learn_step_sizes: bool = False,
        initial: str = "unary",
    ) -> None:
        super().__init__()
        sizes = (
            [float(step_size)] * steps if isinstance(step_size, int | float) else [float(size) for size in step_size]
        )
        if steps < 0 or len(sizes) != steps:
            raise ConfigError(f"solver: expected {steps} step sizes, one a step, got {len(sizes)}")
        if any(size <= 0 for size in sizes):
            raise ConfigError(f"solver.step_size: expected positive values, got {step_size}")
        if not 0 <= momentum < 1:
            raise ConfigError(f"solver.momentum: expected a value in [0, 1), got {momentum}")
        if initial not in ("unary", "uniform"):
            raise ConfigError(f"solver.initial: expected 'unary' or 'uniform', got {initial!r}")
        self.steps = steps
        self.momentum = momentum
        self.initial = initial
        self._fixed_sizes = sizes
        self.log_step_sizes = nn.Parameter(torch.tensor(sizes).log()) if learn_step_sizes else None

    def step_sizes(self) -> Sequence[float] | tuple[Tensor, ...]:
        """eta_0 .. eta_{T-1}."""
        return self._fixed_sizes if self.log_step_sizes is None else self.log_step_sizes.exp().unbind()

    def start(self, energy: Energy, context: Any, like: Tensor | None = None) -> Tensor:
        """z_0 (B, L)."""
        logits = energy.initial_logits(context)
        if logits is None or self.initial == "uniform":
            if logits is None and like is None:
                like = _first_tensor(context)
            reference = logits if logits is not None else like
            if reference is None:
                raise InferenceError(
                    "cannot tell the batch size from the context: give `initial`, the logits z_0 (B, L)"
                )
            logits = reference.new_zeros(len(reference), energy.num_labels)
        return logits

    def trajectory(self, energy: Energy, context: Any, initial: Tensor | None = None) -> Iterator[Tensor]:
        """Yield z_0, z_1, ..., z_T, each (B, L), with T evaluations of the energy's gradient.

        Args:
            energy: the function to minimise.
            context: `energy.condition(features)`.
            initial: z_0; default: what the solver starts from.

        Raises:
            ShapeError: z_0 is not (B, L).
        """
        logits = self.start(energy, context) if initial is None else initial
        if logits.ndim != 2 or logits.shape[1] != energy.num_labels:
            raise ShapeError(f"initial logits: expected (B, {energy.num_labels}), got {tuple(logits.shape)}")
        yield logits
        iterate = self._from_logits(logits)
        velocity: Tensor | None = None
        for size in self.step_sizes():
            labels = self._to_labels(iterate)
            gradient = energy.gradient(labels, context) + energy.tau * self._to_logits(iterate)
            update = -size * self._direction(gradient, labels)
            if self.momentum:
                velocity = update if velocity is None else update + self.momentum * velocity
                update = velocity
            iterate = self._project(iterate + update)
            yield self._to_logits(iterate)

    def solve(self, energy: Energy, context: Any, initial: Tensor | None = None) -> Tensor:
        """z_T (B, L)."""
        logits = None
        for logits in self.trajectory(energy, context, initial):  # noqa: B007 - the last one is wanted
            pass
        assert logits is not None
        return logits

    @abstractmethod
    def _direction(self, gradient: Tensor, labels: Tensor) -> Tensor:
        """dE/dy and y -> the direction of ascent of the iterate."""

    def _from_logits(self, logits: Tensor) -> Tensor:
        return logits

    def _to_logits(self, iterate: Tensor) -> Tensor:
        return iterate

    def _to_labels(self, iterate: Tensor) -> Tensor:
        return torch.sigmoid(iterate)

    def _project(self, iterate: Tensor) -> Tensor:
        return iterate


def _first_tensor(context: Any) -> Tensor | None:
    if isinstance(context, Tensor):
        return context
    values = context.values() if isinstance(context, dict) else context if isinstance(context, list | tuple) else ()
    return next((tensor for value in values if (tensor := _first_tensor(value)) is not None), None)


class MirrorDescent(Solver):
    """Entropic mirror descent, z_{t+1} = z_t - eta_t dE/dy(sigmoid(z_t)); with eta = tau = 1 the mean-field update.

    Args:
        As `Solver`. A step size of 1 / tau forgets z_t wholly: z_{t+1} = (phi - s_t A) / tau.

    Source: Beck & Teboulle (2003); for energies over labels, Belanger & McCallum (2016), section 5.
    """

    def _direction(self, gradient: Tensor, labels: Tensor) -> Tensor:
        return gradient


class GradientDescent(Solver):
    """Gradient descent on logits, z_{t+1} = z_t - eta_t y_t (1 - y_t) dE/dy(y_t), y_t = sigmoid(z_t).

    Args:
        As `Solver`. The factor y (1 - y) is at most 1/4, so useful step sizes are larger than for mirror descent.

    Source: Belanger, Yang & McCallum, End-to-End Learning for Structured Prediction Energy Networks (2017), section 4.
    """

    def _direction(self, gradient: Tensor, labels: Tensor) -> Tensor:
        return labels * (1 - labels) * gradient


class ProjectedGradient(Solver):
    """Projected gradient, y_{t+1} = clip(y_t - eta_t dE/dy(y_t), margin, 1 - margin).

    The entropy's gradient is infinite on the boundary and its curvature at the margin is 1 / margin, so a step size
    above 2 margin / tau oscillates there; mirror descent has no such limit.

    Args:
        margin: distance kept from 0 and 1, in (0, 1/2).
        Others as `Solver`; the default step size is 0.02.

    Source: Belanger & McCallum (2016), section 5.
    """

    def __init__(
        self,
        steps: int = 10,
        *,
        step_size: float | Sequence[float] = 0.02,
        momentum: float = 0.0,
        learn_step_sizes: bool = False,
        initial: str = "unary",
        margin: float = 0.02,
    ) -> None:
        super().__init__(
            steps, step_size=step_size, momentum=momentum, learn_step_sizes=learn_step_sizes, initial=initial
        )
        if not 0 < margin < 0.5:
            raise ConfigError(f"solver.margin: expected a value in (0, 0.5), got {margin}")
        self.margin = margin

    def _direction(self, gradient: Tensor, labels: Tensor) -> Tensor:
        return gradient

    def _from_logits(self, logits: Tensor) -> Tensor:
        return self._project(torch.sigmoid(logits))

    def _to_logits(self, iterate: Tensor) -> Tensor:
        return torch.logit(iterate)

    def _to_labels(self, iterate: Tensor) -> Tensor:
        return iterate

    def _project(self, iterate: Tensor) -> Tensor:
        return iterate.clamp(self.margin, 1 - self.margin)
