"""What every solver promises: an energy and a context in, the logits of its minimiser out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from energynets.energies import Energy, MeasuredEnergy
from energynets.errors import ConfigError, InferenceError, ShapeError
from energynets.inference.gradient import GradientMode, NoGradient, Unroll, gradient_mode, keeping_graph
from energynets.inference.observed import Observed

StepLoss = Callable[[int, Tensor], Tensor]
"""t and z_t (B, L) -> a scalar, differentiated in z_t alone."""


class Solution(NamedTuple):
    """What a solver found.

    Args:
        logits: z (B, L); carries gradients as the gradient mode says.
        steps: steps that each example took, (B,) int64.
        gap: what E(y) - min E is at most, (B,), where the solver itself knows.
    """

    logits: Tensor
    steps: Tensor
    gap: Tensor | None = None


class Solver(nn.Module, ABC):
    """argmin over y of E(y; x), from the logits z_0.

    Args:
        initial: `unary` starts at the energy's `initial_logits`, `uniform` at z_0 = 0.

    Raises:
        ConfigError: an unknown start.
    """

    steps: int
    """T, the largest number of steps."""

    def __init__(self, *, initial: str = "unary") -> None:
        super().__init__()
        if initial not in ("unary", "uniform"):
            raise ConfigError(f"solver.initial: expected 'unary' or 'uniform', got {initial!r}")
        self.initial = initial

    @abstractmethod
    def run(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> Solution:
        """Logits of the minimiser found, and the steps it took.

        Args:
            energy: the function to minimise.
            context: `energy.condition(features)`.
            initial: z_0 (B, L); default: what the solver starts from.
            gradient: how gradients flow, default `Unroll()`.
            observed: labels that are known.

        Raises:
            ConfigError: a gradient mode that is none.
            ShapeError: z_0 or `observed` are not (B, L), or the context is none of this energy's.
            InferenceError: the solver does not take this energy or this gradient mode.
        """

    @abstractmethod
    def trajectory(
        self, energy: Energy, context: Any, initial: Tensor | None = None, *, observed: Observed | None = None
    ) -> Iterator[Tensor]:
        """Yield z_0, z_1, ..., each (B, L), as plain differentiable operations."""

    def solve(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> Tensor:
        """`run`'s logits (B, L)."""
        return self.run(energy, context, initial, gradient=gradient, observed=observed).logits

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
        """z_T (B, L) and the sum of `step_loss(t, z_t)` over t = 1 .. T (that of z_0 where T = 0).

        The engine's backward pass makes every z_t again, so that memory stays flat in T.

        Args:
            step_loss: of t and z_t; whatever else it reads counts as constant.
            Others as in `run`.

        Raises:
            InferenceError: a gradient mode that does not go through the steps.
        """
        gradient = gradient_mode(gradient)
        if not isinstance(gradient, Unroll | NoGradient):
            raise InferenceError(
                f"losses of every step: {type(self).__name__} takes Unroll() alone, got {type(gradient).__name__}"
            )
        with keeping_graph(gradient):
            return sum_losses(self.trajectory(energy, context, initial, observed=observed), step_loss)

    def iterates(
        self,
        energy: Energy,
        context: Any,
        initial: Tensor | None = None,
        *,
        gradient: GradientMode | None = None,
        observed: Observed | None = None,
    ) -> list[Tensor]:
        """z_0 .. z_T as `run` goes through them, (B, L) each; a document that is done stays where it is."""
        return list(self.trajectory(energy, context, initial, observed=observed))

    def start(self, energy: Energy, context: Any, initial: Tensor | None = None) -> Tensor:
        """z_0 (B, L): the one given, checked, or the solver's own."""
        logits = initial if initial is not None else self._own_start(energy, context)
        if not isinstance(logits, Tensor):
            raise ShapeError(
                f"initial logits: expected a tensor (B, {energy.num_labels}), got a {type(logits).__name__}"
            )
        if logits.ndim != 2 or logits.shape[1] != energy.num_labels:
            raise ShapeError(f"initial logits: expected (B, {energy.num_labels}), got {tuple(logits.shape)}")
        # One row would be broadcast, and native code would read past the end of what has fewer.
        own = energy.initial_logits(context) if initial is not None else None
        if own is not None and logits.shape[0] != own.shape[0]:
            raise ShapeError(
                f"initial logits: expected a row for each of the context's {len(own)} documents, got {len(logits)}"
            )
        # Products of a measured energy take no two dtypes, but under an autocast; what is on meta knows none.
        if own is not None and logits.dtype != own.dtype and isinstance(energy, MeasuredEnergy):
            device = logits.device.type
            if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
                raise ShapeError(
                    f"initial logits: expected {own.dtype}, as phi is, got {logits.dtype}: initial.to({own.dtype})"
                )
        return logits

    def _own_start(self, energy: Energy, context: Any) -> Tensor:
        logits = energy.initial_logits(context)
        if logits is not None and self.initial == "unary":
            return logits
        tensors = [logits] if logits is not None else list(_tensors(context))
        if not tensors:
            raise InferenceError("cannot tell the batch size from the context: give `initial`, the logits z_0 (B, L)")
        # What x is kept as may be indices.
        floating = (tensor.dtype for tensor in (*tensors, *energy.parameters()) if tensor.is_floating_point())
        dtype = next(floating, torch.get_default_dtype())
        return tensors[0].new_zeros(len(tensors[0]), energy.num_labels, dtype=dtype)


def checked_solver(given: object) -> Solver:
    """The solver that is given, or a `ConfigError` that says what it should be."""
    if isinstance(given, Solver):
        return given
    name = given.__name__ if isinstance(given, type) else None
    said = repr(given) if name is None else f"the class {name}: call it, {name}()"
    raise ConfigError(f"solver: expected a Solver, such as MirrorDescent(steps=10), got {said}")


def residual(energy: Energy, logits: Tensor, slope: Tensor) -> Tensor:
    """How far the mean-field step, z - dE/dy / tau, moves any label: 0 at a fixed point.

    Args:
        energy: what is minimised.
        logits: z (B, L).
        slope: dE/dy at y(z), (B, L), 0 where a label is known.

    Returns:
        (B,).
    """
    moved = energy.domain.labels(logits - slope / energy.tau) - energy.domain.labels(logits)
    return moved.abs().amax(-1)


def all_steps(logits: Tensor, steps: int) -> Tensor:
    """The same number of steps for every example, (B,) int64."""
    return torch.full((logits.shape[0],), steps, dtype=torch.int64, device=logits.device)


def sum_losses(trajectory: Iterable[Tensor], step_loss: StepLoss) -> tuple[Tensor, Tensor]:
    """The last of z_0, z_1, ... and the losses' sum over all but z_0 (z_0's own where there is no other)."""
    iterates = iter(trajectory)
    logits, loss = next(iterates), None
    for step, logits in enumerate(iterates, 1):
        term = step_loss(step, logits)
        loss = term if loss is None else loss + term
    return logits, step_loss(0, logits) if loss is None else loss


def _tensors(context: Any) -> Iterator[Tensor]:
    """Those of a nest, in its order."""
    if isinstance(context, Tensor):
        yield context
        return
    values = context.values() if isinstance(context, dict) else context if isinstance(context, list | tuple) else ()
    for value in values:
        yield from _tensors(value)
